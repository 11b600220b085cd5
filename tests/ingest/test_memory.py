"""A build holds a few columns of each image, and no objects, in memory."""

import gc
import random
import tracemalloc

import numpy as np
import pytest

import fastseg
from fastseg import links as links_module
from fastseg.ingest import annotations, images, items, plan
from fastseg.links import LinkTable
from fastseg.store import checks
from fastseg.store.writing import hdf5_index, older_store, partial

# Most bytes that each further image may add to the peak: in a first build, in one
# without changes, and in one with a change. Measured are up to 335, 245 and 340: the
# columns of the links table, the plan, and the rows of /sources. A row of the table as
# a Python object would add 500.
MOST_BYTES_PER_IMAGE = 420, 320, 420
# Images of the two builds that are compared.
FEW, MANY = 400, 1_200


@pytest.fixture
def tables(request, tmp_path, monkeypatch):
    """Two tables of copies of an image with its contour, by their number of images.

    All buffers are made small, so that they do not hide what grows with the images.
    """
    monkeypatch.setattr(links_module, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(plan, "TAKEN_AT_ONCE", 64)
    monkeypatch.setattr(plan, "BLOCK_SIZE", 32)
    monkeypatch.setattr(items, "MASK_PIXELS_AT_ONCE", 2**14)
    monkeypatch.setattr(items, "HASHED_AT_ONCE", 2**15)
    monkeypatch.setattr(images, "BUFFER_BYTES", 2**14)
    monkeypatch.setattr(annotations, "TEXT_BYTES", 2**14)
    monkeypatch.setattr(partial, "ITEMS_AT_ONCE", 64)
    monkeypatch.setattr(hdf5_index, "COPIED_AT_ONCE", 2**14)
    monkeypatch.setattr(older_store, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(checks, "SAMPLES_AT_ONCE", 64)
    study = fastseg.make_phantom(
        tmp_path / "study", patients=1, sizes=32, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    contour = (study / link.contour_path).read_bytes()
    links = []
    for k in range(MANY):
        name = f"{k}"
        (tmp_path / f"{name}.dcm").write_bytes(image[:-4] + k.to_bytes(4, "little"))
        (tmp_path / f"{name}.txt").write_bytes(contour)
        paths = {"dicom_path": f"{name}.dcm", "contour_path": f"{name}.txt"}
        links.append(link._replace(root=".", **paths))
    tables = {}
    for count in (FEW, MANY):
        chosen = links[:count]
        if request.param == "shuffled":
            random.Random(count).shuffle(chosen)
        table = LinkTable(base=tmp_path, links=tuple(chosen))
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
    """A build keeps the table and a few numbers of each image in memory."""
    if "compress" in options:
        pytest.importorskip("zstandard")
    peaks = []
    # The first build pays for what a process does only once; its peaks do not count.
    for name, count in (("warm", FEW), ("few", FEW), ("many", MANY)):
        output = tmp_path / name
        table = tables[count]
        runs = [peak_of(table, output, **options) for _ in range(2)]
        (tmp_path / "7.txt").write_text("5 5\n5 9\n9 9\n")
        runs.append(peak_of(table, output, **options))
        (tmp_path / "7.txt").write_bytes((tmp_path / "8.txt").read_bytes())
        assert [report.reused for report, _ in runs] == [0, count, count - 1]
        peaks.append([peak for _, peak in runs])
    growth = [(many - few) / (MANY - FEW) for few, many in zip(*peaks[1:], strict=True)]
    assert all(np.array(growth) < MOST_BYTES_PER_IMAGE), growth
