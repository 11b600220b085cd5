"""The kernels that change intensities, beside numpy, OpenCV and scipy.

    python -m benchmarks.augment.intensity [--rounds 200]

One float32 plane of 256 x 256 values in the cache, one thread for everybody. The clock
of a shared machine changes from one moment to the next: all functions take turns, and a
ratio is the median of those within a turn. The plane is restored before each call, and
that is not timed. Peers do the same as our kernels, written by hand, and in place where
they can; an empty cell means that there is no such peer. Needs scipy, and
opencv-python-headless.
"""

import argparse
import time

import cv2
import numpy as np
from scipy import ndimage

from benchmarks.inputs import SIDE
from benchmarks.tables import table_of
from fastseg._kernels.augment import batch, intensity, noise

# Of the random numbers: key, sample and stream.
KEY = np.uint64(1), np.uint64(2), np.uint32(3)
F = np.float32
TITLES = ("ours", "numpy", "OpenCV", "scipy")


def peers_of_gamma(gamma, low, span):
    """Return numpy's and OpenCV's power between the plane's ends."""

    def by_numpy(plane):
        plane -= low
        plane /= span
        np.power(plane, F(gamma), out=plane)
        plane *= span
        plane += low

    def by_opencv(plane):
        cv2.subtract(plane, float(low), dst=plane)
        cv2.multiply(plane, 1 / float(span), dst=plane)
        cv2.pow(plane, gamma, dst=plane)
        cv2.multiply(plane, float(span), dst=plane)
        cv2.add(plane, float(low), dst=plane)

    return by_numpy, by_opencv


def contrast_by_numpy(plane):
    """Multiply differences from the mean, and clip to the range before."""
    low, high, mean = plane.min(), plane.max(), plane.mean()
    plane -= mean
    plane *= F(1.2)
    plane += mean
    np.clip(plane, low, high, out=plane)


def bias_by_numpy(plane, coefficients):
    """Evaluate the polynomial by products of vectors, and its exponential."""
    coordinates = np.linspace(-1, 1, SIDE, dtype=np.float32)
    powers = coordinates ** np.arange(4, dtype=np.float32)[:, None]
    table = np.zeros((4, 4), np.float32)
    table[np.triu_indices(4)[0], [0, 1, 2, 3, 0, 1, 2, 0, 1, 0]] = coefficients
    plane *= np.exp(powers.T @ table @ powers)


def lower_by_opencv(plane, factor):
    """Resize twice."""
    size = round(SIDE * factor)
    small = cv2.resize(plane, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    cv2.resize(small, (SIDE, SIDE), dst=plane, interpolation=cv2.INTER_LINEAR)


def blurs(sigma, scratch):
    """Return the functions that blur: ours, numpy's (none), OpenCV's, scipy's."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return (
        lambda plane: intensity.blur(plane, sigma, scratch),
        None,
        lambda plane: cv2.GaussianBlur(
            plane, (side, side), sigma, dst=plane, borderType=cv2.BORDER_REFLECT
        ),
        lambda plane: ndimage.gaussian_filter(plane, sigma, output=plane, truncate=4),
    )


def functions_of(plane):
    """Return {name: (ours, numpy's, OpenCV's, scipy's)}, functions of a plane."""
    scratch = np.empty(plane.size, np.float32)
    low, high = map(F, intensity.find_range(plane))
    rng = np.random.default_rng(1)
    coefficients = np.linspace(-0.5, 0.4, 10)
    draw = np.empty_like(plane)
    other = np.empty_like(plane)

    def gaussian_by_numpy(plane):
        rng.standard_normal(out=draw, dtype=np.float32)
        plane += draw

    def gaussian_by_opencv(plane):
        cv2.randn(draw, 0, 1)
        cv2.add(plane, draw, dst=plane)

    def rician_by_numpy(plane):
        rng.standard_normal(out=draw, dtype=np.float32)
        rng.standard_normal(out=other, dtype=np.float32)
        plane += draw
        np.hypot(plane, other, out=plane)

    def rician_by_opencv(plane):
        cv2.randn(draw, 0, 1)
        cv2.randn(other, 0, 1)
        cv2.magnitude(plane + draw, other, magnitude=plane)

    codes = np.array([[intensity.BRIGHTNESS, intensity.GAMMA, intensity.GAUSSIAN]])
    params = np.zeros((1, 3, intensity.PARAMETERS))
    params[0, :, :2] = [[1.1, 0.1], [1.3, 0], [0.1, 0]]
    steps = intensity.Steps(codes, params, 3)
    keys = noise.Keys(1, np.array([2], np.uint64))
    return {
        "add_gaussian": (
            lambda plane: noise.add_gaussian(plane, F(1), *KEY),
            gaussian_by_numpy,
            gaussian_by_opencv,
        ),
        "add_rician": (
            lambda plane: noise.add_rician(plane, F(1), F(0), *KEY),
            rician_by_numpy,
            rician_by_opencv,
        ),
        "apply_gamma": (
            lambda plane: intensity.apply_gamma(plane, 1.3, low, high, False, False),
            *peers_of_gamma(1.3, low, high - low),
        ),
        "apply_gamma, keep_stats": (
            lambda plane: intensity.apply_gamma(plane, 1.3, low, high, False, True),
        ),
        "apply_brightness": (
            lambda plane: intensity.apply_brightness(plane, F(1.1), F(0.1)),
            lambda plane: np.add(np.multiply(plane, F(1.1), plane), F(0.1), plane),
            lambda plane: cv2.addWeighted(plane, 1.1, plane, 0, 0.1, dst=plane),
        ),
        "apply_contrast, preserve_range": (
            lambda plane: intensity.apply_contrast(plane, F(1.2), True),
            contrast_by_numpy,
        ),
        "apply_bias_field": (
            lambda plane: intensity.apply_bias_field(plane, F(0), coefficients),
            lambda plane: bias_by_numpy(plane, coefficients),
        ),
        "blur, sigma 0.5": blurs(0.5, scratch),
        "blur, sigma 1": blurs(1.0, scratch),
        "blur, sigma 5": blurs(5.0, scratch),
        "lower_resolution, 0.7": (
            lambda plane: intensity.lower_resolution(plane, 0.7),
            None,
            lambda plane: lower_by_opencv(plane, 0.7),
        ),
        "brightness, gamma, Gaussian in one call": (
            lambda plane: batch.apply_intensity_batch(plane[None, None], steps, keys),
        ),
    }


def rows_of(source, rounds):
    """Time all functions in turns; yield the rows of the table."""
    yield f"µs per {SIDE} x {SIDE}", *TITLES, "best peer / ours"
    plane = source.copy()
    for name, functions in functions_of(source).items():
        micros = np.full((rounds + 1, len(TITLES)), np.nan)
        for turn in micros:
            for k, function in enumerate(functions):
                if function is None:
                    continue
                np.copyto(plane, source)
                start = time.perf_counter()
                function(plane)
                turn[k] = (time.perf_counter() - start) * 1e6
        micros = micros[1:]  # the first turn compiles
        medians = np.median(micros, axis=0)
        cells = ["" if np.isnan(median) else f"{median:.1f}" for median in medians]
        ratio = ""
        if any(cells[1:]):
            best = np.nanargmin(medians[1:]) + 1
            ratio = f"{np.median(micros[:, best] / micros[:, 0]):.1f}"
        yield name, *cells, ratio


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    source = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    print(table_of(rows_of(source, rounds)))


if __name__ == "__main__":
    main()
