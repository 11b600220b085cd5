"""`fastseg.check`: rules, thresholds, findings and their files."""

import csv
import json

import numpy as np
import pytest

import fastseg
from fastseg.errors import LinkError, OptionError, StoreError, UnknownClassError
from fastseg.findings_table import read_rows
from fastseg.quality.check import _identified
from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding, Findings
from fastseg.quality.findings_file import as_dict
from fastseg.quality.rule import Rule, thresholds_of
from fastseg.quality.rules import RULES


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The sample data as a store."""
    folder = tmp_path_factory.mktemp("quality")
    table = fastseg.link("data/phantom")
    return fastseg.open(fastseg.build(table, folder / "heart.h5").path)


def finding(**changes):
    values = {
        "rule": "constant-image",
        "severity": "error",
        "text": "All is 0.",
        "samples": (3, 1),
        "classes": ("icontour",),
        "amount": 1.5,
        "unit": "mm",
        "points": ((2.0, 3.0),),
    }
    return Finding(**values | changes)


def some_findings(store, *found):
    facts = Facts(store)
    rule = RULES["constant-image"]()
    return Findings(
        _identified(facts, rule, found), facts=facts, rules=list(RULES), not_run={}
    )


def test_clean_data_have_no_error(store):
    """Whatever the rules are."""
    findings = fastseg.check(store)
    assert findings.counts()["error"] == 0
    assert {*findings.rules} == {*RULES}


@pytest.mark.parametrize("column", ["contours/points", "items/spacing_mm"])
def test_a_damaged_store_is_not_checked(store, tmp_path, column):
    """Its columns are in order, but some numbers are others."""
    path = tmp_path / "damaged.h5"
    data = bytearray(store.path.read_bytes())
    data[store.offsets[column] + 15] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged.h5: .*findings would be wrong; 1 "):
        fastseg.check(path)


def test_findings_are_sorted_counted_and_chosen(store):
    """The worst first."""
    note = finding(severity="note", samples=(0,), classes=("ocontour",))
    found = some_findings(store, note, finding(), finding(samples=(9,)))
    assert [f.severity for f in found] == ["error", "error", "note"]
    assert found.counts() == {"error": 2, "warning": 0, "note": 1}
    assert repr(found).endswith("heart.h5: 2 errors, 0 warnings, 1 note>")
    assert [f.samples for f in found.at_least("warning")] == [(3, 1), (9,)]
    assert found.samples().tolist() == [1, 3, 9]
    assert found.samples(severity="note", first_only=True).tolist() == [0, 3, 9]
    assert len(found.of(severity="note")) == len(found.of(label="ocontour")) == 1
    patient = store[9].patient
    assert [f.samples for f in found.of(patient=patient)] == [(9,)]
    assert found[0].identity in {f.identity for f in found.of(rule="constant-image")}
    with pytest.raises(UnknownClassError, match="icontour"):
        found.of(label="icontuor")
    with pytest.raises(OptionError, match="rule is 'x'"):
        found.of(rule="x")


def test_the_identity_depends_on_rule_sources_and_classes(store):
    """Not on text, amounts, indices in the store, or how often it is built."""
    (found,) = some_findings(store, finding())
    (other,) = some_findings(store, finding(text="Other.", amount=2, points=()))
    assert found.identity == other.identity
    for changes in ({"samples": (3, 2)}, {"classes": ()}):
        (other,) = some_findings(store, finding(**changes))
        assert found.identity != other.identity
    with pytest.raises(RuntimeError, match="two findings of the same samples"):
        some_findings(store, finding(), finding())


def test_the_table_has_a_row_for_each_sample(store, tmp_path):
    """And those that were accepted are accepted when it is read again."""
    found = some_findings(store, finding(), finding(samples=(9,), classes=("=x",)))
    path = fastseg.write_findings(tmp_path / "f.csv", found)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["finding"] for row in rows] == [
        f.identity for f in found for _ in f.samples
    ]
    assert rows[0]["source"] == rows[1]["other"] == store[3].meta["source"]
    assert rows[1]["source"] == rows[0]["other"] == store[1].meta["source"]
    assert rows[2]["other"] == ""
    assert rows[2]["label"] == "'=x"
    assert [row.finding for row in read_rows(path)] == [r["finding"] for r in rows]
    accepted = found.accepting({found[0].identity})
    assert accepted.counts()["error"] == 1
    assert accepted.samples().tolist() == [9]
    assert fastseg.write_findings(path, found) == path  # it replaces its own


def test_the_json_has_all(store, tmp_path):
    """It is what `as_dict` returns."""
    found = some_findings(store, finding())
    path = fastseg.write_findings(tmp_path / "f.json", found)
    content = json.loads(path.read_text())
    assert content == as_dict(found)
    (one,) = content["findings"]
    assert [sample["index"] for sample in one["samples"]] == [3, 1]
    assert one["points"] == [[2.0, 3.0]]
    fastseg.write_findings(path, found)


def test_a_table_that_is_none_of_this_store_is_refused(store, tmp_path):
    """So is one whose names of findings a spreadsheet has changed."""
    found = some_findings(store, finding())
    path = fastseg.write_findings(tmp_path / "f.csv", found)
    text = path.read_text()
    path.write_text(text.replace("dicoms/", "elsewhere/"))
    with pytest.raises(OptionError, match="findings of another store"):
        fastseg.check(store, accept=path)
    path.write_text(text.replace(found[0].identity, "1.2E+15"))
    with pytest.raises(OptionError, match="line 2: finding is"):
        fastseg.check(store, accept=path)
    with pytest.raises(LinkError, match="no column finding"):
        read_rows("data/phantom/link.csv")
    path.write_text(text)
    assert not fastseg.check(store, accept=path).counts()["error"]


def test_rules_and_thresholds_are_chosen(store):
    """By name; a number must make sense."""
    asked = fastseg.check(store, rules="constant-image")
    assert asked.rules == ("constant-image",)
    with pytest.raises(OptionError, match="constant-image"):
        fastseg.check(store, rules=["constant-imag"])
    with pytest.raises(OptionError, match="leave no rule"):
        fastseg.check(store, rules="constant-image", skip="constant-image")
    with pytest.raises(OptionError, match=r"expected as in rule\.threshold"):
        fastseg.check(store, thresholds={"constant-image": 1})
    with pytest.raises(OptionError, match="threshold of constant-image is 'x'"):
        fastseg.check(store, thresholds={"constant-image.x": 1})
    with pytest.raises(OptionError, match="expected two classes"):
        fastseg.check(store, inside=[("icontour", "icontour")])


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_each_rule_says_what_it_finds_and_what_it_costs(rule):
    """And what its thresholds mean."""
    assert issubclass(rule, Rule)
    assert rule.name == rule.name.lower()
    assert " " not in rule.name
    assert rule.title[0].isupper()
    assert not rule.title.endswith(".")
    assert len(rule.__doc__) > 40
    assert rule.severity in ("error", "warning", "note")
    for field in thresholds_of(rule):
        assert field.metadata["unit"]
        assert field.metadata["meaning"]
        with pytest.raises(OptionError, match=field.name):
            rule(**{field.name: field.metadata["least"] - 1})


def test_facts_measure_rings_and_labels(store):
    """Area, length, centroid and extent; masks have those of the store."""
    facts = Facts(store, threads=2)
    rings, labels = facts.rings, facts.labels
    for ring in range(0, len(rings.sample), 7):
        points = facts.ring_points(ring)
        x, y = points.T
        cross = x * np.roll(y, -1) - np.roll(x, -1) * y
        assert rings.area[ring] == pytest.approx(cross.sum() / 2)
        steps = np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1)
        assert rings.length[ring] == pytest.approx(steps.sum())
        assert (rings.low[ring] == points.min(0)).all()
        assert (rings.high[ring] == points.max(0)).all()
    for label in range(0, len(labels.sample), 7):
        sample, name = int(labels.sample[label]), store.classes[labels.klass[label]]
        rows, columns = np.nonzero(store[sample].mask_of(name))
        assert labels.pixels[label] == len(rows)
        expected = [columns.mean(), rows.mean()]
        assert labels.centroid[label] == pytest.approx(expected)
        assert facts.label_at(sample, labels.klass[label]) == label
        (drawn,) = [facts.ring_points(k) for k in facts.rings_of(label)]
        assert (drawn == store[sample].contours[name][0]).all()
    assert facts.label_at(0, len(store.classes)) == -1
