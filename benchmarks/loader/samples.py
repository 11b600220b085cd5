"""The samples that all sides of benchmarks/loader/race.py read.

A store is built from DICOM files and contours: uint16 images of 256 x 256 and masks of
four classes in uint8. The images are copies of a few phantoms, each with noise of its
own, so that no two samples are alike and no page of the file is a hole.
"""

import json
import shutil
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.inputs import COPIED_PHANTOM, SIDE, link_copies, write_copies
from fastseg.loading.orders import epoch_order

BATCH = 32
SEED = 0
SAMPLE_BYTES = 3 * SIDE * SIDE


def make_store(folder, count):
    """Build a store of a number of samples and note the offsets of its pixels."""
    study = fastseg.make_phantom(folder / "study", **COPIED_PHANTOM)
    copies = folder / "copies"
    write_copies(study, copies, count)
    report = fastseg.build(link_copies(study, copies, count), folder / "store.h5")
    shutil.rmtree(copies)
    store = fastseg.open(report.path)
    (name,) = store.buckets
    assert name == f"{SIDE}x{SIDE}_uint16"
    assert store.masks[name].dtype == np.uint8
    np.save(folder / "shift.npy", store.items["mean"].astype(np.float32))
    np.save(folder / "gain.npy", (1 / store.items["std"]).astype(np.float32))
    offsets = [store.offsets[f"{kind}/{name}"] for kind in ("images", "masks")]
    layout = json.dumps({"name": name, "count": len(store), "offsets": offsets})
    (folder / "layout.json").write_text(layout, encoding="utf-8")
    status = report.path.stat()
    assert status.st_blocks * 512 > 0.99 * status.st_size, "the store has holes"
    return status.st_size


class Samples:
    """The samples' arrays, and how they are scaled.

    path         : the store
    images       : uint16 (n, H, W), its map; masks: uint8 (n, H, W)
    shift, gain  : float32 (n,)
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.path = self.folder / "store.h5"
        layout = json.loads((self.folder / "layout.json").read_text())
        self.name = layout["name"]
        self.count = layout["count"]
        self.offsets = layout["offsets"]
        self.images, self.masks = self.maps()
        self.shift = np.load(self.folder / "shift.npy")
        self.gain = np.load(self.folder / "gain.npy")

    def maps(self):
        """Return images and masks as maps of the file."""
        shape = self.count, SIDE, SIDE
        return (
            np.memmap(self.path, "<u2", "r", self.offsets[0], shape),
            np.memmap(self.path, "u1", "r", self.offsets[1], shape),
        )

    def datasets(self):
        """Return images and masks as datasets of h5py, the file opened anew."""
        import h5py

        file = h5py.File(self.path)
        return file[f"images/{self.name}"], file[f"masks/{self.name}"]

    def scaled(self, pixels, sample, out=None):
        """Scale a sample's image: float32, in `out` if it is given."""
        image = np.subtract(pixels, self.shift[sample], out=out, dtype=np.float32)
        image *= self.gain[sample]
        return image

    def order(self, epoch):
        """Return the samples of an epoch in the order of fastseg.Loader."""
        return epoch_order(self.count, SEED, epoch, shuffle=True)

    def batches(self, epoch):
        """Return the samples of each batch of an epoch: int64 (n / BATCH, BATCH)."""
        order = self.order(epoch)
        return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
