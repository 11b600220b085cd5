"""Stores of which random bytes were changed, anywhere in the file.

Each is opened, verified and read whole. It must be refused, or `verify` must report it,
or all that can be read must be what was written.
"""

import random

import numpy as np

import fastseg
from fastseg.errors import StoreError
from tests.soak import Fault


def run(folder, tries, seed):
    """Yield what became of each changed store."""
    study = folder / "study"
    fastseg.make_phantom(study, patients=2, slices=1, phases=2, sizes=(32, "40x36"))
    table = fastseg.link(study)
    targets = []
    for compress in (False, True):
        path = fastseg.build(table, folder / f"{compress}.h5", compress=compress).path
        targets.append((path.read_bytes(), content_of(fastseg.open(path))))
    changed = folder / "changed.h5"
    for k in range(tries):
        rng = random.Random(seed * 1_000_003 + k)
        whole, content = rng.choice(targets)
        changed.unlink(missing_ok=True)  # the one before it may still be mapped
        changed.write_bytes(change(rng, whole))
        try:
            yield outcome_of(changed, content) or Fault(
                f"seed {seed}, try {k}: other content, and verify is silent"
            )
        except Exception as exc:
            yield Fault(f"seed {seed}, try {k}: {exc!r}")


def outcome_of(path, content):
    """Return what becomes of a changed store; None if nobody notices the change."""
    try:
        store = fastseg.open(path)
        is_valid = fastseg.verify(store, threads=1).is_valid
    except StoreError:
        return "refused"
    try:
        read = content_of(store)
    except StoreError:
        return None if is_valid else "reported by verify, and refused when read"
    if not is_valid:
        return "reported by verify"
    return "the same content" if read == content else None


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


def content_of(store):
    """Return everything that can be read from a store."""
    tables = [
        (table, name, column.dtype.str, column.shape, column.tobytes())
        for table in ("items", "contours", "sources")
        for name, column in getattr(store, table).items()
        if name not in ("image_chunk", "mask_chunk")
    ]
    samples = [
        (np.asarray(s.image).tobytes(), np.asarray(s.mask).tobytes(), repr(s.meta))
        for s in store
    ]
    return tables, samples, store.classes, store.options, store.patients
