"""PyTorch: datasets, tensors, devices, and the example that trains a network."""

import copy
import gc
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.errors import ArgumentError, OptionError, StateError, UnknownClassError
from fastseg.loading.batches import FIELDS
from tests.conftest import PROJECT

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
adapter = fastseg.torch
Dataset, as_torch = adapter.Dataset, adapter.as_torch
DataLoader = torch.utils.data.DataLoader

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA device"
)
without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="torch finds a CUDA device"
)


@pytest.fixture(autouse=True)
def _no_thread_stays_behind():
    yield
    gc.collect()
    names = [thread.name for thread in threading.enumerate()]
    assert [name for name in names if name.startswith("fastseg-loader")] == []


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A store of one shape: 16 samples of 40 x 40."""
    folder = tmp_path_factory.mktemp("square")
    study = fastseg.make_phantom(folder / "study", patients=2, sizes=[40], phases=2)
    report = fastseg.build(fastseg.link(study), folder / "square.h5")
    return fastseg.open(report.path)


def epoch(batches):
    """Return index, image and mask of all samples of an epoch, as arrays."""
    arrays = [(batch.index, batch.image, batch.mask) for batch in batches]
    return [np.concatenate(list(map(np.asarray, a))) for a in zip(*arrays, strict=True)]


def assert_same_epochs(batches, others):
    for one, other in zip(epoch(batches), epoch(others), strict=True):
        assert_array_equal(one, other, strict=True)


# The dataset ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"size": 32},
        {
            "size": (60, 50),
            "normalize": "percentile",
            "pad_value": 0.5,
            "dtype": "float16",
        },
        {"size": 96, "masks": "onehot", "normalize": None},
        {"size": 96, "masks": "icontour", "dtype": "raw"},
    ],
)
def test_a_dataset_has_the_samples_of_a_loader(store, options):
    """Dataset and Loader give the same bits, for one sample and for many."""
    chosen = np.arange(1, len(store), 3)
    dataset = Dataset(store, indices=chosen, **options)
    order = {"indices": chosen, "shuffle": False, "batch_size": len(chosen)}
    batch = next(iter(Loader(store, **order, **options)))
    assert_array_equal(dataset.indices, batch.index)
    assert len(dataset) == len(chosen)
    together = dataset.__getitems__(range(len(dataset)))
    for k, (image, mask) in enumerate(together):
        assert_array_equal(image.numpy(), batch.image[k], strict=True)
        assert_array_equal(mask.numpy(), batch.mask[k], strict=True)
        alone = dataset[k]
        assert torch.equal(alone[0], image)
        assert torch.equal(alone[1], mask)
    assert torch.equal(dataset[-1][0], dataset[len(dataset) - 1][0])


def test_a_dataset_opens_a_path(square):
    """A path may be given instead of a store."""
    assert torch.equal(Dataset(square.path)[3][0], Dataset(square)[3][0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_dataset_works_with_dataloader(square, workers):
    """Batches are complete and in order, with workers and without."""
    dataset = Dataset(square, masks="labels")
    batches = DataLoader(dataset, batch_size=5, num_workers=workers)
    ours = Loader(square, batch_size=5, masks="labels", shuffle=False)
    for (image, mask), expected in zip(batches, ours, strict=True):
        assert_array_equal(image.numpy(), expected.image, strict=True)
        assert_array_equal(mask.numpy(), expected.mask, strict=True)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_dataset_of_a_subclass_can_be_copied(square, duplicate):
    """The copy has the same class, attributes and samples."""
    mine = Flipped(square, indices=[3, 5], size=32)
    mine.more = "added"
    other = duplicate(mine)
    assert type(other) is Flipped
    assert other.more == "added"
    assert torch.equal(other[1][0], mine[1][0])


class Flipped(Dataset):
    """A dataset as a user may define it."""

    def __getitem__(self, index):
        image, mask = super().__getitem__(index)
        return image.flip(-1), mask.flip(-1)


def test_getitem_of_a_subclass_is_called(square):
    """DataLoader gets samples from `__getitem__` of a subclass, also whole batches."""
    flipped = Flipped(square)
    (image, _) = next(iter(DataLoader(flipped, batch_size=3)))
    dataset = Dataset(square)
    assert torch.equal(image[2], dataset[2][0].flip(-1))


def loaded(batches):
    """Return image and mask of all samples that a DataLoader gives, as arrays."""
    columns = zip(*batches, strict=True)
    return [np.concatenate([*map(np.asarray, column)]) for column in columns]


def augmented_epochs(store, count, **options):
    """Return image and mask of all samples in each epoch of an ordered Loader."""
    order = {"shuffle": False, "batch_size": 1}
    loader = Loader(store, augment="light", seed=3, **order, **options)
    return [epoch(loader)[1:] for _ in range(count)]


@pytest.mark.parametrize(
    ("workers", "method", "persistent"),
    [(0, None, False), (2, "fork", False), (2, "fork", True), (2, "spawn", True)],
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_dataset_augments_as_a_loader(square, workers, method, persistent):
    """Each epoch has the bytes of the Loader's, whether it was set or is counted.

    So it is in workers that run on, and samples can be fetched in any order.
    """
    if method and method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    dataset = Dataset(square, augment="light", seed=3)
    options = {
        "batch_size": 3,
        "num_workers": workers,
        "multiprocessing_context": method,
        "persistent_workers": persistent,
    }
    batches = DataLoader(dataset, **options)
    expected = augmented_epochs(square, 6)
    got = [loaded(batches) for _ in range(2)]
    for number in (5, 2):
        dataset.set_epoch(number)
        got.append(loaded(batches))
    for arrays, number in zip(got, (0, 1, 5, 2), strict=True):
        for array, same in zip(arrays, expected[number], strict=True):
            assert_array_equal(array, same, strict=True)


def test_the_epoch_of_each_sample_is_counted(square):
    """A sample that was loaded more often than others is an epoch ahead of them."""
    dataset = Dataset(square, indices=[2, 9, 4], augment="light", seed=3)
    first, second = augmented_epochs(square, 2, indices=[2, 9, 4])
    _ = dataset[1]
    for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        together = duplicate(dataset).__getitems__([0, 1, 2])
        for k, expected in enumerate((first, second, first)):
            for tensor, array in zip(together[k], expected, strict=True):
                assert_array_equal(tensor.numpy(), array[k], strict=True)
    dataset.set_epoch(1)
    for _ in range(2):
        assert_array_equal(dataset[-2][0].numpy(), second[0][1])


def test_copies_of_a_dataset_count_in_shared_memory(square):
    """Workers that are forked from a copy count together, too."""
    dataset = Dataset(square, augment="light")
    for copied in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert copied._epochs._loadings.is_shared()
        assert copied._epochs._epoch.is_shared()
    with_no_need = Dataset(square)
    with_no_need.set_epoch(3)
    assert with_no_need._epochs is None


def test_a_failing_sample_is_named(square, monkeypatch):
    """The exception is the original one; its note names sample, patient and file."""
    dataset = Dataset(square, indices=[2, 7, 9])
    fill, error = dataset.preprocessing.fill, ZeroDivisionError("mine")

    def failing(samples, *arrays):
        if 7 in samples:
            raise error
        return fill(samples, *arrays)

    monkeypatch.setattr(dataset.preprocessing, "fill", failing)
    with pytest.raises(ZeroDivisionError) as caught:
        dataset.__getitems__([0, 1, 2])
    assert caught.value is error
    meta = square[7].meta
    (note,) = error.__notes__
    assert note == (
        f"while making sample 7 (patient {meta['patient']}, {meta['source']}) of "
        f"{square.path}"
    )


def test_a_file_that_shrinks_is_an_error(square, tmp_path):
    """A truncated file raises StoreError before its pixels are read."""
    path = tmp_path / "short.h5"
    path.write_bytes(square.path.read_bytes())
    dataset = Dataset(path)
    os.truncate(path, 4096)
    with pytest.raises(fastseg.errors.StoreError, match="truncated") as caught:
        dataset[0]
    assert caught.value.__notes__ == [f"while making sample 0 of {path}"]


def test_what_is_no_loader_is_refused(square):
    """as_torch takes a Loader, and says so if it gets a store, or what it lacks."""
    with pytest.raises(OptionError, match=r"loader is <Store .*expected a Loader"):
        as_torch(square)
    with pytest.raises(ArgumentError, match=r"as_torch\(\) has no argument 'devise'"):
        as_torch(Loader(square), devise="cpu")
    with pytest.raises(ArgumentError, match=r"as_torch\(\) needs 'loader'"):
        as_torch()


def test_bad_arguments_of_a_dataset_are_refused(store, square):
    """Invalid arguments raise when the dataset is made; a wrong index raises later."""
    with pytest.raises(OptionError, match="several shapes"):
        Dataset(store)
    with pytest.raises(OptionError, match="twice"):
        Dataset(square, indices=[1, 1])
    with pytest.raises(OptionError, match="did you mean 'light'"):
        Dataset(square, augment="ligt")
    with pytest.raises(OptionError, match="seed is -1"):
        Dataset(square, augment="light", seed=-1)
    for epoch in (-1, 2**63, 0.5, True, "0"):
        with pytest.raises(OptionError, match="epoch is"):
            Dataset(square).set_epoch(epoch)
    with pytest.raises(TypeError, match="'normalise'; did you mean 'normalize'"):
        Dataset(square, normalise=None)
    with pytest.raises(OptionError, match="no samples are chosen of the 16"):
        Dataset(square, indices=[])
    with pytest.raises(OptionError, match="did you mean 'zscore'"):
        Dataset(square, normalize="zscor")
    with pytest.raises(UnknownClassError):
        Dataset(square, masks="labels", priority=["heart"])
    for index in (16, -17):
        with pytest.raises(IndexError, match=f"sample {index} of a dataset of 16"):
            Dataset(square)[index]
    with pytest.raises(TypeError):
        Dataset(square)["0"]


# The loader ----------------------------------------------------------------------


def test_tensors_share_the_memory_of_the_batch(square):
    """Tensors and arrays have the same addresses; a write to one changes the other."""
    loader = Loader(square, batch_size=4)
    batch = next(iter(loader))
    tensors = adapter._as_tensors(batch)
    for name in ("image", "mask", "index"):
        tensor, array = getattr(tensors, name), getattr(batch, name)
        assert tensor.data_ptr() == array.ctypes.data
    tensors.image[0, 0, 0, 0] = 77
    assert batch.image[0, 0, 0, 0] == 77


def test_as_torch_uses_the_loaders_memory(square):
    """Every tensor lies in a buffer of the loader's pool."""
    loader = Loader(square, batch_size=4)
    for batch in as_torch(loader):
        references = list(loader._pool._in_use)
        buffers = [np.asarray(each.holds.holds) for each in references]
        for tensor in batch:
            assert any(np.shares_memory(tensor.numpy(), buffer) for buffer in buffers)


