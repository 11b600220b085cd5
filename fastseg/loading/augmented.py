"""Augmented images and masks: draws the parameters of transforms, calls the kernels."""

from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg import randomness
from fastseg._kernels.augment import batch, intensity, warp
from fastseg._kernels.augment.mapping import Displacements
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.images import gather
from fastseg._kernels.images.gather import ELSEWHERE, Slices
from fastseg._kernels.native.entries import prepare
from fastseg.augment import BORDERS, as_compose
from fastseg.augment.base import (
    ArrayTransform,
    Context,
    GeometricTransform,
    IntensityTransform,
    Values,
    draw_uniforms,
)
from fastseg.augment.mapping import MappingArrays, Mappings, pixel_ratios
from fastseg.augment.spatial import Flip
from fastseg.errors import OptionError
from fastseg.loading.batches import Batch
from fastseg.loading.format import BatchFormat
from fastseg.loading.preprocessing import (
    Between,
    EntrySlices,
    Preprocessing,
    StageTimes,
    used_buckets,
)
from fastseg.raster.rules import Rules
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store

T = TypeVar("T", bound=np.generic)

NO_DISPLACEMENTS = Displacements(np.empty((0, 0, 0, 2)), 1.0)
SPLINE_ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}


class DrawnParameters(NamedTuple):
    """The random parameters of b samples.

    key    : key of the random numbers, see `fastseg.randomness`
    values : the parameters of each transform of the Compose, (b,) or (b, n)
    """

    key: int
    values: list[Values]


