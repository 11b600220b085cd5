"""Progress of long-running steps.

A step wraps the items that it processes: `for item in progress(items, "read", n)`. By
default nothing is shown; the command line passes an object that draws a bar.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Yields `items` unchanged; `label` names the step, `total` is their number."""

    def __call__(  # noqa: D102
        self, items: Iterable[T], label: str, total: int
    ) -> Iterable[T]: ...


def silent(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    """Return the items and show nothing."""
    return items
