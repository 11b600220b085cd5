"""Memory of a build by the number of images and of threads.

    python -m benchmarks.build.memory [COUNT ...]

Each image is a copy of one DICOM file under another name, with a contour. Every build
runs in a process of its own, so that the peak of resident memory is that of this build;
it contains the links table. Written files are removed.
"""

import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastseg
from benchmarks.inputs import PROJECT, SIDE
from benchmarks.tables import table_of
from fastseg.links import Link, LinkTable

COUNTS = (500, 5_000, 20_000)
THREADS = (1, 2, 8)
BUILD = """
import resource, sys, fastseg
links, output, threads = sys.argv[1:]
report = fastseg.build(links, output, threads=int(threads))
print(report.samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main() -> None:
    """Print a table: a row for each number of images and of threads."""
    counts = [int(text) for text in sys.argv[1:]] or COUNTS
    print(
        table_of([["images", "threads", "store (MB)", "time (s)", "peak (MB)"]]), end=""
    )
    with tempfile.TemporaryDirectory(prefix="fastseg-memory-") as folder:
        root = Path(folder)
        image, ring = draw(root)
        for count in counts:
            links = link_copies(root, image, ring, count)
            for threads in THREADS:
                print(f"| {' | '.join(build(root, links, threads))} |", flush=True)


def draw(root: Path) -> tuple[bytes, bytes]:
    """Return the content of an image file and of a contour file."""
    study = fastseg.make_phantom(
        root / "study", patients=1, sizes=SIDE, slices=1, phases=2
    )
    link = fastseg.link(study).links[0]
    image = (study / link.dicom_path).read_bytes()
    return image, (study / link.contour_path).read_bytes()


def link_copies(root: Path, image: bytes, ring: bytes, count: int) -> Path:
    """Write a number of copies and return a table that links them."""
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


def build(root: Path, links: Path, threads: int) -> list[str]:
    """Build in a process of its own and return the row of the table."""
    output = root / "store.h5"
    gc.collect()
    os.sync()
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(links), str(output), str(threads)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    seconds = time.perf_counter() - start
    samples, peak = run.stdout.split()
    size = output.stat().st_size / 1e6
    output.unlink()
    return [samples, str(threads), f"{size:.0f}", f"{seconds:.1f}", peak]


if __name__ == "__main__":
    main()
