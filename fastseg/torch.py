"""PyTorch: a Loader's batches as tensors, and a store as a Dataset.

`as_torch` is the fast way: the loader's own threads make whole batches, and its order,
division among ranks and resuming work as usual. `Dataset` is for code that needs
torch's DataLoader.

With `masks="bits"` and more than 8 classes, masks are int16, int32 or int64 tensors
with the same bits, because torch cannot shift unsigned integers wider than 8 bits. In
all cases `(mask >> k) & 1` is class k. With `dtype="raw"`, images keep the dtype of the
store; torch supports little more than `.to(torch.int32)` and `.float()` for uint16 and
wider unsigned integers.
"""

import operator
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import OptionError, missing_extra, refuse_renamed, true_or_false
from fastseg.loading.batches import Batch
from fastseg.loading.format import BatchFormat
from fastseg.loading.loader import Loader
from fastseg.loading.preprocessing import Preprocessing, warn_of_missing
from fastseg.loading.stats import Stats
from fastseg.paths import StrPath
from fastseg.store.reader import Store, open_store
from fastseg.store.selection import check_indices

try:
    import torch
    import torch.utils.data
except ModuleNotFoundError as exc:
    raise missing_extra("fastseg.torch", "torch") from exc

T = TypeVar("T")


class Dataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """The samples of a store, for torch.utils.data.DataLoader.

    store   : a store, as `fastseg.open` returns it, or the path of one
    indices : indices of the samples in the store, by default all
    options : those of images and masks of `Loader`

    `dataset[i]` is (image, mask), two tensors: image has shape (1, h, w), the shape of
    mask depends on `masks`. The sample's index in the store is `dataset.indices[i]`.
    DataLoader loads whole batches with one call, unless a subclass defines
    `__getitem__`. A dataset can be pickled and forked: a forked worker shares the
    mapped file, a spawned one maps it again. A dataset has no `augment`, because it
    does not know the epoch; use a Loader.

    Raises OptionError or UnknownClassError for arguments that are invalid or do not fit
    the store.
    """

    @refuse_renamed(pad="pad_value")
    def __init__(
        self,
        store: Store | StrPath,
        *,
        indices: ArrayLike | None = None,
        **options: Any,
    ):
        self.store = store if isinstance(store, Store) else open_store(store)
        self.indices = check_indices(self.store, indices)
        if not self.indices.size:
            raise OptionError(
                f"no samples are chosen of the {len(self.store)} in the store, "
                "expected at least 1"
            )
        format = BatchFormat(**options)
        if format.augment is not None:
            raise OptionError(
                "augment is given, but a Dataset does not know the epoch; use a Loader"
            )
        self.preprocessing = Preprocessing(self.store, self.indices, format)
        warn_of_missing(self.preprocessing, stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        # Preprocessing has arrays as long as the store: it is made again.
        return {**self.__dict__, "preprocessing": self.preprocessing.format}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.preprocessing = Preprocessing(
            self.store, self.indices, state["preprocessing"]
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._load([index])[0]

    def __getitems__(
        self, indices: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # 1.4 times the samples per second of loading one by one, in batches of 32.
        if type(self).__getitem__ is not Dataset.__getitem__:
            return [self[index] for index in indices]
        return self._load(indices)

    def _load(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        count = len(indices)
        preprocessing = self.preprocessing
        samples = np.array([self._sample(index) for index in indices], np.int64)
        image = np.empty((count, *preprocessing.image_shape), preprocessing.image_dtype)
        mask = np.empty((count, *preprocessing.mask_shape), preprocessing.mask_dtype)
        self._fill(samples, image, mask)
        self.store.check()  # it may have changed while it was read
        images, masks = _as_tensors(Batch(image, mask, samples))
        return list(zip(images, masks, strict=True))

    def _sample(self, index: int) -> int:
        """Return the index in the store of an index in the dataset."""
        count = len(self)
        if isinstance(index, bool):
            raise TypeError(f"a sample is {index}, expected a whole number")
        index = operator.index(index)
        if not -count <= index < count:
            raise IndexError(
                f"sample {index} of a dataset of {count}, expected {-count} to "
                f"{count - 1}"
            )
        return int(self.indices[index])

    def _fill(
        self, samples: NDArray[np.int64], image: NDArray[Any], mask: NDArray[Any]
    ) -> None:
        try:
            self.preprocessing.fill(samples, image, mask)
            return
        except Exception as exc:
            if len(samples) == 1:
                name = self.preprocessing.describe_sample(int(samples[0]))
                exc.add_note(f"while making {name}")
                raise
        # Fill the samples one by one to find the one that fails.
        for k in range(len(samples)):
            one = slice(k, k + 1)
            self._fill(samples[one], image[one], mask[one])


@dataclass(frozen=True, slots=True)
class TorchBatch:
    """Stacked samples as tensors; `image, mask = batch` unpacks them.

    image  : float32 (B, 1, h, w), or of the loader's `dtype`
    mask   : of the shape and dtype that the loader's `masks` names
    index  : int64 (B,), the samples' indices in the store; always on the CPU
    params : those of `Batch`
    """

    image: torch.Tensor
    mask: torch.Tensor
    index: torch.Tensor
    params: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.image, self.mask))

    def __len__(self) -> int:
        return len(self.index)


def as_torch(
    loader: Loader,
    device: "str | int | torch.device | None" = None,
    pin_memory: bool = False,
) -> "TorchLoader":
    """Return an iterable over a loader's batches as tensors.

    device     : device of the tensors, as in "cuda". By default they stay on the CPU
        and share the memory of the loader's arrays, without a copy. To a CUDA device,
        each batch is copied while the consumer works on the previous one
    pin_memory : whether to copy batches to page-locked memory, from which you can copy
        them to a CUDA device yourself. Has no effect with a CUDA device, for which this
        is always done

    Raises OptionError for a device that torch cannot use here.
    """
    return TorchLoader(loader, device, pin_memory)


class TorchLoader:
    """Iterates over a loader's batches as tensors; `as_torch` returns it.

    loader : the Loader
    device : device of the tensors

    Each `for` loop over it is one epoch of the loader. Call its own `state_dict`, not
    that of the loader, which is one batch ahead if the device is a CUDA device.
    """

    def __init__(self, loader: Loader, device: Any = None, pin_memory: bool = False):
        self.loader = loader
        self.device = _as_device(device)
        if pin_memory and not torch.cuda.is_available():
            raise OptionError(
                "pin_memory needs CUDA, which torch cannot use here: leave it out"
            )
        self.pin_memory = true_or_false("pin_memory", pin_memory)
        self._copier = _Copier(self.device) if self.device.type == "cuda" else None
        # State after the batch that the consumer got last, if the loader is ahead.
        self._state: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Generator[TorchBatch, None, None]:
        batches = iter(self.loader)
        self._state = None if self._copier is None else self.loader.state_dict()
        return self._run(batches)

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next loop loads; may be set."""
        return self.loader.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.loader.epoch = epoch
        self._state = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` resumes, a dict for JSON.

        The resumed loop starts with the batch after the one that the consumer got last.
        """
        return self.loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """Make the next loop continue where `state_dict` was called.

        Also accepts a state of a Loader, and raises what `Loader.load_state_dict` does.
        """
        self.loader.load_state_dict(given)
        self._state = None

    def stats(self) -> Stats:
        """Return counts, times and the bottleneck of the loader's loops so far."""
        return self.loader.stats()

    def _run(self, batches: Any) -> Generator[TorchBatch, None, None]:
        # `map` keeps no reference to a batch, so that its memory is free as soon as the
        # consumer drops it.
        tensors = map(_as_tensors, batches)
        # Twice, because an interrupt may hit the first exit before it has closed.
        with closing(batches), closing(batches):
            if self._copier is not None:
                copies = _one_ahead(map(self._start_copy, tensors))
                yield from map(self._finish_copy, copies)
            elif self.device.type != "cpu":
                yield from map(partial(_to_device, device=self.device), tensors)
            else:
                yield from map(_pin, tensors) if self.pin_memory else tensors

    def _start_copy(self, batch: TorchBatch) -> tuple[Any, dict[str, Any]]:
        assert self._copier is not None
        return self._copier.start(batch), self.loader.state_dict()

    def _finish_copy(self, started: tuple[Any, dict[str, Any]]) -> TorchBatch:
        assert self._copier is not None
        copy, self._state = started
        return self._copier.finish(*copy)


class _Copier:
    """Copies batches to a CUDA device, on its own stream."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, batch: TorchBatch) -> tuple[TorchBatch, torch.cuda.Event]:
        """Start to copy a batch; return the copy, and an event that marks its end.

        The copy is made from page-locked memory, which torch reuses only after all
        copies from it have finished.
        """
        with torch.cuda.stream(self._stream):
            copy = _to_device(_pin(batch), self._device, non_blocking=True)
            return copy, self._stream.record_event()

    def finish(self, copy: TorchBatch, copied: torch.cuda.Event) -> TorchBatch:
        """Return the copy; the consumer's stream waits for it, its thread does not."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in copy:
            # The memory belongs to the copying stream, which must not reuse it before
            # the consumer's stream has finished with it.
            tensor.record_stream(stream)
        return copy


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after the next one has been fetched.

    If fetching fails, the items before are yielded before the exception is raised.
    """
    fetched: deque[T] = deque()
    try:
        for item in items:
            fetched.append(item)
            if len(fetched) > 1:
                yield fetched.popleft()
    except Exception:
        yield from fetched
        raise
    yield from fetched


def _as_tensors(batch: Batch) -> TorchBatch:
    """Return tensors that share the memory of a batch's arrays."""
    return TorchBatch(
        torch.from_numpy(batch.image),
        torch.from_numpy(_signed_view(batch.mask)),
        torch.from_numpy(batch.index),
        batch.params,
    )


def _pin(batch: TorchBatch) -> TorchBatch:
    return replace(batch, image=batch.image.pin_memory(), mask=batch.mask.pin_memory())


def _to_device(
    batch: TorchBatch, device: torch.device, non_blocking: bool = False
) -> TorchBatch:
    image, mask = (tensor.to(device, non_blocking=non_blocking) for tensor in batch)
    return replace(batch, image=image, mask=mask)


def _signed_view(mask: NDArray[Any]) -> NDArray[Any]:
    """Return a view that torch can shift: the same bits, signed if wider than 8."""
    return mask if mask.itemsize == 1 else mask.view(f"i{mask.itemsize}")


def _as_device(device: Any) -> torch.device:
    """Return the torch.device with its index, or raise OptionError."""
    try:
        return torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, AssertionError, TypeError) as exc:  # torch raises any
        reason = str(exc).splitlines()[0]
        raise OptionError(
            f"device is {str(device)!r}, which torch cannot use here: {reason}"
        ) from exc
