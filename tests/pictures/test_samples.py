"""Which samples a picture shows, and in which order."""

import numpy as np
import pytest

from fastseg import make_phantom, show
from fastseg.errors import OptionError, UnknownClassError
from tests.pictures.helpers import (
    SMALL,
    build,
    draw_panels,
    drawn_samples,
    make_store,
    texts_of,
)


def test_another_seed_chooses_other_samples(store, tmp_path):
    """The seed determines which samples are drawn, each at most once."""
    chosen = [drawn_samples(store, tmp_path, count=4, seed=seed) for seed in (0, 1, 0)]
    assert chosen[0] == chosen[2]
    assert set(chosen[0]) != set(chosen[1])
    assert len(set(chosen[0])) == len(set(chosen[1])) == 4


def test_samples_with_contours_come_first(tmp_path):
    """Of a store in which few samples have a contour, these are drawn."""
    study = make_phantom(tmp_path / "study", **SMALL)
    first = min(study.rglob("*icontour*.txt"))
    for path in study.rglob("*.txt"):
        if path != first:
            path.unlink()
    store = build(study, keep_unlabelled=True)
    (labelled,) = np.flatnonzero(store.items["labelled"]).tolist()
    assert len(store) > 2
    for seed in range(3):
        drawn = drawn_samples(store, tmp_path, count=1, seed=seed)
        assert drawn == [labelled]


def test_a_count_above_the_size_of_the_store_draws_all(tmp_path):
    """If the store has fewer samples than `count`, each is drawn once."""
    small = build(make_phantom(tmp_path / "study", **SMALL))
    drawn = drawn_samples(small, tmp_path, count=99)
    assert sorted(drawn) == list(range(len(small))) == [0, 1]


def test_samples_are_chosen_by_patient_and_class(store, tmp_path):
    """All conditions are met, and no other class is drawn."""
    options = {"patients": "PHANTOM0002", "classes": ["ocontour", "p1contour"]}
    texts = texts_of(store, tmp_path, count=99, **options)
    drawn = [int(text.split()[0][1:]) for text in texts if text.startswith("#")]
    expected = store.select(match="any", **options)
    assert drawn == expected.tolist()
    assert len(drawn) < len(store.select(patients="PHANTOM0002"))
    assert texts[-2:] == ["ocontour", "p1contour"]
    axes = draw_panels(store, drawn[0], classes=options["classes"])
    colours = {patch.get_edgecolor() for patch in axes[-1].patches}
    assert len(colours) == 2


def test_indices_are_drawn_in_their_order(store, tmp_path, fastseg_command):
    """All of them by default, or the first ones; those of another patient are not."""
    assert drawn_samples(store, tmp_path, indices=[9, 2, 30, 4, 11]) == [
        9,
        2,
        30,
        4,
        11,
    ]
    assert drawn_samples(store, tmp_path, indices=[9, 2], count=1) == [9]
    assert drawn_samples(store, tmp_path, indices=[9, 2], patients="PHANTOM0001") == [2]
    words = ["--index", 9, "--index", 2, "--class", "icontour", "--window=-100,900"]
    run = fastseg_command("show", store.path, *words, "--zoom", "-o", "a.png")
    assert (run.returncode, run.stdout) == (0, "a.png: 2 of 32 samples\n"), run.stderr


def test_samples_are_drawn_in_the_order_of_the_store(store, tmp_path):
    """Chosen at random, but neighbours in the store are neighbours in the picture."""
    drawn = drawn_samples(store, tmp_path, count=8, seed=5)
    assert drawn == sorted(drawn)


def test_a_volume_is_drawn(store, tmp_path, fastseg_command):
    """By its number, of a store that has it."""
    run = fastseg_command("show", store.path, "--volume", 1, "-o", "a.png", "--zoom")
    assert (run.returncode, run.stdout) == (0, "a.png: volume 1\n"), run.stderr
    texts = texts_of(store, tmp_path, volume=7)
    assert f"volume 7  {store.volumes[7].patient}" in texts
    bare = make_store(tmp_path, [np.eye(9)])
    with pytest.raises(OptionError, match="volume is 0, but the store has none"):
        show(bare, tmp_path / "b.png", volume=0)


def test_what_the_store_lacks_is_refused(store, tmp_path):
    """An unknown class or patient, an index beyond the store, and no sample at all."""
    for options, error, text in (
        ({"classes": "icontuor"}, UnknownClassError, "icontour"),
        ({"patients": "Z"}, OptionError, "PHANTOM0001"),
        ({"indices": [32]}, OptionError, "expected 0 to 31"),
        ({"indices": [0], "patients": "PHANTOM0002"}, OptionError, "no sample meets"),
        ({"volume": 8}, OptionError, "volume is 8, expected 0 to 7"),
        ({"volume": [0]}, OptionError, "expected a whole number"),
        ({"volume": True}, OptionError, "expected a whole number"),
        ({"volume": 1, "classes": "ocontour"}, OptionError, "volume 1 has no contour"),
    ):
        with pytest.raises(error, match=text):
            show(store, tmp_path / "a.png", **options)
    assert not list(tmp_path.iterdir())
