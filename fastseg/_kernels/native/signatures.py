"""The types of an entry's arguments, as text and as values.

A signature is the list of types, one for each parameter:

    bool, int64, uint8, float64 ...   a number
    none                              None
    const float64[:, ::1]             an array (n, m) that is only read, C-contiguous
    int32[:]                          an array (n,) that is written, of any strides
    package.module.Name(a, b)         a NamedTuple, with the types of its fields

Integers are taken from Python's int if they fit. An array that is only read may be
read-only or not.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

BITS = (8, 16, 32, 64)
INTEGERS = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in BITS},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in BITS},
}
NUMBERS = ("bool", "float64", *INTEGERS)
# The dtypes of arrays, and what numpy calls their kind and size.
DTYPES = {np.dtype(name): name for name in (*NUMBERS, "float32")}


@dataclass(frozen=True)
class Number:
    """A number, or None."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Array:
    """An array."""

    dtype: str
    ndim: int
    contiguous: bool
    constant: bool

    def __str__(self) -> str:
        axes = [":"] * self.ndim
        if self.contiguous:
            axes[-1] = "::1"
        return f"{'const ' * self.constant}{self.dtype}[{', '.join(axes)}]"


@dataclass(frozen=True)
class Record:
    """A NamedTuple: the full name of its class, and its fields."""

    name: str
    fields: tuple["Type", ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.fields))})"

    @property
    def made_by(self) -> type:
        """The class."""
        module, _, name = self.name.rpartition(".")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]


Type: TypeAlias = Number | Array | Record
Signature: TypeAlias = tuple[Type, ...]
NONE = Number("none")


def class_name(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def parse(text: str) -> Signature:
    """Return the signature that a text says. Raises ValueError."""
    types = []
    depth = start = 0
    for index, letter in enumerate(text + ","):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            types.append(parse_type(text[start:index].strip()))
            start = index + 1
    if start <= len(text):
        raise ValueError(f"{text[start:]!r} is no type of an entry's argument")
    return tuple(types)


def parse_type(text: str) -> Type:
    """Return the type that a text says. Raises ValueError."""
    if text.endswith(")"):
        name, _, fields = text[:-1].partition("(")
        return Record(name, parse(fields))
    if text == "none" or text in NUMBERS:
        return Number(text)
    constant = text.startswith("const ")
    dtype, _, axes = text.removeprefix("const ").partition("[")
    found = Array(dtype, axes.count(",") + 1, axes.endswith("::1]"), constant)
    if dtype not in DTYPES.values() or str(found) != text:
        raise ValueError(f"{text!r} is no type of an entry's argument")
    return found


def join(signature: Iterable[Type]) -> str:
    """Return the text of a signature."""
    return ", ".join(map(str, signature))


def expand(
    types: dict[str, Any], variables: dict[str, tuple[Any, ...]]
) -> Iterator[Signature]:
    """Yield the signatures that a declaration stands for.

    types     : for each parameter a type, several with " | " between them, a tuple: a
        NamedTuple's class and the types of its fields, or a list of these
    variables : for each capital letter in them the names that it stands for; for
        several letters together, tuples of their names
    """
    for chosen in itertools.product(*variables.values()):
        given = {
            letter: name
            for letters, names in zip(variables, chosen, strict=True)
            for letter, name in bind(letters, names)
        }
        yield from itertools.product(*(_alternatives(t, given) for t in types.values()))


def bind(letters: str, names: Any) -> Iterator[tuple[str, str]]:
    """Yield each of some capital letters with the name that it stands for.

    names : one name if there is one letter, else a tuple
    """
    return zip(letters, (names,) if len(letters) == 1 else names, strict=True)


def _alternatives(given: Any, variables: dict[str, str]) -> list[Type]:
    if isinstance(given, list):
        return [kind for each in given for kind in _alternatives(each, variables)]
    if isinstance(given, tuple):
        kind, *fields = given
        choices = [_alternatives(field, variables) for field in fields]
        return [Record(class_name(kind), f) for f in itertools.product(*choices)]
    result = []
    for text in given.split(" | "):
        for letter, name in variables.items():
            if text.removeprefix("const ").partition("[")[0] == letter:
                text = text.replace(letter, name, 1)
        result.append(parse_type(text))
    return result


def plain(value: Any) -> Any:
    """Return a value as entries take it.

    Numbers of numpy become Python's, and arrays of subclasses plain arrays of the same
    memory.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        return value.view(np.ndarray)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(plain, value))
    return value


def type_of(value: Any) -> Type:
    """Return the most general type that a plain value has. Raises TypeError."""
    if value is None:
        return NONE
    if type(value) is bool:
        return Number("bool")
    if type(value) is int and -1 << 63 <= value < 1 << 64:
        return Number("int64" if value < 1 << 63 else "uint64")
    if type(value) is float:
        return Number("float64")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Record(class_name(type(value)), tuple(map(type_of, value)))
    if type(value) is np.ndarray and value.ndim and value.flags.aligned:
        dtype = DTYPES.get(value.dtype)
        if dtype is not None:
            flags = value.flags
            return Array(dtype, value.ndim, flags.c_contiguous, not flags.writeable)
    raise TypeError(f"kernels do not take {describe(value)}")


def closest(kinds: Iterable[Type], value: Any) -> Type:
    """Return one of the types that takes a plain value, or one like it.

    That is a type that differs only in dtypes of arrays, if there is one, so that a
    kernel gets numbers of the types that it declares, and promises to read only what it
    declares so; else the value's own type. Raises TypeError.
    """
    kinds = [*dict.fromkeys(kinds)]
    for kind in kinds:
        if accepts(kind, value):
            return kind
    own = type_of(value)
    for kind in kinds:
        like: Type
        if isinstance(kind, Array) and isinstance(own, Array):
            like = replace(kind, dtype=own.dtype)
        elif isinstance(kind, Record) and isinstance(own, Record):
            pairs = zip(kind.fields, value, strict=False)
            like = Record(kind.name, tuple(closest([k], field) for k, field in pairs))
        else:
            continue
        if accepts(like, value):
            return like
    return own


def accepts(kind: Type, value: Any) -> bool:
    """Return whether a plain value is of a type; as the compiled entries do."""
    if isinstance(kind, Record):
        if type(value) is not kind.made_by:
            return False
        fields: Any = value
        return len(fields) == len(kind.fields) and all(
            map(accepts, kind.fields, fields)
        )
    if isinstance(kind, Array):
        if type(value) is not np.ndarray or DTYPES.get(value.dtype) != kind.dtype:
            return False
        flags = value.flags
        return bool(
            value.ndim == kind.ndim
            and flags.aligned
            and (flags.c_contiguous or not kind.contiguous)
            and (flags.writeable or kind.constant)
        )
    if kind == NONE:
        return value is None
    if kind.name == "bool":
        return type(value) is bool
    if kind.name == "float64":
        return type(value) is float
    low, high = INTEGERS[kind.name]
    return type(value) is int and low <= value <= high


def describe(value: Any) -> str:
    """Return what a value is, for messages."""
    if isinstance(value, np.ndarray):
        return (
            f"an array of type {type(value).__name__}, dtype {value.dtype.str}, shape "
            f"{value.shape} and strides {value.strides}"
        )
    return f"a value of type {type(value).__name__}"


def records(signature: Iterable[Type]) -> list[Record]:
    """Return the NamedTuples of a signature, each before those in its fields."""
    found = []
    for kind in signature:
        if isinstance(kind, Record):
            found += [kind, *records(kind.fields)]
    return found
