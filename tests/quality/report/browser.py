"""Starts a browser without a window, as the tests and benchmarks of the report do."""

import importlib.util
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
# What is missing, "" if nothing is.
MISSING = ", ".join(
    name
    for name, is_there in (
        ("chromium", CHROMIUM),
        ("chromedriver", DRIVER),
        ("selenium", importlib.util.find_spec("selenium")),
    )
    if not is_there
)
BROWSER = not MISSING


def start_browser(**logs):
    """Return selenium's driver of Chromium; `logs` are levels of those to be kept."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", logs)
    # The sandbox needs rights that a container may lack; the page is our own.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1280, 900)
    return driver
