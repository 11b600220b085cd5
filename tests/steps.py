"""Progress functions that act at a chosen step of a build."""

from collections.abc import Callable
from contextlib import contextmanager


def at(action: Callable[[str, int, int], None]):
    """Return a progress function that calls action(label, done, total).

    It does so when a step starts, after each advance, and with done = total + 1 after
    the step.
    """

    @contextmanager
    def progress(label, total):
        done = 0

        def advance(count=1):
            nonlocal done
            done += count
            action(label, done, total)

        action(label, 0, total)
        yield advance
        action(label, total + 1, total)

    return progress


def after(label: str, action: Callable[[], None]):
    """Return a progress function that acts at the end of a step."""

    def act(name, done, total):
        if name == label and done > total:
            action()

    return at(act)
