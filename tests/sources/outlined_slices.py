"""Structure sets on slices of `make_slice`, and what `link` finds of them."""

import re

import numpy as np
import pytest

import fastseg
from fastseg import dicom, sources
from fastseg.errors import RejectedWarning
from tests.sources.dicom_files import uid
from tests.structure_sets import (
    make_contour,
)

SQUARE = ((1, 1), (5, 1), (5, 5), (1, 5))
SMALL = ((2, 2), (4, 2), (4, 4), (2, 4))


def image(k, series="S1", patient="P1"):
    """Return the SOPInstanceUID of slice k of a series of `make_slice`."""
    return uid(patient, series, k)


def ring(k, pixels=SQUARE, *, dz=0.0):
    """Return points in mm, of pixels (x, y) of slice k of `make_slice`."""
    x, y = np.array(pixels, float).T
    return np.column_stack([x - 8, y - 8, np.full(len(x), 2.0 * k + dz)])


def contour(k, pixels=SQUARE, *, dz=0.0, series="S1", patient="P1", **options):
    """Return a contour on slice k that names its image."""
    options = {"images": [image(k, series, patient)], **options}
    return make_contour(ring(k, pixels, dz=dz), **options)


def bare(k, pixels=SQUARE, *, dz=0.0, **options):
    """Return a contour on slice k that names no image."""
    return make_contour(ring(k, pixels, dz=dz), **options)


def link(root, **options):
    """Return the table of a folder from which nothing is rejected."""
    table = fastseg.link(root, **options)
    assert table.rejects == ()
    return table


def link_some(root, **options):
    """Return the table of a folder and the reasons of its rejects, without paths."""
    with pytest.warns(RejectedWarning):
        table = fastseg.link(root, **options)
    return table, [reject.reason for reject in table.rejects]


def rows(table):
    """Return the rows with contours: image, class, key without the ROI's count."""
    return [
        (
            row.dicom_path.rpartition("/")[2],
            row.label,
            re.sub("/[0-9]+", "", row.contour_key),
        )
        for row in table.links
        if row.contour_path
    ]


def masks(table):
    """Return the mask of each image and class, drawn as a build draws it."""
    found = {}
    for row in table.links:
        if row.contour_path:
            reader = sources.reader_of(row)
            data = (table.base / row.contour_path).read_bytes()
            header = dicom.read_header(table.base / row.dicom_path, row.frame)
            shape = header.rows, header.columns
            parsed = reader.parse(data, row.contour_path)
            mask = found.setdefault((row.dicom_path, row.label), np.zeros(shape, bool))
            for group in reader.rings(parsed, row, header):
                mask |= fastseg.rasterize(group.rings, shape)
    return found
