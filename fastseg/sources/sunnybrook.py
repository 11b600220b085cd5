"""The Sunnybrook cardiac MR data: text contours, in both published layouts.

The last number in the name of a contour file is the InstanceNumber of its image; the
middle number does not identify the image's series. The name of an image says nothing:
images are found by their content. A patient has one ID for images and another for
contours. The numbers in the latter may be zero-padded in the table of patients and not
in the name of the folder, or the reverse.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import dicom
from fastseg._kernels.files import decimals
from fastseg.bounds import MAX_CONTOUR_BYTES, MAX_ROW_CHARACTERS
from fastseg.choices import Slices
from fastseg.errors import (
    ContourError,
    DicomError,
    GeometryError,
    LinkError,
    NoImageError,
    choice,
)
from fastseg.escapes import escaped
from fastseg.links import Link, Links, LinkTable
from fastseg.paths import natural_key
from fastseg.progress import Progress
from fastseg.raster.rings import as_ring
from fastseg.reprs import many
from fastseg.sources.base import Group, note_unlabelled
from fastseg.sources.folder import JUNK_NAME, Folder, is_named_image
from fastseg.sources.series import place_images
from fastseg.tables import read_csv, reason_of

CLASSES = ("icontour", "ocontour", "p1contour", "p2contour")
CONTOUR_NAME = re.compile(
    rf"IM-\d+-(?P<number>\d+)-(?P<label>{'|'.join(CLASSES)})-manual\.txt",
    re.IGNORECASE,
)
LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|$)")
# A line of a contour file has at least this many bytes: "0 0" and a line end.
SHORTEST_LINE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one publication of the data arranges its files.

    outline  : the arrangement in words, for messages
    id_file, image_id, contour_id : the table of patients and its two ID columns
    images   : pattern of a patient's image folders, {} stands for the ID
    contours : folder of the patients' contour folders
    marks    : patterns of files and folders that only this layout has
    """

    outline: str
    id_file: str
    image_id: str
    contour_id: str
    images: str
    contours: str
    marks: tuple[str, ...]


CHALLENGE = Layout(
    outline="link.csv with dicoms/<patient_id>/ and "
    "contourfiles/<original_id>/ (Sunnybrook, challenge layout)",
    id_file="link.csv",
    image_id="patient_id",
    contour_id="original_id",
    images="dicoms/{}",
    contours="contourfiles",
    # Folders named dicoms are everywhere.
    marks=("link.csv", "contourfiles"),
)
ORIGINAL = Layout(
    outline="scd_patientdata.csv with SCD_IMAGES_*/<PatientID>/CINESAX_*/ "
    "and SCD_ManualContours/<OriginalID>/ (Sunnybrook, original layout)",
    id_file="scd_patientdata.csv",
    image_id="PatientID",
    contour_id="OriginalID",
    images="SCD_IMAGES_*/{}/CINESAX*",
    contours="SCD_ManualContours",
    marks=("scd_patientdata.csv", "SCD_ManualContours", "SCD_IMAGES_*"),
)
LAYOUTS = (CHALLENGE, ORIGINAL)