class AugmentedPreprocessing(Preprocessing):
    """A Preprocessing that augments samples.

    format : with the transforms as `augment`
    seed   : 0 to 2**64 - 1

    Raises what Preprocessing raises, and OptionError for transforms that do not fit the
    store.
    """

    # Whether entries are patches, which transforms may turn in space.
    _in_space = False

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        format: BatchFormat,
        *,
        seed: int = 0,
    ):
        super().__init__(store, indices, format, seed=seed)
        steps = () if format.augment is None else format.augment
        self.compose = compose = as_compose(steps)
        # Stored contours are relative to pixel centres, whatever the annotations used.
        self._rules = Rules(**{**store.options, "origin": "center"})
        self._bits_dtype = mask_dtype(store.classes)
        bits = np.arange(len(store.classes), dtype=np.uint64)
        self._bit_values = (np.uint64(1) << bits).astype(self._bits_dtype)
        # Indices in the Compose: the intensity steps before the first ArrayTransform,
        # then each ArrayTransform with the intensity steps after it.
        self._intensity_groups: list[tuple[int, list[int]]] = [(0, [])]
        self._geometric: list[tuple[int, GeometricTransform]] = []
        for number, step in enumerate(compose):
            match step:
                case GeometricTransform():
                    self._geometric.append((number, step))
                case IntensityTransform():
                    self._intensity_groups[-1][1].append(number)
                case ArrayTransform():
                    self._intensity_groups.append((number, []))
                case _:
                    raise TypeError(
                        f"{step!r} is of no kind that a Loader applies, expected a "
                        "subclass of those of Transform in fastseg/augment/base.py"
                    )
        # Indices of the steps that reverse the slices of an entry.
        self._reversing = [
            number
            for number, step in enumerate(compose)
            if isinstance(step, Flip) and step.axis == "slices"
        ]
        kinds = [type(step) for step in compose]
        self._repeats = [kinds[:k].count(kind) for k, kind in enumerate(kinds)]
        order = SPLINE_ORDERS[compose.interpolation]
        self._sampling = warp.Sampling(order, BORDERS.index(compose.border))
        rare = {intensity.BIAS_FIELD, intensity.RICIAN}
        first_steps = [compose.transforms[n] for n in self._intensity_groups[0][1]]
        codes = {s.code for s in first_steps if isinstance(s, IntensityTransform)}
        self._needs_all = bool(
            order == warp.CUBIC or compose.border == "reflect" or codes & rare
        )
        shapes = [bucket.shape for bucket in store.buckets.values()]
        self._bucket_sizes = np.array(shapes, np.int64)
        self._prepare_kernels(indices)
        self._check_steps(indices)
        # The normalized value of an image value of 0, which stands for no signal in
        # Rician noise and bias fields.
        intercept, slope = (store.items[name] for name in ("intercept", "slope"))
        zero_signal = (-intercept / slope - self._shift) * self._gain
        self._zero_signal = zero_signal.astype(np.float32)

    def draw(self, samples: NDArray[np.int64], epoch: int) -> DrawnParameters:
        """Return the random parameters of samples in an epoch, a function of both."""
        key = randomness.augmentation_key(self.seed, epoch)
        steps = self.compose.transforms
        count = sum(step.draws for step in steps)
        uniforms = draw_uniforms(key, samples, randomness.PARAMETERS, count)
        values = []
        start = 0
        for step in steps:
            values.append(step.draw(uniforms[:, start : start + step.draws]))
            start += step.draws
        return DrawnParameters(key, values)

    def describe(self, samples: NDArray[np.int64], epoch: int) -> dict[str, Any]:
        """Return the random parameters of samples in an epoch, as a dict for JSON."""
        values = self.draw(samples, epoch).values
        return {
            "seed": self.seed,
            "epoch": epoch,
            "index": samples.tolist(),
            "steps": [
                {
                    "name": type(step).__name__,
                    **{name: column.tolist() for name, column in value.items()},
                }
                for step, value in zip(self.compose, values, strict=True)
            ],
        }

    def assemble(
        self,
        image: NDArray[Any],
        mask: NDArray[Any],
        samples: NDArray[np.int64],
        corners: NDArray[np.int64],
        epoch: int,
        *,
        with_params: bool = False,
    ) -> Batch:
        """Return the batch of arrays that `fill` has written in an epoch."""
        params = self.describe(samples, epoch) if with_params else None
        is_beyond = self.is_beyond(samples)
        if is_beyond is not None and self._reversing:
            is_beyond = self._reverse(is_beyond, self.draw(samples, epoch))
        return Batch(image, mask, samples, params, is_beyond=is_beyond)

    def parse_params(
        self, params: Mapping[str, Any]
    ) -> tuple[NDArray[np.int64], DrawnParameters]:
        """Return the samples and parameters in a dict that `describe` returned.

        Raises OptionError if it does not fit the transforms.
        """
        names = [type(step).__name__ for step in self.compose]
        try:
            steps = [dict(step) for step in params["steps"]]
            given = [step.pop("name") for step in steps]
            samples = np.array(params["index"], np.int64)
            key = randomness.augmentation_key(params["seed"], params["epoch"])
            values = [
                {name: np.array(column) for name, column in step.items()}
                for step in steps
            ]
            lengths = {len(column) for value in values for column in value.values()}
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise OptionError(
                f"params are invalid ({exc!r}), expected those of a batch"
            ) from None
        expected = self.draw(samples, 0).values if given == names else []
        fits = [
            set(value) == set(other)
            for value, other in zip(values, expected, strict=False)
        ]
        if given != names or not all(fits) or lengths - {len(samples)}:
            raise OptionError(
                f"params are of the transforms {', '.join(map(str, given))}, expected "
                f"those of a batch of this loader: {', '.join(names)}"
            )
        return samples, DrawnParameters(key, values)

    def replay(self, params: Mapping[str, Any]) -> Batch:
        """Make a batch again from its `params`, or raise OptionError."""
        entries, drawn = self.parse_params(params)
        self.check_entries(entries)
        image = np.empty((len(entries), *self.image_shape), self.image_dtype)
        mask = np.empty((len(entries), *self.mask_shape), self.mask_dtype)
        shown = self.locate_again(entries, params)
        self.fill_drawn(shown, image, mask, drawn)
        corners = np.empty((len(entries), 3), np.int64)
        shown.write_corners(corners)
        batch = self.assemble(image, mask, entries, corners, int(params["epoch"]))
        is_beyond = self.is_beyond(entries)
        if is_beyond is not None:
            batch.is_beyond = self._reverse(is_beyond, drawn)
        batch.params = dict(params)
        return batch

    def locate_again(
        self, entries: NDArray[np.int64], params: Mapping[str, Any]
    ) -> EntrySlices:
        """Return the slices that the entries of a batch with these params show."""
        return self.locate(entries, int(params["epoch"]))

    def fill(
        self,
        entries: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
        corners: NDArray[np.int64] | None = None,
    ) -> StageTimes:
        """Write the augmented images and masks of entries in an epoch."""
        drawn = self.draw(entries, epoch)
        shown = self.locate(entries, epoch)
        shown.write_corners(corners)
        return self.fill_drawn(shown, image, mask, drawn)

    def fill_drawn(
        self,
        shown: EntrySlices,
        image: NDArray[Any],
        mask: NDArray[Any],
        drawn: DrawnParameters,
    ) -> StageTimes:
        """Write images and masks of slices, augmented with these parameters."""
        self.store.check_files(shown.samples)
        start = perf_counter_ns()
        image = image.reshape(*shown.slices.shape, *self.size)
        mappings = self.find_mappings(shown, drawn)
        first_steps, *later_steps = self._intensity_steps(shown, drawn)
        keys = Keys(drawn.key, shown.entries.astype(np.uint64))
        moved = self._move_slices(shown, mappings, drawn)
        image_time = self._warp(moved, mappings, first_steps, keys, image, mask)
        masks_done = perf_counter_ns()
        custom_time = 0
        for (number, _), steps_after in zip(
            self._intensity_groups[1:], later_steps, strict=True
        ):
            stage_start = perf_counter_ns()
            step = self.compose.transforms[number]
            assert isinstance(step, ArrayTransform)
            context = self._context(number, shown, drawn)
            pixels = image if self._has_depth else image[:, 0]
            step.change(pixels, mask, drawn.values[number], context)
            custom_time += perf_counter_ns() - stage_start
            if steps_after.codes.size:
                batch.apply_intensity_batch(image, steps_after, keys)
        image_time += perf_counter_ns() - masks_done - custom_time
        mask_time = perf_counter_ns() - start - image_time - custom_time
        return StageTimes(0, image_time, mask_time, custom_time)

    def _move_slices(
        self, shown: EntrySlices, mappings: Mappings, drawn: DrawnParameters
    ) -> EntrySlices:
        """Return the slices that entries show after the transforms, in their order."""
        if not self._reversing:
            return shown
        return shown._replace(
            slices=self._reverse(shown.slices, drawn),
            is_beyond=self._reverse(shown.is_beyond, drawn),
        )

    def _warp(
        self,
        shown: EntrySlices,
        mappings: Mappings,
        steps: intensity.Steps,
        keys: Keys,
        image: NDArray[Any],
        mask: NDArray[Any],
    ) -> int:
        """Write images and masks of slices through mappings, and apply steps.

        image : float32 (b, d, h, w)

        Returns the nanoseconds that images took.
        """
        size = image.shape[-2:]
        arrays = mappings.arrays(int(keys.key))
        with_masks = self._with_masks(shown.slices)
        depth = with_masks.shape[1]
        bits = (
            mask.reshape(*with_masks.shape, *size)
            if self.format.masks == "bits"
            else np.empty((*with_masks.shape, *size), self._bits_dtype)
        )
        # Tilted patches are made afterwards.
        is_tilted = mappings.is_tilted[:, None]
        is_empty = self._with_masks(shown.is_beyond & self._pads | is_tilted)
        between = shown.between or _each_alone(shown.slices)
        shift, gain, pad = (
            column[between.slices] for column in (self._shift, self._gain, self._pad)
        )
        limits = [float(limit) for limit in self._limits]
        in_images = arrays.with_displacements() if self._needs_all else arrays
        image_time = 0
        of_entry = between.slices.reshape(len(between.slices), -1)
        # Exact labels are drawn from the contours.
        masked = None if self.format.labels == "nearest" else of_entry[:, :0]
        for images, masks, rows, subset in self.store.stacks(of_entry, masked):
            stage_start = perf_counter_ns()
            rows = rows.reshape(-1, *between.slices.shape[1:])
            if is_tilted.any():
                rows = np.where(is_tilted[subset, :, None], ELSEWHERE, rows)
            is_beyond = shown.is_beyond[subset]
            marked = self._mark_padding(rows, is_beyond[:, :, None])
            self._augment_kernel(
                images,
                batch.PatchSlices(marked, between.weights[subset]),
                *in_images.select(subset),
                self._sampling,
                batch.Scalings(shift[subset], gain[subset], pad[subset], *limits),
                intensity.Steps(
                    steps.codes[subset], steps.params[subset], steps.stream
                ),
                Keys(keys.key, keys.samples[subset]),
                self.streams,
                image[subset],
            )
            image_time += perf_counter_ns() - stage_start
            if self.format.labels == "nearest":
                # Of the two slices, the nearer one.
                is_second = rows.shape[2] > 1 and between.weights[subset] >= 0.5
                nearest = np.where(is_second, rows[:, :, -1], rows[:, :, 0])
                nearest = self._mark_padding(nearest, is_beyond)
                batch.warp_masks(
                    masks,
                    self._with_masks(nearest).reshape(-1),
                    *arrays.select(subset).repeat(depth),
                    bits[subset].reshape(-1, *size),
                )
        slots = bits.reshape(-1, *size)
        if self.format.labels == "nearest":
            bits[is_empty] = 0
        else:
            self._draw_labels(
                with_masks.reshape(-1),
                is_empty.reshape(-1),
                arrays.repeat(depth),
                slots,
            )
        image_time += self._warp_tilted(shown, mappings, steps, keys, image, bits)
        if self.format.masks != "bits":
            corners = np.zeros((len(slots), 2), np.int64)
            gather.gather_masks(
                slots,
                Slices(np.arange(len(slots)), corners),
                self._classes,
                self._unlabelled(with_masks.reshape(-1)),
                self.streams,
                self._view_masks(mask),
            )
        return image_time

    def _warp_tilted(
        self,
        shown: EntrySlices,
        mappings: Mappings,
        steps: intensity.Steps,
        keys: Keys,
        image: NDArray[Any],
        bits: NDArray[Any],
    ) -> int:
        """Write images and masks of entries whose slices cross those of their volume.

        Returns the nanoseconds that images took.
        """
        return 0

    def _reverse(self, slices: NDArray[T], drawn: DrawnParameters) -> NDArray[T]:
        """Return what is (b, d) along slices in the order that was drawn."""
        if not self._reversing:
            return slices
        flips = [drawn.values[number]["on"] for number in self._reversing]
        is_reversed = np.logical_xor.reduce(flips)[:, None]
        return np.where(is_reversed, slices[:, ::-1], slices)

    def find_mappings(self, shown: EntrySlices, drawn: DrawnParameters) -> Mappings:
        """Return the mappings of entries from the batch to the stored images.

        Raises OptionError if a transform does not fit the shape or spacing of an image.
        """
        mappings = self.begin_mappings(shown, self.size)
        for number, step in self._geometric:
            step.extend(mappings, drawn.values[number])
        mappings.crop_or_pad(self.size)
        return mappings

    def begin_mappings(self, shown: EntrySlices, size: tuple[int, ...]) -> Mappings:
        """Return the mappings of entries before all transforms.

        size : height and width of the entries
        """
        store = self.store
        samples = shown.samples
        return Mappings(
            shown.entries,
            self._stored_sizes(samples),
            store.items["spacing_mm"][samples],
            self._boxes_of(samples),
        )

    def _boxes_of(
        self, samples: NDArray[np.int64]
    ) -> Callable[[str], NDArray[np.integer[Any]]]:
        """Return a function that returns the bounding boxes of a class, (b, 4)."""
        store = self.store
        return lambda name: store.items["bbox"][samples, store.class_index(name)]

    def _stored_sizes(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return height and width of the stored images of samples, int64 (b, 2)."""
        buckets = self.store.items["bucket"][samples]
        sizes: NDArray[np.int64] = self._bucket_sizes[buckets]
        return sizes

    def _draw_labels(
        self,
        samples: NDArray[np.int64],
        is_empty: NDArray[np.bool_],
        mappings: MappingArrays,
        bits: NDArray[Any],
    ) -> None:
        """Draw the moved contours of slices, (m,), but nothing where `is_empty`."""
        contours, ranges = self.store.rings(samples)
        ranges[is_empty, 1] = ranges[is_empty, 0]
        batch.draw_moved_contours(
            batch.StoredContours(
                *(contours[name] for name in ("points", "offsets", "class", "group"))
            ),
            ranges,
            self._stored_sizes(samples),
            *mappings,
            self._rules.kernel_rule(*bits.shape[1:]),
            self._bit_values,
            bits,
        )

    def _intensity_steps(
        self, shown: EntrySlices, drawn: DrawnParameters
    ) -> list[intensity.Steps]:
        """Return the intensity steps of each group."""
        steps = self.compose.transforms
        groups = []
        for first, numbers in self._intensity_groups:
            codes = np.empty((len(shown.entries), len(numbers)), np.int64)
            params = np.zeros((*codes.shape, intensity.PARAMETERS))
            for k, number in enumerate(numbers):
                step = steps[number]
                values = drawn.values[number]
                assert isinstance(step, IntensityTransform)
                context = self._context(number, shown, drawn)
                codes[:, k] = np.where(values["on"], step.code, -1)
                for column, parameter in enumerate(step.parameters(values, context)):
                    params[:, k, column] = parameter
            stream = randomness.noise_stream(first)
            groups.append(intensity.Steps(codes, params, stream))
        return groups

    def _context(
        self, number: int, shown: EntrySlices, drawn: DrawnParameters
    ) -> Context:
        zero_signal = self._zero_signal[shown.samples]
        repeat = self._repeats[number]
        return Context(drawn.key, shown.entries, zero_signal, number, repeat)

    @property
    def _augment_kernel(self) -> Any:
        """The kernel for images of one slice, or for those of several."""
        return batch.augment_patches if self._has_depth else batch.augment_images

    def _prepare_kernels(self, indices: NDArray[np.int64]) -> None:
        """Compile what batches are going to need, if it is not there."""
        bends = any(step.bends for step in self.compose)
        displaced: dict[str, Any] = {
            "displacements": NO_DISPLACEMENTS if bends else None
        }
        drawn = {"T": self._bits_dtype.name, **displaced}
        wanted: list[tuple[Any, dict[str, Any]]] = []
        if self.format.labels == "exact":
            drawn["rule"] = self._rules.kernel_rule(*self.size)
            wanted.append((batch.draw_moved_contours, drawn))
        else:
            wanted.append((batch.warp_masks, drawn))
        if self._needs_all:
            displaced = {"displacements": NO_DISPLACEMENTS}
        for bucket in used_buckets(self.store, indices):
            wanted.append((self._augment_kernel, {"T": bucket.dtype.name, **displaced}))
        if self.format.masks != "bits":
            shape = (0,) * (1 + len(self.mask_shape))
            mask = self._view_masks(np.empty(shape, np.uint8))
            wanted.append((gather.gather_masks, {"out": mask}))
        wanted.append((batch.draw_uniforms, {}))
        if bends:
            wanted.append((batch.draw_fields, {}))
        if any(numbers for _, numbers in self._intensity_groups[1:]):
            wanted.append((batch.apply_intensity_batch, {}))
        prepare(wanted)

    def _check_steps(self, indices: NDArray[np.int64]) -> None:
        """Raise OptionError if transforms do not fit a shape or spacing of a sample."""
        items = self.store.items
        # One sample of each kind is checked: of each shape, and each spacing if needed.
        kinds = [items["bucket"][indices]]
        spacing_mm = items["spacing_mm"][indices]
        if any(step.needs_spacing for step in self.compose):
            kinds += [*np.nan_to_num(spacing_mm).T]
        elif any(step.needs_ratio for step in self.compose):
            kinds += [pixel_ratios(spacing_mm)]
        samples = indices[_first_of_each(kinds)]
        for step in self.compose:
            if step.in_space and not self._in_space:
                raise OptionError(
                    f"augment has {type(step).__name__}, which turns patches of "
                    "volumes: a PatchLoader takes it, here is Affine"
                )
        if self._reversing and not self._has_depth:
            raise OptionError(
                "Flip: axis is 'slices', but images have one slice: give "
                "neighbours, or leave it out"
            )
        shown = Preprocessing.locate(self, samples, 0)
        self.find_mappings(shown, self.draw(samples, 0))


def _each_alone(slices: NDArray[np.int64]) -> Between:
    """Return slices, (b, d), of which none is interpolated."""
    return Between(slices[:, :, None], np.zeros(slices.shape, np.float32))


def _first_of_each(kinds: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Return the first index of each combination of values, in their order.

    kinds : arrays (n,) without NaN

    It takes 0.1 s for a million samples, np.unique with axis=0 five times that.
    """
    order = np.lexsort(kinds[::-1])
    differs = np.ones(len(order), bool)
    differs[1:] = np.any(
        [kind[order][1:] != kind[order][:-1] for kind in kinds], axis=0
    )
    return order[differs]
