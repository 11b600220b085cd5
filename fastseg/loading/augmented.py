"""Augmented images and masks: draws the parameters of transforms, calls the kernels."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numba.core.registry import CPUDispatcher
from numpy.typing import NDArray

from fastseg import augment, randomness
from fastseg._kernels.augment import batch, intensity
from fastseg._kernels.augment.bend import bend_rings
from fastseg._kernels.images import gather
from fastseg.augment import Transform, as_compose
from fastseg.augment.base import Values
from fastseg.errors import OptionError
from fastseg.loading.format import BatchFormat
from fastseg.loading.mapping import Mappings, find_mapping
from fastseg.loading.preprocessing import Preprocessing, StageTimes
from fastseg.raster.rings import join_rings
from fastseg.raster.rules import Rules, scratch_rows
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store

SPLINE_ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
# Along each axis, control points in addition to the spacings that cover the image: each
# pixel depends on four of them.
EXTRA_CONTROL_POINTS = 4


class DrawnParameters(NamedTuple):
    """The random parameters of b samples.

    key    : key of the random numbers, from seed and epoch
    values : the parameters of each transform of the Compose, (b,) or (b, n)
    """

    key: int
    values: list[Values]


class IntensitySteps(NamedTuple):
    """Transforms that change intensities, one after the other, for the kernels.

    codes  : int64 (b, k), negative if a step does not happen to a sample
    params : float64 (b, k, intensity.PARAMETERS)
    stream : uint32, stream of random numbers of the first step
    """

    codes: NDArray[np.int64]
    params: NDArray[np.float64]
    stream: np.uint32


class AugmentedPreprocessing(Preprocessing):
    """A Preprocessing that augments samples.

    format : with the transforms as `augment`
    seed   : 0 to 2**64 - 1

    Raises what Preprocessing raises, and OptionError for transforms that do not fit the
    store.
    """

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        format: BatchFormat,
        *,
        seed: int = 0,
    ):
        super().__init__(store, indices, format)
        self.compose = compose = as_compose(format.augment)
        self.seed = seed
        self._check_steps(indices)
        # Stored contours are relative to pixel centres, whatever the annotations used.
        rules = Rules(**{**store.options, "origin": "center"})
        self._scratch_rows = scratch_rows(*self.size, rules)
        self._edges = rules.edges_code
        self._nonzero = rules.fill == "nonzero"
        self._bits_dtype = mask_dtype(store.classes)
        bits = np.arange(len(store.classes), dtype=np.uint64)
        self._bit_values = (np.uint64(1) << bits).astype(self._bits_dtype)
        # Transforms that change intensities, by index in the Compose: those before the
        # first Custom, then each Custom with those that follow it.
        self._intensity_groups: list[tuple[int, list[int]]] = [(0, [])]
        for number, step in enumerate(compose):
            if isinstance(step, augment.Custom):
                self._intensity_groups.append((number, []))
            elif isinstance(step, augment.INTENSITY):
                self._intensity_groups[-1][1].append(number)
        self._spline_order = SPLINE_ORDERS[compose.interpolation]
        self._border = augment.BORDERS.index(compose.border)
        # The normalized value of an image value of 0, which stands for no signal in
        # Rician noise and bias fields.
        intercept, slope = (store.items[name] for name in ("intercept", "slope"))
        zero_signal = (-intercept / slope - self._shift) * self._gain
        self._zero_signal = zero_signal.astype(np.float32)

    def draw(self, samples: NDArray[np.int64], epoch: int) -> DrawnParameters:
        """Return the random parameters of samples in an epoch, a function of both."""
        key = randomness.augmentation_key(self.seed, epoch)
        steps = self.compose.transforms
        uniforms = np.empty((len(samples), sum(step.draws for step in steps)))
        keys = samples.astype(np.uint64)
        batch.draw_uniforms(
            np.uint64(key), keys, np.uint32(randomness.PARAMETERS), uniforms
        )
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

    def contours(self, sample: int, epoch: int) -> dict[str, list[NDArray[np.float64]]]:
        """Return the moved rings of each class of a sample in an epoch.

        Each ring is float64 (n, 2), (x, y) in pixels of the batch.
        """
        samples = np.array([sample])
        drawn = self.draw(samples, epoch)
        steps = self.compose.transforms
        mapping, _ = find_mapping(steps, drawn.values, self.store, samples, self.size)
        outer, control, spacing, inner = self._matrices(mapping, samples, drawn)
        moved: dict[str, list[NDArray[np.float64]]] = {}
        for name, rings in self.store[sample].contours.items():
            points, offsets = bend_rings(
                *join_rings(rings), outer[0], control[0], spacing, inner[0]
            )
            moved[name] = np.split(points, offsets[1:-1])
        return moved

    def fill(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
    ) -> StageTimes:
        """Write the augmented images and masks of samples in an epoch."""
        return self.fill_drawn(samples, image, mask, self.draw(samples, epoch))

    def fill_drawn(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        drawn: DrawnParameters,
    ) -> StageTimes:
        """Write the images and masks of samples, augmented with these parameters."""
        self.store.check_size()
        start = perf_counter_ns()
        steps = self.compose.transforms
        mapping, _ = find_mapping(steps, drawn.values, self.store, samples, self.size)
        matrices = self._matrices(mapping, samples, drawn)
        outer, control, spacing, inner = matrices
        bits = mask
        if self.format.masks != "bits":
            bits = np.empty((len(mask), *self.size), self._bits_dtype)
        shift = self._shift[samples]
        gain = self._gain[samples]
        low, high = self._limits
        first_steps, *later_steps = self._intensity_steps(samples, drawn)
        key = np.uint64(drawn.key)
        sample_keys = samples.astype(np.uint64)
        image_time = 0
        for images, masks, rows, subset in self.store.stacks(samples):
            stage_start = perf_counter_ns()
            subset_matrices = outer[subset], control[subset], spacing, inner[subset]
            batch.augment_images(
                images,
                rows,
                *subset_matrices,
                self._spline_order,
                self._border,
                np.float32(self.format.pad_value),
                shift[subset],
                gain[subset],
                low,
                high,
                first_steps.codes[subset],
                first_steps.params[subset],
                first_steps.stream,
                key,
                sample_keys[subset],
                self.streams,
                image[subset][:, 0],
            )
            image_time += perf_counter_ns() - stage_start
            if self.format.labels == "nearest":
                batch.warp_masks(masks, rows, *subset_matrices, bits[subset])
        if self.format.labels == "exact":
            self._draw_labels(samples, matrices, bits)
        if bits is not mask:
            every = np.arange(len(mask))
            view = self._view_masks(mask)
            unlabelled = self._unlabelled(samples)
            gather.gather_masks(
                bits, every, self._classes, unlabelled, self.streams, view
            )
        masks_done = perf_counter_ns()
        custom_time = 0
        for (number, _), steps_after in zip(
            self._intensity_groups[1:], later_steps, strict=True
        ):
            stage_start = perf_counter_ns()
            self._call_function(number, samples, image[:, 0], mask, drawn)
            custom_time += perf_counter_ns() - stage_start
            if steps_after.codes.size:
                batch.apply_intensity_batch(image[:, 0], *steps_after, key, sample_keys)
        image_time += perf_counter_ns() - masks_done - custom_time
        mask_time = perf_counter_ns() - start - image_time - custom_time
        return StageTimes(0, image_time, mask_time, custom_time)

    def _matrices(
        self, mapping: Mappings, samples: NDArray[np.int64], drawn: DrawnParameters
    ) -> tuple[Any, Any, float, Any]:
        """Return outer, control points, their spacing, and inner, for the kernels."""
        outer, inner = (
            np.ascontiguousarray(m[:, :2]) for m in (mapping.outer, mapping.inner)
        )
        if not mapping.bent:
            return outer, np.empty((len(samples), 0, 0, 2)), 1.0, inner
        step, value = next(
            (step, value)
            for step, value in zip(self.compose, drawn.values, strict=True)
            if isinstance(step, augment.Elastic)
        )
        grids = np.ceil((mapping.sizes - 1) / step.spacing).astype(np.int64)
        grids += EXTRA_CONTROL_POINTS
        control = np.empty((len(samples), *grids.max(axis=0).tolist(), 2))
        batch.draw_fields(
            np.uint64(drawn.key),
            samples.astype(np.uint64),
            np.uint32(randomness.ELASTIC),
            np.where(value["on"], value["magnitude"], 0.0),
            grids,
            control,
        )
        return outer, control, step.spacing, inner

    def _draw_labels(
        self, samples: NDArray[np.int64], matrices: tuple[Any, ...], bits: NDArray[Any]
    ) -> None:
        contours = self.store.contours
        batch.draw_moved_contours(
            contours["points"],
            contours["offsets"],
            contours["class"],
            self.store.items["contours"][samples],
            *matrices,
            self._edges,
            self._nonzero,
            self._scratch_rows,
            self._bit_values,
            bits,
        )

    def _intensity_steps(
        self, samples: NDArray[np.int64], drawn: DrawnParameters
    ) -> list[IntensitySteps]:
        """Return the steps before the first Custom transform, and after each."""
        steps = self.compose.transforms
        groups = []
        for first, numbers in self._intensity_groups:
            codes = np.empty((len(samples), len(numbers)), np.int64)
            params = np.zeros((*codes.shape, intensity.PARAMETERS))
            for k, number in enumerate(numbers):
                value = drawn.values[number]
                code = self._write_params(
                    steps[number], value, samples, drawn.key, params[:, k]
                )
                codes[:, k] = np.where(value["on"], code, -1)
            stream = randomness.noise_stream(first)
            groups.append(IntensitySteps(codes, params, stream))
        return groups

    def _write_params(
        self,
        step: Transform,
        value: Values,
        samples: NDArray[np.int64],
        key: int,
        params: NDArray[np.float64],
    ) -> int:
        """Return the code of a transform, and write its parameters for each sample."""
        columns: Sequence[Any]
        match step:
            case augment.Brightness():
                code = intensity.BRIGHTNESS
                columns = (value["multiply"], value["add"])
            case augment.Contrast():
                code = intensity.CONTRAST
                columns = (value["factor"], step.preserve_range)
            case augment.Gamma():
                code = intensity.GAMMA
                columns = (value["gamma"], step.invert, step.keep_stats)
            case augment.Noise(kind="gaussian"):
                code = intensity.GAUSSIAN
                columns = (value["std"],)
            case augment.Noise():
                code = intensity.RICIAN
                columns = (value["std"], self._zero_signal[samples])
            case augment.Blur():
                code = intensity.BLUR
                columns = (value["sigma"],)
            case augment.LowResolution():
                code = intensity.LOW_RESOLUTION
                columns = (value["factor"],)
            case _:  # BiasField
                code = intensity.BIAS_FIELD
                uniforms = np.empty((len(samples), intensity.PARAMETERS - 1))
                keys = samples.astype(np.uint64)
                stream = np.uint32(randomness.BIAS_FIELD)
                batch.draw_uniforms(np.uint64(key), keys, stream, uniforms)
                coefficients = value["magnitude"][:, None] * (2 * uniforms - 1)
                columns = (self._zero_signal[samples], *coefficients.T)
        for k, column in enumerate(columns):
            params[:, k] = column
        return code

    def _call_function(
        self,
        number: int,
        samples: NDArray[np.int64],
        planes: NDArray[np.float32],
        mask: NDArray[Any],
        drawn: DrawnParameters,
    ) -> None:
        """Call the function of a Custom transform for each sample it happens to."""
        step = self.compose.transforms[number]
        on = drawn.values[number]["on"]
        assert isinstance(step, augment.Custom)
        compiled = isinstance(step.function, CPUDispatcher)
        for j in np.flatnonzero(on).tolist():
            stream = (randomness.CUSTOM, number)
            bits = randomness.philox(drawn.key, samples[j], *stream)
            random = np.random.Generator(bits)
            argument = np.uint64(bits.random_raw()) if compiled else random
            function: Callable[..., Any] = step.function
            try:
                returned = function(planes[j], mask[j], argument)
            except Exception as exc:
                exc.add_note("in the function of a Custom transform")
                raise
            if returned is not None:
                raise OptionError(
                    f"Custom: function returned {type(returned).__name__}, expected "
                    "None: the function must change image and mask in place"
                )

    def _check_steps(self, indices: NDArray[np.int64]) -> None:
        """Raise OptionError if transforms do not fit a shape or spacing of a sample."""
        items = self.store.items
        # One sample of each kind is checked: of each shape, and each spacing if needed.
        columns = items["bucket"][indices], items["spacing_mm"][indices]
        kinds = np.column_stack(columns)
        if not any(isinstance(step, augment.Resample) for step in self.compose):
            kinds = kinds[:, :1]
        _, first = np.unique(kinds, axis=0, return_index=True)
        samples = indices[first]
        values = self.draw(samples, 0).values
        find_mapping(self.compose.transforms, values, self.store, samples, self.size)
