"""Stores of studies with faults, built without writing their contours as files again.

`Study.store` writes structure sets and texts as a clinic does, which takes ten times as
long as the check. Here, all contours of a study are one file, which a reader of its own
reads; images and what is built of them are the same.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastseg
from fastseg.dicom import Header
from fastseg.links import Link, LinkTable
from fastseg.sources import READERS
from fastseg.sources.base import Group
from fastseg.store.reader import Store
from tests.quality.study import Study

CLEAN, CHANGED = "clean.npz", "changed.npz"
# Structure sets hold millimetres with this many digits behind the point.
DIGITS_MM = 6

Groups = list[Group]
Ring = NDArray[np.float64]


class StudyContours:
    """Reads the contours of studies that `save_contours` has written."""

    format = "study"
    is_point_list = False
    joins = False
    is_in_pixels = True
    max_bytes = 2**30

    def parse(self, data: bytes, name: str) -> dict[str, Groups]:
        """Return the groups of each contour key."""
        columns = np.load(io.BytesIO(data))
        points, ends = columns["points"], columns["ends"].tolist()
        found: dict[str, Groups] = {}
        start = 0
        for key, is_xor, is_first, end in zip(
            columns["key"].tolist(),
            columns["is_xor"].tolist(),
            columns["is_first"].tolist(),
            ends,
            strict=True,
        ):
            groups = found.setdefault(key, [])
            if is_first:
                groups.append(Group([], is_xor))
            groups[-1].rings.append(points[start:end])
            start = end
        return found

    def rings(
        self, parsed: dict[str, Groups], link: Link, header: Header | None
    ) -> Groups:
        """Return the groups of a link."""
        return parsed[link.contour_key]


READERS[StudyContours.format] = StudyContours()


def key_of(index: int, name: str) -> str:
    """Return the contour key of a class on an image."""
    return f"{index}/{name}"


def save_contours(path: Path, contours: dict[str, Groups]) -> None:
    """Write contours by their keys."""
    rows = [
        (key, group.is_xor, not number, ring)
        for key, groups in contours.items()
        for group in groups
        for number, ring in enumerate(group.rings)
    ]
    rings = [ring for *_, ring in rows]
    np.savez(
        path,
        key=np.array([key for key, *_ in rows], np.str_),
        is_xor=np.array([is_xor for _, is_xor, *_ in rows], np.bool_),
        is_first=np.array([is_first for *_, is_first, _ in rows], np.bool_),
        ends=np.cumsum([len(ring) for ring in rings]),
        points=np.concatenate([np.empty((0, 2)), *rings]),
    )


class StoreBuilder:
    """Builds the stores of changed copies of a clean study."""

    def __init__(self, study: Study):
        path = study.root / CLEAN
        if not path.exists():
            save_contours(path, _clean_groups(study.clean))
        self._links = list(fastseg.link(study.root, **study.options).links)
        self._planes = [sample.plane for sample in study.clean]

    def build(self, study: Study) -> Store:
        """Build the store of a copy: that of `study.store()`, but for file names."""
        changed = study.changed()
        contours = {
            key_of(*key): [Group(self._as_read(study, *key))]
            for key in changed
            if study.contours.get(key)
        }
        save_contours(study.root / CHANGED, contours)
        links = self._links
        if study.has_new_links:
            found = fastseg.link(study.root, **study.options)
            assert not found.rejects, found.rejects[0]
            links = list(found.links)
        table = LinkTable(base=study.root, links=_relinked(study, links, {*changed}))
        report = fastseg.build(table, study.root.parent / "faulty.h5")
        assert not report.rejects, report.rejects[0]
        return fastseg.open(report.path)

    def _as_read(self, study: Study, index: int, name: str) -> list[Ring]:
        """Return rings as they are after they were written to a file and read again."""
        rings = study.contours[index, name]
        if study.kind == "cine":
            return rings
        plane = self._planes[index]
        assert plane is not None
        points = plane.pixel_to_patient(np.concatenate(rings)).round(DIGITS_MM)
        pixels, _ = plane.patient_to_pixel(points)
        return np.split(pixels, np.cumsum([len(ring) for ring in rings])[:-1])


def _clean_groups(store: Store) -> dict[str, Groups]:
    """Return the contours of a store: its rings in groups, as they were read."""
    table = store.contours
    offsets = table["offsets"].tolist()
    found: dict[str, Groups] = {}
    last: Any = None
    for row, (sample, klass, group) in enumerate(
        zip(
            table["item"].tolist(),
            table["class"].tolist(),
            table["group"].tolist(),
            strict=True,
        )
    ):
        groups = found.setdefault(key_of(sample, store.classes[klass]), [])
        if last != (sample, klass, group):
            groups.append(Group([], is_xor=group < 0))
            last = sample, klass, group
        groups[-1].rings.append(table["points"][offsets[row] : offsets[row + 1]])
    return found


def _relinked(
    study: Study, links: Sequence[Link], changed: set[tuple[int, str]]
) -> list[Link]:
    """Return links to the contours of the study, in the order of the images."""
    index_of = {image.path: image.index for image in study.images}
    names = sorted({name for _, name in study.contours} | {*study.clean.classes})
    one_of = {link.dicom_path: link for link in links}
    found = []
    for path, link in one_of.items():
        index = index_of[path]
        labels = [name for name in names if study.contours.get((index, name))]
        for name in labels:
            is_new = (index, name) in changed
            found.append(
                link._replace(
                    contour_path=CHANGED if is_new else CLEAN,
                    label=name,
                    contour_key=key_of(index, name),
                    format=StudyContours.format,
                )
            )
        if not labels:
            found.append(
                link._replace(contour_path="", label="", contour_key="", format="")
            )
    return found
