"""The report in a browser: it opens, filters, pages and asks nobody for anything."""

import base64
import json
import time

import pytest

import fastseg
from fastseg.errors import CopiesWarning
from fastseg.findings_table import read_rows
from fastseg.quality.report.page import write_report
from tests.quality.report.browser import BROWSER, MISSING, start_browser
from tests.quality.report.findings import finding, findings_of

pytestmark = pytest.mark.skipif(not BROWSER, reason=f"not installed: {MISSING}")


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    try:
        driver = start_browser(browser="ALL", performance="ALL")
    except Exception as exc:
        pytest.skip(f"chromium does not start: {str(exc)[:200]}")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(findings, tmp_path_factory):
    """Address of a report."""
    folder = tmp_path_factory.mktemp("browser")
    accepted = {findings[-1].identity}
    return write_report(folder / "r.html", findings.accepting(accepted)).as_uri()


@pytest.fixture
def opened(browser, url):
    """The browser with the report, freshly opened; checks what it says at the end."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(url)
    yield browser
    check_logs(browser, url)


def check_logs(browser, url):
    """Nothing in the console, and nothing was asked for but the page."""
    assert browser.get_log("browser") == []
    messages = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    ]
    asked = {
        message["params"]["request"]["url"].split("#")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {x for x in asked if not x.startswith("data:")} <= {url.split("#")[0]}
    assert asked


def shown(browser):
    """Return the identities of the findings that filters leave."""
    script = "return [...document.querySelectorAll('article')]"
    return browser.execute_script(f"{script}.filter(x => !x.hidden).map(x => x.id)")


def pictured(browser):
    """Return of each finding whether its pictures are made."""
    script = "return [...document.querySelectorAll('article')]"
    return browser.execute_script(f"{script}.map(x => !!x.querySelector('img'))")


def wait_until(condition):
    """Wait some seconds until a condition holds."""
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def press(browser, keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(keys).perform()


def choose(browser, name, value):
    """Choose an option of a filter, as a person does."""
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("name", name)).select_by_value(value)


def in_view(browser, identity):
    """Wait until the top of a finding is on the screen; return whether it is."""
    for _ in range(50):
        top = browser.execute_script(
            "return document.getElementById(arguments[0]).getBoundingClientRect().top",
            identity,
        )
        if -5 <= top < 400:
            return True
        time.sleep(0.05)
    return False


def test_it_opens_with_all_findings(opened, findings):
    """From file://; pictures are made before a finding comes into view."""
    assert len(shown(opened)) == len(findings)
    assert opened.find_element("id", "status").text == f"{len(findings)} findings"
    assert pictured(opened)[0]
    assert not pictured(opened)[-1]
    opened.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    wait_until(lambda: pictured(opened)[-1])
    # All of them can be decoded.
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(pictured(opened))
    sizes = opened.execute_async_script(
        "const done = arguments[0];"
        "const all = [...document.images];"
        "Promise.all(all.map(x => x.decode())).then("
        "() => done(all.map(x => x.naturalWidth)), (e) => done(String(e)))"
    )
    assert isinstance(sizes, list), sizes
    assert min(sizes) > 0
    assert len(sizes) > len(findings)


def test_filters(opened, findings):
    """By severity, patient, class, text and acceptance; one button ends all."""
    store = findings.store
    opened.find_element("css selector", ".chip.note").click()
    expected = {f.identity for f in findings if f.severity != "note"}
    assert set(shown(opened)) == expected
    opened.find_element("id", "clear").click()
    assert len(shown(opened)) == len(findings)

    patient = findings.facts.patient_names[0]
    choose(opened, "patient", "0")
    expected = {f.identity for f in findings.of(patient=patient)}
    assert set(shown(opened)) == expected
    choose(opened, "class", "1")
    expected &= {f.identity for f in findings.of(label=store.classes[1])}
    assert set(shown(opened)) == expected
    opened.find_element("id", "clear").click()

    choose(opened, "accepted", "1")
    assert shown(opened) == [findings[-1].identity]
    opened.find_element("id", "clear").click()

    opened.find_element("name", "text").send_keys("Number 31: not as")
    assert shown(opened) == [f.identity for f in findings if "number 31:" in f.text]
    assert "1 of 40" in opened.find_element("id", "status").text
    opened.find_element("id", "clear").click()

    number = findings.rules.index(findings[0].rule)
    opened.find_element("css selector", f"button[data-rule='{number}']").click()
    assert set(shown(opened)) == {
        f.identity for f in findings.of(rule=findings[0].rule)
    }


def test_keys_page_through(opened, findings):
    """Forwards, back, and to the search; the address follows."""
    order = shown(opened)
    press(opened, "j")
    assert opened.current_url.endswith(f"#{order[0]}")
    press(opened, "jjj")
    assert opened.current_url.endswith(f"#{order[3]}")
    assert in_view(opened, order[3])
    press(opened, "k")
    press(opened, "\ue014")  # to the right
    press(opened, "\ue012")  # to the left
    assert opened.current_url.endswith(f"#{order[2]}")
    assert in_view(opened, order[2])
    press(opened, "c")
    outline = opened.find_element("css selector", f"[id='{order[2]}'] .view .o")
    assert not outline.is_displayed()
    press(opened, "c/jk")
    assert opened.find_element("name", "text").get_attribute("value") == "jk"
    assert shown(opened) == []


def test_a_link_leads_to_one_finding(opened, url, findings):
    """Also if it is far down, and if filters hide it."""
    order = shown(opened)
    opened.get("about:blank")
    opened.get(f"{url}#{order[30]}")
    assert in_view(opened, order[30])
    opened.find_element("css selector", ".chip.error").click()
    opened.execute_script(f"location.hash = '{order[0]}'")
    assert in_view(opened, order[0])
    assert len(shown(opened)) == len(findings)


