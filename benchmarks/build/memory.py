"""Memory of a build by the number of images and of threads.

    python benchmarks/build_memory.py [COUNT ...]

Each image is a copy of one DICOM file under another name, with a contour. Every build
is a process of its own, so that the peak of its resident memory is its own as well; the
table of links is part of it. Written files are removed.
"""

import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastseg
from fastseg.links import Link, LinkTable

SIDE = 256
COUNTS = (500, 5_000, 20_000)
BUILD = """
import resource, sys, fastseg
links, output, threads = sys.argv[1:]
report = fastseg.build(links, output, threads=int(threads))
print(report.samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main() -> None:
    """Print a table: a row for each number of images and of threads."""
    counts = [int(text) for text in sys.argv[1:]] or COUNTS
    print("| images | threads | store (MB) | time (s) | peak (MB) |")
    print("|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="fastseg-memory-") as folder:
        root = Path(folder)
        image, ring = draw(root)
        for count in counts:
            links = link_copies(root, image, ring, count)
            for threads in (1, 2, 8):
                print_row(root, links, threads)


def draw(root: Path) -> tuple[bytes, bytes]:
    """Return the content of an image file and of a contour file."""
    study = fastseg.make_phantom(
        root / "study", patients=1, sizes=SIDE, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    return (study / link.dicom_path).read_bytes(), (
        study / link.contour_path
    ).read_bytes()


def link_copies(root: Path, image: bytes, ring: bytes, count: int) -> Path:
    """Write so many copies and return a table that links them."""
    (root / "copies").mkdir(exist_ok=True)
    links = []
    for k in range(count):
        name = f"copies/{k:06}"
        if not (root / f"{name}.dcm").exists():
            # The last pixel differs, so that no two images are alike.
            (root / f"{name}.dcm").write_bytes(image[:-4] + k.to_bytes(4, "little"))
            (root / f"{name}.txt").write_bytes(ring)
        links.append(
            Link(
                patient="PHANTOM0001",
                dicom_path=f"{name}.dcm",
                contour_path=f"{name}.txt",
                label="icontour",
                format="sunnybrook",
            )
        )
    return LinkTable(base=root, links=tuple(links)).save(root / "links.csv")


def print_row(root: Path, links: Path, threads: int) -> None:
    """Build in a process of its own and print what it took."""
    output = root / "store.h5"
    gc.collect()
    os.sync()
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(links), str(output), str(threads)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    samples, peak = map(int, run.stdout.split())
    size = output.stat().st_size / 1e6
    print(
        f"| {samples} | {threads} | {size:.0f} | {seconds:.1f} | {peak} |", flush=True
    )
    output.unlink()


if __name__ == "__main__":
    main()
