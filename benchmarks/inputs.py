"""The files and stores that the cases work on; each is made when it is first used.

Real images are those of the Sunnybrook data at ../shared/data, or in the folder that
FASTSEG_REAL_DATA names. Where they are absent, a phantom of the same size is drawn,
which takes half a minute.
"""

import os
from functools import cached_property
from inspect import signature
from itertools import groupby
from pathlib import Path

import numpy as np

import fastseg

PROJECT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("FASTSEG_REAL_DATA", PROJECT.parent / "shared/data"))
SUNNYBROOK = REAL_DATA / "sunnybrook"
SAMPLE_DATA = PROJECT / "data" / "phantom"
# Name of the real or drawn images, for the titles of what is measured.
STUDY = "sunnybrook" if SUNNYBROOK.is_dir() else "phantom"

SIDE = 256
# The number of images and their size are those of the Sunnybrook data.
STUDY_PHANTOM = {"patients": 5, "sizes": SIDE, "slices": 10, "phases": 10}
# All images of this one have contours.
COPIED_PHANTOM = {"patients": 2, "sizes": SIDE, "slices": 10, "phases": 2}
COPIES = 640
SPARSE_SAMPLES = 1_000_000
# Added to the pixels of each copy: 0 to 15 of the 4095 that its 12 bits can hold.
NOISE = 16
SEED = 0


def default_study():
    """Return the folder that scripts measure by default."""
    return SUNNYBROOK if SUNNYBROOK.is_dir() else SAMPLE_DATA


def build(table, path, threads=1, **options):
    """Build a store; older commits call the number of threads `workers`."""
    parameters = signature(fastseg.build).parameters
    options["threads" if "threads" in parameters else "workers"] = threads
    return fastseg.build(table, path, **options)


class Inputs:
    """What the cases work on.

    drawn  : folder of the drawn images; two processes may share it, see `draw`
    folder : folder of the stores, for one process
    """

    def __init__(self, drawn, folder):
        self.drawn = Path(drawn)
        self.folder = Path(folder)

    def draw(self):
        """Draw all images, so that processes that share the folder find them."""
        return self.study, self.copies

    @cached_property
    def study(self):
        """Folder of 500 images of 256 x 256, real or drawn."""
        if SUNNYBROOK.is_dir():
            return SUNNYBROOK
        return self._draw("study", STUDY_PHANTOM)

    @cached_property
    def copies(self):
        """Folder of 640 uint16 images of 256 x 256, all with contours."""
        study = self._draw("original", COPIED_PHANTOM)
        target = self.drawn / "copies"
        if not target.exists():
            write_copies(study, target, COPIES)
        return target

    def _draw(self, name, options):
        folder = self.drawn / name
        if not folder.exists():
            fastseg.make_phantom(folder, **options)
        return folder

    @cached_property
    def table(self):
        """LinkTable of the study, with the images that have no contour."""
        return fastseg.link(self.study, keep_unlabelled=True)

    @cached_property
    def images(self):
        """Paths of the image files of the study."""
        return sorted({str(self.study / link.dicom_path) for link in self.table.links})

    @cached_property
    def contours(self):
        """The contours of the study: a list of float64 (n, 2), (x, y) in pixels."""
        paths = [link.contour_path for link in self.table.links if link.contour_path]
        return [np.loadtxt(self.study / path) for path in paths]

    @cached_property
    def store_path(self):
        """Store of the study."""
        return build(self.table, self.folder / "study.h5").path

    @cached_property
    def copies_store(self):
        """Opened store of the copies: what loaders read."""
        table = link_copies(self.drawn / "original", self.copies, COPIES)
        return fastseg.open(build(table, self.folder / "copies.h5").path)

    @cached_property
    def sparse_path(self):
        """Store of a million samples whose pixels are holes in the file."""
        # Of the same commit as fastseg, because it knows the layout of stores.
        from tests.sparse import make_sparse_store

        path = self.folder / "sparse.h5"
        make_sparse_store(path, SPARSE_SAMPLES)
        return path


def write_copies(study, folder, count):
    """Write copies of the images of a phantom, each with noise of its own.

    So no two images are alike, and no page of a store of them is a hole.
    """
    folder.mkdir()
    random = np.random.default_rng(SEED)
    for name, links in _copies(study, count):
        data = (study / links[0].dicom_path).read_bytes()
        pixels = np.frombuffer(data[-2 * SIDE * SIDE :], "<u2")
        noisy = pixels + random.integers(0, NOISE, pixels.shape, "<u2")
        (folder / name).write_bytes(data[: -noisy.nbytes] + noisy.tobytes())


def link_copies(study, folder, count):
    """Return the LinkTable of the copies, which have the contours of their originals.

    study and folder lie in one folder.
    """
    base = folder.parent
    links = [
        type(link)(  # older commits have no _replace
            patient=link.patient,
            dicom_path=f"{folder.name}/{name}",
            contour_path=f"{study.name}/{link.contour_path}",
            label=link.label,
            format=link.format,
        )
        for name, originals in _copies(study, count)
        for link in originals
    ]
    return fastseg.LinkTable(base=base, links=tuple(links))


def _copies(study, count):
    """Yield the file name of each copy and the links of its original.

    Copies of one image follow each other.
    """
    links = fastseg.link(study).links
    originals = [list(group) for _, group in groupby(links, key=lambda x: x.dicom_path)]
    for k in range(count):
        yield f"{k:06}.dcm", originals[k * len(originals) // count]
