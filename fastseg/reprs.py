"""One-line descriptions of objects: numbers of things, and names from outside."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from fastseg.escapes import escaped

# A description gives at most so many names, each cut to so many characters.
MOST_NAMES = 6
MOST_CHARACTERS = 40
# Descriptions count what takes longer than that to count only up to this number of
# samples or rows: a prompt must not wait.
MOST_COUNTED = 2**17


def many(count: int, noun: str) -> str:
    """Return "1 sample", "2 samples", "2 patches"."""
    ending = "es" if noun.endswith(("s", "ch")) else "s"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{ending}"


def digits(value: float) -> str:
    """Return a number with three digits, all that it has before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short(text: str) -> str:
    """Return a text from outside with escapes, cut if it is long."""
    shown = escaped(text)
    if len(shown) > MOST_CHARACTERS:
        return f"{shown[: MOST_CHARACTERS - 3]}..."
    return shown


def listed(names: Sequence[str], nothing: str = "none") -> str:
    """Return names from outside, the first ones of many."""
    shown = [short(name) for name in names[:MOST_NAMES]]
    if len(names) > len(shown):
        shown.append(f"and {len(names) - len(shown)} more")
    return ", ".join(shown) or nothing


def once_made(
    last: str,
) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    """Decorate a `__repr__`: an object that lacks its last attribute has Python's own.

    Debuggers, and tracebacks with local variables, show one whose `__init__` failed.
    """

    def decorate(describe: Callable[[Any], str]) -> Callable[[Any], str]:
        @functools.wraps(describe)
        def call(self: Any) -> str:
            return describe(self) if hasattr(self, last) else object.__repr__(self)

        return call

    return decorate