def test_a_picture_is_enlarged(opened):
    """A click opens it, a key closes it."""
    opened.find_element("css selector", "article .view").click()
    image = opened.find_element("css selector", "dialog .view img")
    outlines = opened.find_element("css selector", "dialog .view svg")
    assert image.size == pytest.approx(outlines.size, abs=1)
    assert image.size["height"] > 500
    press(opened, "\ue00c")
    assert not image.is_displayed()


def test_the_data_set_and_the_rules_have_pages(opened):
    """Opened by a click; only one is shown at a time."""
    for name in ("dataset", "rules", "findings"):
        opened.find_element("css selector", f"nav [href='#{name}']").click()
        sections = opened.find_elements("css selector", "main > section")
        visible = [x.get_attribute("class") for x in sections if x.is_displayed()]
        assert visible == [f"{name} open"]


def test_it_prints(opened):
    """Into a PDF with the pages of all tabs, and the pictures of what filters leave."""
    choose(opened, "patient", "0")
    count = len(shown(opened))
    assert not all(pictured(opened))
    pdf = base64.b64decode(opened.print_page())
    numbers = opened.execute_script(
        "return [...document.querySelectorAll('article:not([hidden])')]"
        ".map(x => x.querySelectorAll('img').length)"
    )
    assert len(numbers) == count
    assert min(numbers) > 0
    # Images that are alike are there once.
    images = set(
        opened.execute_script(
            "return [...document.querySelectorAll('article:not([hidden]) img')]"
            ".map(x => x.src)"
        )
    )
    assert pdf.count(b"/Subtype /Image") >= len(images)


@pytest.fixture
def faulty(studies, tmp_path):
    """Findings of the sample data with faults."""
    with pytest.warns(CopiesWarning):
        store = fastseg.build(fastseg.link(studies["faulty"]), tmp_path / "f.h5").path
    return fastseg.check(store)


def test_what_is_accepted_is_saved_as_check_reads_it(
    browser, faulty, tmp_path, fastseg_command
):
    """By button and key, undone, kept by the browser, and no more reported then."""
    url = write_report(tmp_path / "r.html", faulty).as_uri()
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(url)
    order = shown(browser)
    assert not browser.find_element("id", "save").is_displayed()
    browser.find_element("css selector", f"[id='{order[0]}'] .accept").click()
    press(browser, "jja")
    browser.find_element("css selector", f"[id='{order[1]}'] .accept").click()
    choose(browser, "accepted", "1")
    assert shown(browser) == order[:3]
    # From the filter to the findings, to the third one, and accept it no more.
    press(browser, "\ue00c")
    press(browser, "ja")
    assert shown(browser) == [order[0], order[1]]
    totals = browser.find_element("id", "totals").text
    assert totals.startswith(f"{faulty.counts()['error'] - 2} errors")
    assert totals.endswith("2 accepted")

    browser.get("about:blank")
    browser.get(url)
    assert browser.find_element("id", "totals").text == totals
    assert browser.find_element("id", "forgetful").text == ""
    press(browser, "s")
    table = tmp_path / "accepted.csv"
    wait_until(lambda: table.exists() and table.read_text().endswith("\n"))
    check_logs(browser, url)
    assert {row.finding for row in read_rows(table)} == {*order[:2]}
    header, *rows = table.read_text().splitlines()
    whole = fastseg.write_findings(tmp_path / "all.csv", faulty).read_text()
    assert whole.startswith(header + "\n")
    assert {*rows} <= {*whole.splitlines()}

    done = fastseg_command("check", "f.h5", "--accept", "accepted.csv", "-o", "a.json")
    assert done.returncode == 4, done.stderr
    assert "2 accepted" in done.stdout
    after = json.loads((tmp_path / "a.json").read_text())["findings"]
    assert {x["finding"] for x in after if x["accepted"]} == {*order[:2]}
    again = fastseg.check(faulty.store, accept=table)
    browser.get(write_report(tmp_path / "r.html", again).as_uri())
    assert {*shown(browser)[-2:]} == {*order[:2]}


def test_a_browser_that_keeps_nothing_says_so(browser, url, findings):
    """What is accepted is forgotten, can be saved, and closing the page asks."""
    script = (
        "Object.defineProperty(window, 'localStorage', {get() { throw Error(); }});"
    )
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": script}
    )
    browser.get("about:blank")
    browser.get(url)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    browser.find_element("css selector", "article .accept").click()
    assert "1 accepted" not in browser.find_element("id", "totals").text
    assert "2 accepted" in browser.find_element("id", "totals").text
    assert "forgets" in browser.find_element("id", "forgetful").text
    asks = (
        "const event = new Event('beforeunload', {cancelable: true});"
        "dispatchEvent(event); return event.defaultPrevented"
    )
    assert browser.execute_script(asks)
    browser.find_element("id", "save").click()
    assert not browser.execute_script(asks)


def test_hostile_names_do_nothing(browser, hostile, tmp_path):
    """No script in them runs, nothing is loaded."""
    found = [
        finding(samples=(k,), classes=hostile.classes[:2], text=hostile.classes[k % 4])
        for k in range(len(hostile))
    ]
    path = write_report(tmp_path / "r.html", findings_of(hostile, found))
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    for name in ("dataset", "rules", "findings"):
        browser.find_element("css selector", f"nav [href='#{name}']").click()
    press(browser, "jjj")
    assert "hacked" not in browser.title
    run = browser.find_elements("css selector", "script:not([type='text/html'])")
    assert len(run) == 1
    check_logs(browser, path.as_uri())
