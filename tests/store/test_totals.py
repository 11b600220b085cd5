"""`Totals`: the rows of /sources and the widths of string columns."""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastseg import spool
from fastseg.store.writing import totals
from fastseg.store.writing.records import Record, Source, gather, meta_dtype

HERE = Path(tempfile.gettempdir())

sources = st.builds(
    Source,
    st.text("aä/é\U0001f600", min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from([0, 1, 2**63, 2**64 - 1]),
)


def record(files, patient=""):
    meta = bytes(meta_dtype(()).itemsize)
    stamps = ((0,) * 4,)
    points = np.empty((0, 2))
    return Record(0, (0, 0), stamps, patient, "", tuple(files), (), meta, points)


@given(
    st.lists(st.lists(sources, max_size=3), max_size=6),
    st.sampled_from([1, 2, 5, 1000]),
    st.sampled_from([1, 3, 1000]),
)
def test_files_are_listed_once_and_in_order(groups, sorted_at_once, listed_at_once):
    """/sources has each file once, sorted, and `rows` gives the row of each file."""
    with (
        mock.patch.object(spool, "SORTED_AT_ONCE", sorted_at_once),
        mock.patch.object(totals, "FILES_AT_ONCE", listed_at_once),
    ):
        counted = totals.Totals(HERE)
        for files in groups:
            counted.add(gather([record(files)], ()))
        count, rows = counted.rows()
        listed = [
            (path.decode(), size, digest)
            for columns in counted.sources()
            for path, size, digest in zip(*columns.values(), strict=True)
        ]
    assert len(listed) == count
    added = [file for files in groups for file in files]
    assert listed == sorted(set(added))
    assert [listed[row] for row in rows] == added


@given(st.lists(st.text("aä\U0001f600", max_size=4), max_size=6))
def test_the_longest_text_is_counted_in_bytes(patients):
    """A column is as wide as its longest text in UTF-8, and at least one byte."""
    counted = totals.Totals(HERE)
    for patient in patients:
        counted.add(gather([record([], patient)], ()))
    longest = max((len(patient.encode()) for patient in patients), default=0)
    assert counted.longest["patient"] == max(longest, 1)
