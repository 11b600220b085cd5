"""Changes of intensity in float64, by their formulas: slow and obviously right."""

import numpy as np


def contrast_reference(plane, factor, preserve_range):
    """Return the plane with each difference from the mean multiplied."""
    exact = plane.astype(float)
    changed = exact.mean() + (exact - exact.mean()) * factor
    return np.clip(changed, exact.min(), exact.max()) if preserve_range else changed


def gamma_reference(plane, gamma, invert, keep_stats):
    """batchgenerators' augment_gamma for one channel, in float64."""
    v = plane.astype(float) * (-1 if invert else 1)
    mean, deviation, low, span = v.mean(), v.std(), v.min(), np.ptp(v)
    if span == 0:
        return plane.astype(float)
    v = ((v - low) / span) ** gamma * span + low
    if keep_stats:
        v = (v - v.mean()) / v.std() * deviation + mean
    return v * (-1 if invert else 1)


def bias_reference(plane, floor, coefficients):
    """Return the plane with the bias field, term by term, in float64."""
    height, width = plane.shape
    y = np.linspace(-1, 1, height) if height > 1 else np.zeros(1)
    x = np.linspace(-1, 1, width) if width > 1 else np.zeros(1)
    y, x = np.meshgrid(y, x, indexing="ij")
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    field = sum(c * y**i * x**j for c, (i, j) in zip(coefficients, powers, strict=True))
    return floor + (plane.astype(float) - floor) * np.exp(field)


def lower_reference(plane, factor):
    """Pick the nearest pixels, then interpolate, both by matrices of weights."""
    down, up = [], []
    for length in plane.shape:
        small = max(round(length * factor), 1)
        pick = np.zeros((small, length))
        for k in range(small):
            pick[k, (2 * k + 1) * length // (2 * small)] = 1
        spread = np.zeros((length, small))
        for k in range(length):
            coordinate = min(max((k + 0.5) * small / length - 0.5, 0), small - 1)
            left = int(coordinate)
            spread[k, left] += 1 - (coordinate - left)
            spread[k, min(left + 1, small - 1)] += coordinate - left
        down.append(pick)
        up.append(spread)
    small = down[0] @ plane.astype(float) @ down[1].T
    return up[0] @ small @ up[1].T
