"""The exceptions of fastseg, one root for all.

FastsegError
├── OptionError        (ValueError)   an argument or option that cannot be meant
├── GeometryError      (ValueError)   contours that bound no region, bad vertices
├── LinkError          (ValueError)   a links table or data folder that does not fit
├── PathError          (LinkError)    a path or ID that leads outside its root
├── ContourError       (ValueError)   a contour file that cannot be read
├── DicomError         (ValueError)   an image file that cannot be read
├── FileChangedError   (OSError)      a file that was written to while it was read
├── StateError         (ValueError)   a loader's state that belongs to another loader
├── StoreError         (ValueError)   a file that is not a complete, sound store
├── BuildError         (ValueError)   a build that may not write where it was told
│   └── NothingBuiltError             everything that was linked was rejected
├── UnknownClassError  (KeyError)     a class that the store does not hold
└── MissingExtraError  (ImportError)  an optional package that is not installed

Each leaf is also the builtin that a careful caller would catch. A message says
what was expected, what came, where, and what to do next; it names files and
IDs, never patients.
"""

import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class FastsegError(Exception):
    """Root of all errors that fastseg raises on purpose."""

    # KeyError would print the repr of its message.
    __str__ = Exception.__str__


class OptionError(FastsegError, ValueError):
    """An argument or option is out of its range or unknown."""


class GeometryError(FastsegError, ValueError):
    """Vertices are malformed or bound no region."""


class LinkError(FastsegError, ValueError):
    """A links table or a data folder does not have the expected form."""


class PathError(LinkError):
    """A path or an ID leads outside the folder that it must stay in."""


class ContourError(FastsegError, ValueError):
    """A contour file cannot be read; `line` is its 1-based line, if one is at fault."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message, line)
        self.line = line

    def __str__(self) -> str:
        return str(self.args[0])


class DicomError(FastsegError, ValueError):
    """An image file is not DICOM, is damaged, or holds what cannot be used."""


class FileChangedError(FastsegError, OSError):
    """Somebody wrote to a file while it was read."""


class StateError(FastsegError, ValueError):
    """The state of a loader belongs to another store, seed or configuration."""


class StoreError(FastsegError, ValueError):
    """A file is not a store, is incomplete, truncated or of a newer version."""


class BuildError(FastsegError, ValueError):
    """A build may not write where it was told, or not what."""


class NothingBuiltError(BuildError):
    """There is nothing to build; `rejects` holds what was linked and is unusable."""

    def __init__(self, message: str, rejects: tuple[Any, ...] = ()):
        super().__init__(message, rejects)
        self.rejects = rejects

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownClassError(FastsegError, KeyError):
    """A class name is not one of the store's."""


class MissingExtraError(FastsegError, ImportError):
    """An optional package is missing; the message prints the line that installs it."""


class RejectedWarning(UserWarning):
    """Some input was rejected; what was good is kept and the rest is listed."""


def missing_extra(purpose: str, extra: str) -> MissingExtraError:
    """Return the error that tells how to install an optional dependency."""
    return MissingExtraError(
        f'{purpose} needs an optional package: pip install "fastseg[{extra}]"'
    )


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an option as an int from least to most, or raise OptionError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} is {value!r}, expected a whole number") from None
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise OptionError(f"{name} is {number}, expected {limits}")
    return number


def one_of(what: str, given: object, allowed: Iterable[str]) -> str:
    """Return the text that refuses `given`, lists what is allowed and near misses."""
    names = [str(name) for name in allowed]
    near = get_close_matches(str(given), names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(map(repr, names)) or "none at all"
    return f"{what} is {given!r}, expected one of {listed}{hint}"
