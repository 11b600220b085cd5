"""Where object code lies: in the package, or in the user's cache.

An object is a file that begins with one line of JSON, its *manifest*: for which kernel
and types, from which sources, by which versions it was made, and the SHA-256 of the
code, which follows. Files are written under a temporary name and renamed.

    PACKAGE/<level>/NAME.o                what a wheel has
    <cache>/<digest>/<level>/NAME.o       what was compiled on demand

The digest is that of the sources of all kernels together: an edited callee makes all
objects outdated. The cache is FASTSEG_CACHE_DIR; else `fastseg` in NUMBA_CACHE_DIR;
else the platform's folder for caches. Whoever can write to it can run code as the
user, so it must belong to the user or to root, and so must the folders above it.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastseg._kernels.native import machine

log = logging.getLogger("fastseg.cache")

# The version of the form of an object's file.
FORMAT = 1
KERNELS = Path(__file__).parents[1]
PACKAGE = KERNELS / "objects"
# Modules outside of `_kernels` whose numbers kernels use.
OTHER_SOURCES = (KERNELS.parent / "bounds.py",)
# What 64-bit object files for x86-64 begin with, and the number of this machine.
ELF, MACHINE, X86_64 = b"\x7fELF\x02\x01", slice(18, 20), b"\x3e\0"
# The digest of sources, in hexadecimal digits, and what a folder with that name is.
DIGITS = 20
DIGEST_NAME = re.compile(f"[0-9a-f]{{{DIGITS}}}")
# Folders of other digests are removed when nobody has used them for so many days.
KEPT_DAYS = 30
DAY = 24 * 60 * 60.0
SETTING = "FASTSEG_CACHE_DIR"
# Set to "group" to use a folder that a group can write to.
TRUST = "FASTSEG_CACHE_TRUST"
# Others may read code, and only the user may write it.
FOLDER_MODE, FILE_MODE = 0o755, 0o644


@functools.cache
def digest() -> str:
    """Return the digest of the sources of all kernels."""
    total = hashlib.sha256()
    sources = [*sorted(KERNELS.rglob("*.py")), *OTHER_SOURCES]
    for source in sources:
        content = source.read_bytes()
        name = source.relative_to(KERNELS.parent).as_posix()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:DIGITS]


def name_of(path: str, signature: str) -> str:
    """Return the name of the object of a kernel, by its full name, for a signature."""
    short = hashlib.sha256(f"{path}({signature})".encode()).hexdigest()[:12]
    return f"{path.rpartition('.')[2]}-{short}"


def configured_root() -> Path:
    """Return the folder that the environment or the platform names for the cache."""
    if own := os.environ.get(SETTING):
        return _absolute(own)
    if numbas := os.environ.get("NUMBA_CACHE_DIR"):
        return _absolute(numbas) / "fastseg"
    import platformdirs

    return Path(platformdirs.user_cache_dir("fastseg", appauthor=False))


@functools.cache
def _absolute(folder: str) -> Path:
    """Return an absolute path: the same one if the process changes its folder."""
    return Path(folder).absolute()


def symbol_of(path: str, signature: str) -> str:
    """Return the name of an entry in its object."""
    return f"fastseg_entry_{name_of(path, signature).replace('-', '_')}"


class CacheError(OSError):
    """The cache cannot be used."""


def trusts_group() -> bool:
    """Return whether the group of the cache's folder may write code to it."""
    return os.environ.get(TRUST) == "group"


def _is_private(group: int) -> bool:
    """Return whether a group is that of the user alone, as many systems make one."""
    import grp
    import pwd

    try:
        user, members = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return (
        group == user.pw_gid
        and members.gr_name == user.pw_name
        and set(members.gr_mem) <= {user.pw_name}
    )


def check_trust(folder: Path) -> None:
    """Raise CacheError if somebody else could write code into a folder.

    folder : without symbolic links
    """
    for part in (folder, *folder.parents):
        status = part.stat()
        is_sticky = status.st_mode & stat.S_ISVTX and status.st_uid == 0
        if part != folder and is_sticky:
            continue  # as /tmp: others cannot rename or remove what is in it
        _check_status(part, status)


def _check_status(path: Path, status: os.stat_result) -> None:
    """Raise CacheError if somebody else could write to a file or folder."""
    if not hasattr(os, "getuid"):  # as on Windows, where folders of users are private
        return
    user = os.getuid()
    is_trusted = trusts_group() and status.st_gid in (os.getegid(), *os.getgroups())
    if status.st_uid not in (0, user) and not is_trusted:
        group = f" and to group {status.st_gid}, which is none of yours"
        raise CacheError(
            f"the cache of compiled code could be changed by another user: {path} "
            f"belongs to user {status.st_uid}{group * trusts_group()}. Set {SETTING} "
            "to a folder of your own"
        )
    mode = status.st_mode
    for bit, who in ((stat.S_IWGRP, "a group"), (stat.S_IWOTH, "everybody")):
        is_fine = bit == stat.S_IWGRP and (is_trusted or _is_private(status.st_gid))
        if mode & bit and not is_fine:
            raise CacheError(
                f"the cache of compiled code could be changed by others: {who} can "
                f"write to {path}. Set {SETTING} to a folder of your own, or remove "
                f"the permission with `chmod go-w {path}`"
                + (f"; to trust the group, set {TRUST}=group" * (who == "a group"))
            )


# Objects that could not be written, by the full name of the kernel and the signature.
_held: dict[tuple[str, str], bytes] = {}


