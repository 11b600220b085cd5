"""The exceptions of fastseg, one root for all.

FastsegError
├── OptionError        (ValueError)   an argument or option is invalid
│   └── MissingLabelsError            some samples lack labels, and missing="error"
├── ArgumentError      (TypeError)    a call lacks an argument, or has an unknown one
│   └── RenamedError                  an argument is given by its old name
├── GeometryError      (ValueError)   vertices, contours or planes are malformed
├── LinkError          (ValueError)   a links table or data folder is malformed
│   └── PathError                     a path or ID leads outside its root
├── ContourError       (ValueError)   a contour file cannot be read
├── DicomError         (ValueError)   an image file cannot be read
│   ├── NoImageError                  a DICOM file of a kind that has no pixels
│   └── ColourImageError              an image has colours
├── DecoderStartError  (RuntimeError) no process can be started that decodes images
├── CompileError       (RuntimeError) a kernel cannot be compiled
├── FileChangedError   (OSError)      a file was written to while it was read
├── RemoteError        (OSError)      an object behind a URL cannot be read or written
│   └── MissingObjectError (FileNotFoundError) there is none behind a URL
├── NoAnswerError      (RuntimeError) the service behind a URL does not answer
├── StateError         (ValueError)   a loader's state belongs to another loader
├── StoreError         (ValueError)   a file is not a complete, valid store
│   └── StoreVersionError             a store has another version of the format
├── BuildError         (ValueError)   a build may not write to its target
│   ├── NothingBuiltError             every linked image was rejected
│   ├── PlanError                     a plan is damaged, or parts of it are missing
│   └── OutputError  (FileExistsError) an output would replace another's file
├── UnknownClassError  (KeyError)     the store does not hold a class
└── MissingExtraError  (ImportError)  an optional package is not installed

UserWarning
├── RejectedWarning                   some input was rejected
├── CopiesWarning                     several patients share an image
├── SplitWarning                      parts of a split are far from their fractions
└── MissingLabelsWarning              pixels without labels count as background

Each leaf also inherits the builtin exception that a careful caller would catch. A
message says what was expected, what came, where, and what to do next. It names files
and IDs, never patients. It shows control characters in them as escapes, see `escapes`.
"""

import math
import operator
from collections import UserString
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from fastseg.bounds import MAX_GRID_CELLS
from fastseg.escapes import escaped

# The packages of each optional extra of the distribution.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "show": ("matplotlib",),
    "report": ("jinja2", "matplotlib"),
    "codecs": ("python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg"),
    "codecs-gpl": ("pylibjpeg", "pylibjpeg-libjpeg"),
    "compress": ("zstandard",),
    "dask": ("distributed",),
    "remote": ("fsspec",),
    "torch": ("torch",),
}


# Characters of a value in a message.
MOST_SHOWN = 60


class FastsegError(Exception):
    """Root of all errors that fastseg raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print the repr of its message.
        return escaped(Exception.__str__(self))


class OptionError(FastsegError, ValueError):
    """An argument or option is out of its range or unknown."""


class MissingLabelsError(OptionError):
    """Some classes were not outlined on some samples, and `missing` is "error"."""


class ArgumentError(FastsegError, TypeError):
    """A call lacks an argument, or has one that does not exist or is too much."""


class RenamedError(ArgumentError):
    """An argument is given by its old name; the message gives the new one."""


class GeometryError(FastsegError, ValueError):
    """Vertices are malformed or bound no region, or an image has no plane."""


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
        return escaped(str(self.args[0]))


class DicomError(FastsegError, ValueError):
    """An image file is not DICOM, is damaged, or has an unsupported form."""


class NoImageError(DicomError):
    """A DICOM file holds something else than an image, such as a structure set.

    kind : name of its class in the standard, such as "RT Structure Set Storage"; "" if
        it is unknown
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message, kind)
        self.kind = kind

    def __str__(self) -> str:
        return escaped(str(self.args[0]))


class ColourImageError(DicomError):
    """An image has colours: not one grey value for each pixel."""


class DecoderStartError(FastsegError, RuntimeError):
    """No process can be started that decodes compressed images."""


class CompileError(FastsegError, RuntimeError):
    """A kernel cannot be compiled, or the process that compiles it was stopped."""


class FileChangedError(FastsegError, OSError):
    """Somebody wrote to a file while it was read."""


class RemoteError(FastsegError, OSError):
    """An object behind a URL is missing, forbidden or cut, or cannot be written."""


class MissingObjectError(RemoteError, FileNotFoundError):
    """There is no object behind a URL."""


class NoAnswerError(FastsegError, RuntimeError):
    """The service behind a URL does not answer; run the same again when it does."""


class StateError(FastsegError, ValueError):
    """The state of a loader belongs to another store, seed or configuration."""


class StoreError(FastsegError, ValueError):
    """A file is not a store, is incomplete or truncated, or has another version."""


class StoreVersionError(StoreError):
    """A store has another version of the format; build it again."""


class BuildError(FastsegError, ValueError):
    """A build may not write to its target, or not what was asked for."""


class NothingBuiltError(BuildError):
    """There is nothing to build; `rejects` lists the linked files and why."""

    def __init__(self, message: str, rejects: tuple[Any, ...] = ()):
        super().__init__(message, rejects)
        self.rejects = rejects

    def __str__(self) -> str:
        return escaped(str(self.args[0]))


