"""Batches: unpacked, indexed, by name, in a line, in a notebook and in JAX."""

import copy
import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastseg import Batch, Loader
from fastseg.loading.batches import FIELDS
from tests.test_notebook import pictures


@pytest.fixture
def batch():
    """A batch of three samples of 4 x 5."""
    image = np.arange(60, dtype=np.float32).reshape(3, 1, 4, 5)
    mask = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    return Batch(image, mask, np.array([7, 0, 5]), {"seed": 3})


def test_a_batch_is_unpacked_indexed_and_named(batch):
    """Numbers index what is unpacked, names all fields; len is that of the samples."""
    image, mask = batch
    assert image is batch.image is batch[0] is batch[-2] is batch["image"]
    assert mask is batch.mask is batch[1] is batch[-1] is batch[np.int64(1)]
    assert batch[:] == (image, mask)
    assert batch[1:] == (mask,)
    lacking = ("corner", "is_beyond")
    assert dict(batch) == {name: batch[name] for name in FIELDS if name not in lacking}
    for name in lacking:
        assert name not in batch
        assert batch[name] is None
    assert batch["index"] is batch.index
    assert batch["params"] == {"seed": 3}
    assert len(batch) == 3
    assert "mask" in batch
    assert "label" not in batch


def test_what_a_batch_does_not_have_is_refused(batch):
    """The error names the fields, and how to get a sample."""
    with pytest.raises(
        IndexError, match=r"batch\[2\]: 0 is the image .* batch\.image\[k\]"
    ):
        batch[2]
    with pytest.raises(IndexError, match=r"batch\[-3\]"):
        batch[-3]
    with pytest.raises(KeyError, match="did you mean 'image'"):
        batch["images"]
    for key in (True, 1.0, None, [0, 1], np.array([0, 1]), (0, 1)):
        with pytest.raises(TypeError, match=r"index batch\.image and batch\.mask"):
            batch[key]
    with pytest.raises(TypeError, match="expected the name of a field"):
        _ = batch.mask in batch
    with pytest.raises(TypeError, match="not reversible"):
        reversed(batch)


def test_fields_may_be_assigned_to_by_name(batch):
    """`batch["mask"] = x` does what `batch.mask = x` does, and takes fields alone."""
    batch["mask"] = batch.mask[:, :2]
    assert batch.mask.shape[1] == 2
    with pytest.raises(KeyError, match="did you mean 'mask'"):
        batch["masks"] = 0


def test_fields_may_be_assigned_to(batch):
    """A copy, also by pickle, has the same fields, and can be changed alone."""
    for duplicate in (
        copy.copy,
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
    ):
        copied = duplicate(batch)
        assert_array_equal(copied.image, batch.image, strict=True)
        assert copied.params == batch.params
        copied.image = None
        assert copied["image"] is None
        assert batch.image is not None
    assert batch != copy.copy(batch)


def test_a_batch_is_shown_in_a_line(batch):
    """repr gives the number of samples, dtypes and shapes."""
    text = "Batch of 3: image float32 (3, 1, 4, 5), mask uint8 (3, 4, 5), params"
    assert repr(batch) == text
    batch.params = None
    assert repr(batch) == text.removesuffix(", params")


@pytest.mark.parametrize("masks", ["labels", "bits", "onehot", "icontour"])
def test_a_notebook_shows_a_batch(store, masks):
    """It shows the first four samples, whatever the masks are."""
    missing = None if masks == "bits" else "ignore"
    options = {"masks": masks, "missing": missing, "size": 96, "batch_size": 6}
    batch = next(iter(Loader(store, **options)))
    html = batch._repr_html_()
    shown = pictures(html)
    assert len(shown) == 4
    for k, picture in enumerate(shown):
        grey, covered = np.split(picture.astype(int), 2)
        assert f"<figcaption>sample {batch.index[k]}<" in html
        assert np.ptp(grey, axis=2).max() == 0
        # A colour of the mask, laid over grey, differs from it but for few greys.
        mask = batch.mask[k].any(axis=0) if masks == "onehot" else batch.mask[k] != 0
        assert not (grey != covered).any(axis=2)[~mask].any()
        assert (grey != covered).any(axis=2)[mask].mean() > 0.95 or not mask.any()
    assert repr(batch) in html


@pytest.mark.parametrize("masks", ["labels", "onehot"])
def test_a_notebook_shows_the_middle_of_neighbours(store, masks):
    """Of a stack of slices it shows the sample, with outlines if it can tell whose."""
    usual = {"masks": masks, "missing": "background", "size": 96, "shuffle": False}
    plain = next(iter(Loader(store, **usual)))
    for masks_of, is_known in (("middle", True), ("all", masks == "onehot")):
        options = {**usual, "neighbours": 1, "masks_of": masks_of}
        batch = next(iter(Loader(store, **options)))
        for shown, expected in zip(
            pictures(batch._repr_html_()), pictures(plain._repr_html_()), strict=True
        ):
            grey, covered = np.split(expected, 2)
            assert (grey != covered).any()
            assert_array_equal(
                shown, expected if is_known else np.concatenate([grey, grey])
            )


def test_a_notebook_shows_no_picture_of_other_arrays(batch):
    """Whatever somebody put into a batch has its line of text."""
    empty = Batch(batch.image[:0], batch.mask[:0], batch.index[:0])
    flat = Batch(batch.image[:, 0], batch.mask, batch.index)
    cut = Batch(batch.image, batch.mask[:, 1:], batch.index)
    no_channel = Batch(batch.image[:, :0], batch.mask, batch.index)
    complex_ = Batch(batch.image.astype(complex), batch.mask, batch.index)
    none = Batch(None, "a", [1])
    for other in (empty, flat, cut, no_channel, complex_, none):
        assert "<img" not in other._repr_html_()
        assert repr(other) in other._repr_html_()


JAX = """
import sys
import numpy as np
from fastseg import Batch
assert "jax" not in sys.modules
import jax
names = ("image", "mask", "index")
image, mask = np.ones((2, 1, 3, 3), "f4"), np.ones((2, 3, 3), "u1")
make = lambda params, corner=None: Batch(image, mask, np.arange(2), params, corner)
batch, other, plain = make({"seed": 1}), make({"seed": 2}), make(None)
leaves = jax.tree.leaves(batch)
assert all(leaf is batch[name] for leaf, name in zip(leaves, names, strict=True))
paths = jax.tree_util.tree_leaves_with_path(batch)
assert "".join(jax.tree_util.keystr(path) for path, _ in paths) == ".image.mask.index"
moved = jax.device_put(batch)
assert isinstance(moved.image, jax.Array) and moved.params is batch.params
double = jax.jit(lambda batch: jax.tree.map(lambda x: 2 * x, batch))
for each in (batch, other, plain, make(None)):
    result = double(each)
    assert result.params is each.params
    assert float(result["image"].sum()) == 36 and result.index.tolist() == [0, 2]
assert double._cache_size() == 3
patches = make(None, np.zeros((2, 3), np.int64))
assert len(jax.tree.leaves(patches)) == 4 and double(patches).corner.shape == (2, 3)
assert double._cache_size() == 4 and double(plain).corner is None
assert jax.tree.map(np.add, plain, make(None)).mask.max() == 2
print("done")
"""


@pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")
def test_a_batch_is_a_pytree_of_jax():
    """JAX moves, maps and compiles for whole batches; params are never another's."""
    # In a process of its own: JAX warns in each process that forks after it.
    run = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr
