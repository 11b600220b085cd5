"""The samples that all sides of benchmarks/loader_speed.py read.

A store is built from DICOM files and contours: uint16 images of 256 x 256 and masks of
four classes in uint8. Copies of a few phantoms get noise of their own, so that no two
samples are alike and no page of the file is a hole.
"""

import json
import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

import fastseg
from fastseg.links import LinkTable
from fastseg.loading.orders import epoch_order

SIDE, BATCH, SEED = 256, 32, 0
SAMPLE_BYTES = 3 * SIDE * SIDE
NOISE = 16  # stored values, of 12 bits


def make_store(folder, count):
    """Build a store of so many samples and note where its pixels lie."""
    study, copies = folder / "study", folder / "copies"
    fastseg.make_phantom(study, patients=2, sizes=SIDE, slices=10, phases=2)
    links = copy_images(fastseg.link(study).links, folder, copies, count)
    report = fastseg.build(LinkTable(base=folder, links=links), folder / "store.h5")
    shutil.rmtree(copies)
    store = fastseg.open(report.path)
    (name,) = store.buckets
    assert name == f"{SIDE}x{SIDE}_uint16"
    assert store.masks[name].dtype == np.uint8
    np.save(folder / "shift.npy", store.items["mean"].astype(np.float32))
    np.save(folder / "gain.npy", (1 / store.items["std"]).astype(np.float32))
    offsets = [store.offsets[f"{kind}/{name}"] for kind in ("images", "masks")]
    facts = json.dumps([name, len(store), *offsets])
    (folder / "facts.json").write_text(facts, encoding="utf-8")
    status = report.path.stat()
    assert status.st_blocks * 512 > 0.99 * status.st_size, "the store has holes"
    return status.st_size


def copy_images(links, folder, copies, count):
    """Write so many copies of the images, each with its own noise; return their links.

    Paths of the links are relative to folder.
    """
    copies.mkdir()
    links = [
        replace(x, contour_path=f"study/{x.contour_path}", root=".") for x in links
    ]
    kinds = [list(group) for _, group in groupby(links, key=lambda x: x.dicom_path)]
    files = [(folder / "study" / kind[0].dicom_path).read_bytes() for kind in kinds]
    random, made = np.random.default_rng(SEED), []
    for k in range(count):
        place = k * len(kinds) // count  # copies of an image stand together
        pixels = np.frombuffer(files[place][-2 * SIDE * SIDE :], "<u2")
        noisy = pixels + random.integers(0, NOISE, pixels.shape, "<u2")
        path = copies / f"{k:06}.dcm"
        path.write_bytes(files[place][: -noisy.nbytes] + noisy.tobytes())
        name = path.relative_to(folder).as_posix()
        made += [replace(link, dicom_path=name) for link in kinds[place]]
    return tuple(made)


class Samples:
    """Where the samples are, and how they are scaled.

    path         : the store
    images       : uint16 (n, H, W), its map; masks: uint8 (n, H, W)
    shift, gain  : float32 (n,)
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.path = self.folder / "store.h5"
        facts = json.loads((self.folder / "facts.json").read_text())
        self.name, self.count, *self.offsets = facts
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
        """Return the samples of an epoch in their order: that of fastseg.Loader."""
        return epoch_order(self.count, SEED, epoch, shuffle=True)

    def places(self, epoch):
        """Return the samples of each batch of an epoch: int64 (n / BATCH, BATCH)."""
        order = self.order(epoch)
        return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
