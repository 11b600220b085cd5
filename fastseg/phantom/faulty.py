"""A synthetic cine-MR study with faults in labels and images, for `fastseg check`.

It is a small study of `cine`, in which one thing is wrong in each of some files, as
people and programs do it. `faults.csv` lists them.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fastseg.phantom import cine
from fastseg.phantom.drawing import Array
from fastseg.progress import Progress

PATIENTS, SLICES, PHASES = 6, 3, 2
# Pixels that a shifted outline is moved by, and a spike reaches out.
SHIFT = 5.0
SPIKE = 9.0


class Fault(NamedTuple):
    """What is wrong: the rule that finds it, the file, and a sentence."""

    rule: str
    file: str
    text: str


class _Study:
    """The files of a study, by patient and number of the image, both from 1."""

    def __init__(self, root: Path):
        self.root = root

    def image(self, patient: int, number: int) -> Path:
        return self.root / "dicoms" / cine.ids(patient - 1)[0] / f"{number}.dcm"

    def contour(self, patient: int, number: int, label: str) -> Path:
        folder = self.root / "contourfiles" / cine.ids(patient - 1)[1]
        name = f"IM-0001-{number:04d}-{label}-manual.txt"
        return folder / f"{label[:-7]}-contours" / name

    def change_ring(self, path: Path, change: Callable[[Array], Array]) -> None:
        ring = change(np.loadtxt(path))
        path.write_bytes("".join(f"{x:.2f} {y:.2f}\n" for x, y in ring).encode())

    def change_image(
        self, path: Path, change: Callable[[Dataset], NDArray[np.uint16]]
    ) -> None:
        dataset = pydicom.dcmread(path)
        dataset.PixelData = change(dataset).astype("<u2").tobytes()
        dataset.save_as(path, enforce_file_format=True)


def write_study(
    root: Path, shapes: list[tuple[int, int]], *, seed: int, progress: Progress
) -> None:
    """Write a study with faults into an empty folder."""
    cine.write_study(
        root,
        shapes,
        patients=PATIENTS,
        slices=SLICES,
        phases=PHASES,
        seed=seed,
        progress=progress,
    )
    study = _Study(root)
    rows = [
        Fault(rule, path.relative_to(root).as_posix(), text)
        for rule, path, text in _put(study)
    ]
    with (root / "faults.csv").open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Fault._fields)
        writer.writerows(rows)


def _put(study: _Study) -> list[tuple[str, Path, str]]:
    """Put the faults into a study, and return them."""
    moved = study.contour(1, 1, "ocontour")
    study.change_ring(moved, lambda ring: ring + (SHIFT, 0))

    inner, outer = (study.contour(2, 3, label) for label in ("icontour", "ocontour"))
    rings = inner.read_bytes(), outer.read_bytes()
    outer.write_bytes(rings[0])
    inner.write_bytes(rings[1])

    crossed = study.contour(3, 2, "icontour")
    study.change_ring(crossed, _crossed)

    spiked = study.contour(4, 5, "icontour")
    study.change_ring(spiked, _spiked)

    copied = study.contour(5, 1, "icontour")
    copied.write_bytes(study.contour(2, 1, "icontour").read_bytes())

    again = study.image(6, 3)
    pixels = pydicom.dcmread(study.image(4, 3)).pixel_array
    study.change_image(again, lambda _: pixels)

    blank = study.image(3, 6)
    study.change_image(blank, lambda dataset: np.full_like(dataset.pixel_array, 100))
    return [
        ("not-inside", moved, "The outer contour was moved to the right."),
        ("swapped-labels", inner, "The inner contour and the outer one are swapped."),
        ("self-intersection", crossed, "Two vertices have changed places."),
        ("spike", spiked, "A vertex was moved away from the others."),
        ("contour-across-patients", copied, "It is the contour of another patient."),
        (
            "image-across-patients",
            again,
            "It has the pixels of an image of another patient.",
        ),
        ("constant-image", blank, "All pixels have one value."),
    ]


def _crossed(ring: Array) -> Array:
    """Return a ring in which two vertices have changed places."""
    changed = ring.copy()
    a, b = len(ring) // 4, len(ring) // 2
    changed[[a, b]] = ring[[b, a]]
    return changed


def _spiked(ring: Array) -> Array:
    """Return a ring of which one vertex lies far outside."""
    changed = ring.copy()
    k = len(ring) // 3
    outward = ring[k] - ring.mean(0)
    changed[k] += SPIKE * outward / np.hypot(*outward)
    return changed
