"""Transforms: checked, frozen, and the same after a round trip through JSON."""

import dataclasses
import json

import numpy as np
import pytest

from fastseg import augment
from fastseg.augment import (
    Affine,
    Affine3D,
    BiasField,
    Blur,
    Brightness,
    Compose,
    Contrast,
    Crop,
    Custom,
    Elastic,
    Flip,
    Gamma,
    LowResolution,
    Noise,
    Resample,
    Resize,
    Rot90,
)
from fastseg.errors import OptionError

EACH = [
    Affine(rotate=(-10, 10), scale=(0.5, 2), shear=5, translate_x=(0, 0.1), p=0.5),
    Affine3D(rotate_z=(-10, 20), scale=(0.5, 2), inplane="always", p=0.5),
    Flip(axis="vertical"),
    Rot90(p=0.25),
    Elastic(magnitude=(0, 5), spacing=20),
    Crop(size=(4, 5), where="icontour", margin=3, pad=True),
    Resize(size=7),
    Resample(spacing_mm=(1, 0.5)),
    Gamma(gamma=(0.5, 2), invert=True),
    Brightness(multiply=(0.9, 1.1), add=(-1, 1)),
    Contrast(factor=(0.5, 1.5), preserve_range=False),
    Noise(std=0.1, kind="rician"),
    Blur(sigma=(0, 2)),
    BiasField(magnitude=0.3),
    LowResolution(factor=0.5),
]


@pytest.mark.parametrize(
    "compose",
    [
        Compose(EACH, "cubic", "edge"),
        *(make() for make in augment.PRESETS.values()),
        augment.standard_3d(),
        augment.standard_3d(inplane=True),
    ],
    ids=["each", *augment.PRESETS, "3d", "3d-inplane"],
)
def test_transforms_survive_json(compose):
    """`from_dict` of the JSON of `as_dict` gives the same Compose."""
    text = json.dumps(compose.as_dict())
    assert augment.from_dict(json.loads(text)) == compose


def test_presets_turn_in_pixels():
    """An Affine turns in millimetres, those of the presets in pixels."""
    given = {"transforms": [{"name": "Affine", "rotate": [-5, 5]}]}
    assert augment.from_dict(given) == Compose([Affine(rotate=5, in_mm=True)])
    for make in augment.PRESETS.values():
        affines = [step for step in make() if isinstance(step, Affine)]
        assert affines
        assert not any(step.in_mm for step in affines)


def test_transforms_are_frozen():
    """Setting a field raises, so that a loader's transforms cannot change."""
    for step in EACH:
        with pytest.raises(dataclasses.FrozenInstanceError):
            step.p = 0.1


