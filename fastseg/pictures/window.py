"""Which image values are black and white, and the greys between them."""

import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fastseg.bounds import MAX_DECIMAL
from fastseg.choices import Window
from fastseg.errors import OptionError, in_order, one_of, real_number, shown
from fastseg.store.reader import Sample

# A window that is chosen from the header must show at least this fraction of the
# pixels as greys between black and white.
LEAST_GREYS = 0.01
# The window of soft tissue, in Hounsfield units: of CT without one in the header.
SOFT_TISSUE = (-160.0, 240.0)
ROBUST_PERCENTS = (0.5, 99.5)
WINDOWS = get_args(Window)
# The image values that are black and white.
Limits = tuple[float, float]


def check_window(window: Any) -> Window | tuple[float, float]:
    """Return the option `window`, or raise OptionError."""
    if isinstance(window, str):
        if window in WINDOWS:
            return window  # type: ignore[return-value]
        raise OptionError(one_of("window", window, (*WINDOWS, "(low, high)")))
    expected = "(low, high), two image values, the first one lower"
    try:
        low, high = in_order(window)
    except (TypeError, ValueError):
        raise OptionError(f"window is {shown(window)}, expected {expected}") from None
    limits = real_number("window", low), real_number("window", high)
    if limits[0] >= limits[1]:
        raise OptionError(f"window is {shown(window)}, expected {expected}")
    if max(map(abs, limits)) > MAX_DECIMAL or limits[1] - limits[0] < 1 / MAX_DECIMAL:
        raise OptionError(
            f"window is {shown(window)}, expected image values up to {MAX_DECIMAL:g}, "
            f"at least {1 / MAX_DECIMAL:g} apart"
        )
    return limits


def find_limits(window: Any, meta: Mapping[str, Any], pixels: NDArray[Any]) -> Limits:
    """Return the image values that are black and white.

    meta   : of the sample; its slope and intercept make image values of the pixels
    pixels : what is shown of the stored values
    """
    if isinstance(window, tuple):
        return window
    slope, intercept = meta["slope"], meta["intercept"]
    is_hounsfield = meta["modality"] == "CT"
    if window == "header" or (window == "auto" and is_hounsfield):
        limits = SOFT_TISSUE if window == "auto" else None
        centre, width = meta["window"]
        if not math.isnan(centre):
            black = centre - 0.5 - (width - 1) / 2  # PS3.3 C.11.2.1.2, LINEAR
            limits = (black, black + width - 1)
        if limits is not None:
            first, last = sorted((value - intercept) / slope for value in limits)
            greys = np.count_nonzero((pixels > first) & (pixels < last))
            if window == "header" or greys >= LEAST_GREYS * pixels.size:
                return limits
    low, high = np.percentile(pixels, ROBUST_PERCENTS).tolist()
    if low == high:  # as in PET, where most may be 0
        low, high = float(pixels.min()), float(pixels.max())
    black, white = sorted(slope * value + intercept for value in (low, high))
    return black, white


def normalize_limits(sample: Sample, limits: Limits) -> Limits:
    """Return image values as a Loader normalizes them by default."""
    meta = sample.meta
    mean = meta["slope"] * meta["mean"] + meta["intercept"]
    std = abs(meta["slope"]) * meta["std"] or 1
    black, white = ((value - mean) / std for value in limits)
    return black, white


def to_grey(image: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    """Return greys from 0 for black to 255 for white, uint8 (h, w, 1)."""
    values = image[..., None].astype(np.float64)
    values -= black
    values *= 255 / ((white - black) or 1)
    greys: NDArray[np.uint8] = np.rint(values.clip(0, 255)).astype(np.uint8)
    return greys
