"""Studies with faults: phantoms whose contours, pixels and headers can be changed.

    study = Study.phantom(folder, kind="cine", patients=4)
    image = study.labelled("icontour")[0]
    study.contours[image.index, "icontour"] = [ring + 3]
    store = study.store()

Contours are in pixels, as in a store. Only what was changed is written again.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

import fastseg
from fastseg.sources.aliases import aliases_of_options
from fastseg.store.reader import Store

Ring = NDArray[np.float64]
# Elements of headers that faults change and the links of a study depend on.
LINKED = frozenset({"ImageOrientationPatient", "PixelRepresentation"})


class Image(NamedTuple):
    """An image of a study; `index` is its sample in the store of the clean phantom.

    time : -1 if there is one image at each position
    """

    index: int
    path: str
    patient: str
    volume: int
    position: float
    series: str
    time: float


class Put(NamedTuple):
    """A fault that was put into a study: the rule that must find it, and where.

    paths : of image files; a finding of the rule must name one of them
    label : a class that it must name, or ""
    """

    rule: str
    paths: tuple[str, ...]
    label: str = ""


# Puts one fault at a random place; None if the study has no place for it.
Fault = Callable[["Study", np.random.Generator], Put | None]


@dataclass
class Study:
    """The files of a phantom, and what of them is to be changed.

    contours : rings by (index of the image, class); change, add or delete entries
    links    : what `fastseg.link` takes besides the folder
    has_new_links : whether elements of headers were changed that `link` reads
    """

    root: Path
    kind: str
    clean: Store
    images: list[Image]
    contours: dict[tuple[int, str], list[Ring]]
    options: dict[str, Any]
    has_new_links: bool = False

    def __post_init__(self) -> None:
        self._areas: dict[tuple[int, str], tuple[list[Ring], float]] = {}

    @classmethod
    def phantom(
        cls,
        folder: Path,
        kind: str = "cine",
        link: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Study":
        """Make a phantom below a new folder, see `fastseg.make_phantom`.

        link : options of `fastseg.link`, as {"slices": "series"}
        """
        fastseg.make_phantom(folder / "study", kind=kind, **options)
        return cls.open(folder, kind, link)

    @classmethod
    def open(
        cls, folder: Path, kind: str, link: dict[str, Any] | None = None
    ) -> "Study":
        """Return the study that `phantom` has made below a folder."""
        rois = {}
        if kind == "rtstruct":
            rois = {
                "rois": aliases_of_options(None, Path("data/phantom_rt.toml"), False)
            }
        return cls.read(folder / "study", kind, rois | (link or {}))

    @classmethod
    def read(cls, root: Path, kind: str, link: dict[str, Any]) -> "Study":
        """Read the files of a phantom, or the store that was made of them before."""
        path = root.parent / "clean.h5"
        if not path.exists():
            fastseg.build(fastseg.link(root, **link), path)
        store = fastseg.open(path)
        times = np.nan_to_num(store.items["time"], nan=-1.0).tolist()
        images = [
            Image(
                sample.index,
                sample.meta["source"],
                sample.patient,
                int(sample.meta["volume"]),
                float(sample.meta["position_mm"]),
                sample.meta["series"],
                times[sample.index],
            )
            for sample in store
        ]
        contours = {
            (sample.index, name): [ring.copy() for ring in rings]
            for sample in store
            for name, rings in sample.contours.items()
        }
        return cls(root, kind, store, images, contours, link)

    def copy(self, folder: Path) -> "Study":
        """Return the same study below a new folder; files that stay are hard links."""
        root = folder / "study"
        shutil.copytree(self.root, root, copy_function=os.link)
        contours = {
            key: [r.copy() for r in rings] for key, rings in self.contours.items()
        }
        return Study(root, self.kind, self.clean, self.images, contours, self.options)

    def labelled(self, name: str) -> list[Image]:
        """Return the images that have contours of a class."""
        return [image for image in self.images if (image.index, name) in self.contours]

    def area(self, image: int, name: str) -> float:
        """Return the area of the largest ring of a class on an image, in pixels."""
        rings = self.contours[image, name]
        known = self._areas.get((image, name))
        if known is None or known[0] is not rings:
            known = rings, max(abs(signed_area(ring)) for ring in rings)
            self._areas[image, name] = known
        return known[1]

    def pick(
        self, rng: np.random.Generator, names: Iterable[str] = ()
    ) -> tuple[Image, str]:
        """Return a random image and one of its classes, of these if any are named."""
        wanted = set(names)
        keys = [key for key in self.contours if not wanted or key[1] in wanted]
        index, name = keys[int(rng.integers(len(keys)))]
        return self.images[index], name

    def pixels(self, image: Image) -> NDArray[Any]:
        """Return the stored values of an image, (H, W)."""
        return pydicom.dcmread(self.root / image.path).pixel_array

    def set_pixels(self, image: Image, pixels: NDArray[Any]) -> None:
        """Replace the stored values of an image; shape and dtype must stay."""

        def change(dataset: Dataset) -> None:
            old = dataset.pixel_array
            assert pixels.shape == old.shape
            dataset.PixelData = np.asarray(pixels).astype(old.dtype).tobytes()

        self.change(image.path, change)

    def set_header(self, image: Image, **elements: Any) -> None:
        """Change elements of an image's header, by their keyword."""

        def change(dataset: Dataset) -> None:
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)

        self.change(image.path, change)
        self.has_new_links |= not LINKED.isdisjoint(elements)

    def change(self, path: str, change: Callable[[Dataset], None]) -> None:
        """Write a DICOM file again; another file that is linked to it stays."""
        file = self.root / path
        dataset = pydicom.dcmread(file)
        change(dataset)
        file.unlink()
        dataset.save_as(file)

    def store(self) -> Store:
        """Write what was changed, link and build; nothing may be rejected."""
        if self.kind == "cine":
            self._write_texts()
        else:
            self._write_structure_sets()
        table = fastseg.link(self.root, **self.options)
        assert not table.rejects, table.rejects[0]
        report = fastseg.build(table, self.root.parent / "faulty.h5")
        assert not report.rejects, report.rejects[0]
        return fastseg.open(report.path)

    def changed(self) -> list[tuple[int, str]]:
        """Return the keys of contours that are no longer those of the clean store."""
        keys = {*self.contours}
        before = {
            (sample.index, name): rings
            for sample in self.clean
            for name, rings in sample.contours.items()
        }
        return [
            key
            for key in sorted(keys | {*before})
            if key not in before
            or key not in keys
            or len(before[key]) != len(self.contours[key])
            or any(
                not np.array_equal(a, b)
                for a, b in zip(before[key], self.contours[key], strict=True)
            )
        ]

    def _write_texts(self) -> None:
        """Write contour files: one ring each."""
        known = {
            (link.dicom_path, link.label): link.contour_path
            for link in fastseg.link(self.root, **self.options).links
            if link.label
        }
        for index, name in self.changed():
            image = self.images[index]
            rings = self.contours.get((index, name), [])
            assert len(rings) < 2, "a text file holds one ring"
            path = known.get((image.path, name))
            if path is None:  # beside those of other classes and images
                file = Path(image.path)
                other = next(
                    contours
                    for (name_of_image, _), contours in known.items()
                    if Path(name_of_image).parent == file.parent
                )
                folder = Path(other).parent.parent / f"{name[:-7]}-contours"
                path = f"{folder}/IM-0001-{int(file.stem):04d}-{name}-manual.txt"
            file = self.root / path
            file.unlink(missing_ok=True)
            if rings:
                file.parent.mkdir(exist_ok=True)
                lines = [f"{x!r} {y!r}\n" for x, y in rings[0].tolist()]
                file.write_text("".join(lines))

    def _write_structure_sets(self) -> None:
        """Write the contours of ROIs that were changed."""
        changed = self.changed()
        if not changed:
            return
        links = fastseg.link(self.root, **self.options).links
        of_key = {(link.dicom_path, link.label): link for link in links}
        # A class of the same patient tells the file and the number of its ROI.
        roi_of = {
            (link.patient, link.label): (link.contour_path, link.contour_key)
            for link in links
            if link.label
        }
        by_file: dict[str, list[tuple[int, str]]] = {}
        for index, name in changed:
            path, _ = roi_of[self.images[index].patient, name]
            by_file.setdefault(path, []).append((index, name))
        for path, keys in by_file.items():

            def change(dataset: Dataset, keys: Any = keys) -> None:
                removed: dict[int, set[int]] = {}
                added: dict[int, list[Dataset]] = {}
                for index, name in keys:
                    image = self.images[index]
                    roi = int(roi_of[image.patient, name][1].split("#")[0])
                    link = of_key.get((image.path, name))
                    if link is not None:
                        numbers = link.contour_key.split("#")[1].split("/")[0]
                        removed.setdefault(roi, set()).update(_numbers(numbers))
                    plane = self.clean[index].plane
                    uid = pydicom.dcmread(
                        self.root / image.path, stop_before_pixels=True
                    ).SOPInstanceUID
                    for ring in self.contours.get((index, name), []):
                        contour = Dataset()
                        reference = Dataset()
                        reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
                        reference.ReferencedSOPInstanceUID = uid
                        contour.ContourImageSequence = [reference]
                        contour.ContourGeometricType = "CLOSED_PLANAR"
                        contour.NumberOfContourPoints = len(ring)
                        points = plane.pixel_to_patient(ring)
                        contour.ContourData = [f"{v:.6f}" for v in points.ravel()]
                        added.setdefault(roi, []).append(contour)
                for item in dataset.ROIContourSequence:
                    roi = int(item.ReferencedROINumber)
                    if roi in removed or roi in added:
                        old = list(item.get("ContourSequence", []))
                        kept = [
                            contour
                            for k, contour in enumerate(old, 1)
                            if k not in removed.get(roi, ())
                        ]
                        item.ContourSequence = kept + added.get(roi, [])

            self.change(path, change)


def signed_area(ring: Ring) -> float:
    """Return the area of a ring, positive if it turns from x to y."""
    x, y = (ring - ring[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _numbers(text: str) -> list[int]:
    """Return the numbers of a contour key, as of "3,5-7"."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