def test_kept_tensors_are_not_overwritten(square):
    """A view that is kept keeps its batch in memory; other memory is reused."""
    loader = Loader(square, batch_size=2, seed=3, threads=2, prefetch=2)
    tensors = as_torch(loader)
    expected = [image.copy() for image, _ in Loader(square, batch_size=2, seed=3)]
    kept = [batch.image[1, 0, 5:9].t() for batch in tensors]
    for _ in range(5):
        for image, mask in tensors:
            image.fill_(-1)
            mask.fill_(1)
    for rows, image in zip(kept, expected, strict=True):
        assert_array_equal(rows.t().numpy(), image[1, 0, 5:9])
    before = loader.stats().buffer_bytes
    del kept, rows, image, mask
    gc.collect()
    assert loader.stats().buffer_bytes < before


def test_memory_of_tensors_is_reused(square):
    """After many epochs, there is no more memory than the pool may keep."""
    loader = Loader(square, batch_size=2, prefetch=1)
    tensors = as_torch(loader)
    for _ in range(20):
        for image, _mask in tensors:
            _ = (image.double() * 2).sum()
    del image, _mask
    pool = loader._pool
    assert loader.stats().buffer_bytes <= pool.max_free * pool.buffer_bytes


def test_batches_equal_those_of_the_loader(square):
    """Order, bits and length are the same; a batch can be unpacked."""
    loader = Loader(square, batch_size=3, seed=5, masks="labels")
    tensors = as_torch(Loader(square, batch_size=3, seed=5, masks="labels"))
    assert len(tensors) == len(loader) == 6
    assert tensors.device == torch.device("cpu")
    for _ in range(2):
        assert_same_epochs(loader, tensors)
    assert tensors.epoch == 2
    tensors.epoch = loader.epoch = 7
    assert_same_epochs(loader, tensors)
    assert tensors.stats().batches == 18
    batch = next(iter(tensors))
    image, mask = batch
    assert image is batch.image
    assert mask is batch.mask
    assert len(batch) == 3
    assert (image.dtype, mask.dtype) == (torch.float32, torch.uint8)
    assert batch.index.dtype == torch.int64


