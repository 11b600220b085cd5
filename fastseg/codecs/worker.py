"""The program of a decoding process: `python -m fastseg.codecs.worker`.

It reads frames from its standard input and writes pixels to its standard output, as
`messages` has it, until the input ends. It is started by `fastseg.codecs.pool`.
"""

import faulthandler
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from io import FileIO
from typing import Any

from fastseg.bounds import MAX_DECODER_BYTES, MAX_DECODER_BYTES_PER_PIXEL
from fastseg.codecs.codestream import JPEG, JPEG_LS, CodedFrame, needs_libjpeg
from fastseg.codecs.messages import receive, send

# Bytes of what decoders print for one frame that are kept.
MAX_CHATTER = 2**16
# Seconds by which this process outlives the time limit of a frame, if the program that
# should end it has itself been killed.
GRACE = 5.0
# Characters of a failure.
MAX_FAILURE = 1000
# What decoders print if they guess pixels that a damaged stream does not hold. Of 1 750
# mutated streams, none that made them print this gave the right pixels.
DAMAGE = re.compile("corrupt|premature end|failed to decode", re.IGNORECASE)
# How pydicom says that all decoders have failed, and that GDCM has.
ALL_FAILED = "Unable to decode as exceptions were raised by all available plugins:"
GDCM_FAILED = "'NoneType' object has no attribute 'encode'"
# How decoders say that they could not allocate memory.
LACKS_MEMORY = re.compile(
    "bad_alloc|(not enough|out of|insufficient) memory|MemoryError"
    "|(unable to|failed to|cannot|could not) allocate",
    re.IGNORECASE,
)
# The failure of a decoder that could not.
NO_MEMORY = "memory"


def main() -> None:
    """Decode frames until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that started us decides
    requests = FileIO(os.dup(0), "rb")
    replies = FileIO(os.dup(1), "wb")
    # What decoders read or print must not touch the messages.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    warnings.simplefilter("ignore")
    log = logging.getLogger("pydicom")
    log.handlers = [_LogToStderr()]
    log.propagate = False
    # The time limit of the first frame must not count these imports.
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    libjpeg = _separate_libjpeg()
    _limit_chatter()
    size_at_start = _memory_size()
    send(replies, {})
    while True:
        try:
            head, data = receive(requests, sys.maxsize)
        except EOFError:
            break
        timeout = head.pop("timeout")
        frame = CodedFrame(data=bytes(data), **head)
        del data
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        faulthandler.dump_traceback_later(timeout + GRACE, exit=True)
        _limit_memory(frame)
        failure = ""
        pixels = b""
        try:
            array, _ = (libjpeg if needs_libjpeg(frame) else get_decoder)(
                frame.syntax
            ).as_array(
                encapsulate([frame.data], has_bot=False),
                index=0,
                raw=True,
                rows=frame.rows,
                columns=frame.columns,
                number_of_frames=1,
                samples_per_pixel=1,
                photometric_interpretation=frame.photometric,
                pixel_representation=int(frame.is_signed),
                bits_allocated=frame.bits_allocated,
                bits_stored=frame.bits_stored,
            )
            pixels = array.astype(array.dtype.newbyteorder("<"), "C").tobytes()
            if DAMAGE.search(read_chatter(2)):
                failure = last_line(read_chatter(2))
        except MemoryError:
            failure = NO_MEMORY
        except Exception as exc:
            failure = _describe(exc, read_chatter(2))
        # Decoders lose memory, above all when they fail.
        is_last = _memory_size() > size_at_start + MAX_DECODER_BYTES
        send(replies, {"failure": failure, "is_last": is_last}, pixels)
        faulthandler.cancel_dump_traceback_later()


def read_chatter(handle: int) -> str:
    """Return what decoders printed for the last frame, without control characters.

    handle : of the file that is their standard error
    """
    os.lseek(handle, 0, os.SEEK_SET)
    data = os.read(handle, MAX_CHATTER)
    return re.sub(r"[^\n -~]", "?", data.decode("ascii", "replace"))


def _separate_libjpeg() -> Callable[[str], Any]:
    """Return what makes a decoder of a syntax that is libjpeg, and use it nowhere else.

    Where GDCM is installed too, a frame has the same pixels, or is refused for the same
    damage, whether libjpeg is installed or not.
    """
    from pydicom.pixels import get_decoder
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

    for syntax in (*JPEG, *JPEG_LS):
        decoder = get_decoder(syntax)
        if {"gdcm", "pylibjpeg"} <= {*decoder.available_plugins}:
            decoder.remove_plugin("pylibjpeg")

    def libjpeg(syntax: str) -> Any:
        decoder = Decoder(UID(syntax))
        module = "pydicom.pixels.decoders.pylibjpeg"
        decoder.add_plugin("pylibjpeg", (module, "_decode_frame"))
        return decoder

    return libjpeg


class _LogToStderr(logging.Handler):
    """Prints the exceptions that pydicom logs: its own have lost their types."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, MemoryError):
            os.write(2, b"MemoryError\n")


def _describe(exc: Exception, printed: str) -> str:
    """Return why decoders have failed, on one line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = "; ".join(lines[1:] if lines[:1] == [ALL_FAILED] else lines)
    text = text.replace(GDCM_FAILED, "failed") or type(exc).__name__
    if lacks_memory(f"{text} {printed}"):
        return NO_MEMORY
    text = re.sub(" at 0x[0-9a-f]+", "", text)  # as in the repr of an object
    line = last_line(printed)
    return f"{text[:MAX_FAILURE]} ({line})" if line else text[:MAX_FAILURE]


def last_line(printed: str) -> str:
    """Return the last line that a decoder printed, "" if it printed none."""
    return printed.strip().rpartition("\n")[2][:MAX_FAILURE]


def lacks_memory(text: str) -> bool:
    """Return whether a decoder says that it could not allocate memory."""
    return bool(LACKS_MEMORY.search(text))


def _limit_chatter() -> None:
    """Limit the size of the files that this process writes: what decoders print."""
    sys.dont_write_bytecode = True  # it could be cut
    if sys.platform != "win32":
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_CHATTER, hard))


def _memory_size() -> int:
    """Return the bytes of addresses that this process uses, 0 if it is not known."""
    if sys.platform != "linux":
        return 0
    with FileIO("/proc/self/statm") as file:
        return int(file.readall().split()[0]) * os.sysconf("SC_PAGESIZE")


def _limit_memory(frame: CodedFrame) -> None:
    """Limit the memory that decoding a frame may add, where the system can."""
    if sys.platform == "linux":
        import resource

        pixels = frame.rows * frame.columns
        size = _memory_size() + MAX_DECODER_BYTES
        size += MAX_DECODER_BYTES_PER_PIXEL * (pixels + len(frame.data))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            size = min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


if __name__ == "__main__":
    main()
    # Nothing else is to be done, also by what decoders have left in the memory.
    os._exit(0)
