"""The state of a loader as a dict for JSON, and the check of such a dict."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from fastseg.errors import StateError
from fastseg.loading.schedule import Schedule
from fastseg.store.reader import Store

VERSION = 7


def identify(
    store: Store, schedule: Schedule, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all options and data that determine the batches, as JSON values.

    options : those of what an entry becomes, see `Preprocessing.identity`

    `rank` is left out: all ranks are at the same batch, so that any of them can load
    the state of another.
    """
    fraction, flags = schedule.foreground or (None, None)
    return {
        "version": VERSION,
        "store": store.fingerprint,
        "indices": f"{len(schedule.indices)} samples, {_digest(schedule.indices)}",
        "batch_size": schedule.batch_size,
        "seed": schedule.seed,
        "shuffle": schedule.shuffle,
        "drop_last": schedule.drop_last,
        "world_size": schedule.world_size,
        "uneven": schedule.uneven,
        "weights": _digest(schedule.weights),
        "foreground": None if fraction is None else f"{fraction}, {_digest(flags)}",
        "together": _digest(schedule.groups),
        **options,
    }


def parse_state(
    given: Any, identity: Mapping[str, Any], batches: int
) -> tuple[int, int]:
    """Return epoch and batch of a state, or raise StateError.

    identity : what `identify` returns for the loader that loads the state
    batches  : number of batches in an epoch
    """
    if not isinstance(given, Mapping):
        raise StateError(f"a state is a dict, as state_dict returns it, not {given!r}")
    expected = {*identity, "epoch", "batch"}
    if given.get("version") == VERSION and set(given) != expected:
        raise StateError(
            f"the state lacks {sorted(expected - set(given))} and has the unknown keys "
            f"{sorted(map(str, set(given) - expected))}: expected a dict that "
            "state_dict returned"
        )
    differences = [
        f"{name} is {given.get(name)!r} in the state, {value!r} here"
        for name, value in identity.items()
        if given.get(name) != value
    ]
    if differences:
        raise StateError(
            f"the state is of another loader: {'; '.join(differences)}. Make a loader "
            "with the options of the state, or start without the state"
        )
    epoch = given["epoch"]
    batch = given["batch"]
    whole = type(epoch) is int and type(batch) is int
    if not (whole and 0 <= epoch < 2**64 and 0 <= batch < max(batches, 1)):
        raise StateError(
            f"the state is at batch {batch!r} of epoch {epoch!r}, expected whole "
            f"numbers from 0 and a batch below {batches}"
        )
    return epoch, batch


def _digest(values: Any) -> str | None:
    if values is None:
        return None
    return xxh3_64_hexdigest(np.ascontiguousarray(values))
