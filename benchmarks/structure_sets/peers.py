"""Structure sets to masks: fastseg beside the tools that people use for it.

    python -m benchmarks.structure_sets.peers [--repeats 5] [--tools FOLDER] [--no-save]

Each tool runs as its README advises, in its own environment in FOLDER, which is made if
it is missing (300 MB each). It converts all structure sets of a table in one process:
from its start, with the imports, to masks in memory. fastseg links, and builds a store,
which has the images and checksums, too; the others make masks alone. All take turns,
all have the same cores, and files are in the page cache.

Voxels are compared with the masks that are published with the data or, where
the script itself draws the contours, with those of exact arithmetic.
"""

import argparse
import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from benchmarks.inputs import PROJECT, REAL_DATA
from benchmarks.tables import publish, split_page, table_of
from tests.reference import rasterize_whole
from tests.structure_sets import make_contour, make_structure_set, save

OURS, REPAIRED = "fastseg", "rt-utils, with references that resolve"
# What is installed for each tool. dcmrtstruct2nii calls what pydicom 3 has removed.
PACKAGES = {
    "rt-utils": ["rt-utils"],
    "dcmrtstruct2nii": ["dcmrtstruct2nii", "pydicom<3"],
    "platipy": ["platipy"],
}
REPEATS = 5
CONVERT = Path(__file__).with_name("convert.py")
STS = "Two patients with soft-tissue sarcomas, each CT, MR and PET, one ROI"
# Series in which three ROIs are drawn at random.
DRAWN = {
    "Oblique MR: two series of 4 slices": ["oblique_philips", "oblique_hitachi"],
    "CT at uneven distances: 4 slices": ["uneven_slices"],
    "CT with a tilted gantry: 4 slices": ["gantry_tilt"],
    "Enhanced MR: a file of several frames": ["enhanced_philips"],
}
NIFTI_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2"}
SEED = 7
MESSAGE = 100  # characters of a message that are shown


class Group(NamedTuple):
    """The structure sets of a table.

    title     : of the table
    root      : a folder for each structure set, as convert.py expects it
    repaired  : the same, with references that resolve; None if they all do
    reference : {case: {ROI: mask}}, the masks that are right: bool (slices, rows,
        columns), slices by rising position
    """

    title: str
    root: Path
    repaired: Path | None
    reference: dict


class Image(NamedTuple):
    """An image, as pydicom reads its header.

    frame     : number of the frame from 1; 0 if the file has no other
    origin, row, column : float64 (3,), mm
    spacing   : (between rows, between columns), mm
    """

    file: object
    frame: int
    origin: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple

    @property
    def position(self):
        """Position along the normal, mm."""
        return float(np.dot(np.cross(self.row, self.column), self.origin))

    def to_patient(self, pixels):
        """Return points of the image in mm, by equation C.7.6.2.1-1."""
        x, y = np.asarray(pixels).T
        between_rows, between_columns = self.spacing
        along_row = np.outer(x * between_columns, self.row)
        return self.origin + along_row + np.outer(y * between_rows, self.column)

    def to_pixels(self, points):
        """Return points in pixels of the image."""
        between_rows, between_columns = self.spacing
        shifted = np.asarray(points) - self.origin
        x = shifted @ self.row / between_columns
        return np.column_stack([x, shifted @ self.column / between_rows])


def read_images(folder):
    """Return the images of a series by rising position."""
    images = []
    for path in sorted(folder.iterdir()):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        if "ImagePositionPatient" in file:
            images.append(make_image(file, 0, [file]))
            continue
        shared = file.SharedFunctionalGroupsSequence[0]
        for k, own in enumerate(file.PerFrameFunctionalGroupsSequence, 1):
            images.append(make_image(file, k, [own, shared]))
    return sorted(images, key=lambda image: image.position)


