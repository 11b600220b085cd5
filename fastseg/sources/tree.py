"""All DICOM files below a folder, whatever their names and folders are.

folder ── files ──> headers, side by side ──> Tree: images, other objects by kind
                                               └─ link_images ──> LinkTable

A file is what its content says. Images are the frames of grey-scale files that show a
patient; localizers, secondary captures, colour images, structure sets, reports and
whatever else there is are listed by kind.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray

from fastseg import dicom, remote
from fastseg.bounds import MAX_TEXT_BYTES
from fastseg.dicom import Header, structure_set
from fastseg.errors import (
    ColourImageError,
    DicomError,
    NoImageError,
)
from fastseg.escapes import escaped
from fastseg.files import identify, open_regular
from fastseg.links import Link, Links, LinkTable, column_of
from fastseg.progress import Progress, silent
from fastseg.reprs import many
from fastseg.sources.folder import Folder, is_named_image
from fastseg.sources.repeats import find_repeats
from fastseg.sources.series import (
    Planes,
    are_in_volumes,
    find_problems,
    place_images,
    rows_of_series,
)
from fastseg.tables import Reject, reason_of
from fastseg.threads import map_ordered, usable_cores
from fastseg.urls import url_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

# Files whose headers are read in one call.
FILES_AT_ONCE = 256
# Such calls in a task of an executor, at most: 16 384 files, which take a second from
# memory and a minute or two where files are far away.
BLOCKS_OF_A_TASK = 64
# Threads that read headers, at most. More than there are cores help where files are far
# away, but each holds the buffers of a call.
MOST_THREADS = 8
# Bytes at the beginning of a file that say whether it is a structure set.
HEAD_BYTES = 1024
# Series that are no volume and that `notes` lists one by one.
SERIES_LISTED = 5

LOCALIZER = "localizer"
SECONDARY = "secondary capture"
COLOUR = "colour image"
DUPLICATE = "duplicate"
STRUCTURE_SET = "RT structure set"
# What messages call files of a class, by the name of the class in the standard.
KINDS = {
    "RT Structure Set Storage": STRUCTURE_SET,
    "RT Dose Storage": "RT dose",
    "RT Plan Storage": "RT plan",
    "Segmentation Storage": "segmentation",
    "Parametric Map Storage": "parametric map",
    "Media Storage Directory Storage": "DICOMDIR",
    "": "DICOM object of an unknown class",
}
# Classes whose files are grey-scale images to a reader, but show no patient: values
# that were computed, or labels. Names and UIDs as in PS3.6, annex A.
OTHER_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT dose",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
}
# Secondary Capture Image Storage; the UIDs of its multi-frame classes have one number
# more.
SECONDARY_CLASS = "1.2.840.10008.5.1.4.1.1.7"


class TreeImage(NamedTuple):
    """One frame of a file of a tree.

    path  : relative to the root, with forward slashes
    frame : counted from 0
    """

    path: str
    frame: int
    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What the DICOM files below a folder are.

    images  : sorted by path and frame, numbers in paths by their value
    others  : paths of the files that are no images to learn from, by kind, such as
        "localizer" or "RT structure set"; a "duplicate" is a further name or a copy of
        an image
    rejects : files that cannot be used
    ignored : paths of the files that are not DICOM
    """

    root: Path
    images: list[TreeImage]
    others: Mapping[str, tuple[str, ...]]
    rejects: list[Reject]
    ignored: tuple[str, ...]

    def describe(self) -> str:
        """Return in words what it holds: "3 CT series of 2 patients and 1 RT plan"."""
        parts = [many(len(paths), kind) for kind, paths in self.others.items()]
        if self.rejects:
            parts.append(many(len(self.rejects), "unusable file"))
        if self.images:
            patients = Patients(image.header for image in self.images)
            series = describe_series(
                (patients.of(image.header), image.path, image.header)
                for image in self.images
            )
            parts.insert(0, series)
        return _join(parts or ["no DICOM files"])


