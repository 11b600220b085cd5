"""How large a report is, how long it takes to write, and to open in a browser.

    python -m benchmarks.quality.report --findings 1000

Findings are written down for a phantom of images of 256 x 256, or for the samples of
`--store`. Chromium opens the page, if it is there. The table has, from the begin of
the navigation, the times until the first text is painted; until filters and keys
work; until the first picture is shown; and until all of the file is read, with the
data of all pictures. Those of a finding are decoded when it comes near the screen:
the last time is from following a link to a finding far below until all its pictures
are shown.
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
STEPS = 10
OPENED = ("text painted", "filters and keys", "first picture", "all loaded")
WATCH = """
function look() {
  const image = document.querySelector("article img");
  if (image && image.complete && image.naturalWidth) performance.mark("pictures");
  else requestAnimationFrame(look);
}
requestAnimationFrame(look);
"""
TIMES = """
const [page] = performance.getEntriesByType("navigation");
const [painted, ready, pictures] = ["first-contentful-paint", "ready", "pictures"]
  .map((name) => performance.getEntriesByName(name)[0].startTime);
return [painted, ready, pictures, page.loadEventEnd];
"""
# Goes to a finding by its number.
GO = """
const [number, done] = arguments;
const start = performance.now();
const card = document.querySelectorAll("article")[number];
location.hash = card.id;
addEventListener("hashchange", async () => {
  await Promise.all([...card.querySelectorAll("img")].map((image) => image.decode()));
  requestAnimationFrame(() => done(performance.now() - start));
}, { once: true });
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
            rows += open_page(page, len(findings))
        if options.keep:
            shutil.copy(page, options.keep)
    print(table_of([("report", ""), *rows]))


def make_store(folder: Path, options: argparse.Namespace) -> Path:
    """Build a store of a phantom."""
    study = fastseg.make_phantom(
        folder / "study", patients=options.patients, sizes=256, slices=8, phases=4
    )
    return fastseg.build(fastseg.link(study), folder / "s.h5", threads=2).path


def open_page(page: Path, findings: int) -> list[tuple[str, str]]:
    """Return the medians of the times until the page is open, and of going on in it."""
    driver = start_browser()
    try:
        times, steps = [], []
        watch = {"source": WATCH}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", watch)
        for _ in range(ROUNDS):
            driver.get("about:blank")
            driver.get(page.as_uri())
            times.append(driver.execute_script(TIMES))
            for number in np.linspace(0, findings - 1, STEPS + 1).astype(int)[1:]:
                steps.append(driver.execute_async_script(GO, int(number)))
    finally:
        driver.quit()
    medians = np.median(times, axis=0) / 1000
    rows = [
        (f"{name} after", f"{seconds:.2f} s")
        for name, seconds in zip(OPENED, medians, strict=True)
    ]
    return [*rows, ("to another finding", f"{np.median(steps) / 1000:.2f} s")]


if __name__ == "__main__":
    main()
