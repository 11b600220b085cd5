"""Single bits of a store that are no raw data, flipped one after the other.

`open` must refuse the store or `verify` report it. Where both are silent, h5py must
read what was written.
"""

import random

import h5py
import hdf5plugin  # noqa: F401  registers the filter of compressed stores
import numpy as np

import fastseg
from fastseg.errors import StoreError
from tests.soak import Fault
from tests.store.test_verify import metadata_offsets


def run(folder, tries, seed):
    """Flip each bit once, or as many as there are tries; yield what noticed it."""
    study = folder / "study"
    fastseg.make_phantom(study, patients=2, slices=1, phases=2, sizes=(32, "40x36"))
    table = fastseg.link(study)
    bits = []
    stores = {}
    for compress in (False, True):
        path = fastseg.build(table, folder / f"{compress}.h5", compress=compress).path
        whole = path.read_bytes()
        stores[compress] = whole, read_all(path)
        # Of the bytes that are zero, most of which HDF5 does not read, one in twenty.
        bits += [
            (compress, offset, bit)
            for offset in metadata_offsets(fastseg.open(path)).tolist()
            for bit in range(8)
            if whole[offset] or (8 * offset + bit) % 20 == 0
        ]
    draw = random.Random(seed)
    changed = folder / "changed.h5"
    for compress, offset, bit in draw.sample(bits, min(tries, len(bits))):
        whole, content = stores[compress]
        data = bytearray(whole)
        data[offset] ^= 1 << bit
        changed.unlink(missing_ok=True)  # the one before it may still be mapped
        changed.write_bytes(data)
        what = f"bit {bit} of byte {offset}, compressed: {compress}"
        try:
            is_valid = fastseg.verify(changed, threads=1).is_valid
        except StoreError:
            yield "refused"
            continue
        except Exception as exc:
            yield Fault(f"{what}: {exc!r}")
            continue
        if not is_valid:
            yield "reported by verify"
        elif read_all(changed) == content:
            yield "the same for h5py"
        else:
            yield Fault(f"{what}: h5py reads something else")


def read_all(path):
    """Return all that h5py reads from a file: types, shapes, values, attributes."""
    found = []

    def visit(name, item):
        attributes = [
            (key, item.attrs.get_id(key).get_type().encode(), np.array(value).tobytes())
            for key, value in item.attrs.items()
        ]
        if isinstance(item, h5py.Dataset):
            kind = item.id.get_type().encode(), item.shape, item.maxshape, item.chunks
            found.append((name, kind, item.fillvalue.tobytes(), item[()].tobytes()))
        found.append((name, sorted(attributes)))

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return found