def test_augmented_batches_have_their_params(square):
    """`replay` makes a batch again from the `params` of its tensors."""
    loader = Loader(square, batch_size=3, augment="light", return_params=True)
    for batch in as_torch(loader):
        again = loader.replay(batch.params)
        assert_array_equal(again.image, batch.image.numpy())


@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_a_loop_is_resumed_at_any_batch(square, stop):
    """A loop that is stopped and resumed has the same batches as one that is not."""
    options = {"batch_size": 3, "seed": 8}
    whole = as_torch(Loader(square, **options))
    expected = [batch.index.tolist() for _ in range(2) for batch in whole]
    stopped = as_torch(Loader(square, **options))
    got = []
    for number, batch in enumerate(stopped):
        if number == stop:
            break
        got.append(batch.index.tolist())
        state = json.dumps(stopped.state_dict())
    if stop == 0:
        state = json.dumps(as_torch(Loader(square, **options)).state_dict())
    resumed = as_torch(Loader(square, threads=1, **options))
    resumed.load_state_dict(json.loads(state))
    while resumed.epoch < 2:
        got += [batch.index.tolist() for batch in resumed]
    assert got == expected
    with pytest.raises(StateError, match="seed"):
        as_torch(Loader(square, batch_size=3)).load_state_dict(json.loads(state))


