"""The report: what it says, that names in it are inert, and what it replaces."""

import re
import sys
from html.parser import HTMLParser

import pytest

import fastseg
from fastseg.errors import MissingExtraError, OutputError
from fastseg.quality.findings_file import as_dict
from fastseg.quality.report import page
from fastseg.quality.report.page import write_report
from tests.quality.report.findings import (
    finding,
    findings_of,
    some_findings,
)


class Reader(HTMLParser):
    """Reads elements with their attributes, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.words = []
        # Text of pictures, which the page's script makes elements of.
        self.feed(re.sub('<script type="text/html" id="[^"]*">', "<div>", text))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(findings, tmp_path_factory):
    """The text of a report."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert fastseg.write_findings(path, findings) == path
    return path.read_text()


def test_the_page_has_every_finding_once(findings, report):
    """By its identity, with its severity, its sentence and where it is."""
    read = Reader(report)
    articles = read.all("article")
    assert sorted(a["id"] for a in articles) == sorted(f.identity for f in findings)
    assert [a["data-severity"] for a in articles] == [f.severity for f in findings]
    for one in findings:
        assert one.text in read.text
    assert findings.store.fingerprint in read.text
    for patient in findings.store.patients:
        assert patient in read.text
    for name in findings.store.classes:
        assert name in read.text


def test_the_page_needs_nothing_from_elsewhere(report):
    """All that it shows is inside; a policy forbids the rest; its links stay in it."""
    read = Reader(report)
    assert "link" not in {tag for tag, _ in read.elements if tag != "link"}
    sources = [a["src"] for a in read.all("img")]
    assert len(sources) > 40
    assert all(re.match(r"data:image/(jpeg|svg\+xml);base64,", s) for s in sources)
    assert [a["href"] for a in read.all("link")] == ["data:,"]
    assert all(a["href"].startswith("#") for a in read.all("a"))
    assert not [a for a in read.all("script") if a]
    (policy,) = [a["content"] for a in read.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [a for _, a in read.elements if "style" in a]
    assert not [n for _, a in read.elements for n in a if n.startswith("on")]


def test_the_same_findings_give_the_same_bytes(findings, report, tmp_path):
    """Whatever the number of threads."""
    path = write_report(tmp_path / "report.html", findings, threads=3)
    assert path.read_text() == report


def test_names_are_inert(hostile, tmp_path):
    """HTML in the names of patients, classes and files is text, in every place."""
    found = [
        finding(samples=(k,), classes=hostile.classes[:2], text=hostile.classes[k % 4])
        for k in range(len(hostile))
    ]
    path = write_report(tmp_path / "report.html", findings_of(hostile, found))
    text = path.read_text()
    read = Reader(text)
    assert len(read.all("script")) == 1
    assert all(a["src"].startswith("data:") for a in read.all("img"))
    assert not [n for _, a in read.elements for n in a if n.startswith("on")]
    assert "\u202e" not in text
    for name in (*hostile.classes, *hostile.patients):
        assert name.replace("\u202e", r"\u202e")[:30] in "".join(read.words)


def test_accepted_findings_are_shown_as_such(findings, tmp_path):
    """At the end, and they do not count."""
    accepted = {findings[0].identity, findings[5].identity}
    path = write_report(tmp_path / "report.html", findings.accepting(accepted))
    read = Reader(path.read_text())
    articles = read.all("article")
    assert {a["id"] for a in articles[-2:]} == accepted
    assert [a["data-accepted"] for a in articles] == ["0"] * 38 + ["1"] * 2
    errors = findings.counts()["error"] - 2
    assert f"{errors} errors" in read.text
    assert "2 accepted" in read.text


def test_the_page_says_which_thresholds_were_used(store, tmp_path):
    """And which were changed; and which rules were left out."""
    findings = fastseg.check(
        store, rules=["spike", "jump"], thresholds={"jump.factor": 7.5}
    )
    read = Reader(write_report(tmp_path / "report.html", findings).read_text())
    assert "jump.factor = 7.5" in read.text
    assert "by default 5)" in read.text
    assert "spike.length = 3" in read.text
    assert read.text.count("by default") == 1
    assert "constant-image left out of this check" in read.text
    assert as_dict(findings)["thresholds"] == findings.thresholds
    assert findings.thresholds["jump.factor"] == 7.5


def test_a_page_without_findings_says_what_was_asked(store, tmp_path):
    """And which rules were not, and why."""
    name = next(iter(findings_of(store, []).rules))
    found = findings_of(store, [], {name: "the store has no <b>contours</b>"})
    read = Reader(write_report(tmp_path / "report.html", found).read_text())
    assert "Nothing was found" in read.text
    assert "the store has no <b>contours</b>" in read.text


@pytest.mark.parametrize("count", [0, 3])
def test_a_page_of_any_store(count, small_study, tmp_path):
    """Of one sample, without contours, without spacing, compressed."""
    links = fastseg.link(small_study, slices="all")
    path = fastseg.build(links, tmp_path / "s.h5", compress=True).path
    store = fastseg.open(path)
    unlabelled = [k for k in range(len(store)) if not store[k].contours]
    found = [finding(samples=(k, 0)) for k in unlabelled[:count]]
    write_report(tmp_path / "report.html", findings_of(store, found))


def test_many_findings_have_few_pictures(store, tmp_path, monkeypatch):
    """Some of each rule have them, and the page says so; all are listed."""
    monkeypatch.setattr(page, "MOST_PICTURED", 5)
    path = write_report(tmp_path / "report.html", some_findings(store, 12))
    read = Reader(path.read_text())
    large = [a for a in read.all("figure") if a.get("class") == "large"]
    assert len(large) == 5
    assert len(read.all("article")) == 12
    assert "7 have none" in read.text


def test_pictures_fit_into_the_page(store, tmp_path, monkeypatch):
    """They are made coarser until they do."""
    sizes = []
    for limit in (26_000_000, 150_000):
        monkeypatch.setattr(page, "PICTURE_BYTES", limit)
        path = write_report(tmp_path / "report.html", some_findings(store, 30))
        pictures = re.findall("<figure class.*?</figure>", path.read_text(), re.DOTALL)
        sizes.append(sum(map(len, pictures)))
    assert sizes[1] < min(sizes[0] / 1.5, 300_000)


def test_only_reports_are_replaced(findings, tmp_path):
    """Another page is not, unless it is forced; the store never is."""
    path = tmp_path / "report.html"
    path.write_text('<!doctype html>\n<html lang="en">\n<head>')
    small = findings_of(findings.store, findings[:1])
    with pytest.raises(OutputError, match="a report that fastseg wrote"):
        write_report(path, small)
    write_report(path, small, force=True)
    write_report(path, small)
    with pytest.raises(OutputError, match="is the store"):
        write_report(findings.store.path, small, force=True)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(findings, tmp_path, monkeypatch, package):
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="pip install jinja2 matplotlib"):
        write_report(tmp_path / "report.html", findings)
