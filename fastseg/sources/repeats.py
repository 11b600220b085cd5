"""Files that have the SOPInstanceUID of another: copies, or a mistake."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastseg import dicom
from fastseg.dicom import Header
from fastseg.errors import DicomError, MissingExtraError
from fastseg.files import open_regular
from fastseg.tables import reason_of

# Files of one SOPInstanceUID that a reject names.
NAMES_LISTED = 3
# What copies of an image have in common, as messages call it, and the fields of a
# Header that say it. The first one that differs is reported. InstanceNumber is not
# among them, because exports number images anew.
COMMON = {
    "PatientID": ("patient_id",),
    "study": ("study",),
    "series": ("series",),
    "shape": ("rows", "columns", "frames"),
    "kind of pixels": ("dtype", "bits_stored", "photometric"),
    "modality": ("modality",),
    "rescale": ("slope", "intercept"),
    "position": ("position_mm", "frame_of_reference"),
    "orientation": ("directions",),
    "spacing": ("spacing_mm", "slice_thickness_mm"),
    "time": ("temporal_position", "trigger_time_ms"),
    "window": ("window",),
}


def find_repeats(files: Mapping[str, tuple[Header, ...]]) -> dict[str, str]:
    """Return the files to leave out because another has their SOPInstanceUID.

    files : the headers of the frames of each, by path

    The value is "" for a copy of one that stays, else why the file cannot be used. The
    name of a file decides only which of several equal ones stays: if they differ, none
    of them does. A file whose pixels cannot be read is left out alone.
    """
    by_uid: dict[str, list[str]] = defaultdict(list)
    for path, headers in files.items():
        if headers[0].sop_instance:
            by_uid[headers[0].sop_instance].append(path)
    left_out: dict[str, str] = {}
    for paths in by_uid.values():
        if len(paths) > 1:
            left_out |= _compare(paths, files)
    return left_out


def find_repeated_sets(sets: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
    """Return the structure sets to leave out because another has their SOPInstanceUID.

    sets : SOPInstanceUID and hash of the bytes of each, by path

    The value is "" for a copy of one that stays, else why the file cannot be used.
    Without a SOPInstanceUID, files with the same bytes are copies, too.
    """
    by_uid: dict[str | bytes, list[str]] = defaultdict(list)
    for path, (uid, digest) in sets.items():
        by_uid[uid or digest].append(path)
    left_out: dict[str, str] = {}
    for paths in by_uid.values():
        if len({sets[path][1] for path in paths}) == 1:
            left_out |= dict.fromkeys(paths[1:], "")
        else:
            left_out |= {path: _but(path, paths, "other content") for path in paths}
    return left_out


def _compare(
    paths: list[str], files: Mapping[str, tuple[Header, ...]]
) -> dict[str, str]:
    """Return what `find_repeats` does of files of one SOPInstanceUID."""
    for name, fields in COMMON.items():
        if len({_values(files[path], fields) for path in paths}) > 1:
            problem = f"another {name}"
            if name == "PatientID":
                problem += "; raw and pseudonymised copies must not be mixed"
            return {path: _but(path, paths, problem) for path in paths}
    left_out: dict[str, str] = {}
    # Files with the same bytes, by their hash: they need no decoder.
    copies: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        try:
            copies[_hash_file(path)].append(path)
        except OSError as exc:
            left_out[path] = _unread(path, paths, exc)
    first = ""
    pixels = b""
    for same in copies.values():
        if len(copies) > 1:
            try:
                own = _hash_pixels(same[0], len(files[same[0]]))
            except (DicomError, MissingExtraError, OSError) as exc:
                left_out |= {path: _unread(path, paths, exc) for path in same}
                continue
            if first and own != pixels:
                # Nobody knows which one is the image, whatever the others hold.
                return {
                    path: left_out.get(path) or _but(path, paths, "other pixels")
                    for path in paths
                }
            pixels = own
        first = first or same[0]
        left_out |= {path: "" for path in same if path != first}
    return left_out


def _values(headers: tuple[Header, ...], fields: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the values of some fields in the headers of all frames."""
    return tuple(getattr(header, field) for header in headers for field in fields)


def _hash_file(path: str) -> bytes:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hash_pixels(path: str, frames: int) -> bytes:
    """Return a hash of all pixels of a file, or raise what `read_image` does."""
    total = hashlib.sha256()
    for frame in range(frames):
        total.update(np.ascontiguousarray(dicom.read_image(path, frame).pixels))
    return total.digest()


def _but(path: str, paths: list[str], problem: str) -> str:
    return f"has the SOPInstanceUID of {_others(path, paths)} but {problem}; keep one"


def _unread(path: str, paths: list[str], exc: Exception) -> str:
    return (
        f"has the SOPInstanceUID of {_others(path, paths)} but pixels that cannot be "
        f"compared ({reason_of(exc, path)})"
    )


def _others(path: str, paths: list[str]) -> str:
    """Return the other names of some in words, the first ones of many."""
    # Not all of them: there may be thousands, and each of them has a message.
    shown = [other for other in paths[: NAMES_LISTED + 1] if other != path]
    shown = shown[:NAMES_LISTED]
    more = len(paths) - 1 - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
