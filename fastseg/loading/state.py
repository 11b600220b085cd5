"""Where a loader stands, as a dict for JSON, and who may go on there."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from fastseg.augment import Custom
from fastseg.errors import StateError
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.preprocessing import Preprocessing
from fastseg.loading.schedule import Schedule

VERSION = 2


def identify(schedule: Schedule, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return all that decides which batches come, in texts and numbers.

    `rank` is not in it: all ranks are at the same batch, so that one state does for
    all of them.
    """
    share, flags = schedule.foreground or (None, None)
    return {
        "version": VERSION,
        "store": preprocessing.store.fingerprint,
        "indices": f"{len(schedule.indices)} samples, {_digest(schedule.indices)}",
        "batch_size": schedule.batch_size,
        "seed": schedule.seed,
        "shuffle": schedule.shuffle,
        "drop_last": schedule.drop_last,
        "world_size": schedule.world_size,
        "uneven": schedule.uneven,
        "weights": _digest(schedule.weights),
        "foreground": None if share is None else f"{share}, {_digest(flags)}",
        "together": _digest(schedule.groups),
        "size": list(preprocessing.size),
        "dtype": preprocessing.dtype,
        "normalize": preprocessing.normalization.normalize,
        "percentiles": [
            float(rank) for rank in preprocessing.normalization.percentiles
        ],
        "pad_value": preprocessing.pad_value,
        "masks": preprocessing.masks,
        "missing": preprocessing.missing,
        "priority": list(preprocessing.priority),
        "augment": _augmentation(preprocessing),
    }


def _augmentation(preprocessing: Preprocessing) -> dict[str, Any] | None:
    if not isinstance(preprocessing, AugmentedPreprocessing):
        return None
    compose = preprocessing.compose
    # A function of the user's is known by its name only.
    steps = [
        {"name": "Custom", "p": step.p, "function": _name(step.function)}
        if isinstance(step, Custom)
        else step.as_dict()
        for step in compose
    ]
    given = {
        "transforms": steps,
        "interpolation": compose.interpolation,
        "border": compose.border,
        "labels": preprocessing.labels,
    }
    # As JSON gives it back, with lists for tuples.
    described: dict[str, Any] = json.loads(json.dumps(given))
    return described


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def read_place(
    given: Any, identity: Mapping[str, Any], batches: int
) -> tuple[int, int]:
    """Return epoch and batch of a state, or raise StateError.

    identity : of the loader that is to go on
    batches  : how many an epoch has
    """
    if not isinstance(given, Mapping):
        raise StateError(f"a state is a dict, as state_dict returns it, not {given!r}")
    wanted = {*identity, "epoch", "batch"}
    if given.get("version") == VERSION and set(given) != wanted:
        raise StateError(
            f"the state lacks {sorted(wanted - set(given))} and has besides "
            f"{sorted(map(str, set(given) - wanted))}: it is none of state_dict's"
        )
    differences = [
        f"{name} is {given.get(name)!r} in the state, {value!r} here"
        for name, value in identity.items()
        if given.get(name) != value
    ]
    if differences:
        raise StateError(
            f"the state is of another loader: {'; '.join(differences)}. Make the "
            "loader as it was, or begin anew"
        )
    epoch, batch = given["epoch"], given["batch"]
    sound = type(epoch) is int and type(batch) is int
    if not (sound and 0 <= epoch < 2**64 and 0 <= batch < max(batches, 1)):
        raise StateError(
            f"the state is at batch {batch!r} of epoch {epoch!r}, expected whole "
            f"numbers and a batch below {batches}"
        )
    return epoch, batch


def _digest(values: Any) -> str | None:
    if values is None:
        return None
    return xxh3_64_hexdigest(np.ascontiguousarray(values))
