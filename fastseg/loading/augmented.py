"""How a Compose becomes images and masks: parameters drawn, kernels called."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numba.core.registry import CPUDispatcher
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import augment
from fastseg._kernels.augment import batch, intensity
from fastseg._kernels.augment.bend import bend_rings
from fastseg._kernels.images import gather
from fastseg.augment import Compose, Transform
from fastseg.augment.base import Values
from fastseg.errors import OptionError, one_of
from fastseg.loading.mapping import Mappings, find_mapping
from fastseg.loading.preprocessing import Preprocessing, StageTimes, dtype_name
from fastseg.raster.rings import join_rings
from fastseg.raster.rules import Rules, scratch_rows
from fastseg.store.layout import mask_dtype
from fastseg.store.reader import Store

Labels = Literal["exact", "nearest"]

LABELS = get_args(Labels)
# Random numbers of different uses never meet: streams of `_kernels.noise`.
PARAMETERS, FIELDS, BIASES, CUSTOM, NOISE = 0, 1, 2, 3, 2**16
ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
# Control points beyond the image's first pixel and its last: a cubic reaches so far.
MARGIN = 4

EVERYTHING = slice(None)


class Drawn(NamedTuple):
    """What was drawn for b samples.

    key    : of random numbers, from seed and epoch
    values : of each step of the Compose, its parameters, (b,) or (b, n)
    """

    key: int
    values: list[Values]


class Tones(NamedTuple):
    """Steps that change intensities, one after the other, as kernels take them.

    codes  : int64 (b, k), negative where a step is off
    params : float64 (b, k, intensity.PARAMETERS)
    stream : uint32, of the random numbers of the first step
    """

    codes: NDArray[np.int64]
    params: NDArray[np.float64]
    stream: np.uint32


class AugmentedPreprocessing(Preprocessing):
    """A Recipe that does what a Compose says as well.

    compose : the transforms
    labels  : "exact" moves the contours and draws them again, "nearest" takes the
        nearest pixels of the masks
    seed    : 0 to 2**64 - 1
    options : of the Recipe; `size` is by default that of the last Crop or Resize, or
        the images' own if all have one

    Raises what Recipe does, and OptionError for steps that do not fit the store.
    """

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        *,
        compose: Compose,
        labels: Labels = "exact",
        seed: int = 0,
        **options: Any,
    ):
        if labels not in LABELS:
            raise OptionError(one_of("labels", labels, LABELS))
        dtype = dtype_name(options.get("dtype", "float32"))
        if dtype != "float32":
            raise OptionError(f"dtype is {dtype!r}, but augmented images are 'float32'")
        if options.get("size") is None:
            sizes = [s.size for s in compose if isinstance(s, SIZED)]
            options["size"] = sizes[-1] if sizes else None
        super().__init__(store, indices, **options)
        self.compose, self.labels, self.seed = compose, labels, seed
        self._check(indices)
        rules = Rules(**{**store.options, "origin": "center"})  # as contours are stored
        self._rows = scratch_rows(*self.size, rules)
        self._edges, self._nonzero = rules.edges_code, rules.fill == "nonzero"
        bits = np.arange(len(store.classes), dtype=np.uint64)
        field = mask_dtype(store.classes)
        self._bit_values = (np.uint64(1) << bits).astype(field)
        self._field = field
        # Steps that change intensities, by number: those before the first Custom one,
        # then each Custom one with those that follow it.
        self._runs: list[tuple[int, list[int]]] = [(0, [])]
        for number, step in enumerate(compose):
            if isinstance(step, augment.Custom):
                self._runs.append((number, []))
            elif isinstance(step, augment.INTENSITY):
                self._runs[-1][1].append(number)
        self._order = ORDERS[compose.interpolation]
        self._border = augment.BORDERS.index(compose.border)
        # The value that stands for no signal, where noise and fields begin.
        intercept, slope = (store.items[name] for name in ("intercept", "slope"))
        floor = (-intercept / slope - self._shift) * self._gain
        self._floor = floor.astype(np.float32)

    def draw(self, samples: NDArray[np.int64], epoch: int) -> Drawn:
        """Return the parameters of samples in an epoch: a function of these."""
        key = _key(self.seed, epoch)
        steps = self.compose.transforms
        uniforms = np.empty((len(samples), sum(step.draws for step in steps)))
        keys = samples.astype(np.uint64)
        batch.draw_uniforms(np.uint64(key), keys, np.uint32(PARAMETERS), uniforms)
        values, start = [], 0
        for step in steps:
            values.append(step.draw(uniforms[:, start : start + step.draws]))
            start += step.draws
        return Drawn(key, values)

    def describe(self, samples: NDArray[np.int64], epoch: int) -> dict[str, Any]:
        """Return what is drawn for samples in an epoch, as a dict for JSON."""
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

    def read(self, params: Mapping[str, Any]) -> tuple[NDArray[np.int64], Drawn]:
        """Return the samples and parameters that `describe` has described.

        Raises OptionError for what does not fit the steps.
        """
        names = [type(step).__name__ for step in self.compose]
        try:
            steps = [dict(step) for step in params["steps"]]
            given = [step.pop("name") for step in steps]
            samples = np.array(params["index"], np.int64)
            key = _key(params["seed"], params["epoch"])
            values = [
                {name: np.array(column) for name, column in step.items()}
                for step in steps
            ]
            lengths = {len(column) for value in values for column in value.values()}
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise OptionError(f"params are not those of a batch ({exc!r})") from None
        wanted = self.draw(samples, 0).values if given == names else []
        alike = [set(value) == set(w) for value, w in zip(values, wanted, strict=False)]
        if given != names or not all(alike) or lengths - {len(samples)}:
            raise OptionError(
                f"params are of the steps {', '.join(map(str, given))}, expected those "
                f"of a batch of this loader: {', '.join(names)}"
            )
        return samples, Drawn(key, values)

    def contours(self, sample: int, epoch: int) -> dict[str, list[NDArray[np.float64]]]:
        """Return the rings of each class of a sample as they are in an epoch.

        float64 (n, 2), (x, y) in pixels of the batch
        """
        samples = np.array([sample])
        drawn = self.draw(samples, epoch)
        steps = self.compose.transforms
        mapping, _ = find_mapping(steps, drawn.values, self.store, samples, self.size)
        outer, control, spacing, inner = self._matrices(mapping, samples, drawn)
        way = outer[0], control[0], spacing, inner[0]
        moved: dict[str, list[NDArray[np.float64]]] = {}
        for name, rings in self.store[sample].contours.items():
            points, offsets = bend_rings(*join_rings(rings), *way)
            moved[name] = np.split(points, offsets[1:-1])
        return moved

    def fill(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        epoch: int = 0,
    ) -> StageTimes:
        """Make images and masks of samples as they are in an epoch."""
        return self.fill_drawn(samples, image, mask, self.draw(samples, epoch))

    def fill_drawn(
        self,
        samples: NDArray[np.int64],
        image: NDArray[Any],
        mask: NDArray[Any],
        drawn: Drawn,
    ) -> StageTimes:
        """Make images and masks of samples with these parameters."""
        self.store.check_size()
        begun = perf_counter_ns()
        steps = self.compose.transforms
        mapping, _ = find_mapping(steps, drawn.values, self.store, samples, self.size)
        ways = self._matrices(mapping, samples, drawn)
        bits = mask
        if self.masks != "bits":
            bits = np.empty((len(mask), *self.size), self._field)
        shift, gain = self._shift[samples], self._gain[samples]
        low, high = self.normalization.limits
        tones, *others = self._tones(samples, drawn)
        key, numbers = np.uint64(drawn.key), samples.astype(np.uint64)
        spent = 0
        for images, masks, rows, place in self.store.stacks(samples):
            started = perf_counter_ns()
            here = (*(way[place] for way in ways[:2]), ways[2], ways[3][place])
            batch.augment_images(
                images,
                rows,
                *here,
                self._order,
                self._border,
                np.float32(self.pad_value),
                shift[place],
                gain[place],
                low,
                high,
                tones.codes[place],
                tones.params[place],
                tones.stream,
                key,
                numbers[place],
                self.streams,
                image[place][:, 0],
            )
            spent += perf_counter_ns() - started
            if self.labels == "nearest":
                batch.warp_masks(masks, rows, *here, bits[place])
        if self.labels == "exact":
            self._draw_labels(samples, ways, bits)
        if bits is not mask:
            every = np.arange(len(mask))
            shown = self._view_masks(mask)
            unlabelled = self._unlabelled(samples)
            gather.gather_masks(
                bits, every, self._classes, unlabelled, self.streams, shown
            )
        labelled = perf_counter_ns()
        own = 0
        for (number, _), later in zip(self._runs[1:], others, strict=True):
            called = perf_counter_ns()
            self._call(number, samples, image[:, 0], mask, drawn)
            own += perf_counter_ns() - called
            if later.codes.size:
                batch.apply_intensity_batch(image[:, 0], *later, key, numbers)
        spent += perf_counter_ns() - labelled - own
        return StageTimes(0, spent, perf_counter_ns() - begun - spent - own, own)

    def _matrices(
        self, mapping: Mappings, samples: NDArray[np.int64], drawn: Drawn
    ) -> tuple[Any, Any, float, Any]:
        """Return outer, control, spacing and inner for the kernels."""
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
        grids = np.ceil((mapping.sizes - 1) / step.spacing).astype(np.int64) + MARGIN
        control = np.empty((len(samples), *grids.max(axis=0).tolist(), 2))
        batch.draw_fields(
            np.uint64(drawn.key),
            samples.astype(np.uint64),
            np.uint32(FIELDS),
            np.where(value["on"], value["magnitude"], 0.0),
            grids,
            control,
        )
        return outer, control, step.spacing, inner

    def _draw_labels(
        self, samples: NDArray[np.int64], ways: tuple[Any, ...], bits: NDArray[Any]
    ) -> None:
        contours = self.store.contours
        batch.draw_moved_contours(
            contours["points"],
            contours["offsets"],
            contours["class"],
            self.store.items["contours"][samples],
            *ways,
            self._edges,
            self._nonzero,
            self._rows,
            self._bit_values,
            bits,
        )

    def _tones(self, samples: NDArray[np.int64], drawn: Drawn) -> list[Tones]:
        """Return what is done before the first Custom step, and after each."""
        steps, tones = self.compose.transforms, []
        for first, run in self._runs:
            codes = np.empty((len(samples), len(run)), np.int64)
            params = np.zeros((*codes.shape, intensity.PARAMETERS))
            for k, number in enumerate(run):
                step, value = steps[number], drawn.values[number]
                code = self._tone(step, value, samples, drawn.key, params[:, k])
                codes[:, k] = np.where(value["on"], code, -1)
            tones.append(Tones(codes, params, np.uint32(NOISE + 2**16 * first)))
        return tones

    def _tone(
        self,
        step: Transform,
        value: Values,
        samples: NDArray[np.int64],
        key: int,
        params: NDArray[np.float64],
    ) -> int:
        """Return the code of a step, and write its parameters for each sample."""
        columns: Sequence[Any]
        match step:
            case augment.Brightness():
                code, columns = intensity.BRIGHTNESS, (value["multiply"], value["add"])
            case augment.Contrast():
                code = intensity.CONTRAST
                columns = (value["factor"], step.preserve_range)
            case augment.Gamma():
                code = intensity.GAMMA
                columns = (value["gamma"], step.invert, step.keep_stats)
            case augment.Noise(kind="gaussian"):
                code, columns = intensity.GAUSSIAN, (value["std"],)
            case augment.Noise():
                code = intensity.RICIAN
                columns = (value["std"], self._floor[samples])
            case augment.Blur():
                code, columns = intensity.BLUR, (value["sigma"],)
            case augment.LowResolution():
                code, columns = intensity.LOW_RESOLUTION, (value["factor"],)
            case _:  # BiasField
                code = intensity.BIAS_FIELD
                shares = np.empty((len(samples), intensity.PARAMETERS - 1))
                keys = samples.astype(np.uint64)
                batch.draw_uniforms(np.uint64(key), keys, np.uint32(BIASES), shares)
                field = value["magnitude"][:, None] * (2 * shares - 1)
                columns = (self._floor[samples], *field.T)
        for k, column in enumerate(columns):
            params[:, k] = column
        return code

    def _call(
        self,
        number: int,
        samples: NDArray[np.int64],
        planes: NDArray[np.float32],
        mask: NDArray[Any],
        drawn: Drawn,
    ) -> None:
        """Call a function of the user's for each sample for which it is on."""
        step, on = self.compose.transforms[number], drawn.values[number]["on"]
        assert isinstance(step, augment.Custom)
        compiled = isinstance(step.function, CPUDispatcher)
        for j in np.flatnonzero(on).tolist():
            words = np.array([drawn.key, samples[j]], np.uint64)
            bits = np.random.Philox(key=words, counter=[0, 0, number, CUSTOM])
            random = np.random.Generator(bits)
            given = np.uint64(bits.random_raw()) if compiled else random
            function: Callable[..., Any] = step.function
            try:
                answer = function(planes[j], mask[j], given)
            except Exception as exc:
                exc.add_note("in the function of a Custom step")
                raise
            if answer is not None:
                raise OptionError(
                    f"Custom: function returned {type(answer).__name__}, expected "
                    "None: it is to change image and mask in place"
                )

    def _check(self, indices: NDArray[np.int64]) -> None:
        """Raise OptionError if steps do not fit samples of some shape or spacing."""
        items = self.store.items
        columns = items["bucket"][indices], items["spacing_mm"][indices]
        kinds = np.column_stack(columns)
        if not any(isinstance(step, augment.Resample) for step in self.compose):
            kinds = kinds[:, :1]
        _, first = np.unique(kinds, axis=0, return_index=True)
        samples = indices[first]
        values = self.draw(samples, 0).values
        find_mapping(self.compose.transforms, values, self.store, samples, self.size)


def _key(seed: int, epoch: int) -> int:
    """Return the key of random numbers: two words, not their sum."""
    return xxh3_64_intdigest(np.array([seed, epoch], "<u8").tobytes())


SIZED = (augment.Crop, augment.Resize)
