"""The volumes that all sides of benchmarks/volumes/peers.py read patches of.

A store is built from CT series and structure sets: int16 images and bit fields of five
classes in uint8. `layout.json` beside it says where its pixels lie, so that a side
needs neither fastseg nor h5py, and `labels.npy` has one class for each voxel, as other
tools keep it.
"""

import json
from functools import cache

import numpy as np

import fastseg
from benchmarks.dicom.tree import make_slice
from benchmarks.structure_sets.clinic import FIELD_MM, ORGANS, outline
from tests.structure_sets import save

# The classes, and what a scanner would measure there. Outside of BODY lies air.
CLASSES = {"BODY": 0, "Heart": 60, "Lung_L": -700, "Lung_R": -700, "SpinalCord": 30}
AIR = -1000
NOISE = 64  # deviation
# What becomes 0 and 1 where images are scaled to that range.
LOW, HIGH = -1000, 1000


def make_study(folder, volumes, slices, side):
    """Build the store and write what is known of it; return its path."""
    random = np.random.default_rng(0)
    root = folder / "clinic"
    for k in range(volumes):
        series = root / f"P{k // 2:04d}" / f"S{k}"
        series.mkdir(parents=True)
        images = [make_image(k, n, side, random) for n in range(slices)]
        for n, ds in enumerate(images):
            ds.save_as(series / f"IM-{n + 1:04d}.dcm", enforce_file_format=True)
        save(outline(images, k, random), series.with_name(f"RS{k}.dcm"))
    table = fastseg.link(root, rois={name: [name] for name in CLASSES})
    path = fastseg.build(table, folder / "store.h5").path
    with fastseg.open(path) as store:
        write_layout(folder, store)
        assert [volume.shape for volume in store.volumes] == [
            (slices, side, side) for _ in range(volumes)
        ]
    return path


def make_image(series, number, side, random):
    """Return a slice in Hounsfield units, stored as they are in int16."""
    ds = make_slice(series, number)
    ds.Rows = ds.Columns = side
    ds.PixelSpacing = [f"{FIELD_MM / side:.8f}"] * 2
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
    ds.RescaleIntercept = "0"
    values = anatomy(side) + random.normal(0, NOISE, (side, side))
    ds.PixelData = np.clip(values, LOW, HIGH).astype("<i2").tobytes()
    return ds


@cache
def anatomy(side):
    """Return a slice without noise, float64 (side, side)."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    values = np.full((side, side), float(AIR))
    for name, units in CLASSES.items():
        centre_x, centre_y, radius = ORGANS[name]
        values[np.hypot(x - centre_x, y - centre_y) < radius] = units
    return values


def write_layout(folder, store):
    """Write layout.json and labels.npy."""
    (name,) = store.buckets
    assert store.images[name].dtype == np.int16
    assert store.masks[name].dtype == np.uint8
    # Of the classes that cover a voxel, the last one: all others lie inside BODY.
    last = [bits.bit_length() for bits in range(2 ** len(store.classes))]
    labels = np.array(last, np.uint8)[store.masks[name]]
    np.save(folder / "labels.npy", labels)
    image = store.images[name]
    layout = {
        "store": str(store.path),
        "shape": image.shape,
        "offsets": [store.offsets[f"{kind}/{name}"] for kind in ("images", "masks")],
        "first": [volume.samples.start for volume in store.volumes],
        "slices": len(store.volumes[0]),
        # (shift, gain) of images: to mean 0 and deviation 1, and to the range 0 to 1.
        "zscore": [float(image.mean()), float(1 / image.std())],
        "unit": [LOW, 1 / (HIGH - LOW)],
    }
    (folder / "layout.json").write_text(json.dumps(layout), encoding="utf-8")
