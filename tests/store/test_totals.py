"""`Totals`: the rows of /sources and the widths of string columns."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastseg.store.writing.records import Records, as_texts, meta_dtype
from fastseg.store.writing.totals import Totals

files = st.tuples(
    st.text("aä/é\U0001f600", min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from([0, 1, 2**63, 2**64 - 1]),
)


def record(named, patient=""):
    """Return the record of one item with these files."""
    return Records(
        links=np.zeros(1, "<u8"),
        offsets=np.zeros((1, 4), "<i8"),
        patient=as_texts([patient]),
        series=as_texts([""]),
        modality=as_texts([""]),
        sop_instance=as_texts([""]),
        frame_of_reference=as_texts([""]),
        file_counts=np.array([len(named)], "<i8"),
        stamps=np.zeros((len(named), 4), "<i8"),
        path=as_texts(path for path, _, _ in named),
        size=np.array([size for _, size, _ in named], "<i8"),
        xxh3=np.array([digest for *_, digest in named], "<u8"),
        rings=np.zeros((0, 5), "<i8"),
        meta=np.zeros(1, meta_dtype(())),
        points=np.empty((0, 2)),
        histograms=np.zeros((0, 6), "<i8"),
        moments=np.empty((0, 2)),
        codes=np.empty(0, "u1"),
    )


@given(st.lists(st.lists(files, max_size=3), max_size=6))
def test_files_are_listed_once_in_the_order_of_first_use(groups):
    """/sources has each file once; `file_rows` gives the row of each use."""
    totals = Totals(map(record, groups))
    added = [file for named in groups for file in named]
    listed = [file for file, first in zip(added, totals.is_first, strict=True) if first]
    assert listed == list(dict.fromkeys(added))
    assert totals.sources == len(listed)
    assert [listed[row] for row in totals.file_rows] == added


@given(st.lists(st.text("aä\U0001f600", max_size=4), max_size=6))
def test_the_longest_text_is_counted_in_bytes(patients):
    """A column is as wide as its longest text in UTF-8, and at least one byte."""
    totals = Totals(record([], patient) for patient in patients)
    longest = max((len(patient.encode()) for patient in patients), default=0)
    assert totals.longest["patient"] == max(longest, 1)