class Sunnybrook:
    """A Source of text files with one ring each, in one of two layouts."""

    format = "sunnybrook"
    outline = "; or ".join(layout.outline for layout in LAYOUTS)
    is_point_list = True
    joins = False
    is_in_pixels = True
    max_bytes = MAX_CONTOUR_BYTES

    def recognise(self, root: Path) -> list[str]:
        """Return the outlines of the layouts that a folder has."""
        return [layout.outline for layout in _layouts(root)]

    def has_contours(self, root: Path) -> bool:
        """Return whether the folder of contours is there."""
        return any((root / layout.contours).is_dir() for layout in _layouts(root))

    def find_links(
        self,
        root: Path,
        labels: Sequence[str] | None,
        slices: Slices,
        progress: Progress,
    ) -> LinkTable:
        """Link the images and contours of all listed patients.

        Raises LinkError for a missing or malformed table of patients, OptionError for
        an unknown class.
        """
        wanted = CLASSES if labels is None else labels
        for name in wanted:
            choice("label", name, CLASSES)
        (layout,) = _layouts(root)
        data_set = _DataSet(root)
        patients = list(data_set.patients(layout))
        files = [
            (patient, path) for patient in patients for path in patient.image_files
        ]
        instances: dict[str, dict[int, list[Link]]] = defaultdict(
            lambda: defaultdict(list)
        )
        headers: dict[str, dicom.Header] = {}
        with progress("read headers", len(files)) as advance:
            for patient, path in files:
                numbered = data_set.numbered_image(patient, path)
                if numbered is not None:
                    number, image, header = numbered
                    instances[patient.image_id][number].append(image)
                    headers[image.dicom_path] = header
                advance()
        links: list[Link] = []
        total = unlabelled = kept = bare = 0
        for patient in patients:
            images = data_set.unique_images(instances[patient.image_id])
            placed = place_images(
                Links.of(images.values()),
                [headers[image.dicom_path] for image in images.values()],
            )
            images = dict(zip(images, placed, strict=True))
            contours = data_set.contours_by_image(patient)
            linked = data_set.link_contours(patient, images, contours, wanted)
            links += linked
            # An image whose contours were rejected or not requested is not unlabelled.
            # It is linked like one, so that volumes stay whole, but counted on its own:
            # the store says of both that nobody outlined anything.
            outlined = {number for number, _ in contours}
            total += len(images)
            unlabelled += len(images.keys() - outlined)
            paths = {link.dicom_path for link in linked}
            # A file without a SeriesInstanceUID is a series of its own.
            series = {link.series for link in linked} - {""}
            for number, image in images.items():
                is_wanted = slices == "all" or (
                    slices == "series" and image.series in series
                )
                if is_wanted and image.dicom_path not in paths:
                    links.append(image)
                    bare += number in outlined
                    kept += number not in outlined
        notes = note_unlabelled(unlabelled, images=total, linked=kept, slices=slices)
        if bare:
            notes.append(
                f"{many(bare, 'image')} whose contours are rejected or of other "
                "classes: linked without a contour"
            )
        return LinkTable(
            base=root,
            links=Links.of(links).sorted(),
            rejects=data_set.rejects,
            unlabelled=unlabelled,
            ignored=data_set.ignored,
            notes=notes,
        )

    def parse(self, data: bytes, name: str) -> NDArray[np.float64]:
        """Return the ring of a contour file: one vertex a line, x and y in pixels.

        A byte order mark, any line ends, blank lines and a repeated last vertex are
        fine. Raises ContourError with the invalid line.
        """
        parsed = np.empty((len(data) // SHORTEST_LINE, 2))
        count = decimals.parse_pairs(np.frombuffer(data, np.uint8), parsed)
        if count > 0:  # nearly always; some fifty times as fast as the code below
            return _ring(parsed[:count], name)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise ContourError(f"{name}: is not a text file ({exc.reason})") from None
        vertices = array("d")
        for line, match in enumerate(LINE.finditer(text), 1):
            row = match[1]
            if len(row) > MAX_ROW_CHARACTERS:
                raise ContourError(
                    f"{name}, line {line}: has {len(row)} characters, expected at most "
                    f"{MAX_ROW_CHARACTERS}",
                    line,
                )
            fields = row.split()
            if not fields:
                continue
            try:
                x, y = map(float, fields)
                # float() also accepts "1_0" and the digits of other scripts.
                well_formed = "_" not in row and row.isascii()
            except ValueError:
                well_formed = False
            if not well_formed:
                raise ContourError(
                    f"{name}, line {line}: text of {len(row)} characters is not a "
                    "vertex, expected x and y in pixels, separated by white space",
                    line,
                )
            if not (abs(x) < np.inf and abs(y) < np.inf):
                raise ContourError(
                    f"{name}, line {line}: is not finite, remove or repair it",
                    line,
                )
            vertices.extend((x, y))
        if not vertices:
            raise ContourError(f"{name}: is empty")
        return _ring(np.array(vertices).reshape(-1, 2), name)

    def rings(
        self, parsed: NDArray[np.float64], link: Link, header: dicom.Header | None
    ) -> list[Group]:
        """Return the ring; the link's `contour_key` must be empty."""
        if link.contour_key:
            raise ContourError(
                f"{link.contour_path}: holds one contour, but contour_key is "
                f"{link.contour_key!r}"
            )
        return [Group([parsed])]


def _layouts(root: Path) -> list[Layout]:
    """Return the layouts that have any of their `marks` in a folder."""
    return [
        layout
        for layout in LAYOUTS
        if any(next(root.glob(mark), None) for mark in layout.marks)
    ]


def _ring(vertices: Any, name: str) -> NDArray[np.float64]:
    try:
        return as_ring(vertices)
    except GeometryError as exc:
        raise ContourError(f"{name}: {exc}") from None


@dataclass(frozen=True, slots=True)
class _Patient:
    """A patient in the table of patients, with the image and contour files."""

    image_id: str
    image_files: list[Path]
    contour_files: list[Path]


@dataclass(slots=True)
class _DataSet(Folder):
    """One data set, whose files its methods find."""

    def patients(self, layout: Layout) -> Iterator[_Patient]:
        """Yield the patients in the table whose image folders exist."""
        id_file = self.root / layout.id_file
        try:
            rows = list(
                read_csv(id_file, (layout.image_id, layout.contour_id), self.rejects)
            )
        except FileNotFoundError:
            raise LinkError(
                f"{id_file}: is missing; it must list the patients under the columns "
                f"{layout.image_id}, {layout.contour_id}"
            ) from None
        contour_folders = self._contour_folders(layout)
        image_folders_seen: set[Path] = set()
        seen: set[str] = set()
        for line, row in rows:
            image_id, contour_id = row[layout.image_id], row[layout.contour_id]
            key = _unpadded_id(contour_id)
            problem = _id_problem(image_id) or _id_problem(contour_id)
            if not problem and {f"image {image_id}", f"contour {key}"} & seen:
                problem = "one of its IDs is listed twice"
            if problem:
                self.reject(id_file, problem, line)
                continue
            seen |= {f"image {image_id}", f"contour {key}"}
            images = self._image_folders(layout, image_id)
            image_folders_seen.update(images)
            contours = contour_folders.pop(key, [])
            wanted = layout.images.format(image_id)
            if not images:
                self.reject(id_file, f"there is no image folder {wanted}", line)
                continue
            if not contours:
                missing = f"{layout.contours}/{contour_id}"
                self.reject(id_file, f"there is no contour folder {missing}", line)
            elif len(contours) > 1:
                several = ", ".join(map(self.relative, contours))
                self.reject(id_file, f"several contour folders: {several}", line)
                contours = []
            yield _Patient(
                image_id,
                [
                    path
                    for folder in images
                    for path in map(Path, self.files(folder))
                    if self._is_image(path)
                ],
                [
                    path
                    for folder in contours
                    for path in map(Path, self.files(folder))
                    if self._is_contour(path)
                ],
            )
        for folders in contour_folders.values():
            for folder in folders:
                self.reject(folder, f"is not listed in {layout.id_file}")
        for folder in self._image_folders(layout, "*"):
            if folder not in image_folders_seen:
                self.reject(folder, f"is not listed in {layout.id_file}")

    def numbered_image(
        self, patient: _Patient, path: Path
    ) -> tuple[int, Link, dicom.Header] | None:
        """Return an image's InstanceNumber, link, header; None if it is not used."""
        try:
            header = dicom.read_header(path)
        except NoImageError as exc:
            if is_named_image(path.name):
                self.reject(path, reason_of(exc, path))
            else:
                self.ignored.append(self.relative(path))
            return None
        except (DicomError, OSError) as exc:
            self.reject(path, reason_of(exc, path))
            return None
        if header.instance is None:
            self.reject(
                path,
                "has no InstanceNumber, by which contours are matched; write a links "
                "table by hand",
            )
            return None
        if header.frames > 1:
            self.reject(
                path,
                f"has {header.frames} frames, expected 1: contours do not name a frame",
            )
            return None
        image = Link(
            patient=patient.image_id,
            dicom_path=self.relative(path),
            series=header.series,
        )
        return header.instance, image, header

    def unique_images(self, instances: dict[int, list[Link]]) -> dict[int, Link]:
        """Return the images whose InstanceNumber no other file has; reject the rest.

        Of one file named *.dcm and others that are not, these are ignored: 1.dcm.bak.
        """
        unique = {}
        for number, images in sorted(instances.items()):
            named = [image for image in images if is_named_image(image.dicom_path)]
            if len(named) == 1:
                self.ignored += [x.dicom_path for x in images if x is not named[0]]
                images = named
            if len(images) == 1:
                unique[number] = images[0]
                continue
            for image in images:
                others = ", ".join(x.dicom_path for x in images if x is not image)
                self.reject(
                    self.root / image.dicom_path,
                    f"has the same InstanceNumber {number} as {others}; keep one",
                )
        return unique

    def contours_by_image(self, patient: _Patient) -> dict[tuple[int, str], list[Path]]:
        """Return a patient's contour files by InstanceNumber and class."""
        contours: dict[tuple[int, str], list[Path]] = defaultdict(list)
        for path in patient.contour_files:
            name = CONTOUR_NAME.fullmatch(path.name)
            assert name is not None  # _is_contour has checked it
            contours[int(name["number"]), name["label"].lower()].append(path)
        return contours

    def link_contours(
        self,
        patient: _Patient,
        images: dict[int, Link],
        contours: dict[tuple[int, str], list[Path]],
        wanted: Sequence[str],
    ) -> list[Link]:
        """Return the links of a patient's contours of the wanted classes."""
        links = []
        for (number, label), paths in sorted(contours.items()):
            if label not in wanted:
                continue
            for path in paths:
                if len(paths) > 1:
                    others = ", ".join(self.relative(p) for p in paths if p != path)
                    self.reject(
                        path,
                        f"outlines {label} of image {number} as does {others}; "
                        "keep one",
                    )
                elif number not in images:
                    self.reject(
                        path,
                        f"its patient has no usable image with InstanceNumber {number}",
                    )
                else:
                    links.append(
                        images[number]._replace(
                            contour_path=self.relative(path),
                            label=label,
                            format=Sunnybrook.format,
                        )
                    )
        return links

    def _image_folders(self, layout: Layout, image_id: str) -> list[Path]:
        folders = []
        for path in sorted(self.root.glob(layout.images.format(image_id))):
            if JUNK_NAME.fullmatch(path.name):
                continue
            if path.is_dir():
                folders.append(path)
            elif image_id == "*":
                self.ignored.append(self.relative(path))
        return folders

    def _contour_folders(self, layout: Layout) -> dict[str, list[Path]]:
        folders: dict[str, list[Path]] = defaultdict(list)
        parent = self.root / layout.contours
        if not parent.is_dir():
            return folders
        for path in sorted(parent.iterdir(), key=lambda path: natural_key(path.name)):
            if JUNK_NAME.fullmatch(path.name):
                continue
            if path.is_dir():
                folders[_unpadded_id(path.name)].append(path)
            else:
                self.ignored.append(self.relative(path))
        return folders

    def _is_image(self, path: Path) -> bool:
        if is_named_image(path.name):
            return True
        try:
            if dicom.is_dicom(path):
                return True
        except OSError as exc:
            self.reject(path, reason_of(exc, path))
            return False
        self.ignored.append(self.relative(path))
        return False

    def _is_contour(self, path: Path) -> bool:
        if CONTOUR_NAME.fullmatch(path.name):
            return True
        if "contour" in path.name.lower():
            self.reject(
                path,
                "is not named IM-<n>-<InstanceNumber>-<class>-manual.txt; the classes "
                f"are {', '.join(CLASSES)}",
            )
        else:
            self.ignored.append(self.relative(path))
        return False


def _id_problem(name: str) -> str | None:
    """Return why an ID from a file cannot be the name of a folder, None if it can."""
    if not name:
        return "an ID is empty"
    if (
        name in (".", "..")
        or re.search(r"[/\\:*?\[\]]", name)
        or escaped(name) != name
        or len(name.encode()) > 255
    ):
        return f"the ID {name[:80]!r} is not the name of a folder in the data folder"
    return None


def _unpadded_id(name: str) -> str:
    """Drop the leading zeros of numbers: SC-HF-I-01 becomes SC-HF-I-1."""
    return re.sub(r"\d+", lambda number: number[0].lstrip("0") or "0", name)
