"""What `make bench` and compare.py time: the table CASES at the end names all of it.

A case prepares its work from the Inputs and returns it as Work. Cases use public names
of fastseg alone, and set every option whose default differs between commits, so that
compare.py can time old commits with them.
"""

import contextlib
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastseg
from benchmarks.inputs import SIDE, STUDY, Inputs, build

SHAPE = (SIDE, SIDE)
# Repeats of the study's 54 contours in one call, enough to occupy two threads.
REPEATED = 10
# Smooth stars with noise, a mask each: (side of the image, number of vertices).
STARS = ((256, 16), (512, 256), (1024, 4096), (4096, 100_000))
BATCH = 32
# One thread loads while the other one waits for batches.
LOADER_CORES = 2
# Options of the loader that differ from those of `epoch`.
LOADERS = {
    "1-thread": {},
    "2-threads": {"threads": 2},
    "batches-of-8": {"batch_size": 8},
    "labels": {"masks": "labels"},
    "onehot": {"masks": "onehot"},
    "cut-to-192": {"size": 192},
}
AUGMENTED = {
    "light": {"masks": "labels", "augment": "light"},
    "standard": {"masks": "labels", "augment": "standard"},
    "2-threads": {"masks": "labels", "augment": "standard", "threads": 2},
    "nearest": {"masks": "labels", "augment": "standard", "labels": "nearest"},
}

# Inputs other than the study's images and contours.
PHANTOM = "phantom"
STAR = "drawn"
SPARSE = "sparse"


class Work(NamedTuple):
    """What is timed.

    call   : the function that is timed
    items  : number of masks, files or samples that one call handles
    before : function that runs before each call and is not timed
    cores  : number of cores that a call uses
    """

    call: Callable[[], Any]
    items: int
    before: Callable[[], Any] | None = None
    cores: int = 1


class Case(NamedTuple):
    """A name for what is timed.

    subject : `test_<subject>.py` times all cases of it
    name    : without blanks, for command lines
    unit    : what Work.items counts
    prepare : returns the Work
    data    : what it works on
    """

    subject: str
    name: str
    unit: str
    prepare: Callable[[Inputs], Work]
    data: str = STUDY

    def __str__(self) -> str:
        return f"{self.name}-{self.data}"


# Contours to masks, areas and distances -----------------------------------------------


def each_contour(function):
    """Call a function of fastseg, by its name, for one contour after the other."""

    def prepare(inputs):
        draw = getattr(fastseg, function)
        contours = inputs.contours
        return Work(lambda: [draw(x, SHAPE) for x in contours], len(contours))

    return prepare


def label_contours(inputs):
    """Draw each contour as both of two classes."""
    pairs = [[contour, contour] for contour in inputs.contours]
    return Work(
        lambda: [fastseg.rasterize_labels(pair, SHAPE) for pair in pairs], len(pairs)
    )


def all_contours(**options):
    """Draw all contours, some times, in one call, into an array that exists."""

    def prepare(inputs):
        return _fill(inputs.contours * REPEATED, SHAPE, **options)

    return prepare


def star(side, vertices):
    """Draw one star."""

    def prepare(inputs):
        return _fill([noisy_star(side, vertices)], (side, side))

    return prepare


def _fill(contours, shape, **options):
    points = np.concatenate(contours)
    offsets = np.cumsum([0, *map(len, contours)])
    out = np.empty((len(contours), *shape), np.bool_)
    return Work(
        lambda: fastseg.rasterize_batch(points, offsets, shape, out, **options),
        len(contours),
        cores=options.get("threads", 1),
    )


def noisy_star(side, vertices, number=0):
    """Return a smooth star with noise: float64 (vertices, 2).

    number : seed of its noise
    """
    rng = np.random.Generator(np.random.Philox(key=[side * 1000 + number, vertices]))
    angle = np.arange(vertices) * (2 * np.pi / vertices)
    noise = 0.01 * rng.random(vertices)
    radius = 0.4 * side * (1 + 0.15 * np.cos(5 * angle) + noise)
    centre = side / 2 - 0.5
    return centre + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


# DICOM files --------------------------------------------------------------------------


def each_file(function):
    """Call a function of fastseg.dicom, by its name, for one file after the other."""

    def prepare(inputs):
        read = getattr(fastseg.dicom, function)
        paths = inputs.images
        return Work(lambda: [read(path) for path in paths], len(paths))

    return prepare


def decode_files(inputs):
    """Decode the bytes of files that have been read before."""
    files = [(Path(path).read_bytes(), path) for path in inputs.images]
    return Work(lambda: [fastseg.dicom.decode(*file) for file in files], len(files))


# Building and checking stores ---------------------------------------------------------


