"""Objects behind URLs, read by fsspec: bounded in time, in memory and in number.

url ── Pool: REQUESTS at once ──> size and stamp ──> ranges, tried again ──> bytes

What is read is a beginning (`fetch`), a whole object (`read_object`), or what somebody
asks for (`RangeFile`). An object that is missing, forbidden or cut raises RemoteError,
an OSError as of a file on a disk. A service that does not answer raises NoAnswerError,
which is no OSError: it ends what is being done, in place of rejecting object by object.

What a service says of an error may hold credentials, such as a signed URL. So texts of
others go into no message; it names the URL, which has none, and the kind of the error.
"""

import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import SEEK_CUR, SEEK_END, RawIOBase
from queue import Empty, Queue, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from fastseg.errors import (
    MissingExtraError,
    MissingObjectError,
    NoAnswerError,
    OptionError,
    RemoteError,
    missing_extra,
    real_number,
)
from fastseg.urls import URL

if TYPE_CHECKING:
    from concurrent.futures import Future

# Requests under way at once in a process.
REQUESTS = 32
# Seconds until a request is given up, and how often it is made.
TIMEOUT = 60.0
TIMEOUT_VARIABLE = "FASTSEG_REMOTE_TIMEOUT"
ATTEMPTS = 3
# A thread that has made no request for so many seconds ends.
IDLE = 5.0
# Seconds between the first two attempts; four times as many before the next one.
PAUSE = 0.5
# A listing of a folder takes many requests, and may take so many times as long.
LISTING_FACTOR = 10
# Objects are read in ranges of so many bytes: each has TIMEOUT seconds.
RANGE_BYTES = 2**23
# Of one object, so many ranges are asked for at once.
RANGES_AHEAD = 8
# Objects are written in parts of so many bytes; a service takes so many parts at most.
PART_BYTES = 2**24
MOST_PARTS = 9000
# Bytes that a RangeFile asks for at least.
LEAST_BYTES = 2**16
# Bytes of objects that are fetched ahead for one thread, unless one has more.
AHEAD_BYTES = 2**26
# Bytes that a thread keeps of objects which a kernel could not use, for whoever can.
KEPT_BYTES = 2**26
# The packages that fsspec needs for a protocol, where its own message is for conda.
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
}
# What services say of the version of an object, by their names for it.
VERSIONS = (
    *("ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "checksum", "generation"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)

# As `files.Stamp`: size, two numbers of the version, and one of the URL.
Stamp = tuple[int, int, int, int]


class Info(NamedTuple):
    """Size and stamp of an object; whether the stamp tells a later change."""

    size: int
    stamp: Stamp
    has_version: bool


class Beginning(NamedTuple):
    """The first bytes of an object, or all."""

    info: Info
    data: bytes


class _Problem(NamedTuple):
    """Why a request has failed.

    text      : for a message
    is_silent : whether the service did not answer
    is_final  : whether another attempt is of no use
    """

    text: str
    is_silent: bool = False
    is_final: bool = False


UNKNOWN = "cannot be read"
MISSING = _Problem("there is no such object; it was moved or never copied", False, True)
FORBIDDEN = _Problem(
    "access is denied; give credentials that may read it, by the environment or the "
    "configuration of fsspec (some services also say so of an object that is missing)",
    False,
    True,
)
NO_CREDENTIALS = _Problem(
    "its service wants credentials, and there are none; give them by the environment "
    "or the configuration of fsspec",
    False,
    True,
)
CUT = _Problem(
    "its service gave fewer bytes than it said; check the object, or copy it again"
)


def timeout() -> float:
    """Return the seconds until a request is given up, or raise OptionError."""
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return TIMEOUT
    try:
        seconds = real_number(TIMEOUT_VARIABLE, float(text))
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise OptionError(f"{TIMEOUT_VARIABLE} is {text!r}, expected seconds above 0")
    return seconds


def system_of(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises MissingExtraError without its package, OptionError for a protocol that there
    is none of.
    """
    try:
        import fsspec
        from fsspec.registry import known_implementations, registry
    except ImportError:
        raise missing_extra("reading URLs", "remote") from None
    match = URL.fullmatch(url)
    assert match is not None  # it was checked
    protocol = match[1]
    if protocol not in known_implementations and protocol not in registry:
        raise OptionError(
            f"there is no protocol {protocol}:// ({url}), expected one of fsspec, such "
            "as s3, gs, abfs or https"
        )
    problem = ""
    try:
        # Listings that are kept would hide later changes.
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        return system, path
    except ImportError:
        package = PACKAGES.get(protocol)
        if package is None:
            package = known_implementations[protocol]["class"].partition(".")[0]
        problem = f"{protocol}:// needs an optional package: pip install {package}"
        raise MissingExtraError(problem) from None
    except Exception as exc:
        problem = f"{url}: cannot be opened: {_problem_of(exc).text}"
    raise RemoteError(problem)


def _call(system: Any, name: str, *args: Any, limit: float, **options: Any) -> Any:
    """Call a method of a file system, and raise TimeoutError after `limit` seconds."""
    if getattr(system, "async_impl", False):
        from fsspec.asyn import sync

        method = getattr(system, f"_{name}")
        return sync(system.loop, method, *args, timeout=limit, **options)
    return _bounded(partial(getattr(system, name), *args, **options), limit)


def _bounded(function: Callable[[], Any], limit: float) -> Any:
    """Call a function in another thread, and raise TimeoutError after some seconds.

    It cannot be interrupted: if it never ends, its thread ends with the process.
    """
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as exc:
            outcome.put((None, exc))

    threading.Thread(target=run, name="fastseg-request", daemon=True).start()
    try:
        result, error = outcome.get(timeout=limit)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result


def _problem_of(exc: BaseException) -> _Problem:
    """Return what an exception of fsspec, or of a package below it, means."""
    cause = exc.__cause__
    if isinstance(exc, FileNotFoundError) and cause is not None:
        # What HTTP raises for any failure: the cause says which.
        problem = _problem_of(cause)
        return MISSING if problem.text.startswith(UNKNOWN) else problem
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return MISSING
    if isinstance(exc, IsADirectoryError):
        return _Problem("is a folder, expected an object", False, True)
    if isinstance(exc, PermissionError):
        return FORBIDDEN
    response = getattr(exc, "response", None)  # of botocore
    status = getattr(exc, "status", None)  # of aiohttp
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
    if status in (401, 403, 407):
        return FORBIDDEN
    if status in (404, 410):
        return MISSING
    if isinstance(status, int) and (status == 429 or status >= 500):
        return _Problem(f"its service answers with status {status}", True)
    names = " ".join(kind.__name__ for kind in type(exc).__mro__)
    if "Credential" in names:
        return NO_CREDENTIALS
    if re.search("Payload|IncompleteRead|ContentLength", names):
        return CUT
    if isinstance(exc, TimeoutError) or "Timeout" in names:
        return _Problem("its service does not answer in time", True)
    if isinstance(exc, ConnectionError) or re.search(
        "Connect|Disconnect|gaierror|DNS", names
    ):
        return _Problem("its service cannot be reached", True)
    return _Problem(f"{UNKNOWN}: {type(exc).__name__}")


def ask(
    url: str, name: str, *args: Any, limit: float | None = None, **options: Any
) -> Any:
    """Call a method of a URL's file system; try again where that may help.

    name  : of the method, which takes the path first
    limit : seconds that an attempt may take

    Raises RemoteError, NoAnswerError, MissingExtraError or OptionError.
    """
    system, path = system_of(url)
    seconds = timeout() if limit is None else limit
    problem = CUT
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 4 ** (attempt - 1))
        try:
            return _call(system, name, path, *args, limit=seconds, **options)
        except (RemoteError, NoAnswerError):
            raise
        except Exception as exc:
            problem = _problem_of(exc)
        if problem.is_final:
            break
    # Not in the handler: a traceback shall not lead to texts of others.
    raise _error(url, problem, seconds)


def _error(url: str, problem: _Problem, seconds: float) -> Exception:
    if problem.is_silent:
        return NoAnswerError(
            f"{url}: {problem.text}, in {ATTEMPTS} attempts of at most {seconds:g} s; "
            "check the network and the URL, and run the same again, with a larger "
            f"{TIMEOUT_VARIABLE} if it is slow"
        )
    kind = MissingObjectError if problem is MISSING else RemoteError
    return kind(f"{url}: {problem.text}")


class _Pool:
    """The threads that make requests, REQUESTS at most. They end when they are idle."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # No SimpleQueue: of several threads that wait, some may miss their timeout.
        self._tasks: Queue[tuple[Any, Callable[..., Any], Any]] = Queue()
        self._lock = threading.Lock()
        self._threads = 0

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Queue a call."""
        from concurrent.futures import Future  # takes 10 ms, with logging

        future: Future[Any] = Future()
        with self._lock:
            self._tasks.put((future, function, args))
            is_new = self._threads < REQUESTS
            self._threads += is_new
        if is_new:
            name = f"fastseg-remote-{self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            try:
                future, function, args = self._tasks.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if not self._tasks.empty():  # since then
                        continue
                    self._threads -= 1
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*args))
            except BaseException as exc:
                future.set_exception(exc)
            del future, args


_pool = _Pool()


def submit(function: Callable[..., Any], *args: Any) -> "Future[Any]":
    """Let a thread of the pool call a function, which must not wait for another."""
    global _pool
    if _pool.process != os.getpid():  # forked: its threads are not here
        _pool = _Pool()
    return _pool.submit(function, *args)


def _info(url: str) -> Info:
    """Return size and stamp of an object."""
    found = _listed.get(url)
    return as_info(url, ask(url, "info")) if found is None else found


def as_info(url: str, found: Any) -> Info:
    """Return size and stamp of an object, as its service has described it."""
    from xxhash import xxh3_64_intdigest, xxh3_128_digest

    if found.get("type") == "directory":
        raise RemoteError(f"{url}: is a folder, expected an object")
    size = found.get("size")
    if not isinstance(size, int) or size < 0:
        raise RemoteError(f"{url}: its service does not say its size; copy it")
    versions = [(name, str(found[name])) for name in VERSIONS if found.get(name)]
    # Without any, no two stamps are the same: it might have changed.
    key = repr(versions).encode() if versions else os.urandom(16)
    digest = xxh3_128_digest(key)
    first, second = (_signed(digest[:8]), _signed(digest[8:]))
    own = _signed(xxh3_64_intdigest(url.encode()).to_bytes(8, "little"))
    return Info(size, (size, first, second, own), bool(versions))


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _range(url: str, start: int, stop: int, size: int) -> bytes:
    """Return the bytes from `start` to `stop` of an object of a size."""
    if start == stop:
        return b""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 4 ** (attempt - 1))
        data: bytes = ask(url, "cat_file", start=start, end=stop)
        if len(data) == size > stop - start:  # a server that knows no ranges
            data = data[start:stop]
        if len(data) == stop - start:
            return data
    raise RemoteError(f"{url}: {CUT.text} ({len(data)} of {stop - start})")


# What a listing has said of objects, while `known` lasts.
_listed: dict[str, Info] = {}


@contextmanager
def known(infos: Mapping[str, Info]) -> Iterator[None]:
    """Ask no service for what a listing has just said of objects, by URL."""
    _listed.update(infos)
    try:
        yield
    finally:
        for url in infos:
            _listed.pop(url, None)


def list_objects(url: str) -> Iterator[tuple[str, Info | str | None]]:
    """Yield the objects below a URL: name relative to it, and what the listing says.

    That is None if it does not say the size, and a text for what is neither an object
    nor a folder: why it is of no use. Raises RemoteError and NoAnswerError; nothing is
    left out without one of them.
    """
    folders = [""]
    seen = set(folders)
    while folders:
        level, folders = folders, []

        def begin(folder: str) -> "Future[list[tuple[str, Any]]]":
            return submit(_list_folder, url, folder)

        for future in ahead(begin, level, REQUESTS):
            for name, entry in future.result():
                kind = entry.get("type")
                if kind == "directory":
                    if name not in seen:
                        seen.add(name)
                        folders.append(name)
                elif kind != "file":
                    yield name, f"is a {kind}, expected an object"
                elif entry.get("size") is None:  # an index page of a web server
                    yield name, None
                else:
                    yield name, as_info(f"{url}/{name}", entry)


def _list_folder(url: str, folder: str) -> list[tuple[str, Any]]:
    """Return what a folder below a URL holds: names relative to it, and entries.

    folder : its name relative to the URL, "" for the URL itself
    """
    whole = f"{url}/{folder}" if folder else url
    # A web server's links are relative to the slash.
    is_web = url.startswith(("http://", "https://"))
    asked = f"{whole}/" if is_web else whole
    entries = ask(asked, "ls", detail=True, limit=LISTING_FACTOR * timeout())
    root = system_of(url)[1].rstrip("/")
    own = f"{root}/{folder}".rstrip("/")
    names = [(str(entry["name"]).rstrip("/"), entry) for entry in entries]
    if [name for name, _ in names] == [own] and entries[0].get("type") == "file":
        raise RemoteError(f"{whole}: is an object, expected a folder")
    return [
        (name[len(root) + 1 :], entry)
        for name, entry in names
        # On an index page, `?` is in links that sort it.
        if name.startswith(f"{own}/") and not (is_web and "?" in name)
    ]


def fetch(url: str, most: int, largest: int) -> Beginning:
    """Return the first bytes of an object, none if it is larger than `largest`."""
    info = _info(url)
    stop = min(info.size, most) if info.size <= largest else 0
    return Beginning(info, _range(url, 0, stop, info.size))


def info_of(url: str) -> Info:
    """Return size and stamp of an object."""
    found: Info = submit(_info, url).result()
    return found


def infos_of(urls: Sequence[str]) -> Iterator[Info | RemoteError]:
    """Yield size and stamp of objects, or why there are none, asked side by side."""
    for future in ahead(lambda url: submit(_info, url), urls, REQUESTS):
        try:
            yield future.result()
        except RemoteError as exc:
            yield exc


def ahead(function: Callable[[Any], Any], items: Sequence[Any], most: int) -> Any:
    """Yield `function` of items, called up to `most` items before it is yielded."""
    begun: deque[Any] = deque()
    for item in items:
        begun.append(function(item))
        if len(begun) >= most:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def read_object(url: str, most: int) -> tuple[bytes, Stamp]:
    """Return a whole object and its stamp; raise OSError if it has more than `most`."""
    kept = _kept.pop(url)
    if kept is not None and len(kept.data) == kept.info.size <= most:
        return kept.data, kept.info.stamp
    info = info_of(url)
    if info.size > most:
        raise RemoteError(f"is {info.size} bytes long, over the limit of {most}")
    return b"".join(read_ranges(url, info)), info.stamp


def read_ranges(url: str, info: Info) -> Iterator[bytes]:
    """Yield the bytes of an object, range by range, RANGES_AHEAD at once.

    Raises RemoteError at the end if the object has changed meanwhile.
    """
    starts = range(0, info.size, RANGE_BYTES)

    def begin(start: int) -> "Future[bytes]":
        stop = min(start + RANGE_BYTES, info.size)
        return submit(_range, url, start, stop, info.size)

    for part in ahead(begin, starts, RANGES_AHEAD):
        yield part.result()
    if len(starts) > 1 and info.has_version and info_of(url).stamp != info.stamp:
        raise RemoteError(f"{url}: has changed while it was read; try again")


def exists(url: str) -> bool:
    """Return whether there is an object; raise RemoteError if nobody may know."""
    try:
        info_of(url)
    except MissingObjectError:
        return False
    return True


def write_object(url: str, parts: Iterator[bytes], size: int) -> None:
    """Write an object in parts; if that fails, there is none or the earlier one.

    size : of all parts together

    Raises RemoteError and NoAnswerError, and what `parts` raises.
    """
    system, path = system_of(url)
    block = max(PART_BYTES, -(-size // MOST_PARTS))
    file = _write(url, partial(system.open, path, "wb", block_size=block))
    try:
        for part in parts:
            _write(url, partial(file.write, part))
        _write(url, file.close)
    except BaseException:
        # To close it would make an object of what was written.
        if not file.closed:
            with suppress(AttributeError, RemoteError, NoAnswerError):
                _write(url, file.discard)
            file.closed = True
        raise


def remove_object(url: str) -> None:
    """Remove an object, if it is there."""
    system, path = system_of(url)
    if exists(url):
        _write(url, partial(system.rm_file, path))


def _write(url: str, function: Callable[[], Any]) -> Any:
    """Call what writes to a URL, within LISTING_FACTOR times the usual time."""
    seconds = LISTING_FACTOR * timeout()
    try:
        return _bounded(function, seconds)
    except Exception as exc:
        problem = _problem_of(exc)
    text = problem.text.replace("cannot be read", "cannot be written")
    text = text.replace("may read it", "may write there")
    raise _error(url, problem._replace(text=text), seconds)


class _Kept(threading.local):
    """Beginnings that a thread keeps, KEPT_BYTES in all, while it is in `keeping`."""

    def __init__(self) -> None:
        self._objects: OrderedDict[str, Beginning] = OrderedDict()
        self._bytes = 0
        self.depth = 0

    def put(self, url: str, beginning: Beginning) -> None:
        """Keep a beginning, and drop the oldest ones if there are too many bytes."""
        self.pop(url)
        if not self.depth:
            return
        self._objects[url] = beginning
        self._bytes += len(beginning.data)
        while self._bytes > KEPT_BYTES:
            _, oldest = self._objects.popitem(last=False)
            self._bytes -= len(oldest.data)

    def get(self, url: str) -> Beginning | None:
        """Return what is kept of an object, None if nothing is."""
        return self._objects.get(url)

    def pop(self, url: str) -> Beginning | None:
        """Return what is kept of an object, and keep it no more."""
        beginning = self._objects.pop(url, None)
        if beginning is not None:
            self._bytes -= len(beginning.data)
        return beginning

    def clear(self) -> None:
        """Keep nothing."""
        self._objects.clear()
        self._bytes = 0


_kept = _Kept()


@contextmanager
def keeping() -> Iterator[None]:
    """Let this thread keep what kernels could not use, for who reads it alone."""
    _kept.depth += 1
    try:
        yield
    finally:
        _kept.depth -= 1
        if not _kept.depth:
            _kept.clear()


class Ahead:
    """Objects that are read in their order, fetched some ahead."""

    def __init__(self, urls: dict[int, str]):
        """urls : by number, ascending"""
        self._urls = urls
        self._numbers = list(urls)
        self._begun: dict[int, Future[Beginning]] = {}
        self._next = 0
        self._wanted = 0, 0

    def take(self, number: int, most: int, largest: int) -> Beginning | None:
        """Return the beginning of an object, None if it cannot be read or is too large.

        most, largest : as for `fetch`; numbers must ascend while they stay the same

        Raises NoAnswerError and what `system_of` raises.
        """
        if self._wanted != (most, largest):
            self._wanted = most, largest
            self._begun.clear()
            self._next = self._numbers.index(number)
        window = min(max(AHEAD_BYTES // max(min(most, largest), 1), 1), REQUESTS)
        while self._next < len(self._numbers) and len(self._begun) < window:
            k = self._numbers[self._next]
            self._begun[k] = submit(fetch, self._urls[k], most, largest)
            self._next += 1
        try:
            found = self._begun.pop(number).result()
        except RemoteError:
            return None  # whoever reads it alone gets the reason
        return None if found.info.size > largest else found

    def put_back(self, number: int, found: Beginning) -> None:
        """Return later once more what `take` has returned."""
        from concurrent.futures import Future

        future: Future[Beginning] = Future()
        future.set_result(found)
        self._begun = {number: future, **self._begun}

    def keep(self, number: int, found: Beginning) -> None:
        """Keep an object for whoever reads it alone, in this thread."""
        _kept.put(self._urls[number], found)


class RangeFile(RawIOBase):
    """An object as a file to read, of which no more is fetched than is read, nearly."""

    def __init__(self, url: str):
        super().__init__()
        kept = _kept.get(url)
        self._url = url
        self._info = kept.info if kept else info_of(url)
        self._start, self._data = 0, kept.data if kept else b""
        self._position = 0
        self._least = LEAST_BYTES

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, and return it."""
        base = {SEEK_CUR: self._position, SEEK_END: self._info.size}.get(whence, 0)
        self._position = max(base + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, as many as asked for or as there are."""
        rest = max(self._info.size - self._position, 0)
        size = rest if size is None or size < 0 else min(size, rest)
        start = self._position
        stop = start + size
        if not (self._start <= start and stop <= self._start + len(self._data)):
            self._fill(start, stop)
        self._position = stop
        return self._data[start - self._start : stop - self._start]

    def readall(self) -> bytes:
        """Return all bytes that follow."""
        return self.read(-1)

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as fit into a buffer, and return their number."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fill(self, start: int, stop: int) -> None:
        """Fetch a range, and what follows if it is small."""
        stop = min(max(stop, start + self._least), self._info.size)
        self._least = min(2 * self._least, RANGE_BYTES)

        def begin(first: int) -> "Future[bytes]":
            last = min(first + RANGE_BYTES, stop)
            return submit(_range, self._url, first, last, self._info.size)

        parts = ahead(begin, range(start, stop, RANGE_BYTES), RANGES_AHEAD)
        self._start, self._data = start, b"".join(part.result() for part in parts)
