"""The adapter for PyTorch: tensors that share memory, and datasets for its loader."""

import gc
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
from fastseg.errors import OptionError
from tests.conftest import PROJECT

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastseg.torch import Dataset, as_torch  # noqa: E402  needs torch

OPTIONS = {"size": 48, "masks": "labels"}


def test_batches_share_the_loader_s_memory(store):
    """On the CPU a tensor is a view of the batch, and equal to it."""
    expected = list(Loader(store, batch_size=5, seed=1, **OPTIONS))
    loader = Loader(store, batch_size=5, seed=1, **OPTIONS)
    batches = list(as_torch(loader))
    assert len(batches) == len(as_torch(loader)) == len(expected)
    for tensors, arrays in zip(batches, expected, strict=True):
        image, mask = tensors
        assert_array_equal(image.numpy(), arrays.image)
        assert_array_equal(mask.numpy(), arrays.mask)
        assert_array_equal(tensors.index.numpy(), arrays.index)
        assert image.dtype == torch.float32
        assert mask.dtype == torch.uint8
    batch = next(iter(loader))
    shared = torch.from_numpy(batch.image)
    assert shared.data_ptr() == batch.image.ctypes.data
    assert torch.from_dlpack(batch.image).data_ptr() == batch.image.ctypes.data


def test_kept_tensors_are_not_written_to(store):
    """A tensor, or a view of one, keeps the memory of its batch."""
    tensors = as_torch(Loader(store, batch_size=2, **OPTIONS))
    kept = [batch.image[1:, :, ::2] for batch in tensors]
    copies = [part.clone() for part in kept]
    for _ in range(3):
        for _batch in tensors:
            pass
    for part, copy in zip(kept, copies, strict=True):
        assert torch.equal(part, copy)


def test_memory_is_used_again_when_tensors_are_gone(store):
    """Epochs of tensors need no more memory than those of arrays."""
    tensors = as_torch(Loader(store, batch_size=2, prefetch=2, **OPTIONS))
    addresses = {batch.image.data_ptr() for _ in range(5) for batch in tensors}
    assert len(addresses) <= 5


def test_a_loop_is_resumed_through_the_adapter(store):
    """Its states are the loader's, and lead to the next batch."""
    options = {"batch_size": 4, "seed": 3, **OPTIONS}
    tensors = as_torch(Loader(store, **options))
    running = iter(tensors)
    next(running), next(running)
    state = tensors.state_dict()
    assert state == tensors.loader.state_dict()
    other = as_torch(Loader(store, **options))
    other.load_state_dict(state)
    for ours, theirs in zip(running, other, strict=True):
        assert torch.equal(ours.image, theirs.image)
    assert tensors.epoch == 1
    tensors.epoch = 5
    assert tensors.loader.epoch == 5
    assert tensors.stats().batches > 0


def test_leaving_a_loop_ends_the_threads(store):
    """break, close and garbage collection leave none."""
    tensors = as_torch(Loader(store, batch_size=1, **OPTIONS))
    for _ in tensors:
        break
    running = iter(tensors)
    next(running)
    del running
    gc.collect()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("fastseg")]


def test_failures_arrive_unchanged(store):
    """With the note that names the sample."""
    loader = Loader(store, batch_size=4, **OPTIONS)

    def fail(*arrays):
        raise ZeroDivisionError("mine")

    loader.recipe.fill = fail
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        list(as_torch(loader))
    assert "while making sample" in caught.value.__notes__[0]


def test_unusable_devices_are_refused(store):
    """The error names the device."""
    loader = Loader(store, batch_size=4, **OPTIONS)
    with pytest.raises(OptionError, match="device is 'gpu', which torch cannot use"):
        as_torch(loader, "gpu")
    assert as_torch(loader, "cpu").device.type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="device is 'cuda'"):
            as_torch(loader, "cuda")
        with pytest.raises(OptionError, match="pin_memory needs CUDA"):
            as_torch(loader, pin_memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_batches_arrive_on_the_device(store):
    """On CUDA they are equal to those on the CPU, also if the consumer is slow."""
    expected = list(Loader(store, batch_size=4, **OPTIONS))
    moved = list(as_torch(Loader(store, batch_size=4, **OPTIONS), "cuda"))
    for tensors, arrays in zip(moved, expected, strict=True):
        assert tensors.image.is_cuda
        assert_array_equal(tensors.image.cpu().numpy(), arrays.image)
        assert_array_equal(tensors.mask.cpu().numpy(), arrays.mask)


@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")], ids=str
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_dataset_goes_into_torch_s_loader(store, workers, method):
    """Its workers make the samples that a Loader makes."""
    dataset = Dataset(store, **OPTIONS)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=6, num_workers=workers, multiprocessing_context=method
    )
    expected = list(Loader(store, batch_size=6, shuffle=False, **OPTIONS))
    got = list(loader)
    assert len(got) == len(expected)
    for (image, mask), arrays in zip(got, expected, strict=True):
        assert_array_equal(image.numpy(), arrays.image)
        assert_array_equal(mask.numpy(), arrays.mask)


def test_a_dataset_is_indexed_and_pickled(store):
    """Places count along its indices; a copy opens its own map."""
    dataset = Dataset(store.path, indices=[3, 7, 9], **OPTIONS)
    assert len(dataset) == 3
    image, mask = dataset[-1]
    expected = next(iter(Loader(store, indices=[9], batch_size=1, **OPTIONS)))
    assert_array_equal(image.numpy(), expected.image[0])
    assert_array_equal(mask.numpy(), expected.mask[0])
    other = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(other[1][0], dataset[1][0])
    with pytest.raises(IndexError, match="sample 3 of a dataset of 3"):
        dataset[3]
    with pytest.raises(OptionError, match="no samples are chosen"):
        Dataset(store, indices=[])


def test_wide_masks_can_be_shifted(store):
    """More than eight classes come as signed numbers with the same bits."""
    from fastseg.torch import _shiftable

    mask = np.array([1 << 15, 3], np.uint16)
    tensor = torch.from_numpy(_shiftable(mask))
    assert ((tensor >> 15) & 1).tolist() == [1, 0]
    assert ((tensor >> 1) & 1).tolist() == [0, 1]


def run(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **options
    )


def test_the_example_learns(tmp_path):
    """A few epochs lower the loss; a run that is resumed goes on where it was."""
    example = PROJECT / "examples" / "train_unet.py"
    whole = run(example, "--epochs", 4, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    losses = [float(text) for text in re.findall(r"loss ([\d.]+)", whole.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.1
    assert len(re.findall(r"Dice of icontour [\d.]+", whole.stdout)) == 4
    fastseg.build(fastseg.link(PROJECT / "data" / "phantom"), tmp_path / "heart.h5")
    first = run(
        example, "heart.h5", "--epochs", 2, "--checkpoint", "a.pt", cwd=tmp_path
    )
    assert first.returncode == 0, first.stderr
    rest = run(example, "heart.h5", "--epochs", 4, "--resume", "a.pt", cwd=tmp_path)
    assert rest.returncode == 0, rest.stderr
    assert rest.stdout.splitlines()[1:] == whole.stdout.splitlines()[3:]
