"""Stores of any size that cost next to no disk: what nobody looks at is a hole.

Such a store opens, and its columns agree with one another; pixels, vertices and most
statistics read as zeros, and the checksums are made up.
"""

import h5py
import numpy as np

from fastseg.store import layout
from fastseg.store.layout import Bucket

CLASSES = ("icontour", "ocontour")
BUCKETS = (Bucket((256, 216), np.dtype("<u2")), Bucket((256, 256), np.dtype("<u2")))
SAMPLES_OF_A_PATIENT = 100
POINTS_OF_A_RING = 40


def make_sparse_store(path, samples):
    """Write a store of so many samples: two shapes, a ring of each class on each."""
    half, rings = samples // 2, len(CLASSES) * samples
    counts = {BUCKETS[0].name: half, BUCKETS[1].name: samples - half}
    places = np.arange(samples)
    owners = np.repeat(places, len(CLASSES))
    patients = places // SAMPLES_OF_A_PATIENT
    written = {
        "items/bucket": places >= half,
        "items/row": np.where(places < half, places, places - half),
        "items/patient": np.char.mod("SCD%07d", np.unique(patients))[patients],
        "items/series": np.char.mod("1.2.3.%08d", np.unique(patients))[patients],
        "items/source": places,
        "items/slope": np.ones(samples),
        "items/std": np.ones(samples),
        "items/labelled": np.full(samples, 2 ** len(CLASSES) - 1),
        "items/contours": len(CLASSES) * np.stack([places, places + 1], axis=1),
        "contours/offsets": POINTS_OF_A_RING * np.arange(rings + 1),
        "contours/item": owners,
        "contours/class": np.tile(np.arange(len(CLASSES)), samples),
        "contours/source": owners,
        "sources/path": np.char.mod("images/%08d.dcm", places),
    }
    lengths = {
        "items": samples,
        "contours": rings,
        "contours/points": POINTS_OF_A_RING * rings,
        "contours/offsets": rings + 1,
        "sources": samples,
    }
    with h5py.File(
        path,
        "w",
        alignment_threshold=layout.ALIGN_FROM,
        alignment_interval=layout.PAGE,
    ) as file:
        masks = layout.mask_dtype(CLASSES)
        for bucket in BUCKETS:
            shape = (counts[bucket.name], *bucket.shape)
            _allocate(file, f"images/{bucket.name}", shape, bucket.dtype)
            _allocate(file, f"masks/{bucket.name}", shape, masks)
        for table, columns in layout.tables(CLASSES).items():
            for column, (dtype, trailing) in columns.items():
                name = f"{table}/{column}"
                length = lengths.get(name, lengths[table])
                values = written.get(name)
                if dtype == "|S":
                    values = values.astype("S")
                    dtype = values.dtype
                dataset = _allocate(file, name, (length, *trailing), dtype)
                if values is not None:
                    dataset[...] = values
        file["items/percentiles"].attrs["q"] = layout.PERCENTILES
        checksums = dict.fromkeys(layout.checksum_names(CLASSES), "0" * 16)
        file.attrs["format"] = np.bytes_(layout.FORMAT)
        file.attrs["version"] = layout.VERSION
        file.attrs["classes"] = np.array(CLASSES, "S")
        file.attrs["buckets"] = np.array(list(counts), "S")
        file.attrs["options"] = np.bytes_("{}")
        file.attrs["software"] = np.bytes_("{}")
        file.attrs["checksums"] = np.bytes_(layout.canonical_json(checksums))
        file.attrs["fingerprint"] = np.bytes_(
            layout.fingerprint(CLASSES, list(counts), {}, checksums)
        )
        file.attrs["complete"] = 1


def _allocate(file, name, shape, dtype):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, shape, dtype, dcpl=creation)