def make_image(file, frame, groups):
    """Return an Image; what it is made of lies in functional groups or in the file."""

    def find(sequence, keyword):
        for group in groups:
            for place in (group, *group.get(sequence, [])):
                if keyword in place:
                    return np.array(place[keyword].value, float)
        raise KeyError(keyword)

    directions = find("PlaneOrientationSequence", "ImageOrientationPatient")
    return Image(
        file=file,
        frame=frame,
        origin=find("PlanePositionSequence", "ImagePositionPatient"),
        row=directions[:3],
        column=directions[3:],
        spacing=tuple(find("PixelMeasuresSequence", "PixelSpacing")),
    )


def draw(source, folder):
    """Draw a structure set on all images of a series; return the masks of its ROIs.

    The ROIs are a star, a ring with a hole, and two islands. Points are texts of at
    most 16 characters; the masks that are right are those of the texts.
    """
    shutil.copytree(source, folder / "images")
    images = read_images(folder / "images")
    random = np.random.default_rng(SEED)
    contours = defaultdict(list)
    for image in images:
        side = min(image.file.Rows, image.file.Columns)

        def star(x, y, radius, vertices, image=image, side=side):
            """Return a star in pixels; its numbers are fractions of the image."""
            angles = np.sort(random.uniform(0, 2 * np.pi, vertices))
            radii = radius * side * random.uniform(0.6, 1, vertices)
            ring = np.column_stack([np.cos(angles), np.sin(angles)])
            return ring * radii[:, None] + np.array([x, y]) * side

        drawn = {
            "star": [star(0.3, 0.6, 0.25, 60)],
            "ring": [star(0.7, 0.3, 0.25, 80), star(0.7, 0.3, 0.12, 40)],
            "islands": [star(0.2, 0.2, 0.1, 20), star(0.75, 0.75, 0.2, 30)],
        }
        instance = str(image.file.SOPInstanceUID)
        refers = [(instance, image.frame) if image.frame else instance]
        for name, rings in drawn.items():
            contours[name] += [
                make_contour(image.to_patient(ring), images=refers) for ring in rings
            ]
    first = images[0].file
    ds = make_structure_set(
        contours,
        patient=str(first.PatientID),
        series=(str(first.SeriesInstanceUID),),
        StudyInstanceUID=str(first.StudyInstanceUID),
        RTROIObservationsSequence=[],  # rt-utils expects it
    )
    return exact_masks(save(ds, folder / "RS.dcm"), images)


def exact_masks(path, images):
    """Return the masks of the contours of a structure set by exact arithmetic."""
    ds = pydicom.dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
    shape = images[0].file.Rows, images[0].file.Columns
    masks = {}
    for item in ds.ROIContourSequence:
        rings = defaultdict(list)
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            slice_ = nearest(points, images)
            rings[slice_].append(images[slice_].to_pixels(points).tolist())
        mask = np.zeros((len(images), *shape), bool)
        for slice_, some in rings.items():
            mask[slice_] = rasterize_whole(some, shape)
        masks[names[item.ReferencedROINumber]] = mask
    return masks


def nearest(points, images):
    """Return the index of the image in whose plane points lie."""
    normal = np.cross(images[0].row, images[0].column)
    distances = [abs(points[0] @ normal - image.position) for image in images]
    return int(np.argmin(distances))


def copy_sts(folder):
    """Copy the structure sets with published masks; return their Group."""
    reference = {}
    for path in sorted((REAL_DATA / "sts").glob("*/*/mask/RS.dcm")):
        series = path.parents[1]
        case = f"{series.parent.name}_{series.name}"
        for root in ("sts", "repaired"):
            shutil.copytree(series / "image", folder / root / case / "images")
        shutil.copy(path, folder / "sts" / case / "RS.dcm")
        images = read_images(series / "image")
        repair(path, images).save_as(folder / "repaired" / case / "RS.dcm")
        (roi,) = pydicom.dcmread(path).StructureSetROISequence
        mask = read_nifti(series.with_name(f"{series.name}_mask.nii.gz")) > 0
        reference[case] = {roi.ROIName: mask}
    return Group(STS, folder / "sts", folder / "repaired", reference)


