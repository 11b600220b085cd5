"""What a build needs of memory, whatever the size of the data set."""

import gc
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import fastseg
from fastseg import spool
from fastseg.ingest import fast_path, plan
from fastseg.links import LinkTable
from fastseg.store import checks
from fastseg.store.writing import hdf5_index, older_store, partial, totals

# Bytes for each further image that a build may hold: a new one, one of which nothing
# and one of which something has changed. They are up to 95, 45 and 205, numbers in
# columns and what waits to be collected. An image's slots alone, kept for each in a
# list, would be 40 more; its row of the table, as Python's objects, 500.
A_FEW = 130, 70, 240


@pytest.fixture
def tables(request, tmp_path, monkeypatch):
    """Two tables of copies of an image with its contour, and the images of each.

    What is handled at once is little, so that nothing else hides behind it.
    """
    monkeypatch.setattr(spool, "SORTED_AT_ONCE", 64)
    monkeypatch.setattr(spool, "MERGED_AT_ONCE", 8)
    monkeypatch.setattr(plan, "BLOCK_SIZE", 32)
    monkeypatch.setattr(fast_path, "MASK_PIXELS_AT_ONCE", 2**14)
    for name, size in fast_path.BUFFER_BYTES.items():
        monkeypatch.setitem(fast_path.BUFFER_BYTES, name, size // 64)
    monkeypatch.setattr(spool, "BYTES_IN_MEMORY", 2**14)
    monkeypatch.setattr(totals, "FILES_AT_ONCE", 64)
    monkeypatch.setattr(partial, "ITEMS_AT_ONCE", 64)
    monkeypatch.setattr(hdf5_index, "COPIED_AT_ONCE", 2**14)
    monkeypatch.setattr(older_store, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(checks, "RUN", 64)
    study = fastseg.make_phantom(
        tmp_path / "study", patients=1, sizes=32, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    contour = (study / link.contour_path).read_bytes()
    links = []
    for k in range(3_000):
        name = f"{k}"
        (tmp_path / f"{name}.dcm").write_bytes(image[:-4] + k.to_bytes(4, "little"))
        (tmp_path / f"{name}.txt").write_bytes(contour)
        paths = {"dicom_path": f"{name}.dcm", "contour_path": f"{name}.txt"}
        links.append(replace(link, root=".", **paths))
    tables = {}
    for count in (1_000, 3_000):
        few = links[:count]
        if request.param == "shuffled":
            random.Random(count).shuffle(few)
        table = LinkTable(base=tmp_path, links=tuple(few))
        tables[count] = table.save(tmp_path / f"{count}.csv")
    return tables


def peak_of(table, output, **options):
    """Return the most bytes that Python and numpy held during a build."""
    gc.collect()
    tracemalloc.start()
    try:
        report = fastseg.build(table, output, **options)
        return report, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tables", "options"),
    [
        ("sorted", {"compress": True}),
        ("shuffled", {"threads": 2}),
    ],
    indirect=["tables"],
)
def test_memory_hardly_grows_with_the_images(tables, tmp_path, options):
    """Whatever is built, nothing that an image has is kept but a few numbers."""
    if "compress" in options:
        pytest.importorskip("zstandard")
    peaks = []
    # What is done but once in a process has been done when it counts.
    for name, count in (("warm", 1_000), ("few", 1_000), ("many", 3_000)):
        output, table = tmp_path / name, tables[count]
        runs = [peak_of(table, output, **options) for _ in range(2)]
        (tmp_path / "7.txt").write_text("5 5\n5 9\n9 9\n")
        runs.append(peak_of(table, output, **options))
        (tmp_path / "7.txt").write_bytes((tmp_path / "8.txt").read_bytes())
        assert [report.reused for report, _ in runs] == [0, count, count - 1]
        peaks.append([peak for _, peak in runs])
    growth = [(many - few) / 2_000 for few, many in zip(*peaks[1:], strict=True)]
    assert all(np.array(growth) < A_FEW), growth
