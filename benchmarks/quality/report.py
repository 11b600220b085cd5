"""How large a report is, how long it takes to write, and to open in a browser.

    python -m benchmarks.quality.report --findings 1000

Findings are written down for a phantom of images of 256 x 256, or for the samples of
`--store`. Chromium opens the page, if it is there: the table has the time until the
first finding is painted, and until the page is complete and its script has run.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import fastseg
from benchmarks.tables import table_of
from fastseg.quality.report.page import write_report
from tests.quality.report.browser import BROWSER, start_browser
from tests.quality.report.findings import some_findings

ROUNDS = 5
TIMES = """
const [page] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return [paint.startTime, page.loadEventEnd];
"""


def main() -> None:
    """Write a report, open it some times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--findings", type=int, default=1000)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--store", type=Path, help="instead of a phantom")
    parser.add_argument("--keep", type=Path, help="keep the page under this name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = fastseg.open(options.store or make_store(Path(folder), options))
        findings = some_findings(store, options.findings)
        page = Path(folder) / "report.html"
        wall, processor = time.perf_counter(), time.process_time()
        write_report(page, findings)
        wall = time.perf_counter() - wall
        processor = time.process_time() - processor
        rows = [
            ("findings", str(len(findings))),
            ("samples", str(len(store))),
            ("size", f"{page.stat().st_size / 1e6:.1f} MB"),
            ("to write", f"{wall:.1f} s, {processor:.1f} s of processors"),
        ]
        if BROWSER:
            painted, complete = open_page(page)
            rows += [("painted after", painted), ("complete after", complete)]
        if options.keep:
            shutil.copy(page, options.keep)
    print(table_of([("report", ""), *rows]))


def make_store(folder: Path, options: argparse.Namespace) -> Path:
    """Build a store of a phantom."""
    study = fastseg.make_phantom(
        folder / "study", patients=options.patients, sizes=256, slices=8, phases=4
    )
    return fastseg.build(fastseg.link(study), folder / "s.h5", threads=2).path


def open_page(page: Path) -> tuple[str, str]:
    """Return the medians of the times until it is painted, and complete."""
    driver = start_browser()
    try:
        times = []
        for _ in range(ROUNDS):
            driver.get("about:blank")
            driver.get(page.as_uri())
            times.append(driver.execute_script(TIMES))
    finally:
        driver.quit()
    painted, complete = np.median(times, axis=0).tolist()
    return f"{painted / 1000:.2f} s", f"{complete / 1000:.2f} s"


if __name__ == "__main__":
    main()