def test_leaving_a_loop_ends_the_threads(square):
    """After break, close, an exception or garbage collection, no thread is left."""
    tensors = as_torch(Loader(square, batch_size=1, threads=2))
    for _ in tensors:
        break
    assert count_threads() == 0
    running = iter(tensors)
    next(running)
    assert count_threads() in (1, 2)  # the second may not have begun yet
    running.close()
    assert count_threads() == 0
    with pytest.raises(RuntimeError, match="shape"):
        list(map(spoil, tensors))
    assert count_threads() == 0
    running = iter(tensors)
    next(running)
    del running
    gc.collect()
    assert count_threads() == 0
    iter(tensors)


def spoil(batch):
    return batch.image.reshape(7)


def count_threads():
    names = [thread.name for thread in threading.enumerate()]
    return sum(name.startswith("fastseg-loader") for name in names)


def test_a_failure_of_the_loader_is_raised(square):
    """The exception is unchanged, with the note that names the sample."""
    loader = Loader(square, batch_size=3)
    fill, error = loader.preprocessing.fill, ZeroDivisionError("mine")

    def failing(samples, *arrays):
        if 7 in samples:
            raise error
        return fill(samples, *arrays)

    loader.preprocessing.fill = failing
    with pytest.raises(ZeroDivisionError) as caught:
        list(as_torch(loader))
    assert caught.value is error
    assert error.__notes__[0].startswith("while making sample 7 (patient ")


def test_raw_values_keep_their_dtype(square):
    """Stored uint16 becomes torch.uint16, which can be converted to other dtypes."""
    loader = Loader(square, batch_size=2, shuffle=False, dtype="raw")
    image, _ = next(iter(as_torch(loader)))
    assert image.dtype == torch.uint16
    assert_array_equal(image[1, 0].to(torch.int32).numpy(), square[1].image)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_every_bit_of_a_mask_can_be_extracted(bits):
    """`(mask >> k) & 1` is class k, up to the last class of the widest masks."""
    every = np.eye(bits, dtype=np.uint8)
    weights = np.array([1 << k for k in range(bits)], f"u{bits // 8}")
    mask = (every * weights).sum(axis=1, dtype=weights.dtype)[:, None, None]
    image = np.zeros((bits, 1, 1, 1), np.float32)
    _, tensor = adapter._as_tensors(fastseg.Batch(image, mask, np.arange(bits)))
    assert tensor.data_ptr() == mask.ctypes.data
    for k in range(bits):
        assert_array_equal(((tensor >> k) & 1)[:, 0, 0].numpy(), every[:, k])


