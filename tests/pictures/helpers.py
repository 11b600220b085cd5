"""What tests of pictures share: small stores, and what is drawn of them."""

import re

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import fastseg
from fastseg import show
from fastseg.links import Link, LinkTable
from fastseg.pictures.panels import draw_sample
from fastseg.pictures.view import View
from tests.sources.dicom_files import save_slice

# One patient with three images, two of which have contours.
SMALL = {"patients": 1, "sizes": [40], "slices": 1, "phases": 3}


def build(study, name="heart.h5", **options):
    """Build a store beside a study and open it."""
    path = study.with_name(name)
    fastseg.build(fastseg.link(study, **options), path)
    return fastseg.open(path)


def make_store(folder, images, contours=None, **elements):
    """Build a store of CT images of one patient, with the same contours on each.

    contours : rings by class
    """
    links = []
    for k, pixels in enumerate(images):
        rows, columns = pixels.shape
        path = save_slice(
            folder / f"{k}.dcm",
            k,
            pixels=pixels,
            Rows=rows,
            Columns=columns,
            **elements,
        )
        rows = [("", "")]
        for n, (label, ring) in enumerate((contours or {}).items()):
            np.savetxt(folder / f"{n}.txt", ring)
            rows = [*(row for row in rows if row[0]), (label, f"{n}.txt")]
        links += [
            Link(patient="P1", dicom_path=path.name, contour_path=file, label=label)
            for label, file in rows
        ]
    report = fastseg.build(LinkTable(base=folder, links=links), folder / "store.h5")
    return fastseg.open(report.path)


def texts_of(store, folder, **options):
    """Return the texts in a picture, in their order."""
    with rc_context({"svg.fonttype": "none"}):
        path = show(store, folder / "picture.svg", **{"dpi": 40, **options})
    svg = path.read_text(encoding="utf-8")
    return re.findall(r"<text[^>]*>([^<]*)<", svg)


def drawn_samples(store, folder, **options):
    """Return the indices of the samples in a picture, from top to bottom."""
    texts = texts_of(store, folder, **options)
    return [int(text.split()[0][1:]) for text in texts if text.startswith("#")]


def window_of(store, folder, **options):
    """Return the window that is written above the only sample of a picture."""
    (line,) = (t for t in texts_of(store, folder, **options) if "window" in t)
    return re.search(r"window ([^ ]+ to [^ ]+)", line)[1]


def draw_panels(store, index, *, classes=None, window="auto", zoom=False, most=10**6):
    """Return the axes on which a sample is drawn."""
    axes = [Figure().add_axes((0, 0, 1, 1)) for _ in range(3 if store.classes else 1)]
    bits = tuple(map(store.class_index, store.classes if classes is None else classes))
    draw_sample(axes, View(store, bits, window, zoom, most), store[index])
    return axes


def drawn_pixels(axis):
    """Return the pixels of an image as it is drawn, uint8 (h, w, 3)."""
    return np.asarray(axis.images[0].get_array())