@pytest.mark.parametrize("step", EACH, ids=lambda step: type(step).__name__)
def test_drawn_parameters_lie_in_their_range(step):
    """They cover the range from end to end, and the frequency of "on" is p."""
    uniforms = np.random.default_rng(0).random((4000, step.draws))
    uniforms[0], uniforms[1] = 0, np.nextafter(1, 0)
    values = step.draw(uniforms)
    assert abs(values["on"].mean() - step.p) < 0.03
    for name, drawn in values.items():
        limits = getattr(step, name, None)
        if isinstance(limits, tuple):
            least, most = limits
            assert drawn.min() == least
            assert least <= drawn.max() <= most
            assert drawn.max() == pytest.approx(most)
    for name in ("across", "down"):
        assert values.get(name, np.zeros(1)).min() >= 0
        assert values.get(name, np.zeros(1)).max() < 1
    if isinstance(step, Rot90):
        assert set(values["quarters"].tolist()) == {1, 2, 3}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Affine(rotate=(15, -15)), r"Affine: rotate is \(15, -15\), .* first"),
        (lambda: Affine(scale=0), "Affine: scale is 0, expected 0.001 to 1000"),
        (lambda: Affine(scale=(-1, 1)), "Affine: scale is -1"),
        (lambda: Affine(shear=90), "Affine: shear is 90, expected -80 to 80"),
        (lambda: Affine(rotate=(1, 2, 3)), "expected a number or .least, greatest"),
        (
            lambda: Affine(rotate="left"),
            "Affine: rotate is 'left', expected a finite number",
        ),
        (
            lambda: Affine(rotate=np.nan),
            "Affine: rotate is nan, expected a finite number",
        ),
        (lambda: Affine(in_mm="no"), "Affine: in_mm is 'no', expected True or False"),
        (lambda: Flip(p=1.5), "Flip: p is 1.5, expected 0 to 1"),
        (lambda: Flip(p=-0.1), "Flip: p is -0.1"),
        (lambda: Flip(axis="x"), "Flip: axis is 'x', expected one of 'horizontal'"),
        (lambda: Elastic(magnitude=16), "magnitude is 16, expected 0 to 15.36"),
        (lambda: Elastic(spacing=1), "Elastic: spacing is 1"),
        (lambda: Crop(size=0), "Crop: size is 0, expected at least 1"),
        (lambda: Crop(size=(1, 2, 3)), "expected .height, width"),
        (lambda: Crop(size=4, margin=-1), "Crop: margin is -1"),
        (lambda: Crop(size=4, p=0.5), "Crop: p is 0.5, expected 1"),
        (lambda: Resample(spacing_mm=0), "Resample: spacing_mm is 0"),
        (
            lambda: Resample(spacing_mm=(1, 1, 1)),
            "expected one number or \\(",
        ),
        (lambda: Gamma(gamma=0), "Gamma: gamma is 0"),
        (
            lambda: Contrast(factor=-1),
            "Contrast: factor is -1, expected a finite number of at least 0",
        ),
        (lambda: Noise(std=(0, -1)), "Noise: std is -1"),
        (lambda: Noise(kind="poisson"), "Noise: kind is 'poisson'"),
        (lambda: LowResolution(factor=2), "LowResolution: factor is 2"),
        (lambda: Custom(function=3), "Custom: function is 3"),
        (lambda: Custom(function=print).as_dict(), "JSON cannot hold a function"),
        (lambda: Compose([3]), "Compose: 3 is no transform"),
        (lambda: Compose([Elastic(), Elastic()]), "Elastic and Elastic given"),
        (lambda: Compose([Flip()] * 4097), "4097 transforms given, expected at most"),
        (lambda: Compose([], interpolation="cubical"), "did you mean 'cubic'"),
        (lambda: Compose([], border="mirror"), "Compose: border is 'mirror'"),
        (lambda: augment.as_compose("standart"), "did you mean 'standard'"),
        (
            lambda: augment.as_compose(3),
            "augment: 3 is no transform of fastseg, expected one or more of",
        ),
        (lambda: augment.from_dict({"transforms": [{"name": "Flop"}]}), "'Flip'"),
        (
            lambda: augment.from_dict({"transforms": [{}]}),
            "expected a dict of Compose.as_dict",
        ),
        (lambda: augment.from_dict([1]), "expected a dict of Compose.as_dict"),
        (
            lambda: augment.from_dict({"transforms": [{"name": "Flip", "ax": 1}]}),
            "has no argument 'ax'; did you mean 'axis'",
        ),
    ],
)
def test_invalid_options_are_refused(make, text):
    """The error names the transform, the parameter and what was expected."""
    with pytest.raises(OptionError, match=text):
        make()


def test_a_single_number_is_symmetric_where_values_have_a_sign():
    """A rotation of 15 means -15 to 15 degrees; a single scale is a constant."""
    step = Affine(rotate=15, shear=5, translate_x=0.1, translate_y=0.2, scale=2)
    assert (step.rotate, step.shear) == ((-15, 15), (-5, 5))
    assert (step.translate_x, step.translate_y) == ((-0.1, 0.1), (-0.2, 0.2))
    assert step.scale == (2, 2)
    assert Brightness(multiply=2, add=0.5) == Brightness(
        multiply=(2, 2), add=(-0.5, 0.5)
    )
    assert (Noise(std=1).std, Blur(sigma=1).sigma) == ((1, 1), (1, 1))
    assert Elastic(magnitude=4).magnitude == (4, 4)
    assert str(Affine().rotate) == "(0.0, 0.0)"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Affine(rotate=-15), "a single number n means -n to n"),
        (lambda: Brightness(add=-1), "a single number n means -n to n"),
        (lambda: Affine(rotate="15"), "rotate is '15', expected "),
        (lambda: Noise(std="1"), "std is '1', expected "),
        (lambda: Flip(p="0.5"), "p is '0.5', expected "),
        (lambda: Affine(scale=("1", 2)), "scale is '1', expected "),
    ],
)
def test_negative_single_numbers_and_text_are_refused(make, text):
    """Both raise OptionError instead of being converted."""
    with pytest.raises(OptionError, match=text):
        make()