def test_batches_support_dlpack(square):
    """Other libraries can import the arrays without a copy, and keep them."""
    loader = Loader(square, batch_size=4, seed=1)
    first = next(iter(loader))
    expected, address = first.image.copy(), first.image.ctypes.data
    assert first.image.__dlpack_device__() == (1, 0)
    tensor = torch.from_dlpack(first.image)
    assert tensor.data_ptr() == address
    del first
    for _ in range(3):
        for batch in loader:
            batch.image[:] = -1
    assert_array_equal(tensor.numpy(), expected)


# Devices -------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_the_cpu_is_the_default_device(square, device):
    """Naming the CPU as device changes nothing."""
    tensors = as_torch(Loader(square, batch_size=3), device)
    assert_same_epochs(Loader(square, batch_size=3), tensors)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 99, 1.5])
def test_a_device_that_is_not_there_is_refused(square, device):
    """The error names the device, before anything is loaded."""
    with pytest.raises(OptionError, match=re.escape(repr(str(device)))):
        as_torch(Loader(square), device)


@without_cuda
def test_without_cuda_there_is_no_pinned_memory(square):
    """pin_memory raises OptionError, and is not ignored."""
    with pytest.raises(OptionError, match="pin_memory needs CUDA"):
        as_torch(Loader(square), pin_memory=True)


def test_other_devices_get_copies(square):
    """On devices without streams, tensors are moved; index stays on the CPU."""
    for batch in as_torch(Loader(square, batch_size=3), "meta"):
        assert batch.image.device.type == batch.mask.device.type == "meta"
        assert batch.index.device.type == "cpu"


# A batch in the hands of others ---------------------------------------------------


@pytest.fixture(scope="module")
def batch(square):
    """A batch of tensors with all four fields."""
    options = {"batch_size": 4, "augment": "light", "return_params": True}
    return next(iter(as_torch(Loader(square, **options))))


def test_a_batch_goes_to_a_device(batch):
    """Image and mask move, and index and params stay; what is no device is refused."""
    for moved in (batch.to("meta"), batch.to(torch.device("meta"), non_blocking=True)):
        assert moved.image.is_meta
        assert moved.mask.is_meta
        assert moved.index is batch.index
        assert moved.params is batch.params
    for device in (torch.float16, "gpu"):
        with pytest.raises(OptionError, match="device is"):
            batch.to(device)


def test_a_batch_is_a_node_of_torchs_trees(batch):
    """Its children are image, mask and index, by name; params survive."""
    tree = torch.utils._pytree
    leaves = dict(zip(FIELDS[:3], tree.tree_leaves(batch), strict=True))
    assert all(leaf is batch[name] for name, leaf in leaves.items())
    half = tree.tree_map(lambda tensor: tensor[:2], batch)
    assert type(half) is adapter.TorchBatch
    assert len(half) == len(half.image) == len(half.mask) == 2
    assert half.params is batch.params
    names = tree.tree_map_with_path(lambda path, _: tree.keystr(path), batch)
    assert names.index == ".index"
    other = adapter.TorchBatch(batch.image, batch.mask, batch.index)
    total = tree.tree_map(torch.add, batch, other)
    assert torch.equal(total.mask, batch.mask * 2)
    assert total.params is batch.params
    assert tree.tree_structure(batch) == tree.tree_structure(other)
    saved = tree.treespec_dumps(tree.tree_structure(batch))
    children = [batch[name] for name in FIELDS[:3]]
    loaded = tree.tree_unflatten(children, tree.treespec_loads(saved))
    assert loaded.params == batch.params


