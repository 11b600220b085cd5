"""What a build needs of memory, whatever the size of the data set."""

import gc
import tracemalloc
from dataclasses import replace

import pytest

import fastseg
from fastseg import scratch
from fastseg.links import LinkTable
from fastseg.store import partial, tally

# Bytes for each further image. Only what stands in a few columns is kept, some 20; the
# rest is chance. A row of the table alone would be 500 as Python's objects.
A_FEW = 200


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Two tables of copies of an image with its contour, and the images of each."""
    monkeypatch.setattr(scratch, "SORTED_AT_ONCE", 64)
    monkeypatch.setattr(scratch, "BYTES_IN_MEMORY", 2**14)
    monkeypatch.setattr(tally, "FILES_AT_ONCE", 64)
    monkeypatch.setattr(partial, "ITEMS_AT_ONCE", 128)
    study = fastseg.make_phantom(
        tmp_path / "study", patients=1, sizes=32, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    contour = (study / link.contour_path).read_bytes()
    links = []
    for k in range(2_000):
        name = f"{k}"
        (tmp_path / f"{name}.dcm").write_bytes(image[:-4] + k.to_bytes(4, "little"))
        (tmp_path / f"{name}.txt").write_bytes(contour)
        paths = {"dicom_path": f"{name}.dcm", "contour_path": f"{name}.txt"}
        links.append(replace(link, root=".", **paths))
    return {
        count: LinkTable(base=tmp_path, links=tuple(links[:count])).save(
            tmp_path / f"{count}.csv"
        )
        for count in (500, 2_000)
    }


def peak_of(table, output, **options):
    """Return the most bytes that Python and numpy held during a build."""
    gc.collect()
    tracemalloc.start()
    try:
        report = fastseg.build(table, output, **options)
        return report, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compress", [False, True])
def test_memory_hardly_grows_with_the_images(tables, tmp_path, compress):
    """A new build, one of which nothing and one of which something has changed."""
    if compress:
        pytest.importorskip("zstandard")
    fastseg.build(tables[500], tmp_path / "warm.h5", compress=compress)
    peaks = {}
    for count, table in tables.items():
        output = tmp_path / f"{count}.h5"
        runs = [peak_of(table, output, compress=compress) for _ in range(2)]
        (tmp_path / "7.txt").write_text("5 5\n5 9\n9 9\n")
        runs.append(peak_of(table, output, compress=compress))
        (tmp_path / "7.txt").write_bytes((tmp_path / "8.txt").read_bytes())
        kept = [report.kept for report, _ in runs]
        assert kept == [0, count, count - 1]
        peaks[count] = [peak for _, peak in runs]
    few, many = peaks.values()
    for before, after in zip(few, many, strict=True):
        assert after - before < 1_500 * A_FEW