class PlanError(BuildError):
    """A folder holds no plan, another one, or one of which parts are not made."""


class OutputError(BuildError, FileExistsError):
    """An output is not written, because it would replace or change another's file."""


class UnknownClassError(FastsegError, KeyError):
    """A class name is not one of the store's."""


class MissingExtraError(FastsegError, ImportError):
    """An optional package is missing; the message prints the line that installs it."""


class RejectedWarning(UserWarning):
    """Some input was rejected and listed; the rest was used."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class CopiesWarning(UserWarning):
    """Images of several patients have the same pixels; all are in the store."""


class SplitWarning(UserWarning):
    """Parts of a split are far from the fractions that were asked for."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class MissingLabelsWarning(UserWarning):
    """Classes that nobody outlined become background, or 255 that hides the others."""

    def __str__(self) -> str:
        return escaped(super().__str__())


def missing_extra(purpose: str, extra: str) -> MissingExtraError:
    """Return the error that gives the command to install an extra of EXTRAS."""
    packages = EXTRAS[extra]
    noun = "an optional package" if len(packages) == 1 else "optional packages"
    note = (
        " (pylibjpeg-libjpeg has the licence GPL v3)" if extra == "codecs-gpl" else ""
    )
    return MissingExtraError(
        f"{purpose} needs {noun}: pip install {' '.join(packages)}{note}"
    )


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an option as an int from least to most, or raise OptionError.

    True, False and masked values are no numbers.
    """
    try:
        if not _is_numeric(value):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise OptionError(
            f"{name} is {shown(value)}, expected a whole number"
        ) from None
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise OptionError(f"{name} is {number}, expected {limits}")
    return number


def pair_of_sizes(name: str, given: Any) -> tuple[int, int]:
    """Return (height, width), also from one number, or raise OptionError."""
    try:
        if isinstance(given, str):
            raise TypeError
        height, width = (given, given) if is_single(given) else in_order(given)
    except (TypeError, ValueError):
        raise OptionError(
            f"{name} is {shown(given)}, expected (height, width), or one number for a "
            "square"
        ) from None
    sides = whole_number(name, height, 1), whole_number(name, width, 1)
    if sides[0] * sides[1] > MAX_GRID_CELLS:
        raise OptionError(
            f"{name} is {shown(given)}, expected at most {MAX_GRID_CELLS} pixels"
        )
    return sides


def real_number(name: str, value: Any, expected: str = "a finite number") -> float:
    """Return an option as a finite float, or raise OptionError.

    expected : in words, for the message

    Text, True, False, dates, complex numbers and masked values are no numbers.
    """
    try:
        if not _is_numeric(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"{name} is {shown(value)}, expected {expected}")
    return number


def true_or_false(name: str, value: Any) -> bool:
    """Return an option as a bool, or raise OptionError: "no" is not False."""
    # 0 and 1, and numpy's values, equal one of the two.
    if getattr(value, "shape", ()) == () and value in (True, False):
        return bool(value)
    raise OptionError(f"{name} is {shown(value)}, expected True or False")


def choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return an option if it is one of the texts allowed, or raise OptionError.

    A value of another type, with or without a hash, is none of them.
    """
    names = tuple(allowed)
    if isinstance(value, str) and value in names:
        return str(value)
    raise OptionError(one_of(name, value, names))


def in_order(values: Any) -> Any:
    """Return values, or raise TypeError for a set or dict: these have no order."""
    if isinstance(values, set | frozenset | dict):
        raise TypeError("has no order")
    return values


def is_single(value: Any) -> bool:
    """Return whether an option is one value and no sequence or array of several."""
    is_scalar = not hasattr(value, "__len__") or isinstance(value, str | bytes)
    return is_scalar or getattr(value, "ndim", 1) == 0


def is_iterable(value: Any) -> bool:
    """Return whether an option may hold several values: no text, no single number."""
    is_scalar = isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not is_scalar


def _is_numeric(value: Any) -> bool:
    """Return whether a single value may be converted to a number."""
    # Nor is UserString, or a buffer of bytes: `float` reads both as text.
    is_number = hasattr(value, "__float__") or hasattr(value, "__index__")
    if isinstance(value, bool | UserString) or not is_number:
        return False
    # Of arrays with one value, of numpy's numbers and of tensors.
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    is_bool = kind == "b" or str(getattr(value, "dtype", "")) == "torch.bool"
    is_other = kind is not None and kind not in "iuf"
    is_single = getattr(value, "ndim", 0) == 0
    is_masked = bool(getattr(value, "mask", False)) if is_single else False
    return is_single and not (is_bool or is_other or is_masked)


def one_of(what: str, given: object, allowed: Iterable[str]) -> str:
    """Return the text of an error: what was given, what is allowed, near misses."""
    names = [str(name) for name in allowed]
    lowered = {name.lower(): name for name in names}
    text = given.lower() if isinstance(given, str) else ""
    near = [lowered[name] for name in get_close_matches(text, lowered, n=2, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(map(repr, names)) or "nothing"
    return f"{what} is {shown(given)}, expected one of {listed}{hint}"


def shown(value: object) -> str:
    """Return the repr of what a caller gave, in one line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
