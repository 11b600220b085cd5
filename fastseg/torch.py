"""PyTorch: a Loader's batches as tensors, and a store as a Dataset.

`as_torch` is the fast way: the loader's own threads make whole batches, and its order,
sharding and resume stay. `Dataset` is for what wants torch's DataLoader.

Masks with `masks="bits"` of more than 8 classes come as int16, int32 or int64, with the
same bits: torch cannot shift unsigned numbers wider than a byte. In every case
`(mask >> k) & 1` is class k. Images with `dtype="raw"` keep the dtype of the store; for
uint16 and wider, torch has little more than `.to(torch.int32)` and `.float()`.
"""

import operator
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastseg.errors import OptionError, missing_extra, refuse_renamed
from fastseg.links import StrPath
from fastseg.loading.batches import Batch
from fastseg.loading.loader import Loader
from fastseg.loading.normalization import Normalize
from fastseg.loading.preprocessing import (
    ZSCORE_OR_RAW,
    DTypeName,
    Missing,
    Preprocessing,
    warn_of_missing,
)
from fastseg.loading.stats import Stats
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

    store   : what `fastseg.open` returns, or a path
    indices : places of the samples in the store, by default all
    others  : what a sample becomes, as `Loader` says

    `dataset[i]` is (image, mask), tensors of shapes (1, h, w) and as `masks` says; its
    place in the store is `dataset.indices[i]`. DataLoader fetches whole batches in one
    call, unless a subclass has a `__getitem__` of its own. A dataset can be pickled and
    forked: workers open their own map of the file, or share ours. What changes from
    epoch to epoch, as `augment` does, only a Loader has.

    Raises OptionError or UnknownClassError for arguments that do not fit the store.
    """

    @refuse_renamed(pad="pad_value")
    def __init__(
        self,
        store: Store | StrPath,
        *,
        indices: ArrayLike | None = None,
        size: int | tuple[int, int] | None = None,
        normalize: Normalize | None = ZSCORE_OR_RAW,
        percentiles: tuple[float, float] = (1.0, 99.0),
        pad_value: float = 0.0,
        dtype: DTypeName | torch.dtype | DTypeLike = "float32",
        masks: str = "labels",
        priority: Sequence[str] | None = None,
        missing: Missing | None = None,
    ):
        self.store = store if isinstance(store, Store) else open_store(store)
        self.indices = check_indices(self.store, indices)
        if not self.indices.size:
            raise OptionError(f"no samples are chosen of the {len(self.store)} there")
        self._options: dict[str, Any] = {
            "size": size,
            "normalize": normalize,
            "percentiles": percentiles,
            "pad_value": pad_value,
            "dtype": dtype,
            "masks": masks,
            "priority": priority,
            "missing": missing,
        }
        self.preprocessing = self._make_preprocessing()
        warn_of_missing(self.preprocessing, stacklevel=3)

    def _make_preprocessing(self) -> Preprocessing:
        return Preprocessing(self.store, self.indices, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in self.__dict__.items() if name != "preprocessing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.preprocessing = self._make_preprocessing()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._made([place])[0]

    def __getitems__(
        self, places: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # 1.4 times the samples per second of one by one, in batches of 32.
        if type(self).__getitem__ is not Dataset.__getitem__:
            return [self[place] for place in places]
        return self._made(places)

    def _made(self, places: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        count, preprocessing = len(places), self.preprocessing
        samples = np.array([self._find(place) for place in places], np.int64)
        image = np.empty((count, *preprocessing.image_shape), preprocessing.image_dtype)
        mask = np.empty((count, *preprocessing.mask_shape), preprocessing.mask_dtype)
        self._fill(samples, image, mask)
        images, masks = _shared(Batch(image, mask, samples))
        return list(zip(images, masks, strict=True))

    def _find(self, place: int) -> int:
        count, place = len(self), operator.index(place)
        if not -count <= place < count:
            raise IndexError(f"sample {place} of a dataset of {count}")
        return int(self.indices[place])

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
        # Which of the samples it was, is found by making them one by one.
        for k in range(len(samples)):
            one = slice(k, k + 1)
            self._fill(samples[one], image[one], mask[one])


@dataclass(frozen=True, slots=True)
class TorchBatch:
    """Stacked samples as tensors; `image, mask = batch` takes them apart.

    image : float32 (B, 1, h, w), or as the loader's `dtype` says
    mask  : as the loader's `masks` says
    index : int64 (B,), the samples' places in the store; always on the CPU
    params : as `Batch` has them
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
    """Return an iterable over the batches of a loader, as tensors.

    device     : where they are to be, as in "cuda"; by default they stay on the CPU and
        share the memory of the loader's arrays, without a copy. A CUDA device gets each
        batch while the one before it is worked on
    pin_memory : copy them to page-locked memory, for your own copies to CUDA; with
        a CUDA device, that is done in any case

    Raises OptionError for a device that torch cannot use here.
    """
    return TorchLoader(loader, device, pin_memory)