@pytest.mark.parametrize("name", ["corner", "is_beyond"])
def test_other_arrays_are_leaves_of_a_batch(batch, name):
    """A batch that has one has one more tensor, which stays when the others move."""
    tree = torch.utils._pytree
    array = torch.arange(3 * len(batch)).reshape(-1, 3)
    given = batch.image, batch.mask, batch.index, batch.params
    more = adapter.TorchBatch(*given, **{name: array})
    assert tree.tree_structure(more) != tree.tree_structure(batch)
    half = tree.tree_map(lambda tensor: tensor[:2], more)
    assert torch.equal(half[name], array[:2])
    assert more.to("cpu")[name] is array
    saved = tree.treespec_dumps(tree.tree_structure(more))
    leaves = tree.tree_leaves(more)
    assert len(leaves) == 4
    assert tree.tree_unflatten(leaves, tree.treespec_loads(saved))[name] is array


def test_neighbours_are_channels_of_tensors(square):
    """as_torch tells which are beyond; a Dataset has the same images and masks."""
    options = {"neighbours": 2, "masks_of": "all", "missing": "background"}
    loader = Loader(square, shuffle=False, batch_size=len(square), **options)
    (batch,) = as_torch(loader)
    (arrays,) = loader
    assert batch.image.shape == (len(square), 5, 40, 40)
    assert batch.is_beyond.dtype == torch.bool
    assert_array_equal(batch.is_beyond.numpy(), arrays.is_beyond)
    dataset = Dataset(square, **options)
    for k in range(len(square)):
        image, mask = dataset[k]
        assert torch.equal(image, batch.image[k])
        assert torch.equal(mask, batch.mask[k])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.parametrize("pin", [False, True])
def test_dataloader_takes_whole_batches(square, pin):
    """Without workers it gives the batches of as_torch, epoch after epoch."""
    ours = Loader(square, batch_size=3, augment="light", return_params=True)
    theirs = Loader(square, batch_size=3, augment="light", return_params=True)
    batches = DataLoader(as_torch(theirs), batch_size=None, pin_memory=pin)
    assert len(batches) == len(ours)
    for _ in range(2):
        for one, other in zip(ours, batches, strict=True):
            assert type(other) is adapter.TorchBatch
            for name in FIELDS[:3]:
                assert_array_equal(one[name], other[name].numpy(), strict=True)
            assert one.params == other.params


def test_batches_are_not_collated(square):
    """A DataLoader with a batch size is refused, and so is a batch by number."""
    batches = as_torch(Loader(square, batch_size=3))
    with pytest.raises(TypeError, match="give it batch_size=None"):
        next(iter(DataLoader(batches, batch_size=4)))
    with pytest.raises(TypeError, match="no batch by number"):
        batches[0]


class Attempt(torch.utils.data.IterableDataset):
    """Yields the error of a loop over a loader's batches."""

    def __init__(self, loader):
        self.batches = as_torch(loader)

    def __iter__(self):
        try:
            next(iter(self.batches))
        except RuntimeError as exc:
            yield str(exc)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_do_not_repeat_all_batches(square):
    """In a worker of a DataLoader, a loop is refused, with what to do instead."""
    # The worker does not fail itself: torch would wait five seconds for its end.
    attempt = Attempt(Loader(square))
    (text,) = DataLoader(attempt, batch_size=None, num_workers=1)
    assert "leave out num_workers" in text


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_batch_can_be_copied(batch, duplicate):
    """A copy has the same fields, and fields may be assigned to."""
    copied = duplicate(batch)
    for name in FIELDS[:3]:
        assert torch.equal(copied[name], batch[name])
    assert copied.params == batch.params
    copied.image = 7
    assert copied["image"] == 7
    assert batch.image is not copied.image


def test_what_stands_for_a_batch_in_a_line(square, batch):
    """repr gives number, dtypes, shapes and device, whatever was put into a batch."""
    assert repr(batch) == (
        "TorchBatch of 4 on cpu: image float32 (4, 1, 40, 40), mask uint8 (4, 40, 40), "
        "params"
    )
    other = copy.copy(batch.to("meta"))
    assert " of 4 on meta: " in repr(other)
    assert "<img" not in other._repr_html_()
    other.image, other.mask, other.index, other.params = (
        None,
        "a",
        torch.tensor(1),
        None,
    )
    assert repr(other) == "TorchBatch: image NoneType, mask str"
    assert repr(other) in other._repr_html_()
    other.image, other.mask = batch.image.to_sparse(), batch.mask
    assert "<img" not in other._repr_html_()
    html = batch._repr_html_()
    assert html.count("<img") == 4
    assert html.count(f"<figcaption>sample {batch.index[3]}</figcaption>") == 1
    other = copy.copy(batch)
    other.image, other.mask = batch.image.bfloat16(), batch.mask.float()
    assert other._repr_html_().count("<img") == 4
    assert repr(Dataset(square, size=32, augment="light")) == (
        "Dataset of 16 samples of square.h5: image float32 (1, 32, 32), "
        "mask uint8 (32, 32), augmented"
    )
    loader = Loader(square)
    assert repr(as_torch(loader)) == f"as_torch({loader!r}, device='cpu')"


class Copier:
    """Replaces the copier for CUDA: records the calls, and copies at once."""

    def __init__(self):
        self.events = []

    def start(self, batch):
        number = int(batch.index[0])
        self.events.append(("start", number))
        return torch.utils._pytree.tree_map(torch.clone, batch), number

    def finish(self, batch, number):
        self.events.append(("finish", number))
        return batch


@pytest.fixture
def ahead(square):
    """A function that makes a TorchLoader of ordered samples with this Copier."""

    def make(**options):
        loader = Loader(square, batch_size=1, shuffle=False, threads=2, **options)
        tensors = as_torch(loader)
        tensors._copier = Copier()
        return tensors

    return make


def test_the_next_copy_starts_before_a_batch_is_yielded(ahead, square):
    """Exactly one batch is copied ahead, and the batches are the same."""
    tensors = ahead()
    running = iter(tensors)
    next(running)
    assert tensors._copier.events == [("start", 0), ("start", 1), ("finish", 0)]
    next(running)
    assert tensors._copier.events[3:] == [("start", 2), ("finish", 1)]
    running.close()
    assert count_threads() == 0
    assert_same_epochs(Loader(square, batch_size=1, shuffle=False, seed=0), tensors)


def test_a_state_is_not_ahead(ahead, square):
    """It resumes after the batch that the consumer has, not after the copied one."""
    tensors = ahead()
    assert tensors.state_dict()["batch"] == 0
    running = iter(tensors)
    assert tensors.state_dict()["batch"] == 0
    for number in range(1, len(square)):
        next(running)
        state = tensors.state_dict()
        assert (state["epoch"], state["batch"]) == (0, number)
    running.close()
    assert tensors.state_dict() == state
    resumed = ahead()
    resumed.load_state_dict(state)
    assert [batch.index.item() for batch in resumed] == [len(square) - 1]
    assert (resumed.state_dict()["epoch"], resumed.epoch) == (1, 1)
    tensors.epoch = 5
    assert tensors.state_dict()["epoch"] == 5


def test_a_failure_comes_after_the_batches_before_it(ahead):
    """The consumer gets all earlier batches first, and the state is after them."""
    tensors = ahead(prefetch=4)
    fill, error = tensors.loader.preprocessing.fill, ZeroDivisionError("mine")

    def failing(samples, *arrays):
        if 3 in samples:
            raise error
        return fill(samples, *arrays)

    tensors.loader.preprocessing.fill = failing
    got = []
    with pytest.raises(ZeroDivisionError) as caught:
        got += (batch.index.item() for batch in tensors)
    assert caught.value is error
    assert tensors.state_dict()["batch"] == 3
    assert tensors._copier.events[-1] == ("finish", 2)


def test_a_copy_that_fails_is_not_in_the_state(ahead, monkeypatch):
    """The state stays before the batch that the consumer did not get."""
    tensors = ahead()
    monkeypatch.setattr(tensors._copier, "start", spoil)
    with pytest.raises(RuntimeError, match="shape"):
        next(iter(tensors))
    assert tensors.state_dict()["batch"] == 0


@needs_cuda
def test_batches_arrive_on_a_gpu(square):
    """The bits are the same on the GPU, also after memory has been reused often."""
    expected = [(i.copy(), m.copy()) for i, m in Loader(square, batch_size=3, seed=1)]
    tensors = as_torch(Loader(square, batch_size=3, seed=1, prefetch=1), "cuda")
    for _ in range(20):
        tensors.epoch = 0
        for batch, (image, mask) in zip(tensors, expected, strict=True):
            assert batch.image.is_cuda
            assert batch.mask.is_cuda
            assert not batch.index.is_cuda
            assert_array_equal(batch.image.cpu().numpy(), image)
            assert_array_equal(batch.mask.cpu().numpy(), mask)


@needs_cuda
@pytest.mark.parametrize("own_stream", [False, True])
def test_a_slow_step_reads_its_own_batch(square, own_stream):
    """Work that runs long after it was queued does not read a later batch."""
    loader = Loader(square, batch_size=2, seed=1, shuffle=False, prefetch=1)
    expected = [float(image.astype(np.float64).sum()) for image, _ in loader]
    stream = torch.cuda.Stream() if own_stream else torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        sums = []
        for _ in range(5):
            for image, _ in as_torch(loader, "cuda"):
                torch.cuda._sleep(5_000_000)
                sums.append(image.double().sum())
                del image
        totals = [float(total) for total in sums]
    np.testing.assert_allclose(totals, expected * 5, rtol=0, atol=1e-6)


@needs_cuda
def test_pinned_tensors_can_be_kept(square):
    """They are page-locked, equal the loader's batches, and are not overwritten."""
    kept = list(as_torch(Loader(square, batch_size=3, seed=1), pin_memory=True))
    assert all(tensor.is_pinned() for batch in kept for tensor in batch)
    assert_same_epochs(Loader(square, batch_size=3, seed=1), kept)


# The package ---------------------------------------------------------------------


def run_python(*arguments, cwd=None, threads="1"):
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_module_is_imported_on_access():
    """`fastseg.torch` needs no import statement, and is not PyTorch's module."""
    code = (
        "import sys, fastseg; assert 'torch' not in sys.modules; "
        "from fastseg import *; assert 'torch' not in sys.modules; "
        "print(fastseg.torch.as_torch.__module__, fastseg.torch.torch.__name__)"
    )
    run = run_python("-c", code)
    assert (run.stdout, run.stderr) == ("fastseg.torch torch\n", "")


# The example ---------------------------------------------------------------------

EXAMPLE = PROJECT / "examples" / "train_unet.py"


def test_the_example_learns_and_resumes(store, tmp_path):
    """The loss decreases, Dice increases, and a resumed run prints the same lines.

    Without a store, the example builds the same one.
    """
    whole, first, last = (
        run_python(EXAMPLE, *arguments, cwd=tmp_path)
        for arguments in (
            (store.path, "--size", 64, "--epochs", 4, "--picture", "picture.png"),
            ("--size", 64, "--epochs", 2, "--checkpoint", "unet.pt"),
            (store.path, "--size", 64, "--epochs", 4, "--resume", "unet.pt"),
        )
    )
    assert [run.stderr for run in (whole, first, last)] == ["", "", ""]
    head, *lines = whole.stdout.splitlines()
    assert head == "train: 24 samples, val: 8 samples"
    assert first.stdout.splitlines() == [head, *lines[:2]]
    assert last.stdout.splitlines() == [head, *lines[2:]]
    pattern = r"epoch +\d+: loss ([\d.]+), Dice of icontour ([\d.]+)"
    losses, scores = zip(
        *(map(float, re.fullmatch(pattern, line).groups()) for line in lines),
        strict=True,
    )
    assert losses[-1] < 0.8 * losses[0]
    assert max(scores) > 0.5 > scores[0]
    assert {path.name for path in tmp_path.iterdir()} == {"unet.pt", "picture.png"}


def test_the_example_of_patches_learns(tmp_path):
    """The 3-D network's loss decreases, and it predicts the volume held out."""
    path = PROJECT / "examples" / "train_unet3d.py"
    run = run_python(path, "--epochs", 2, "--patch", 4, 32, 32, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    head, *lines = run.stdout.splitlines()
    assert head == "2 volumes to train, 1 to test"
    pattern = r"epoch +\d+: loss ([\d.]+), Dice of heart ([\d.]+)"
    losses = [float(re.fullmatch(pattern, line)[1]) for line in lines]
    assert len(losses) == 2
    assert losses[1] < losses[0]
