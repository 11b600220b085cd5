"""BatchFormat: what a sample becomes, the same for Loader, Dataset and state."""

import inspect
import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from fastseg import Loader
from fastseg.augment import Compose, Crop, Custom, Flip, Resize, light
from fastseg.errors import OptionError
from fastseg.loading.format import BatchFormat

NAMES = [field.name for field in fields(BatchFormat)]
# For each option, a value that is not the default.
OTHERS = {
    "size": (40, 30),
    "neighbours": 2,
    "beyond": "pad",
    "masks_of": "all",
    "normalize": "window",
    "normalize_by": "volume",
    "window": (40.0, 400.0),
    "percentiles": (5.0, 95.0),
    "value_statistics": (40.0, 3.5, -20.0, 90.0),
    "pad_value": -2.0,
    "dtype": "float16",
    "masks": "onehot",
    "priority": ("ocontour", "icontour"),
    "missing": "ignore",
    "augment": Compose([Flip()]),
    "labels": "nearest",
}


def stir(image, mask, random):
    image += 1


def values(form):
    return {name: getattr(form, name) for name in NAMES}


def test_the_loader_has_all_options():
    """Loader lists each option with its default, and its docstring describes it."""
    parameters = inspect.signature(Loader).parameters
    described = inspect.getdoc(Loader)
    for field in fields(BatchFormat):
        default = parameters[field.name].default
        assert (type(default), default) == (type(field.default), field.default)
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"\n{field.name:10} : " in described


@pytest.mark.parametrize("name", NAMES)
def test_each_option_identifies_a_format(name):
    """If one option differs, so does `as_dict`; it holds values for JSON."""
    needed = {
        "labels": {"augment": "light"},
        "window": {"normalize": "window"},
        "value_statistics": {"normalize": "foreground"},
        "beyond": {"neighbours": 1},
        "masks_of": {"neighbours": 1},
    }
    always = needed.get(name, {})
    usual = BatchFormat(**always).as_dict()
    changed = BatchFormat(**always, **{name: OTHERS[name]}).as_dict()
    assert [key for key in usual if usual[key] != changed[key]] == [
        "augment" if name == "labels" else name
    ]
    assert json.loads(json.dumps(changed)) == changed


def test_values_are_cast():
    """Fields have one form, however a value was given; casting it again is the same."""
    form = BatchFormat(
        size=np.int64(9), dtype=np.float32, priority=["a", "b"], augment="light"
    )
    assert form.size == (9, 9)
    assert (form.dtype, form.normalize) == ("float32", "zscore")
    assert type(form.normalize) is str
    assert form.priority == ("a", "b")
    assert form.augment == light()
    assert BatchFormat(**values(form)) == form
    with pytest.raises(FrozenInstanceError):
        form.size = None


def test_raw_is_not_normalized():
    """With dtype "raw" the default of `normalize` is None; the text is refused."""
    form = BatchFormat(dtype="raw")
    assert form.normalize is None
    assert BatchFormat(**values(form)) == form
    with pytest.raises(OptionError, match="leave one of them out"):
        BatchFormat(dtype="raw", normalize="zscore")


def test_transforms_give_a_size():
    """By default, size is that of the last Crop or Resize."""
    steps = [Crop(size=(8, 7)), Resize(size=6), Flip()]
    assert BatchFormat(augment=steps).size == (6, 6)
    assert BatchFormat(augment=steps, size=5).size == (5, 5)
    assert BatchFormat(augment=[Flip()]).size is None


def test_functions_are_identified_by_name():
    """A state holds the name of a Custom transform's function, and its probability."""
    form = BatchFormat(augment=[Custom(function=stir, p=0.5)])
    (step,) = form.as_dict()["augment"]["transforms"]
    assert step == {"name": "Custom", "p": 0.5, "function": "stir"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": (3, 0)}, "size is 0, expected at least 1"),
        ({"size": (3, 4, 5)}, r"size is \(3, 4, 5\), expected \(height, width\)"),
        ({"neighbours": -1}, "neighbours is -1, expected 0 to 4096"),
        ({"neighbours": 0.5}, "neighbours is 0.5, expected a whole number"),
        ({"neighbours": 1, "beyond": "edge"}, "beyond is 'edge', expected one of"),
        ({"neighbours": 1, "masks_of": "every"}, "masks_of is 'every', expected"),
        ({"beyond": "pad"}, "beyond is 'pad', but neighbours is 0; give the number"),
        ({"masks_of": "all"}, "masks_of is 'all', but neighbours is 0; give the"),
        ({"normalize": "z-score"}, "did you mean 'zscore'"),
        ({"percentiles": None}, r"percentiles is None, expected \(lower, upper\)"),
        ({"percentiles": (99, 1)}, r"percentiles is \(99, 1\), expected \(lower"),
        ({"percentiles": (1, np.nan)}, r"expected \(lower, upper\)"),
        (
            {"value_statistics": (1, 2, 3, 4)},
            "normalize is 'zscore'; give normalize='foreground'",
        ),
        *(
            (
                {"normalize": "foreground", "value_statistics": given},
                r"value_statistics is .*, expected \(mean, std, low, high\)",
            )
            for given in (1, (1, 2), (1, -2, 0, 3), (1, 2, 4, 3), (1, np.nan, 2, 3))
        ),
        ({"pad_value": "black"}, "is 'black', expected a number or 'minimum'"),
        ({"pad_value": "3"}, "pad_value is '3', expected a number"),
        ({"pad_value": True}, "pad_value is True, expected a number"),
        ({"pad_value": None}, "pad_value is None, expected a number"),
        ({"dtype": "int16"}, "dtype is 'int16', expected one of"),
        ({"dtype": "float16", "augment": "light"}, "augmented images are 'float32'"),
        ({"masks": "bits", "missing": "ignore"}, "masks 'bits' have no label for it"),
        ({"missing": "ignor"}, "did you mean 'ignore'"),
        ({"augment": "lite"}, "did you mean 'light'"),
        ({"labels": "exakt"}, "did you mean 'exact'"),
    ],
    ids=str,
)
def test_bad_values_are_refused_without_a_store(options, text):
    """The error names the option, its value and what was expected."""
    with pytest.raises(OptionError, match=text):
        BatchFormat(**options)
