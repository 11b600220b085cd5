"""The rule about splits."""

import csv

import numpy as np
import pytest

import fastseg
from fastseg.errors import OptionError

NAME = "split-leak"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The sample data as a store."""
    table = fastseg.link("data/phantom")
    path = tmp_path_factory.mktemp("splits") / "heart.h5"
    return fastseg.open(fastseg.build(table, path).path)


def write(store, path, parts, by="patient"):
    fastseg.write_split(path, store, parts, by=by)
    return path


def test_a_split_by_patient_leaks_nothing(store, tmp_path):
    """The split that fastseg makes; without a table the rule is not asked."""
    path = write(store, tmp_path / "a.csv", store.split({"train": 0.5, "val": 0.5}))
    assert not list(fastseg.check(store, rules=[NAME], splits=path))
    assert NAME in fastseg.check(store, rules=[NAME]).not_run


def test_a_patient_in_two_parts_is_found(store, tmp_path):
    """Of a table by samples, and of one by patient that somebody has changed."""
    parts = store.split({"train": 0.5, "val": 0.5})
    stray = int(parts["train"][0])
    moved = {"train": parts["train"][1:], "val": np.append(parts["val"], stray)}
    path = write(store, tmp_path / "a.csv", moved, by="sample")
    text = path.read_text().replace(",sample,", ",patient,")
    assert text != path.read_text()
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(OptionError):
        fastseg.read_split(tmp_path / "b.csv", store)
    for name in ("a.csv", "b.csv"):
        (found,) = fastseg.check(store, rules=[NAME], splits=tmp_path / name)
        theirs = store.select(patients=store[stray].patient)
        assert found.samples == tuple(theirs.tolist())
        assert found.severity == "error"
        count = len(theirs) - 1
        assert found.text.endswith(f"{count} samples in train, 1 sample in val.")


def test_a_sample_in_two_parts_is_found(store, tmp_path):
    """A row that somebody has written twice, with another part."""
    parts = store.split({"train": 0.5, "val": 0.5})
    path = write(store, tmp_path / "a.csv", parts)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [row for row in rows if int(row["index"]) == parts["train"][0]]
    with path.open("a", newline="") as file:
        csv.DictWriter(file, list(row)).writerow(row | {"part": "val"})
    (found,) = fastseg.check(store, rules=[NAME], splits=path)
    assert int(row["index"]) in found.samples


@pytest.mark.filterwarnings("ignore::fastseg.errors.CopiesWarning")
def test_an_image_in_two_parts_is_found(cine, tmp_path):
    """The pixels of a patient's image are there for another patient, too."""
    study = cine.copy(tmp_path)
    image = study.images[0]
    other = next(k for k in study.images if k.patient != image.patient)
    study.set_pixels(other, study.pixels(image))
    copied = study.store()
    patients = copied.patients
    parts = {
        "train": copied.select(patients=patients[0]),
        "val": copied.select(patients=patients[1:]),
    }
    path = write(copied, tmp_path / "a.csv", parts)
    (found,) = fastseg.check(copied, rules=[NAME], splits=path)
    assert found.samples == (image.index, other.index)
    assert found.text.startswith("One image")