def repair(path, images):
    """Return a structure set that references the images by geometry."""
    ds = pydicom.dcmread(path)
    instances = [image.file.SOPInstanceUID for image in images]
    for frame in ds.ReferencedFrameOfReferenceSequence:
        for study in frame.RTReferencedStudySequence:
            for series in study.RTReferencedSeriesSequence:
                for item, instance in zip(
                    series.ContourImageSequence, instances, strict=False
                ):
                    item.ReferencedSOPInstanceUID = instance
                del series.ContourImageSequence[len(instances) :]
    for item in ds.ROIContourSequence:
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            (reference,) = contour.ContourImageSequence
            reference.ReferencedSOPInstanceUID = instances[nearest(points, images)]
    return ds


def read_nifti(path):
    """Return the voxels of a NIfTI file as [z, y, x]."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, "<i2", 8, 40)[1:4]
    kind = NIFTI_TYPES[int(np.frombuffer(data, "<i2", 1, 70)[0])]
    offset = int(np.frombuffer(data, "<f4", 1, 108)[0])
    return np.frombuffer(data, kind, int(shape.prod()), offset).reshape(shape[::-1])


def make_groups(folder):
    """Return all Groups, whose files are made in a folder."""
    groups = [copy_sts(folder)]
    for k, (title, names) in enumerate(DRAWN.items()):
        root = folder / f"drawn{k}"
        reference = {
            name: draw(REAL_DATA / "series" / name, root / name) for name in names
        }
        groups.append(Group(title, root, None, reference))
    return groups


def install(folder):
    """Make the environments that are missing; return the Python of each tool."""
    pythons = {OURS: sys.executable}
    for tool, packages in PACKAGES.items():
        python = folder / tool / "bin" / "python"
        if not python.exists():
            venv.create(folder / tool, with_pip=True)
            subprocess.run(
                [python, "-m", "pip", "install", "-q", *packages], check=True
            )
        pythons[tool] = pythons[REPAIRED] = str(python)
    pythons[REPAIRED] = pythons["rt-utils"]
    return pythons


def convert(python, tool, group):
    """Convert once; return what the process answers, and {case: masks}."""
    root = group.repaired if tool == REPAIRED else group.root
    name = "rt-utils" if tool == REPAIRED else tool
    environment = {**os.environ}
    # Modules of installed packages are compiled; so are those of our tree, then.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if tool == OURS:
        environment["PYTHONPATH"] = str(PROJECT)
    with tempfile.TemporaryDirectory() as folder:
        scratch, target = Path(folder) / "scratch", Path(folder) / "masks"
        scratch.mkdir()
        target.mkdir()
        command = [python, CONVERT, name, root, scratch, target, time.time()]
        output = subprocess.check_output(
            [*map(str, command)], stderr=subprocess.DEVNULL, text=True, env=environment
        )
        masks = {}
        for path in target.iterdir():
            with np.load(path) as file:
                masks[path.stem] = dict(file)
    return json.loads(output), masks


def count_wrong(masks, reference):
    """Return how many voxels differ; an ROI without a mask counts as an empty one.

    Where the shapes differ, so do voxels of one mask that the other does not have.
    """
    wrong = 0
    for name, expected in reference.items():
        mask = masks.get(name, np.zeros_like(expected))
        shape = np.maximum(mask.shape, expected.shape)
        both = np.zeros((2, *shape), bool)
        for one, voxels in zip(both, (mask, expected), strict=True):
            one[tuple(slice(n) for n in voxels.shape)] = voxels
        wrong += int((both[0] != both[1]).sum())
    return wrong


class Figures:
    """What a tool needed for the structure sets of a Group.

    seconds, after_imports, megabytes : a number for each repeat
    errors : {case: what went wrong}
    wrong  : number of wrong voxels of the other cases
    """

    def __init__(self):
        self.seconds = []
        self.after_imports = []
        self.megabytes = []
        self.errors = {}
        self.wrong = 0

    def add(self, answer, masks, reference):
        """Add a repeat."""
        self.seconds.append(answer["seconds"])
        self.after_imports.append(answer["after_imports"])
        self.megabytes.append(answer["megabytes"])
        self.errors = answer["errors"]
        self.wrong = sum(
            count_wrong(own, reference[case]) for case, own in masks.items()
        )


def measure(groups, pythons, repeats):
    """Convert all; return {title: {tool: Figures}}."""
    figures = defaultdict(lambda: defaultdict(Figures))
    for repeat in range(-1, repeats):  # the first fills the page cache
        for group in groups:
            for tool, python in pythons.items():
                if tool == REPAIRED and group.repaired is None:
                    continue
                answer, masks = convert(python, tool, group)
                if repeat >= 0:
                    figures[group.title][tool].add(answer, masks, group.reference)
    return figures


def rows_of(tools, count):
    """Yield the rows of the table of so many structure sets."""
    yield "", "s", "s without imports", "peak (MB)", "voxels wrong"
    for tool, own in tools.items():
        name = f"**{tool}**" if tool == OURS else tool
        if len(own.errors) == count:
            yield name, "", "", "", "refuses all" if count > 1 else "refuses"
            continue
        refused = f", refuses {len(own.errors)} of {count}" if own.errors else ""
        low, middle, high = np.percentile(own.seconds, [0, 50, 100])
        yield (
            name,
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{np.median(own.after_imports):.2f}",
            f"{max(own.megabytes):.0f}",
            f"{own.wrong:,}{refused}",
        )


def describe(groups, figures):
    """Return the tables and what was refused, in Markdown."""
    parts = []
    reasons = defaultdict(set)
    for group in groups:
        masks = [mask for own in group.reference.values() for mask in own.values()]
        inside = sum(np.count_nonzero(mask) for mask in masks)
        parts.append(f"{group.title}; {len(masks)} masks of {inside:,} voxels:\n")
        tools = figures[group.title]
        parts.append(table_of(rows_of(tools, len(group.reference))))
        for tool, own in tools.items():
            reasons[tool] |= {text[:MESSAGE] for text in own.errors.values()}
    for tool, texts in reasons.items():
        parts += [f"- {tool}: `{text}`" for text in sorted(texts)]
    return "\n".join(parts)


def versions_of(pythons):
    """Return the tools with their versions and those of pydicom, in words."""
    words = []
    for tool in PACKAGES:
        listing = subprocess.check_output(
            [pythons[tool], "-m", "pip", "list", "--format=freeze"], text=True
        )
        found = dict(line.split("==") for line in listing.split() if "==" in line)
        words.append(f"{tool} {found[tool]} (pydicom {found['pydicom']})")
    return ", ".join(words)


def main():
    """Measure, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tools", type=Path, default=Path("/tmp/fastseg-peers"))
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not (REAL_DATA / "sts").is_dir():
        sys.exit(f"{REAL_DATA}: has no real data; set FASTSEG_REAL_DATA to its folder")
    if not arguments.no_save:
        split_page("structure_sets_peers")
    pythons = install(arguments.tools)
    with tempfile.TemporaryDirectory() as folder:
        groups = make_groups(Path(folder))
        figures = measure(groups, pythons, arguments.repeats)
    text = (
        f"{describe(groups, figures)}\n\nSeconds from the start of a process to the "
        f"masks of all structure sets of a table: median and range of "
        f"{arguments.repeats} rounds; and without the imports. An ROI without a mask "
        "counts as an empty one. Three ROIs of each drawn series are a star, a ring "
        "with a hole, and two islands. Page cache warm, "
        f"{os.cpu_count()} cores for everybody ({platform.machine()}), Python "
        f"{platform.python_version()}; {versions_of(pythons)}; "
        f"{time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("structure_sets_peers", text)


if __name__ == "__main__":
    main()
