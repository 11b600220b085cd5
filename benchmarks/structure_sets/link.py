"""Link a tree of CT headers and structure sets, beside pydicom.

    python -m benchmarks.structure_sets.link [--series 50] [--slices 200] [--rounds 5]
        [--no-save]

10 000 CT files with the elements that scanners write and small pixels, as no header
needs them, and 50 structure sets of 600 contours. All are in the page cache. Whoever
links must read the header of each image and all of each structure set; the loops by
pydicom are

- the headers alone: `dcmread(path, stop_before_pixels=True)` of every file, which reads
  structure sets, too, but leaves their contours as bytes
- a plain loop that links: it finds the contours of each image by the SOP instances that
  they reference, and looks at no coordinate; its links must be ours
- the bytes of all files, read and nothing else: less than anybody can do

All take turns in each round; a ratio is that of two calls of one round.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

import fastseg
from benchmarks.dicom.race import read_bytes
from benchmarks.structure_sets.clinic import ORGANS, OUTLINED, make_clinic
from benchmarks.tables import publish, split_page, spread, table_of

SIDE = 32
OURS = "**fastseg.link**"
HEADERS, LOOP = "pydicom, the headers alone", "pydicom, a plain loop that links"
BYTES = "the bytes alone"


def paths_below(root):
    """Yield the paths of all files, as programs do."""
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.join(folder, name)  # noqa: PTH118


def link_by_fastseg(root):
    """Return the LinkTable."""
    return fastseg.link(root, slices="series")


def links_of(table):
    """Return {(image, class)} of all contours of a LinkTable."""
    assert not table.rejects, table.rejects[:3]
    base = f"{table.base}{os.sep}"
    links = table.links
    return {(base + link.dicom_path, link.label) for link in links if link.label}


def link_by_pydicom(root):
    """Return the same as `links_of`, by SOP instances, wherever the contours lie."""
    images = {}
    sets = []
    for path in paths_below(root):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        if ds.Modality == "RTSTRUCT":
            sets.append(ds)
        else:
            images[ds.SOPInstanceUID] = path
    links = set()
    for ds in sets:
        names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
        for roi in ds.ROIContourSequence:
            name = names[roi.ReferencedROINumber]
            for contour in roi.ContourSequence:
                for image in contour.ContourImageSequence:
                    links.add((images[image.ReferencedSOPInstanceUID], name))
    return links


def read_headers(root):
    """Read the headers of all files by pydicom."""
    for path in paths_below(root):
        pydicom.dcmread(path, stop_before_pixels=True)


def read_all_bytes(root):
    """Read all files."""
    for path in paths_below(root):
        read_bytes(path)


SIDES = {
    OURS: link_by_fastseg,
    HEADERS: read_headers,
    LOOP: link_by_pydicom,
    BYTES: read_all_bytes,
}


def measure(root, rounds):
    """Return the seconds of each side, float64 (rounds,), by name."""
    # This fills the page cache.
    if links_of(link_by_fastseg(root)) != link_by_pydicom(root):
        sys.exit("the links are not the same")
    seconds = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, side in SIDES.items():
            start = time.perf_counter()
            side(root)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def rows_of(seconds, files):
    """Yield the rows of the table."""
    yield "", "µs a file (median)", "times fastseg (median, quartiles)"
    for name, values in seconds.items():
        micros = f"{np.median(values) / files * 1e6:.0f}"
        yield name, micros, spread(values / seconds[OURS], "{:.2f}")


def main():
    """Make the files, measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--series", type=int, default=50)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    if not arguments.no_save:
        split_page("structure_sets_link")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        size = make_clinic(root, arguments.series, arguments.slices, SIDE)
        files = arguments.series * (arguments.slices + 1)
        seconds = measure(root, arguments.rounds)
    contours = min(arguments.slices, OUTLINED) * len(ORGANS)
    images = arguments.series * arguments.slices
    text = (
        f"{table_of(rows_of(seconds, files))}\n{images:,} CT files and "
        f"{arguments.series} structure sets of {contours} contours of 100 vertices, "
        f"{size / 1e6:.0f} MB in the page cache; {arguments.rounds} rounds on "
        f"{os.cpu_count()} cores ({platform.machine()}); links equal; pydicom "
        f"{pydicom.__version__}, {time.strftime('%Y-%m-%d')}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("structure_sets_link", text)


if __name__ == "__main__":
    main()
