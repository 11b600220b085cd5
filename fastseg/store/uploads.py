"""A store at a URL: copied there with its SHA-256, and compared with it later.

store.h5 ── upload ──> URL, and URL.sha256 beside it ── verify_upload ──> the same?

Stores are read from a local disk, by mapping. At a URL, one is kept, or waits to be
copied to other machines: there `sha256sum -c` or `verify` says that it has arrived.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any

from fastseg import remote
from fastseg.calls import check_call
from fastseg.errors import (
    FileChangedError,
    MissingObjectError,
    OptionError,
    OutputError,
    RemoteError,
    shown,
)
from fastseg.files import name_path, open_regular, stamp_of
from fastseg.paths import StrPath
from fastseg.progress import Advance, Progress, silent
from fastseg.store.reader import open_store
from fastseg.urls import check_url, is_url

# What is added to the URL of a store for that of its checksum.
SUFFIX = ".sha256"
# As `sha256sum` writes it: the digest, two spaces, the name.
CHECKSUM = re.compile(rb"([0-9a-f]{64})  [^\n]+\n")
MOST_CHECKSUM_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """A store at a URL.

    url    : of the store; that of its checksum ends with .sha256 besides
    size   : in bytes
    sha256 : of these
    sent   : whether `upload` has sent them; they were there already if not
    reason : why they are not what was uploaded, "" if they are
    """

    url: str
    size: int
    sha256: str
    sent: bool = False
    reason: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether the store at the URL is what was uploaded."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can hold."""
        return {**asdict(self), "is_valid": self.is_valid}


@check_call("upload('heart.h5', 's3://bucket/heart.h5')")
def upload(
    store: StrPath, url: str, *, force: bool = False, progress: Progress = silent
) -> UploadReport:
    """Copy a store to a URL, and its SHA-256 beside it, as `<url>.sha256`.

    force : replace any object there; otherwise only one that has such a checksum

    Nothing is sent if the same store is there. The checksum is removed before and
    written last: while one is there, the store beside it is complete. Raises StoreError
    if the file is no store, OutputError if another object would be replaced,
    FileChangedError, PathError for a URL with credentials, MissingExtraError,
    RemoteError, NoAnswerError.
    """
    url = check_upload(url, force)
    opened = open_store(store)
    path = opened.path
    opened.close()
    with name_path(path), open_regular(path) as file:
        before = stamp_of(str(path))
        size = before.size
        blocks = -(-size // remote.PART_BYTES)
        with progress("hash", blocks) as advance:
            digest = hashlib.sha256()
            for part in _parts(file, advance):
                digest.update(part)
        sha256 = digest.hexdigest()
        if _stored_checksum(url) == sha256 and remote.info_of(url).size == size:
            return UploadReport(url=url, size=size, sha256=sha256)
        remote.remove_object(f"{url}{SUFFIX}")
        file.seek(0)
        with progress("upload", blocks) as advance:
            remote.write_object(url, _parts(file, advance), size)
        if stamp_of(str(path)) != before:
            raise FileChangedError(f"{path}: has changed while it was sent; try again")
    arrived = remote.info_of(url).size
    if arrived != size:
        raise RemoteError(f"{url}: has {arrived} bytes, expected {size}; upload again")
    line = f"{sha256}  {url.rpartition('/')[2]}\n".encode()
    remote.write_object(f"{url}{SUFFIX}", iter([line]), len(line))
    return UploadReport(url=url, size=size, sha256=sha256, sent=True)


def check_upload(url: Any, force: bool, name: str = "url") -> str:
    """Return a URL that a store may be written to; raises what `upload` does.

    name : of the argument or option
    """
    if not is_url(url):
        raise OptionError(
            f"{name} is {shown(url)}, expected a URL, as in s3://bucket/heart.h5"
        )
    target: str = check_url(name, url)
    is_free = force or not remote.exists(target)
    if not is_free and not remote.exists(f"{target}{SUFFIX}"):
        raise OutputError(
            f"{target}: is there, without the checksum that fastseg writes beside its "
            "uploads; choose another name, or force it (--force)"
        )
    return target


@check_call("verify_upload('s3://bucket/heart.h5')")
def verify_upload(url: str, *, progress: Progress = silent) -> UploadReport:
    """Read a store at a URL, and compare it with the checksum beside it.

    It needs no disk, and holds some 64 MB at a time. What differs raises no error: the
    report says it. Raises RemoteError if the object or its checksum is missing,
    PathError, MissingExtraError, NoAnswerError, OptionError.
    """
    if not is_url(url):
        raise OptionError(f"url is {shown(url)}, expected one, as in s3://bucket/x.h5")
    url = check_url("url", url)
    info = remote.info_of(url)
    expected = _stored_checksum(url)
    if not expected:
        raise MissingObjectError(
            f"{url}{SUFFIX}: there is no checksum of an upload, so that nobody knows "
            "whether the store is complete; upload it again"
        )
    digest = hashlib.sha256()
    blocks = -(-info.size // remote.RANGE_BYTES)
    with progress("verify", blocks) as advance:
        for part in remote.read_ranges(url, info):
            digest.update(part)
            advance()
    sha256 = digest.hexdigest()
    reason = "" if sha256 == expected else f"its checksum says {expected}"
    return UploadReport(url=url, size=info.size, sha256=sha256, reason=reason)


def _stored_checksum(url: str) -> str:
    """Return the checksum beside a store, "" if there is none that upload wrote."""
    try:
        data, _ = remote.read_object(f"{url}{SUFFIX}", MOST_CHECKSUM_BYTES)
    except MissingObjectError:
        return ""
    match = CHECKSUM.fullmatch(data)
    return match[1].decode() if match else ""


def _parts(file: FileIO, advance: Advance) -> Iterator[bytes]:
    """Yield the bytes of a file in parts."""
    while part := file.read(remote.PART_BYTES):
        yield part
        advance()
