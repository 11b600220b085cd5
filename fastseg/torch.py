"""PyTorch: the batches of a loader as tensors, and a store as a Dataset.

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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import attrgetter, methodcaller
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.calls import check_call
from fastseg.errors import (
    OptionError,
    missing_extra,
    shown,
    true_or_false,
    whole_number,
)
from fastseg.escapes import escaped
from fastseg.loading.augmented import AugmentedPreprocessing
from fastseg.loading.base import BatchLoader
from fastseg.loading.batches import Batch, BatchAccess, thumbnails
from fastseg.loading.format import BatchFormat
from fastseg.loading.normalization import ValueStatistics
from fastseg.loading.orders import check_seed
from fastseg.loading.preprocessing import Preprocessing, warn_of_missing
from fastseg.loading.stats import Stats
from fastseg.notebook import MAX_SAMPLES, as_html
from fastseg.paths import StrPath
from fastseg.reprs import once_made
from fastseg.store.pixels import signed_view
from fastseg.store.reader import Store, as_store
from fastseg.store.selection import check_indices

try:
    import torch
    import torch.utils.data
    from torch.utils import _pytree
    from torch.utils.data._utils.collate import default_collate_fn_map
except ModuleNotFoundError as exc:
    raise missing_extra("fastseg.torch", "torch") from exc

T = TypeVar("T")


class Dataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """The samples of a store, for torch.utils.data.DataLoader.

    store   : a store, as `fastseg.open` returns it, or the path of one
    indices : indices of the samples in the store, by default all
    seed    : of augmentation, 0 to 2**64 - 1
    options : those of images and masks of `Loader`, and its `augment` and `labels`

    `dataset[i]` is (image, mask), two tensors: image has shape (1, h, w), or with n
    `neighbours` (2n + 1, h, w); the shape of mask depends on `masks`. The sample's
    index in the store is `dataset.indices[i]`. DataLoader loads whole batches with one
    call, unless a subclass defines `__getitem__`. A dataset can be pickled and forked:
    a forked worker shares the mapped file, a spawned one maps it again.

    What `augment` draws for a sample is a function of (seed, epoch, sample), the same
    as in a Loader, whichever worker loads it. `set_epoch` sets the epoch, for all
    workers. If it is never called, each sample's own n-th loading counts as epoch n,
    from 0: that is the epoch if each is loaded once per epoch by workers of one
    dataset. Several processes (ranks) do not count together, and call `set_epoch`.

    Raises OptionError or UnknownClassError for arguments that are invalid or do not fit
    the store.
    """

    @check_call(pad="pad_value")
    def __init__(
        self,
        store: Store | StrPath,
        *,
        indices: ArrayLike | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self.store = as_store(store)
        self.indices = check_indices(self.store, indices)
        if not self.indices.size:
            raise OptionError(
                f"no samples are chosen of the {len(self.store)} in the store, "
                "expected at least 1"
            )
        self.seed = check_seed(seed)
        self._prepare(BatchFormat(**options))
        # In memory that worker processes share, so that they count together, and that
        # `set_epoch` reaches those that run already.
        augments = self.preprocessing.format.augment is not None
        self._epochs = _Epochs(len(self.indices)) if augments else None
        warn_of_missing(self.preprocessing, stacklevel=3)

    def _prepare(self, format: BatchFormat) -> None:
        given = (self.store, self.indices, format)
        self.preprocessing = (
            Preprocessing(*given)
            if format.augment is None
            else AugmentedPreprocessing(*given, seed=self.seed)
        )

    def __getstate__(self) -> dict[str, Any]:
        # Preprocessing has arrays as long as the store: it is made again.
        return {**self.__dict__, "preprocessing": self.preprocessing.format}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare(state["preprocessing"])

    @once_made("_epochs")
    def __repr__(self) -> str:
        made = self.preprocessing
        augmented = "" if made.format.augment is None else ", augmented"
        return (
            f"{type(self).__name__} of {len(self)} samples of "
            f"{escaped(self.store.name)}: "
            f"image {made.image_dtype} {made.image_shape}, "
            f"mask {made.mask_dtype} {made.mask_shape}{augmented}"
        )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def value_statistics(self) -> ValueStatistics | None:
        """By what "foreground" scales, see `Loader`; else None."""
        return self.preprocessing.value_statistics

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._load([index])[0]

    def __getitems__(
        self, indices: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # 1.4 times the samples per second of loading one by one, in batches of 32.
        if type(self).__getitem__ is not Dataset.__getitem__:
            return [self[index] for index in indices]
        return self._load(indices)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, 0 to 2**63 - 1, on which augmentation depends.

        Call it before each epoch, beside `set_epoch` of a DistributedSampler, if there
        is one. Running workers see it too. Without `augment` it has no effect. Raises
        OptionError for anything else than such a number.
        """
        epoch = whole_number("epoch", epoch, 0, 2**63 - 1)
        if self._epochs is not None:
            self._epochs.fix(epoch)

    def _load(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        count = len(indices)
        preprocessing = self.preprocessing
        numbers = np.array([self._number(index) for index in indices], np.int64)
        samples = self.indices[numbers]
        image = np.empty((count, *preprocessing.image_shape), preprocessing.image_dtype)
        mask = np.empty((count, *preprocessing.mask_shape), preprocessing.mask_dtype)
        if self._epochs is None:
            self._fill(samples, image, mask, 0)
        else:
            epochs = self._epochs.count_loading(numbers)
            for epoch in np.unique(epochs).tolist():
                (same,) = np.nonzero(epochs == epoch)
                arrays = (samples[same], image[same], mask[same])
                self._fill(*arrays, epoch)
                _, image[same], mask[same] = arrays
        self.preprocessing.check_files(samples)  # they may have changed meanwhile
        images, masks = _as_tensors(Batch(image, mask, samples))
        return list(zip(images, masks, strict=True))

    def _number(self, index: int) -> int:
        """Return an index in the dataset that counts from 0, not from the end."""
        count = len(self)
        if isinstance(index, bool):
            raise TypeError(f"a sample is {index}, expected a whole number")
        index = operator.index(index)
        if not -count <= index < count:
            raise IndexError(
                f"sample {index} of a dataset of {count}, expected {-count} to "
                f"{count - 1}"
            )
        return index % count

    def _fill(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int,
    ) -> None:
        try:
            self.preprocessing.fill(samples, image, mask, epoch)
            return
        except Exception as exc:
            if len(samples) == 1:
                name = self.preprocessing.describe_entry(int(samples[0]))
                exc.add_note(f"while making {name}")
                raise
        # Fill the samples one by one to find the one that fails.
        for k in range(len(samples)):
            one = slice(k, k + 1)
            self._fill(samples[one], image[one], mask[one], epoch)


class _Epochs:
    """The epoch of each loading of a sample, in memory that worker processes share.

    count : number of samples of the dataset
    """

    def __init__(self, count: int):
        # The epoch that was set, -1 if none, and how often each sample was loaded.
        self._epoch = torch.full((1,), -1).share_memory_()
        self._loadings = torch.zeros(count, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, torch.Tensor]) -> None:
        # Tensors that multiprocessing hands to a worker are shared already, copies by
        # `copy` and `pickle` are not.
        self.__dict__.update(
            (name, each.share_memory_()) for name, each in state.items()
        )

    def fix(self, epoch: int) -> None:
        """Make an epoch that of all later loadings."""
        self._epoch.fill_(epoch)

    def count_loading(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the epochs of samples that are loaded now, int64 (b,).

        numbers : int64 (b,), indices in the dataset
        """
        epoch = int(self._epoch)
        if epoch >= 0:
            return np.full(len(numbers), epoch)
        loadings = self._loadings.numpy()
        epochs: NDArray[np.int64] = loadings[numbers]
        loadings[numbers] = epochs + 1
        return epochs


@dataclass(slots=True, eq=False, init=False, repr=False)
class TorchBatch(BatchAccess):
    """Stacked samples as tensors; `image, mask = batch` unpacks them.

    image  : float32 (B, 1, h, w), or of another shape or dtype, see `Batch`
    mask   : of the shape and dtype that the loader's `masks` names
    index  : int64 (B,), the samples' indices in the store, of patches the volumes'; on
        the CPU
    corner : int64 (B, 3), only of patches, see `Batch`; on the CPU
    is_beyond : bool (B, 2n + 1), only with `neighbours`, see `Batch`; on the CPU
    params : those of `Batch`

    `batch[0]` and `batch["image"]` are the image, `batch[1]` and `batch["mask"]` the
    mask, and `dict(batch)` has all fields that are not None; they may be assigned to.
    `len(batch)` is the number of samples B.

    `to`, `pin_memory`, and whatever calls them or handles the fields of dataclasses
    (Lightning, Accelerate, torch's DataLoader) change image and mask: the other fields
    are bookkeeping, which code on the CPU reads. For `torch.utils._pytree`, a batch is
    a node whose children are its tensors, so that all of them can be divided alike;
    params stay as they are.
    """

    image: torch.Tensor
    mask: torch.Tensor
    # Without `init`, Lightning's `apply_to_collection` keeps these as they are: it
    # would make index a half or a GPU tensor.
    index: torch.Tensor = field(init=False)
    params: dict[str, Any] | None = field(init=False)
    corner: torch.Tensor | None = field(init=False)
    is_beyond: torch.Tensor | None = field(init=False)

    def __init__(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        index: torch.Tensor,
        params: dict[str, Any] | None = None,
        corner: torch.Tensor | None = None,
        is_beyond: torch.Tensor | None = None,
    ):
        self.image = image
        self.mask = mask
        self.index = index
        self.params = params
        self.corner = corner
        self.is_beyond = is_beyond

    def to(self, device: Any, non_blocking: bool = False) -> "TorchBatch":
        """Return a batch with image and mask on a device.

        device       : as in "cuda", or a torch.device
        non_blocking : whether to go on before the tensors are copied, as in
            `torch.Tensor.to`

        Raises OptionError for a device that torch cannot use here.
        """
        target = _as_device(device)
        return self._with(lambda tensor: tensor.to(target, non_blocking=non_blocking))

    def pin_memory(self) -> "TorchBatch":
        """Return a batch with image and mask in page-locked memory."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "TorchBatch":
        image, mask = map(function, self)
        rest = (self.index, self.params, self.corner, self.is_beyond)
        return TorchBatch(image, mask, *rest)

    def _location(self) -> str:
        image = self.image
        return f" on {image.device}" if isinstance(image, torch.Tensor) else ""

    def _repr_html_(self) -> str:
        tensors = (self.image, self.mask, self.index)
        if not all(map(_is_shown, tensors)):
            return as_html(repr(self), [])
        first = (tensor[:MAX_SAMPLES] for tensor in tensors)
        # numpy has no bfloat16.
        arrays = (
            (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
            for tensor in first
        )
        return as_html(repr(self), thumbnails(*arrays))


def _is_shown(value: Any) -> bool:
    """Return whether a notebook can show something in a batch: a tensor with values."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.dim() > 0
        and not value.is_meta
    )


class _Rest:
    """What a batch is besides the tensors of its tree: their names, and its params.

    Equal to any other of the same names, so that trees of batches can be handled
    together: the result has the params of the first one.
    """

    __slots__ = ("names", "params")

    def __init__(self, names: Sequence[str], params: dict[str, Any] | None):
        self.names = tuple(names)
        self.params = params

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)


def _flatten(batch: TorchBatch) -> tuple[list[Any], _Rest]:
    names = batch.arrays()
    return [batch[name] for name in names], _Rest(names, batch.params)


def _flatten_with_keys(batch: TorchBatch) -> tuple[list[Any], _Rest]:
    children, rest = _flatten(batch)
    keys = map(_pytree.GetAttrKey, rest.names)
    return list(zip(keys, children, strict=True)), rest


def _unflatten(children: Iterable[Any], rest: _Rest) -> TorchBatch:
    tensors = dict(zip(rest.names, children, strict=True))
    return TorchBatch(**tensors, params=rest.params)


_pytree.register_pytree_node(
    TorchBatch,
    _flatten,
    _unflatten,
    serialized_type_name="fastseg.torch.TorchBatch",
    flatten_with_keys_fn=_flatten_with_keys,
    # `torch.export.save` writes them as JSON.
    to_dumpable_context=attrgetter("names", "params"),
    from_dumpable_context=lambda saved: _Rest(*saved),
)


def _refuse_to_collate(batches: Any, **_: Any) -> Any:
    raise TypeError(
        "as_torch makes whole batches, which DataLoader would put together once more: "
        "give it batch_size=None"
    )


default_collate_fn_map[TorchBatch] = _refuse_to_collate


@check_call()
def as_torch(
    loader: BatchLoader,
    device: "str | int | torch.device | None" = None,
    pin_memory: bool = False,
) -> "TorchLoader":
    """Return an iterable over a loader's batches as tensors.

    loader     : a Loader or a PatchLoader
    device     : device of the tensors, as in "cuda". By default they stay on the CPU
        and share the memory of the loader's arrays, without a copy. To a CUDA device,
        each batch is copied while the consumer works on the previous one
    pin_memory : whether to copy batches to page-locked memory, from which you can copy
        them to a CUDA device yourself. Has no effect with a CUDA device, for which this
        is always done

    Raises OptionError for a device that torch cannot use here.
    """
    return TorchLoader(loader, device, pin_memory)


class TorchLoader(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Iterates over a loader's batches as tensors; `as_torch` returns it.

    loader : the Loader or PatchLoader
    device : device of the tensors

    Each `for` loop over it is one epoch of the loader. Call its own `state_dict`, not
    that of the loader, which is one batch ahead if the device is a CUDA device.

    It needs no torch DataLoader. Code that insists on one gets
    `DataLoader(as_torch(loader), batch_size=None)`, without workers: in a worker
    process, a loop raises RuntimeError, because each worker would make all batches.
    """

    def __init__(
        self, loader: BatchLoader, device: Any = None, pin_memory: bool = False
    ):
        if not isinstance(loader, BatchLoader):
            raise OptionError(
                f"loader is {shown(loader)}, expected a Loader or a PatchLoader, as in "
                "as_torch(fastseg.Loader(store))"
            )
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

    @once_made("_state")
    def __repr__(self) -> str:
        return f"as_torch({self.loader!r}, device={str(self.device)!r})"

    def __getitem__(self, index: object) -> Any:
        return self.loader[index]  # raises

    def __iter__(self) -> Generator[TorchBatch, None, None]:
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "each worker of a DataLoader would make all batches of as_torch: leave "
                "out num_workers, the Loader has threads of its own"
            )
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

    def set_epoch(self, epoch: int) -> None:
        """Make the next loop load an epoch; if it would anyway, go on where it is.

        Lightning calls this before each epoch, as a method of `batch_sampler.sampler`.
        It does not load the state of the batches from a checkpoint that was saved at
        the end of an epoch.
        """
        if self.epoch != epoch:
            self.epoch = epoch

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Has the object itself as `sampler`: there, Lightning looks for `set_epoch`.

        An attribute `sampler` of the object itself would say that its order is that of
        a sampler of torch, which Lightning may replace.
        """
        return SimpleNamespace(sampler=self)

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
                yield from map(methodcaller("to", self.device), tensors)
            elif self.pin_memory:
                yield from map(TorchBatch.pin_memory, tensors)
            else:
                yield from tensors

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
            copy = batch.pin_memory().to(self._device, non_blocking=True)
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
        torch.from_numpy(signed_view(batch.mask)),
        torch.from_numpy(batch.index),
        batch.params,
        *(
            None if array is None else torch.from_numpy(array)
            for array in (batch.corner, batch.is_beyond)
        ),
    )


def _as_device(device: Any) -> torch.device:
    """Return the torch.device with its index, or raise OptionError."""
    try:
        return torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, AssertionError, TypeError) as exc:  # torch raises any
        reason = str(exc).splitlines()[0]
        raise OptionError(
            f"device is {str(device)!r}, which torch cannot use here: {reason}"
        ) from exc
