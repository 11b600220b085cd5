"""How long-running steps report how far they are.

A step wraps the items it works through: `for item in progress(items, "read", n)`.
The library is silent unless it is given something louder; the command line draws
a bar.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps `items` and yields them unchanged; `total` is their number."""

    def __call__(  # noqa: D102
        self, items: Iterable[T], label: str, total: int
    ) -> Iterable[T]: ...


def silent(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    """Show nothing."""
    return items
