"""The kernels that change intensities, beside numpy, OpenCV and scipy.

    python benchmarks/intensity_speed.py [--rounds 200]

One float32 plane of 256 x 256 values in the cache, one thread for everybody. The clock
of a shared machine changes from one moment to the next: all take turns, and a ratio is
the median of those within a turn. The plane is restored before each call, outside of
what is timed. Peers do what ours do, as one would write it by hand and in place where
they can; where a cell is empty there is no such peer.
"""

import argparse
import time

import cv2
import numpy as np
from scipy import ndimage

from fastseg._kernels.augment import intensity, noise

SIDE = 256
KEY = np.uint64(1), np.uint64(2), np.uint32(3)
F = np.float32


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
    """Multiply differences from the mean, and clip to the range that was."""
    low, high, mean = plane.min(), plane.max(), plane.mean()
    plane -= mean
    plane *= F(1.2)
    plane += mean
    np.clip(plane, low, high, out=plane)


def bias_by_numpy(plane, coefficients):
    """Evaluate the polynomial by products of vectors, and its exponential."""
    places = np.linspace(-1, 1, SIDE, dtype=np.float32)
    powers = places ** np.arange(4, dtype=np.float32)[:, None]
    table = np.zeros((4, 4), np.float32)
    table[np.triu_indices(4)[0], [0, 1, 2, 3, 0, 1, 2, 0, 1, 0]] = coefficients
    plane *= np.exp(powers.T @ table @ powers)


def lower_by_opencv(plane, factor):
    """Resize twice."""
    size = round(SIDE * factor)
    small = cv2.resize(plane, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    cv2.resize(small, (SIDE, SIDE), dst=plane, interpolation=cv2.INTER_LINEAR)


def blur_rows(sigma, scratch):
    """Return what is compared for a blur: ours, numpy's (none), OpenCV's, scipy's."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return (
        lambda plane: intensity.blur(plane, sigma, scratch),
        None,
        lambda plane: cv2.GaussianBlur(
            plane, (side, side), sigma, dst=plane, borderType=cv2.BORDER_REFLECT
        ),
        lambda plane: ndimage.gaussian_filter(plane, sigma, output=plane, truncate=4),
    )


def rows(plane):
    """Return {name: (ours, numpy's, OpenCV's, scipy's)}, functions of a plane."""
    scratch = np.empty(plane.size, np.float32)
    low, high = map(F, intensity.find_range(plane))
    rng, coefficients = np.random.default_rng(1), np.linspace(-0.5, 0.4, 10)
    draw, other = np.empty_like(plane), np.empty_like(plane)

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

    steps = np.array([intensity.BRIGHTNESS, intensity.GAMMA, intensity.GAUSSIAN])
    params = np.zeros((3, intensity.PARAMETERS))
    params[:, :2] = [[1.1, 0.1], [1.3, 0], [0.1, 0]]
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
        "blur, sigma 0.5": blur_rows(0.5, scratch),
        "blur, sigma 1": blur_rows(1.0, scratch),
        "blur, sigma 5": blur_rows(5.0, scratch),
        "lower_resolution, 0.7": (
            lambda plane: intensity.lower_resolution(plane, 0.7),
            None,
            lambda plane: lower_by_opencv(plane, 0.7),
        ),
        "apply_tone: brightness, gamma, Gaussian": (
            lambda plane: intensity.apply_intensity(
                plane, steps, params, *KEY, scratch
            ),
        ),
    }


def main():
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    source = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    plane = source.copy()
    titles = "ours | numpy | OpenCV | scipy | best peer / ours"
    print(f"| µs per {SIDE} x {SIDE} | {titles} |")
    print("|---|---|---|---|---|---|")
    for name, functions in rows(source).items():
        spent = np.full((rounds + 1, 4), np.nan)
        for turn in spent:
            for place, function in enumerate(functions):
                if function is None:
                    continue
                np.copyto(plane, source)
                begun = time.perf_counter()
                function(plane)
                turn[place] = time.perf_counter() - begun
        spent = spent[1:] * 1e6  # the first turn compiles
        cells = ["" if np.isnan(m) else f"{m:.1f}" for m in np.median(spent, axis=0)]
        ratio = ""
        if any(cells[1:]):
            peers = np.nanargmin(np.median(spent, axis=0)[1:]) + 1
            ratio = f"{np.median(spent[:, peers] / spent[:, 0]):.1f}"
        print(f"| {name} | {' | '.join(cells)} | {ratio} |")


if __name__ == "__main__":
    main()
