"""Progress of long-running steps.

    with progress("read", len(items)) as advance:
        for item in items:
            ...
            advance()

By default nothing is shown; the command line passes a function that draws a bar.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports that `n` more items of a step are done."""

    def __call__(self, n: int = 1) -> None: ...  # noqa: D102


class Progress(Protocol):
    """Begins a step, which ends with the context; `total` is its number of items.

    It is 0 if nobody knows the number.
    """

    def __call__(  # noqa: D102
        self, label: str, total: int
    ) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(label: str, total: int) -> Iterator[Advance]:
    """Show nothing."""

    def advance(n: int = 1) -> None:
        pass

    yield advance