def hold(path: str, signature: str, code: bytes) -> None:
    """Keep the code of a kernel in this process alone."""
    _held[path, signature] = code


@functools.cache
def own_folder(level: str) -> Path | None:
    """Return the folder of the cache for a level if it is there and trusted."""
    try:
        folder = (configured_root() / digest() / level).resolve(strict=True)
        check_trust(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        log.warning("%s. What it holds is not used", exc)
        return None
    with contextlib.suppress(OSError):  # members of a group may only read it
        if time.time() - folder.parent.stat().st_mtime > DAY:
            os.utime(folder.parent)  # see `remove_outdated`
    return folder


def make_folder(level: str) -> Path:
    """Return the folder of the cache for a level, to write to; it is made.

    Raises CacheError, whose text says what to do, if there can be none.
    """
    root = configured_root()
    mode = 0o777 if trusts_group() else FOLDER_MODE  # less what the umask takes away
    try:
        root.mkdir(mode=mode, parents=True, exist_ok=True)
        path = root.resolve() / digest() / level
        check_trust(path.parents[1])  # first, so that nothing is made for others
        for part in (path.parent, path):
            part.mkdir(mode=mode, exist_ok=True)
        path = path.resolve()
        check_trust(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except CacheError:
        raise
    except OSError as exc:
        raise CacheError(unwritable(root, exc)) from exc
    own_folder.cache_clear()
    return path


def unwritable(folder: Path, exc: OSError) -> str:
    """Return what to say of a folder that cannot be written to."""
    why = "it is a file" if folder.is_file() else str(exc)
    return (
        f"the cache of compiled code {folder} cannot be written to ({why}). Set "
        f"{SETTING} to a folder that can"
    )


def read(path: str, signature: str, levels: list[str]) -> bytes | None:
    """Return the code of a kernel for a signature, or None if there is none.

    path   : the full name of the kernel
    levels : the processor levels that it may be for, the best first
    """
    name = f"{name_of(path, signature)}.o"
    for level in levels:
        for folder in folders(level):
            code = read_file(folder / name, path, signature, level)
            if code is not None:
                return code
    return _held.get((path, signature))


def folders(level: str) -> Iterator[Path]:
    """Yield the folders that may hold objects for a level, the package's first."""
    yield PACKAGE / level
    own = own_folder(level)
    if own is not None:
        yield own


def read_file(file: Path, path: str, signature: str, level: str) -> bytes | None:
    """Return the code in a file if it is there, whole and the one that is wanted."""
    try:
        with file.open("rb") as opened:
            if PACKAGE not in file.parents:
                _check_status(file, os.fstat(opened.fileno()))
            content = opened.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CacheError as exc:
        log.warning("%s. It is compiled again", exc)
        return None
    except OSError as exc:
        log.warning("%s cannot be read: %s. It is compiled again", file, exc)
        return None
    line, _, code = content.partition(b"\n")
    try:
        manifest = json.loads(line)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        fault = "does not begin with a manifest"
    elif manifest.get("format") != FORMAT:
        fault = f"has format {manifest.get('format')}, this version reads {FORMAT}"
    elif len(code) != manifest.get("size"):
        fault = "is cut off"
    elif hashlib.sha256(code).hexdigest() != manifest.get("sha256"):
        fault = "has been altered"
    elif manifest.get("digest") != digest():
        return None  # a wheel whose sources have been edited
    elif (manifest.get("kernel"), manifest.get("signature")) != (path, signature):
        fault = "is for another kernel"
    elif manifest.get("level") != level or not (
        code.startswith(ELF) and code[MACHINE] == X86_64
    ):
        fault = "is for another processor"
    else:
        return code
    log.warning("the object code %s %s; it is compiled again", file, fault)
    return None


def write(
    folder: Path,
    path: str,
    signature: str,
    level: str,
    code: bytes,
    versions: Mapping[str, str],
) -> Path:
    """Keep the code of a kernel for a signature in a folder.

    versions : of numba and llvmlite, which made it
    """
    manifest = {
        "format": FORMAT,
        "kernel": path,
        "signature": signature,
        "level": level,
        "digest": digest(),
        **versions,
        "size": len(code),
        "sha256": hashlib.sha256(code).hexdigest(),
    }
    target = folder / f"{name_of(path, signature)}.o"
    handle, temporary = tempfile.mkstemp(prefix=f"{target.stem}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(manifest).encode() + b"\n" + code)
        Path(temporary).chmod(FILE_MODE)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make a file, where the file system has locks."""
    import filelock

    with contextlib.ExitStack() as stack:
        # Without a lock two processes may do the same work; the later file replaces.
        with contextlib.suppress(OSError, NotImplementedError):
            stack.enter_context(filelock.FileLock(target.with_suffix(".lock")))
        yield


def remove_outdated(folder: Path) -> None:
    """Remove what other versions of the kernels left in the cache and nobody uses.

    folder : what `make_folder` returned
    """
    own = folder.parent
    with contextlib.suppress(OSError):
        os.utime(own)
        for other in own.parent.iterdir():
            if (
                DIGEST_NAME.fullmatch(other.name)
                and not other.is_symlink()
                and time.time() - other.stat().st_mtime > KEPT_DAYS * DAY
            ):
                for level in (*machine.LEVELS, "numba"):
                    shutil.rmtree(other / level, ignore_errors=True)
                with contextlib.suppress(OSError):  # it holds something else
                    other.rmdir()
