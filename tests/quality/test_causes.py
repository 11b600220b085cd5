"""Findings that follow from others are notes."""

from graphlib import TopologicalSorter

import pytest

import fastseg
from fastseg.quality.causes import fold
from fastseg.quality.findings import Finding
from fastseg.quality.rules import RULES


def finding(rule, *samples, classes=("a",), severity="warning"):
    return Finding(
        rule=rule,
        severity=severity,
        text="It is.",
        samples=samples,
        classes=classes,
        amount=1.0,
        unit="pixels",
    )


CAUSE = finding("swapped-labels", 3, classes=("a", "b"), severity="error")
FOLLOWS = [finding("area-jump", 3, 2, 4), finding("end-slice-unlike-rest", 4, 3)]
# Another sample, class, or rule; and most of these samples are no others' fault.
OTHERS = [
    finding("area-jump", 4, 3, 5),
    finding("area-jump", 3, 2, 4, classes=("c",)),
    finding("spike", 3),
    finding("area-unlike-others", 1, 2, 3, 4, 5),
]


@pytest.mark.parametrize("one", FOLLOWS)
def test_what_follows_from_another_finding_is_a_note_that_says_so(one):
    """The cause stays what it is."""
    cause, other = fold([CAUSE, one])
    assert cause is CAUSE
    assert other.severity == "note"
    assert other.text.endswith("image: two classes whose labels seem to be swapped.")


@pytest.mark.parametrize("one", OTHERS)
def test_what_follows_from_nothing_stays(one):
    """Whatever else is wrong with its image."""
    assert fold([CAUSE, one]) == [CAUSE, one]


def test_a_note_or_warning_explains_no_error():
    """Or a check would pass that failed."""
    error = finding("not-inside", 3, classes=("a", "b"), severity="error")
    assert fold([finding("spike", 3), error])[1] == error


def test_rules_explain_known_rules_and_never_each_other():
    """Else both findings were notes."""
    explains = {name: rule.explains for name, rule in RULES.items()}
    assert {one for names in explains.values() for one in names} <= {*RULES}
    assert [*TopologicalSorter(explains).static_order()]


def test_swapped_labels_have_one_finding(cine, tmp_path):
    """Although their areas, intensities and slices are wrong, too."""
    study = cine.copy(tmp_path)
    image = study.labelled("ocontour")[3].index
    inner, outer = ((image, name) for name in ("icontour", "ocontour"))
    contours = study.contours
    contours[inner], contours[outer] = contours[outer], contours[inner]
    findings = fastseg.check(study.store())
    wrong = [f.rule for f in findings.at_least("warning") if image in f.samples]
    assert wrong == ["swapped-labels"]
    assert sum("follow from" in f.text for f in findings) >= 3
