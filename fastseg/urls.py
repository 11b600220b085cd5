"""URLs in place of paths: which ones are taken, and folders that stand for them.

url ── check_url ──> a URL without credentials, of a service that is no local disk
mount ── folder of empty files, one for each object ──> url_of ──> URL of the object

Sources find files by their folders and names, as on a disk. So the objects below a URL
become empty files of their names in a temporary folder (`mounted`). Nobody reads these:
whatever opens a file asks `url_of` first, and reads the object behind the URL.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastseg.errors import PathError

# Two letters at least: Windows' drives have one.
URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.+)", re.DOTALL)
# Protocols of fsspec that read local files, or wrap other ones: a table with such URLs
# could name any file of this machine.
REFUSED = frozenset(
    ("file", "local", "data", "dir", "zip", "tar", "libarchive", "git", "jupyter")
    + ("reference", "generic", "dask", "cached", "blockcache", "filecache")
    + ("simplecache", "asyncwrapper", "pyscript")
)
EXPECTED = "a URL such as s3://bucket/folder or https://host/folder"
HOW_TO = (
    "give them by the environment or by the configuration of fsspec "
    "(~/.config/fsspec), as a table would keep them"
)
# The folders of mounts, each with a separator at its end, and their URLs.
_mounts: dict[str, str] = {}


def is_url(text: Any) -> bool:
    """Return whether a text is a URL and no path."""
    return isinstance(text, str) and "://" in text and URL.match(text) is not None


def check_url(what: str, url: str) -> str:
    """Return a URL without slashes at its end, or raise PathError.

    what : what the URL is, for messages

    Messages do not quote what may be a secret.
    """
    match = URL.fullmatch(url)
    if match is None:
        raise PathError(f"{what} is no URL, expected {EXPECTED}")
    protocol, rest = match[1], match[2]
    if protocol in REFUSED or "::" in url:
        raise PathError(
            f"{what} is a URL of {protocol}://, which may lead to files of this "
            f"machine; expected a path, or {EXPECTED}"
        )
    host, _, path = rest.partition("/")
    if "@" in host:
        raise PathError(
            f"{what} is a URL with a user or a password before @; leave them out, and "
            f"{HOW_TO}"
        )
    if "?" in rest or (protocol in ("http", "https") and "#" in rest):
        raise PathError(
            f"{what} is a URL with a query (? or #), which may hold a signature or a "
            f"token; leave it out, and {HOW_TO}"
        )
    if not host:
        raise PathError(
            f"{what} is a URL without a host or bucket, expected {EXPECTED}"
        )
    # Some servers decode %2e.
    parts = path.rstrip("/").lower().replace("%2e", ".").split("/")
    if path.strip("/") and any(part in ("", ".", "..") for part in parts):
        raise PathError(f"{what} is a URL with an empty part, . or .. in its path")
    return url.rstrip("/")


def is_below(url: str, root: str) -> bool:
    """Return whether a checked URL is another one or lies below it."""
    return url == root or url.startswith(f"{root}/")


@contextmanager
def mounted(folder: str, url: str) -> Iterator[None]:
    """Let the files in a folder stand for the objects below a URL.

    folder : its real path
    """
    prefix = os.path.join(folder, "")  # noqa: PTH118  keeps the separator
    _mounts[prefix] = url
    try:
        yield
    finally:
        del _mounts[prefix]


def are_mounted() -> bool:
    """Return whether any path stands for a URL."""
    return bool(_mounts)


def url_of(path: str | os.PathLike[str]) -> str:
    """Return the URL that a path is or stands for, "" for a file on a disk."""
    text = os.fspath(path)
    for prefix, url in _mounts.items():
        if text.startswith(prefix):
            return f"{url}/{text[len(prefix) :].replace(os.sep, '/')}"
    return text if is_url(text) else ""