def read_tree(
    root: Path,
    progress: Progress = silent,
    threads: int | None = None,
    executor: "Executor | None" = None,
) -> Tree:
    """Read the header of each DICOM file below a folder, once.

    threads  : that read side by side; by default one for each core, up to MOST_THREADS
    executor : whose workers read, each with so many threads

    Two names of one file are one image. So are two files with one SOPInstanceUID if
    their pixels are equal and their headers say the same of patient, series and plane:
    the one whose name sorts first is the image. If they differ, all of them are
    rejected.
    """
    folder = Folder(root)
    prefix = os.path.join(root, "")  # noqa: PTH118  keeps what Path would drop
    others: dict[str, list[str]] = defaultdict(list)

    def relative(path: str) -> str:
        return path[len(prefix) :].replace(os.sep, "/")

    # By device and inode, which all names of a file share.
    names: dict[tuple[int, int] | None, str] = {}
    # The batch scan follows no links.
    real: dict[str, str] = {}
    with progress("find files", 0) as advance:
        for path in folder.files(root):
            advance()
            try:
                identity = identify(path)
                if identity is None:
                    real[path] = os.path.realpath(path)
                    identity = identify(real[path])
            except OSError as exc:
                folder.reject(Path(path), reason_of(exc))
                continue
            first = names.setdefault(identity, path)
            if first is not path:
                others[DUPLICATE].append(relative(path))
    paths = list(names.values())
    del names
    blocks = [
        [(path, real.get(path, path)) for path in paths[k : k + FILES_AT_ONCE]]
        for k in range(0, len(paths), FILES_AT_ONCE)
    ]
    files: dict[str, tuple[Header, ...]] = {}
    with (
        progress("read headers", len(paths)) as advance,
        closing(_read_blocks(blocks, threads, executor)) as results,
    ):
        for block, contents in zip(blocks, results, strict=True):
            for (path, _), content in zip(block, contents, strict=True):
                match content:
                    case _Other():
                        others[content.kind].append(relative(path))
                    case _NoDicom():
                        folder.ignored.append(relative(path))
                    case _Unusable():
                        folder.reject(Path(path), content.reason)
                    case tuple():
                        files[path] = content
                    case _:
                        assert_never(content)
            advance(len(block))
    for path, reason in find_repeats(files).items():
        del files[path]
        if reason:
            folder.reject(Path(path), reason)
        else:
            others[DUPLICATE].append(relative(path))
    return Tree(
        root=root,
        images=[
            TreeImage(relative(path), frame, header)
            for path, headers in files.items()
            for frame, header in enumerate(headers)
        ],
        others={kind: tuple(others[kind]) for kind in sorted(others)},
        rejects=folder.rejects,
        ignored=tuple(folder.ignored),
    )


@dataclass(frozen=True, slots=True)
class _Other:
    """A DICOM file that holds something else than images to learn from."""

    kind: str