def link_study(inputs):
    """Find the study's files and link them."""
    return Work(
        lambda: fastseg.link(inputs.study, keep_unlabelled=True), len(inputs.images)
    )


def first_build(threads=1, **options):
    """Build a store that does not exist yet.

    The wait for the disk at its end, os.fsync, is left out: it varies more than
    everything else.
    """

    def prepare(inputs):
        path = inputs.folder / "fresh.h5"

        def call():
            with _without_fsync():
                return build(inputs.table, path, threads, **options)

        def remove():
            path.unlink(missing_ok=True)

        return Work(call, len(inputs.images), remove, threads)

    return prepare


def build_again(inputs):
    """Build a store that exists, from files that have not changed."""
    path = inputs.store_path
    return Work(lambda: build(inputs.table, path), len(inputs.images))


@contextlib.contextmanager
def _without_fsync():
    fsync = os.fsync
    os.fsync = lambda handle: None
    try:
        yield
    finally:
        os.fsync = fsync


def verify_store(inputs):
    """Recompute all checksums of a store."""
    path = inputs.store_path
    return Work(lambda: fastseg.verify(path, threads=1), len(inputs.images))


# Batches ------------------------------------------------------------------------------


def epoch(**options):
    """Iterate over all batches of a store; the loader's threads start and end."""

    def prepare(inputs):
        loader = _loader(inputs, **options)
        return Work(
            lambda: sum(len(batch) for batch in loader),
            len(inputs.copies_store),
            cores=LOADER_CORES,
        )

    return prepare


def first_batch(inputs):
    """Make a loader and its first batch."""

    def call():
        batches = iter(_loader(inputs))
        count = len(next(batches))
        batches.close()
        return count

    return Work(call, BATCH, cores=LOADER_CORES)


def _loader(inputs, **options):
    usual = {
        "batch_size": BATCH,
        "shuffle": True,
        "seed": 0,
        "threads": 1,
        "prefetch": 4,
        "normalize": "zscore",
        "masks": "bits",
    }
    options = {**usual, **options}
    parameters = signature(fastseg.Loader).parameters
    if "missing" in parameters and options["masks"] != "bits":
        options["missing"] = "background"
    if "pad_value" in parameters:
        options["pad_value"] = 0.0
    return fastseg.Loader(inputs.copies_store, **options)


# Opening ------------------------------------------------------------------------------


def open_store(path):
    """Open a store, by the name of its path in the Inputs."""

    def prepare(inputs):
        name = getattr(inputs, path)
        return Work(lambda: fastseg.open(name), 1)

    return prepare


def read_samples(inputs):
    """Look at image, mask and contours of one sample after the other."""
    store = inputs.copies_store

    def call():
        return [(sample.image, sample.mask, sample.contours) for sample in store]

    return Work(call, len(store))


# --------------------------------------------------------------------------------------

CASES = {
    case.name: case
    for case in (
        Case("raster", "rasterize", "mask", each_contour("rasterize")),
        Case("raster", "rasterize_labels", "mask", label_contours),
        Case("raster", "rasterize_batch", "mask", all_contours()),
        Case("raster", "rasterize_batch-closed", "mask", all_contours(edges="closed")),
        Case("raster", "rasterize_batch-2-threads", "mask", all_contours(threads=2)),
        *(
            Case(
                "raster", f"star-{side}-{vertices}", "mask", star(side, vertices), STAR
            )
            for side, vertices in STARS
        ),
        Case("raster", "coverage", "image", each_contour("coverage")),
        Case("raster", "signed_distance", "image", each_contour("signed_distance")),
        Case("dicom", "read_header", "file", each_file("read_header")),
        Case("dicom", "read_image", "file", each_file("read_image")),
        Case("dicom", "decode", "file", decode_files),
        Case("build", "link", "image", link_study),
        Case("build", "build-1-thread", "image", first_build()),
        Case("build", "build-2-threads", "image", first_build(threads=2)),
        Case("build", "build-compressed", "image", first_build(compress=True)),
        Case("build", "build-again", "image", build_again),
        Case("build", "verify", "image", verify_store),
        *(
            Case("gather", f"loader-{name}", "sample", epoch(**options), PHANTOM)
            for name, options in LOADERS.items()
        ),
        Case("gather", "loader-first-batch", "sample", first_batch, PHANTOM),
        *(
            Case("augment", f"augment-{name}", "sample", epoch(**options), PHANTOM)
            for name, options in AUGMENTED.items()
        ),
        Case("open", "open-small", "store", open_store("store_path")),
        Case("open", "open-large", "store", open_store("sparse_path"), SPARSE),
        Case("open", "read-samples", "sample", read_samples, PHANTOM),
    )
}


def cases_of(subject):
    """Return the cases of a subject."""
    return [case for case in CASES.values() if case.subject == subject]
