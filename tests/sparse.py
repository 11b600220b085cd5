"""Stores with any number of samples that take little disk: most of the file is a hole.

Such a store can be opened, and its columns are consistent. Pixels, vertices and most
statistics are zeros, and the checksums are wrong.
"""

import h5py
import numpy as np

from fastseg.store import layout
from fastseg.store.layout import Bucket

CLASSES = ("icontour", "ocontour")
BUCKETS = (Bucket((256, 216), np.dtype("<u2")), Bucket((256, 256), np.dtype("<u2")))
SAMPLES_OF_A_PATIENT = 100
SLICES_OF_A_VOLUME = 20
POINTS_OF_A_RING = 40


def make_sparse_store(path, samples, buckets=BUCKETS, slices=SLICES_OF_A_VOLUME):
    """Write a store of two buckets, whose samples have a ring of each class.

    slices : of each volume, a divisor of SAMPLES_OF_A_PATIENT
    """
    half = samples // 2
    rings = len(CLASSES) * samples
    counts = {buckets[0].name: half, buckets[1].name: samples - half}
    indices = np.arange(samples)
    ring_items = np.repeat(indices, len(CLASSES))
    patients = indices // SAMPLES_OF_A_PATIENT
    patient_ids = np.char.mod("SCD%07d", np.unique(patients))[patients]
    series = np.char.mod("1.2.3.%08d", np.unique(patients))[patients]
    firsts = np.arange(0, samples + 1 - slices, slices)
    firsts = firsts[(firsts >= half) | (firsts + slices <= half)]
    counted = np.full(len(firsts), slices)
    written = {
        "items/bucket": indices >= half,
        "items/row": np.where(indices < half, indices, indices - half),
        "items/patient": patient_ids,
        "items/series": series,
        "items/modality": np.full(samples, "MR"),
        "items/sop_instance": np.char.mod("1.2.3.4.%08d", indices),
        "items/frame_of_reference": series,
        "items/volume": layout.volumes_of_items(firsts, counted, 0, samples),
        "items/source": indices,
        "items/slope": np.ones(samples),
        "items/spacing_mm": np.ones((samples, 2)),
        "items/std": np.ones(samples),
        "items/labelled": np.full(samples, 2 ** len(CLASSES) - 1),
        "items/contours": len(CLASSES) * np.stack([indices, indices + 1], axis=1),
        "contours/offsets": POINTS_OF_A_RING * np.arange(rings + 1),
        "contours/item": ring_items,
        "contours/class": np.tile(np.arange(len(CLASSES)), samples),
        "contours/source": ring_items,
        "sources/path": np.char.mod("images/%08d.dcm", indices),
        "volumes/first": firsts,
        "volumes/slices": counted,
        "volumes/spacing_mm": np.full(len(firsts), 8.0),
        "volumes/patient": patient_ids[firsts],
        "volumes/series": series[firsts],
        "histograms/item": indices,
        "histograms/class": np.full(samples, layout.WHOLE_IMAGE),
        "histograms/offsets": np.arange(samples + 1),
    }
    lengths = {
        "items": samples,
        "contours": rings,
        "contours/points": POINTS_OF_A_RING * rings,
        "contours/offsets": rings + 1,
        "sources": samples,
        "volumes": len(firsts),
        "histograms": samples,
        "histograms/offsets": samples + 1,
        "histograms/counts": samples,
    }
    with h5py.File(
        path,
        "w",
        alignment_threshold=layout.ALIGN_FROM,
        alignment_interval=layout.PAGE,
    ) as file:
        masks = layout.mask_dtype(CLASSES)
        for bucket in buckets:
            shape = (counts[bucket.name], *bucket.shape)
            _allocate(file, f"images/{bucket.name}", shape, bucket.dtype)
            _allocate(file, f"masks/{bucket.name}", shape, masks)
        for table, columns in layout.tables(CLASSES).items():
            for column, (dtype, trailing) in columns.items():
                name = f"{table}/{column}"
                length = lengths.get(name, lengths[table])
                values = written.get(name)
                if dtype == "|S":
                    values = as_utf8(values)
                    dtype = values.dtype
                dataset = _allocate(file, name, (length, *trailing), dtype)
                if values is not None:
                    dataset[...] = values
        file["items/percentiles"].attrs["q"] = layout.PERCENTILES
        checksums = dict.fromkeys(layout.checksum_names(CLASSES), "0" * 16)
        file.attrs["format"] = as_utf8(layout.FORMAT)
        file.attrs["version"] = layout.VERSION
        file.attrs["classes"] = as_utf8(CLASSES)
        file.attrs["buckets"] = as_utf8(list(counts))
        file.attrs["options"] = as_utf8("{}")
        file.attrs["software"] = as_utf8("{}")
        file.attrs["checksums"] = as_utf8(layout.canonical_json(checksums))
        file.attrs["fingerprint"] = as_utf8(
            layout.fingerprint(CLASSES, list(counts), {}, checksums)
        )
        file.attrs["metadata_checksum"] = as_utf8("0" * 16)
        file.attrs["complete"] = 1


def label_volumes(path, rows, columns):
    """Label a rectangle, of the first class, on the middle slice of each volume.

    rows, columns : slices
    """
    size = (rows.stop - rows.start) * (columns.stop - columns.start)
    corners = rows.start, columns.start, rows.stop, columns.stop
    with h5py.File(path, "r+") as file:
        items = file["volumes/first"][...] + file["volumes/slices"][...] // 2
        masks = [file[f"masks/{name.decode()}"] for name in file.attrs["buckets"]]
        for bucket, row in zip(
            file["items/bucket"][...][items], file["items/row"][...][items], strict=True
        ):
            masks[bucket][row, rows, columns] = 1
        for name, value in (("pixels", size), ("bbox", corners)):
            column = file[f"items/{name}"][...]
            column[items, 0] = value
            file[f"items/{name}"][...] = column


def as_utf8(texts):
    """Return texts in the type that a store has: UTF-8 of a fixed length."""
    array = np.asarray(texts)
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
    return array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))


def _allocate(file, name, shape, dtype):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, shape, dtype, dcpl=creation)