@dataclass(frozen=True, slots=True)
class _NoDicom:
    """A file that is not DICOM, nor named like an image."""


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A file that cannot be used, and why."""

    reason: str


# The headers of the frames of an image file, or what it is instead.
_Content = tuple[Header, ...] | _Other | _NoDicom | _Unusable
# Paths and real paths.
_Files = list[tuple[str, str]]


def _read_blocks(
    blocks: Sequence[_Files], threads: int | None, executor: "Executor | None"
) -> Generator[list[_Content], None, None]:
    """Yield what the files of each block hold, here or by the workers of an executor.

    threads : None for one for each core of the machine that reads
    """
    if executor is None:
        count = threads or min(usable_cores(), MOST_THREADS)
        with closing(map_ordered(_read_files, blocks, count)) as results:
            yield from results
        return
    from fastseg.tasks import count_tasks, in_order, run_tasks, workers_of

    count = count_tasks(len(blocks), BLOCKS_OF_A_TASK, workers_of(executor))
    bounds = [len(blocks) * k // count for k in range(count + 1)]
    tasks = (
        # Workers may have another current folder.
        ([[*map(_absolute, block)] for block in blocks[first:stop]], threads)
        for first, stop in pairwise(bounds)
    )
    with closing(run_tasks(executor, _read_task, tasks, _name_task)) as done:
        for contents in in_order(done):
            yield from contents


def _read_task(blocks: list[_Files], threads: int | None) -> list[list[_Content]]:
    """Return what the files of some blocks hold, in a worker."""
    return [*_read_blocks(blocks, threads, None)]


def _name_task(blocks: list[_Files], threads: int | None) -> str:
    return f"the headers of files from {blocks[0][0][0]} to {blocks[-1][-1][0]}"


def _absolute(names: tuple[str, str]) -> tuple[str, str]:
    path, real = names
    if url := url_of(path):  # which they do not know by its file here
        return url, url
    # Path.absolute drops what Path drops.
    return os.path.abspath(path), os.path.abspath(real)  # noqa: PTH100


@remote.keeping()
def _read_files(paths: _Files) -> list[_Content]:
    """Return what each of some files holds, given by path and real path."""
    scans = dicom.scan_headers(real for _, real in paths)
    return [
        _content_of((header,)) if header and header.frames == 1 else _read_file(path)
        for header, (path, _) in zip(scans.all_headers(), paths, strict=True)
    ]


def _content_of(headers: tuple[Header, ...]) -> _Content:
    """Return the headers of an image file, or what it is instead."""
    header = headers[0]
    kind = OTHER_CLASSES.get(header.sop_class)
    if kind is not None:
        return _Other(kind)
    if f"{header.sop_class}.".startswith(f"{SECONDARY_CLASS}."):
        return _Other(SECONDARY)
    return _Other(LOCALIZER) if header.is_localizer else headers


def _read_file(path: str) -> _Content:
    """Return what a file holds that the batch scan does not understand."""
    try:
        if structure_set.is_structure_set(_read_head(path)):
            return _Other(STRUCTURE_SET)
        if not dicom.is_dicom(path):
            if is_named_image(path):
                return _Unusable("is not a DICOM file")
            return _NoDicom()
        return _content_of(dicom.read_frame_headers(path))
    except NoImageError as exc:
        return _Other(_kind_of(exc.kind))
    except ColourImageError:
        return _Other(COLOUR)
    except (DicomError, OSError) as exc:
        return _Unusable(reason_of(exc, path))


def _read_head(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD_BYTES) or b""


def _kind_of(name: str) -> str:
    """Return what messages call the files of a class, by its name in the standard."""
    if name in KINDS:
        return KINDS[name]
    if name.endswith("SR Storage"):
        return "report"
    return f"{name.removesuffix(' Storage')} object"


def describe_series(images: Iterable[tuple[str, str, Header]]) -> str:
    """Return in words the series: "1 CT and 2 MR series of 3 patients".

    images : patient, path and header of each, at least one
    """
    modalities = {
        (patient, header.series, "" if header.series else path): header.modality
        for patient, path, header in images
    }
    counts = Counter(modalities.values())
    known = sorted(modality for modality in counts if modality)
    parts = [f"{counts[modality]} {modality}" for modality in known]
    if "" in counts:
        parts.append(f"{counts['']} unknown-modality")
    patients = {patient for patient, *_ in modalities}
    return f"{_join(parts)} series of {many(len(patients), 'patient')}"


def _join(parts: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


class Linkable(NamedTuple):
    """The images of a tree whose patients are known.

    images   : in the order of the tree
    links    : of the same images, without contours
    planes   : of the same images
    patients : whose they are
    rejects  : those of the tree, and the files whose patients are not known
    """

    images: list[TreeImage]
    links: Links
    planes: Planes
    patients: "Patients"
    rejects: list[Reject]


def linkable_images(tree: Tree) -> Linkable:
    """Return the images of a tree that can be linked."""
    rejects = list(tree.rejects)
    patients = Patients(image.header for image in tree.images)
    images: list[TreeImage] = []
    names: list[str] = []
    refused: set[str] = set()
    # The images of a study have the same.
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for image in tree.images:
        key = image.header.patient_id, image.header.study
        if key not in known:
            known[key] = patients.of(image.header), patients.problem(image.header)
        name, problem = known[key]
        if not problem:
            images.append(image)
            names.append(name)
        elif image.path not in refused:
            refused.add(image.path)
            rejects.append(Reject(str(tree.root / image.path), None, problem))
    paths, frames, headers = zip(*images, strict=True) if images else ((), (), ())
    links = replace(
        Links.of([Link("P", "image")]).pick(np.zeros(len(images), np.int64)),
        patient=column_of("patient", names),
        dicom_path=column_of("dicom_path", paths),
        frame=column_of("frame", frames),
    )
    planes = Planes.of(headers)
    return Linkable(
        images, place_images(links, headers, planes), planes, patients, rejects
    )


def sort_links(
    linkable: Linkable, is_linked: NDArray[np.bool_]
) -> tuple[Links, NDArray[np.int64], list[str]]:
    """Return the links of some images, in the order of all tables.

    is_linked : bool (n,)

    Returns links, the index of the image of each, and notes.
    """
    rows = np.flatnonzero(is_linked)
    rows = rows[linkable.links.pick(rows).order()]
    links = linkable.links.pick(rows)
    headers = [linkable.images[k].header for k in rows.tolist()]
    notes = []
    if headers:
        columns = links.patient.values(), links.dicom_path.values(), headers
        notes.append(describe_series(zip(*columns, strict=True)))
    notes += linkable.patients.notes(headers)
    notes += _notes_on_volumes(links, headers, linkable.planes.pick(rows))
    return links, rows, notes


def link_images(tree: Tree, hints: Sequence[str] = ()) -> LinkTable:
    """Link all images of a tree, without contours.

    hints : further notes

    `Patients` says whose images they are.
    """
    linkable = linkable_images(tree)
    links, _, notes = sort_links(linkable, np.ones(len(linkable.images), np.bool_))
    return LinkTable(
        base=tree.root,
        links=links,
        rejects=linkable.rejects,
        unlabelled=len(links),
        ignored=tree.ignored,
        left_out=tree.others,
        notes=[*notes, *hints],
    )


class Patients:
    """Whose images they are, by the headers of all images of a tree.

    A patient is a PatientID. A study has one patient, so an image without a PatientID
    takes the only one of its study. If its study has none, the patient is named by the
    StudyInstanceUID: a study then stays whole, and parts of a split share none.
    """

    def __init__(self, headers: Iterable[Header]):
        self._ids: dict[str, set[str]] = defaultdict(set)
        for header in headers:
            if header.study and header.patient_id:
                self._ids[header.study].add(header.patient_id)

    def of(self, header: Header) -> str:
        """Return the patient of an image, "" if nobody knows it."""
        return self.named(header.patient_id, header.study)

    def named(self, patient_id: str, study: str) -> str:
        """Return the patient with a PatientID, or "", in a study; "" if unknown."""
        if patient_id:
            return patient_id
        ids = self._ids.get(study, ())
        if len(ids) > 1:
            return ""
        return next(iter(ids), study)

    def problem(self, header: Header) -> str:
        """Return why an image cannot be linked, "" if it can; it quotes no ID."""
        name = self.of(header)
        if not name and header.study:
            return (
                "has no PatientID, and its study has several, so that nobody knows "
                "whose image it is; write a links table by hand"
            )
        if not name:
            return (
                "has neither PatientID nor StudyInstanceUID, so that nobody knows "
                "whose image it is; write a links table by hand"
            )
        if "\ufffd" in name:
            # pydicom puts this in place of bytes that it cannot decode: other IDs with
            # other bytes there would look the same.
            return (
                "has a PatientID with bytes that are not of its character set; "
                "correct SpecificCharacterSet"
            )
        if escaped(name) != name or name != name.strip():
            return "has a PatientID with control or format characters"
        if len(name.encode()) > MAX_TEXT_BYTES:
            return f"has a PatientID of more than {MAX_TEXT_BYTES} bytes"
        return ""

    def notes(self, headers: Iterable[Header]) -> list[str]:
        """Return in words what is unusual about the patients of linked images."""
        ids: dict[str, set[str]] = defaultdict(set)
        by_study = 0
        by_others = 0
        for header in headers:
            if header.patient_id:
                ids[header.study].add(header.patient_id)
            elif self.of(header) == header.study:
                by_study += 1
            else:
                by_others += 1
        ids.pop("", None)
        mixed = sum(len(some) > 1 for some in ids.values())
        notes = []
        if by_others:
            notes.append(
                f"{many(by_others, 'image')} without PatientID: other images of the "
                "study say whose they are"
            )
        if by_study:
            notes.append(
                f"{many(by_study, 'image')} without PatientID: each study counts as a "
                "patient, named by its StudyInstanceUID"
            )
        if mixed:
            studies = "study has" if mixed == 1 else "studies have"
            notes.append(
                f"{mixed} {studies} several PatientIDs, though a study is of one "
                "patient: a split may put one person into two parts"
            )
        return notes


def _notes_on_volumes(
    links: Links, headers: Sequence[Header], planes: Planes
) -> list[str]:
    """Return in words which series are no volume, and why; the first ones of many.

    links           : sorted
    headers, planes : of the same images

    A series of one image is none, and needs no reason. Files that are series because
    they have no SeriesInstanceUID are counted.
    """
    notes = []
    lines = []
    lone = 0
    are_in = are_in_volumes(links, planes)
    for rows in rows_of_series(links):
        if len(rows) == 1:
            lone += not headers[rows[0]].series
        elif not are_in[rows].all():
            series = _series(headers[rows[0]].modality)
            folder = _folder_of(links.dicom_path.pick(rows).values())
            problems = "; ".join(find_problems(links, planes, rows))
            lines.append(f"  {series} in {folder}: {problems}")
    if lone:
        notes.append(
            f"{many(lone, 'image')} without SeriesInstanceUID: each file counts as a "
            "series, so they are in no volume"
        )
    if lines:
        lines.sort()
        notes.append(f"{len(lines)} series with images that are in no volume:")
        notes += lines[:SERIES_LISTED]
        if len(lines) > SERIES_LISTED:
            notes.append(f"  and {len(lines) - SERIES_LISTED} more")
    return notes


def _folder_of(paths: Iterable[str]) -> str:
    """Return the folder that all files lie in."""
    return os.path.commonpath({path.rpartition("/")[0] for path in paths}) or "."


def _series(modality: str) -> str:
    return f"{modality} series" if modality else "series of unknown modality"
