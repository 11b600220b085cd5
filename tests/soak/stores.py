"""Stores of which random bytes were changed, anywhere in the file.

Each is opened, verified and read whole. It must be refused, or `verify` must report it.
"""

import contextlib
import random

import numpy as np

import fastseg
from fastseg.errors import StoreError
from tests.soak import Fault

VALID = "valid, as no byte has changed"


def run(folder, tries, seed):
    """Yield what became of each changed store."""
    study = folder / "study"
    fastseg.make_phantom(study, patients=2, slices=1, phases=2, sizes=(32, "40x36"))
    table = fastseg.link(study)
    targets = []
    for compress in (False, True):
        path = fastseg.build(table, folder / f"{compress}.h5", compress=compress).path
        targets.append(path.read_bytes())
    changed = folder / "changed.h5"
    for k in range(tries):
        rng = random.Random(seed * 1_000_003 + k)
        whole = rng.choice(targets)
        data = change(rng, whole)
        changed.unlink(missing_ok=True)  # the one before it may still be mapped
        changed.write_bytes(data)
        try:
            outcome = outcome_of(changed)
        except Exception as exc:
            yield Fault(f"seed {seed}, try {k}: {exc!r}")
            continue
        is_silent = outcome == VALID and data != whole
        yield Fault(f"seed {seed}, try {k}: silent") if is_silent else outcome


def outcome_of(path):
    """Return what becomes of a store; whatever is read raises only StoreErrors."""
    try:
        store = fastseg.open(path)
        is_valid = fastseg.verify(store, threads=1).is_valid
    except StoreError:
        return "refused"
    with contextlib.suppress(StoreError):
        read_all(store)
    return VALID if is_valid else "reported by verify"


def change(rng, whole):
    """Return the bytes of a store with a few of them changed, added or lost."""
    data = bytearray(whole)
    kind = rng.random()
    if kind < 0.1:
        del data[rng.randrange(len(data)) :]
    elif kind < 0.2:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 8, 512)))
    elif kind < 0.3:
        source, to = (rng.randrange(len(data) - 512) for _ in range(2))
        data[to : to + 512] = data[source : source + 512]
    else:
        for _ in range(rng.choice((1, 1, 2, 8))):
            # Half of the changes are where HDF5 keeps its own data.
            at = rng.randrange(len(data) if rng.random() < 0.5 else 4096)
            flipped = data[at] ^ 1 << rng.randrange(8)
            data[at] = rng.choice((flipped, rng.randrange(256), 0, 255))
    return bytes(data)


def read_all(store):
    """Read everything in a store."""
    for sample in store:
        np.sum(sample.image)
        np.sum(sample.mask)
        repr((sample, sample.meta, sample.contours))
    repr((store, store.patients, store.options))
    store.select(patients=store.patients[:1])