class TorchLoader:
    """Batches of a loader as tensors: what `as_torch` returns.

    loader : whose batches they are
    device : where they are

    Each `for` loop over it is an epoch of the loader's. Take `state_dict` from here:
    for a CUDA device, the loader itself is a batch ahead.
    """

    def __init__(self, loader: Loader, device: Any = None, pin_memory: bool = False):
        self.loader = loader
        self.device = _usable(device)
        if pin_memory and not torch.cuda.is_available():
            raise OptionError(
                "pin_memory needs CUDA, which torch cannot use here: leave it out"
            )
        self.pin_memory = bool(pin_memory)
        self._copier = _Copier(self.device) if self.device.type == "cuda" else None
        # After the batch that was handed over last, where the loader is ahead of it.
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
        """Return what `load_state_dict` needs to go on after the last batch."""
        return self.loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, given: Mapping[str, Any]) -> None:
        """Do as `Loader.load_state_dict` does; a loader's states will do, too."""
        self.loader.load_state_dict(given)
        self._state = None

    def stats(self) -> Stats:
        """Return what the loader has done so far, and what limits it."""
        return self.loader.stats()

    def _run(self, batches: Any) -> Generator[TorchBatch, None, None]:
        # `map` keeps no batch: its memory is free as soon as the consumer lets go.
        shared = map(_shared, batches)
        with closing(batches):
            if self._copier is not None:
                ahead = _one_ahead(map(self._begin, shared))
                yield from map(self._hand_over, ahead)
            elif self.device.type != "cpu":
                yield from map(partial(_moved, device=self.device), shared)
            else:
                yield from map(_pinned, shared) if self.pin_memory else shared

    def _begin(self, batch: TorchBatch) -> tuple[Any, dict[str, Any]]:
        assert self._copier is not None
        return self._copier.begin(batch), self.loader.state_dict()

    def _hand_over(self, begun: tuple[Any, dict[str, Any]]) -> TorchBatch:
        assert self._copier is not None
        copy, self._state = begun
        return self._copier.finish(*copy)


class _Copier:
    """Copies batches to a CUDA device, on a stream of its own."""

    def __init__(self, device: torch.device):
        self._device, self._side = device, torch.cuda.Stream(device)

    def begin(self, batch: TorchBatch) -> tuple[TorchBatch, torch.cuda.Event]:
        """Let the copy begin; return what it will be, and the event of its end.

        It is made from page-locked memory, which torch does not hand out again before
        all copies from it have finished.
        """
        with torch.cuda.stream(self._side):
            moved = _moved(_pinned(batch), self._device, non_blocking=True)
            return moved, self._side.record_event()

    def finish(self, batch: TorchBatch, copied: torch.cuda.Event) -> TorchBatch:
        """Let the consumer's stream, not the consumer, wait for the copy."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in batch:
            # Allocated for the side stream, which must not have it again before this
            # one has done with it.
            tensor.record_stream(stream)
        return batch


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items, each when the one after it has begun; a failure in its place."""
    begun: deque[T] = deque()
    try:
        for item in items:
            begun.append(item)
            if len(begun) > 1:
                yield begun.popleft()
    except Exception:
        yield from begun
        raise
    yield from begun


def _shared(batch: Batch) -> TorchBatch:
    """Return the same memory as tensors."""
    return TorchBatch(
        torch.from_numpy(batch.image),
        torch.from_numpy(_shiftable(batch.mask)),
        torch.from_numpy(batch.index),
        batch.params,
    )


def _pinned(batch: TorchBatch) -> TorchBatch:
    return replace(batch, image=batch.image.pin_memory(), mask=batch.mask.pin_memory())


def _moved(
    batch: TorchBatch, device: torch.device, non_blocking: bool = False
) -> TorchBatch:
    image, mask = (tensor.to(device, non_blocking=non_blocking) for tensor in batch)
    return replace(batch, image=image, mask=mask)


def _shiftable(mask: NDArray[Any]) -> NDArray[Any]:
    """Return a view that torch can shift: the same bits, signed if not of a byte."""
    return mask if mask.itemsize == 1 else mask.view(f"i{mask.itemsize}")


def _usable(device: Any) -> torch.device:
    """Return the device, with its number, or raise OptionError."""
    try:
        return torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, AssertionError, TypeError) as exc:  # torch raises any
        reason = str(exc).splitlines()[0]
        raise OptionError(
            f"device is {str(device)!r}, which torch cannot use here: {reason}"
        ) from exc
