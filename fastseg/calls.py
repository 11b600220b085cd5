"""The gate of calls: arguments and attributes that do not exist, in one sentence.

Python raises a TypeError for an argument that is unknown, missing or too much. The
decorators here turn it into an ArgumentError that says what to write instead: the name
that is meant, also where it is one of another library or an old one of ours. A call
that fits is not checked, so that it takes no time but for one more call (0.1 us).
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from fastseg.errors import ArgumentError, RenamedError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

# What other libraries call an argument, and what it may be called here. The first name
# that the called function has is meant.
_SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        other: names
        for others, names in (
            ("num_workers workers n_jobs num_threads nthreads nworkers", ("threads",)),
            ("transform transforms augmentation augmentations aug", ("augment",)),
            ("bs batch batchsz minibatch", ("batch_size",)),
            (
                "image_size img_size imgsz output_size target_size crop_size roi_size "
                "spatial_size patch_size input_size resolution dsize height width size "
                "shape",
                ("patch", "size", "shape"),
            ),
            ("stride step step_size tile_step_size overlap_ratio", ("overlap",)),
            ("volume inputs array tensor", ("image",)),
            ("normalization normalise norm scaling rescale", ("normalize",)),
            (
                "subset samples sample_indices sampler idx idxs ids index split part",
                ("indices",),
            ),
            (
                "classes class_name class_names mask mask_type target label labels "
                "structures rois",
                ("masks", "labels", "classes"),
            ),
            ("random_state random_seed generator rng manual_seed", ("seed",)),
            ("prefetch_factor buffer_size queue_size", ("prefetch",)),
            ("sample_weight sample_weights class_weight", ("weights",)),
            (
                "foreground foreground_fraction oversample_foreground_percent",
                ("foreground", "centred"),
            ),
            ("num_replicas num_ranks n_ranks world", ("world_size",)),
            ("prob probability always_apply", ("p",)),
            (
                "degrees angle angles rotation rotate_range rotation_range",
                ("rotate",),
            ),
            (
                "translate translate_range translation shift shift_limit shift_range",
                ("translate_x", "add"),
            ),
            ("zoom zoom_range scale_range scale_limit scales", ("scale", "factor")),
            ("spacing pixdim voxel_size pixel_size", ("spacing_mm", "spacing")),
            ("sigma_limit sigma_range blur_limit kernel_size", ("sigma",)),
            ("sigma variance var var_limit noise_std", ("std", "sigma")),
            ("gamma_limit gamma_range", ("gamma",)),
            ("alpha", ("magnitude",)),
            ("brightness contrast", ("multiply", "factor")),
            ("lambd func function fn", ("function",)),
            ("direction flip_axis spatial_axis horizontal vertical", ("axis",)),
            ("padding_mode border_mode fill_mode mode", ("border", "where")),
            ("interp interpolation_mode order", ("interpolation",)),
            ("padding pad_mode fill_value cval constant_values", ("pad_value", "pad")),
            ("overwrite exist_ok replace", ("force",)),
            ("num n num_samples n_samples", ("count",)),
            ("out output_path output_file save_path filename dst", ("output", "path")),
            ("folder directory dir data_dir data_root", ("root",)),
            ("path file dataset data src h5 filepath", ("store", "path", "links")),
            ("group groups group_by groupby", ("by", "together", "groups")),
            ("stratified stratify_by strata", ("stratify",)),
            ("fractions ratios splits sizes lengths", ("parts",)),
            ("polygon polygons points vertices rings pts", ("contours", "points")),
            ("compression", ("compress",)),
        )
        for other in others.split()
    }
)
# Arguments of other libraries that have no counterpart here, and what to do.
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "device": "fastseg.torch.as_torch(loader, device=...) moves batches",
        "pin_memory": "fastseg.torch.as_torch(loader, pin_memory=True) does this",
        "collate_fn": "batches are stacked already, leave it out",
        "batch_sampler": "see the options foreground, weights and together",
        "persistent_workers": "threads start and end with each loop, leave it out",
        "worker_init_fn": "threads need no seed of their own, leave it out",
        "multiprocessing_context": "threads make the batches, leave it out",
        "target_transform": "give augment, which changes image and mask alike",
        "mean": "give normalize",
    }
)


def check_call(
    usage: str = "", /, **new_names: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that a call that does not fit raises ArgumentError.

    usage     : an example of a call, for the message; by default the arguments that
        have no default
    new_names : the new name of each argument that was renamed, by its old one; a call
        by an old name raises RenamedError
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            try:
                return function(*args, **options)
            except TypeError as exc:
                # With a frame of the function, the arguments did fit.
                if exc.__traceback__ is None or exc.__traceback__.tb_next is not None:
                    raise
                error = _misfit(function, usage, new_names, args, options)
                raise error or exc from None

        return call

    return decorate


def advise_attributes(**instead: str) -> Callable[[type[C]], type[C]]:
    """Decorate a class: attributes that others have raise an error with advice.

    instead : what to write instead, by the attribute's name

    Type checkers do not see them, so that they find such names. They are properties,
    because `__getattr__` would slow down all attributes.
    """

    def decorate(cls: type[C]) -> type[C]:
        for name, advice in instead.items():
            text = f"{cls.__name__} has no attribute {name!r}; {advice}"
            setattr(cls, name, _absent(name, text))
        return cls

    return decorate


def refuse_renamed_attributes(**new_names: str) -> Callable[[type[C]], type[C]]:
    """Decorate a class: an attribute by its old name raises with the new one."""

    def decorate(cls: type[C]) -> type[C]:
        for old, new in new_names.items():
            text = f"{cls.__name__}.{old} was renamed: {cls.__name__}.{new}"
            setattr(cls, old, _absent(old, text))
        return cls

    return decorate


def unknown_attribute(
    owner: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str]
) -> AttributeError:
    """Return the error of a module for a name that it does not have.

    known     : its names
    elsewhere : what to write instead of names of other libraries
    """
    text = f"module {owner!r} has no attribute {name!r}"
    near = get_close_matches(name, list(known), n=2, cutoff=0.6)
    if name in elsewhere:
        text += f"; use {elsewhere[name]}"
    elif near:
        text += f"; did you mean {' or '.join(near)}?"
    return AttributeError(text, name=name)


def _absent(name: str, text: str) -> property:
    """Return a property that raises AttributeError with a text."""

    def refuse(self: object) -> Any:
        raise AttributeError(text, name=name, obj=self)

    return property(refuse)


def _misfit(
    function: Callable[..., Any],
    usage: str,
    new_names: Mapping[str, str],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> ArgumentError | None:
    """Return the error for arguments that do not fit, None if they do."""
    name = usage.partition("(")[0] or function.__qualname__.removesuffix(".__init__")
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
        args = args[1:]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [*positional, *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)]
    has_default = {p.name for p in parameters if p.default is not p.empty}
    required = [p for p in named if p not in has_default]
    words = [p if p in positional else f"{p}=..." for p in required]
    example = usage or f"{name}({', '.join(words)})"
    given = [*positional[: len(args)], *options]
    missing = [p for p in required if p not in given]
    for old, new in new_names.items():
        if old in options:
            return RenamedError(f"{old!r} was renamed: the argument is {new!r}")
    for option in options:
        if option not in named:
            advice = _advice(option, named, missing or named)
            advice = advice or f"; call it as {example}"
            return ArgumentError(f"{name}() has no argument {option!r}{advice}")
    if len(args) > len(positional):
        # As in Affine(rotate=...); p, which all transforms have, is seldom meant.
        others = [p for p in named if p not in (*positional, *required, "p")]
        words = [*words, *(f"{p}=..." for p in others[:1])]
        example = usage or f"{name}({', '.join(words)})"
        listed = f"only {' and '.join(positional)}" if positional else "no arguments"
        came = "1 is" if len(args) == 1 else f"{len(args)} are"
        return ArgumentError(
            f"{name}() takes {listed} without a name, {came} given; call it as "
            f"{example}"
        )
    for option in given:
        if given.count(option) > 1:
            return ArgumentError(f"{name}() got {option!r} twice; give it once")
    if missing:
        listed = " and ".join(map(repr, missing))
        return ArgumentError(f"{name}() needs {listed}; call it as {example}")
    return None


def _advice(given: str, named: Sequence[str], likely: Sequence[str]) -> str:
    """Return the end of the message for an unknown argument, "" without any advice.

    likely : those of the arguments that a misspelt one may be
    """
    if given in _ADVICE:
        return f": {_ADVICE[given]}"
    meant = [name for name in _SYNONYMS.get(given.lower(), ()) if name in named][:1]
    near = meant or get_close_matches(given.lower(), likely, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
