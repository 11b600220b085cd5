"""Progress functions that act at a given moment of a build or another step."""

from contextlib import contextmanager


def at_item(step, number, action, attempt=1):
    """Return a progress function that calls `action` at an item of a step.

    number  : of the items before it
    attempt : 2 if the step runs twice, and the action belongs to the second time
    """
    labels = []

    @contextmanager
    def progress(label, total):
        labels.append(label)
        done = 0

        def advance(n=1):
            nonlocal done
            before, done = done, done + n
            is_reached = before <= number < done
            if label == step and is_reached and labels.count(step) == attempt:
                action()

        yield advance

    return progress


def after_step(step, action):
    """Return a progress function that calls `action` when a step ends."""

    @contextmanager
    def progress(label, total):
        yield lambda n=1: None
        if label == step:
            action()

    return progress


def stop_at_item(step, number, error, **options):
    """Return a progress function that raises `error` at an item of a step."""

    def stop():
        raise error

    return at_item(step, number, stop, **options)
