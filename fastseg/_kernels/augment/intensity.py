"""Intensity steps: they change the values of one patch in place.

A patch is float32 (d, h, w), C-contiguous, finite, in the units of the batch (by
default scaled to mean 0 and deviation 1). An image is a patch of one plane, (h, w):
steps that look at neighbouring pixels or at positions change each plane by itself, with
the same parameters; for the others, and for range and mean, a patch may have any shape.
The caller draws all parameters. `apply_intensity` does several steps in a row; each
step is also a kernel of its own. `noise` makes the random numbers.

Powers and exponentials are float32 polynomials, and no mathematical library is called
but for square roots, which are exact: every machine makes the same bits. Sums are
float64, in a fixed order. Scalars may be float64 or Python numbers; they are rounded to
float32 first.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.augment.noise import (
    BLOCKS,
    PIXELS,
    add_gaussian,
    add_rician,
    empty_numbers,
    fill_normals,
    log2_above_one,
    split_number,
)
from fastseg._kernels.images.stream import put
from fastseg._kernels.jit import empty, flat, fma, inlined, kernel, zeros

F = np.float32
ZERO, ONE = F(0), F(1)
# 2**f = 1 + f * (E1 + E2 f + ...) on -1/2 <= f <= 1/2, minimax in relative error:
# 9.1e-8 before rounding.
E1, E2, E3 = F(0.69314698), F(0.24022242), F(0.055507337)
E4, E5 = F(0.0096715128), F(0.0013264727)
LOG2_E = 1.4426950408889634
# Adding ROUNDER rounds a float32 to an integer, which is then in its last bits.
ROUNDER = F(1.5 * 2**23)
EXPONENT = np.int32(23)  # first bit of a float32's exponent
LEAST_POWER, LEAST_NORMAL = F(-126), F(2.0**-126)
LEAST_REST = F(-0.75)
# Partial sums that are added up in parallel, by vector instructions: 9 times faster.
LANES = 256
# A Gaussian is cut off here, in standard deviations, as in scipy.ndimage.
TRUNCATE = 4.0

# Codes of the steps, and the parameters in the row of each.
BRIGHTNESS = 0  # multiply, add
CONTRAST = 1  # factor, preserve_range (0 or 1)
GAMMA = 2  # gamma, invert (0 or 1), keep_stats (0 or 1)
BIAS_FIELD = 3  # floor, then the coefficients
GAUSSIAN = 4  # std; others are ignored
RICIAN = 5  # std, floor
BLUR = 6  # sigma
LOW_RESOLUTION = 7  # factor
COEFFICIENTS = 10  # of a bias field
PARAMETERS = 1 + COEFFICIENTS  # the most that a step has


@inlined
def scaled_power(shifted, f):
    """Return 2**(n + f) as float32, to a relative error of 2e-7.

    shifted : float32, n + ROUNDER for a whole n from -126 to 127
    f       : float32, from -1/2 to 1/2 (from -3/4, with less precision)
    """
    square = f * f
    series = fma(square, fma(square, E5, fma(E4, f, E3)), fma(E2, f, E1))
    bits = np.float32(fma(f, series, ONE)).view(np.int32)
    # Shift n to the bits of the exponent, and add it.
    moved = np.int32(np.float32(shifted).view(np.int32) << EXPONENT)
    return np.int32(bits + moved).view(np.float32)


@inlined
def split_product(whole, rest, high, low):
    """Return (high + low) * (whole + rest) as `scaled_power` takes it."""
    # high * whole is exact, so large logarithms lose no digits.
    large, small = high * whole, fma(low, whole, (high + low) * rest)
    shifted = max(large + small, LEAST_POWER) + ROUNDER
    return shifted, max((large - (shifted - ROUNDER)) + small, LEAST_REST)


@inlined
def power(base, high, low):
    """Return base**(high + low) as float32, 0 for a base below 2**-126.

    base : float32, up to 2**24
    high : float32, the exponent with its last 12 bits set to 0
    low  : float32, the rest of the exponent, which is above 0 and up to 5

    The relative error is below 1e-6 where the power is above 2**-125; a smaller power
    becomes a number from 0 to 2**-125.
    """
    whole, z = split_number(max(base, LEAST_NORMAL))
    shifted, f = split_product(whole, log2_above_one(z), high, low)
    return scaled_power(shifted, f) if base >= LEAST_NORMAL else ZERO


@kernel
def split_exponent(gamma):
    """Return gamma as the sum high + low that `power` takes, both float32."""
    bits = np.float32(gamma).view(np.int32)
    high = np.int32(bits & np.int32(-4096)).view(np.float32)
    return high, F(gamma - np.float64(high))


@kernel
def find_range(patch):
    """Return the least and the greatest value, float32."""
    values = flat(patch)
    # As int32 in the same order, because vector instructions compare only those: a
    # comparison of float32 must handle NaN. 9 times faster.
    least, greatest = np.int32(2**31 - 1), np.int32(-(2**31))
    for k in range(len(values)):
        bits = np.float32(values[k]).view(np.int32)
        rank = np.int32(bits ^ np.int32((bits >> np.int32(31)) & np.int32(2**31 - 1)))
        least, greatest = min(least, rank), max(greatest, rank)
    return float_of_rank(least), float_of_rank(greatest)


@inlined
def float_of_rank(rank):
    """Return the float32 with this rank in the order of all float32; 0.0 has rank 0."""
    rank = np.int32(rank)
    bits = np.int32(rank ^ np.int32((rank >> np.int32(31)) & np.int32(2**31 - 1)))
    return bits.view(np.float32)


@kernel
def find_mean(patch):
    """Return the mean, float64."""
    values = flat(patch)
    sums = zeros(LANES, np.float64)
    for start in range(0, len(values), LANES):
        block = values[start : start + LANES]
        for k in range(len(block)):
            sums[k] += np.float64(block[k])
    return sum_in_order(sums) / len(values)


@kernel
def sum_in_order(sums):
    """Return the sum of float64 (n,), added in order (numpy adds pairwise)."""
    total = 0.0
    for k in range(len(sums)):
        total += sums[k]
    return total


@kernel
def find_mean_and_deviation(patch):
    """Return the mean and the standard deviation, float64."""
    values = flat(patch)
    # In one pass over the values minus the first value. As the first one is then 0, the
    # variance is at least 1 / n of the squared mean, so that the subtraction below
    # loses few digits.
    first = np.float64(values[0])
    sums, squares = zeros(LANES, np.float64), zeros(LANES, np.float64)
    for start in range(0, len(values), LANES):
        block = values[start : start + LANES]
        for k in range(len(block)):
            off = np.float64(block[k]) - first
            sums[k] += off
            squares[k] += off * off
    mean = sum_in_order(sums) / len(values)
    variance = sum_in_order(squares) / len(values) - mean * mean
    return first + mean, math.sqrt(max(variance, 0.0))


@kernel
def apply_brightness(patch, multiply, add):
    """Replace each value by value * multiply + add.

    patch         : float32, C-contiguous, changed in place
    multiply, add : float32, add in the units of patch
    """
    multiply, add = F(multiply), F(add)
    values = flat(patch)
    for k in range(len(values)):
        values[k] = values[k] * multiply + add


@kernel
def apply_contrast(patch, factor, preserve_range):
    """Multiply each value's difference from the mean by a factor.

    patch          : float32, C-contiguous, changed in place
    factor         : float32; 1 changes no bit
    preserve_range : bool, whether to clip to the values' old range

    Does as `augment_contrast` of batchgenerators, which nnU-Net uses.
    """
    values = flat(patch)
    mean = F(find_mean(patch))
    more = F(factor) - ONE
    if preserve_range:
        low, high = find_range(patch)
        for k in range(len(values)):
            value = values[k] + (values[k] - mean) * more
            values[k] = min(max(value, low), high)
    else:
        for k in range(len(values)):
            values[k] += (values[k] - mean) * more


@kernel
def apply_gamma(patch, gamma, low, high, invert, keep_stats):
    """Replace each value v by ((v - low) / range)**gamma * range + low.

    patch      : float32, C-contiguous, changed in place
    gamma      : float64, above 0, up to 5 for the stated precision
    low, high  : float32, the patch's range, see `find_range`; nothing changes if they
        are equal
    invert     : bool, whether to do this to the negative image: a gamma above 1 then
        spreads the dark values instead of the bright ones
    keep_stats : bool, whether to restore mean and standard deviation afterwards

    Does as `augment_gamma` of batchgenerators with `invert_image` and `retain_stats`,
    and GammaTransform of batchgeneratorsv2. The power has a relative error below 1e-6.
    """
    curve = curve_of(gamma, low, high, invert)
    if curve.span == 0:
        return
    values = flat(patch)
    mean = deviation = 0.0
    if keep_stats:
        mean, deviation = find_mean_and_deviation(patch)
    scratch = empty((2, PIXELS), np.float32)
    for start in range(0, len(values), PIXELS):
        block = values[start : start + PIXELS]
        bend_values(block, curve, scratch, block)
    if keep_stats:
        new_mean, new_deviation = find_mean_and_deviation(patch)
        multiply = deviation / max(new_deviation, 1e-30)
        apply_brightness(patch, multiply, mean - new_mean * multiply)


class Curve(NamedTuple):
    """What a gamma does to values: ((v - base) * scale)**(high + low) * span + base.

    All are float32; high and low are those of `power`. If span is 0, it does nothing.
    """

    base: np.float32
    span: np.float32
    scale: np.float32
    high: np.float32
    low: np.float32


@kernel
def curve_of(gamma, low, high, invert):
    """Return the Curve of `apply_gamma` for a range of values."""
    low, high = F(low), F(high)
    first, second = split_exponent(gamma)
    if not low < high:
        return Curve(ZERO, ZERO, ZERO, first, second)
    base, span = (high, low - high) if invert else (low, high - low)
    return Curve(base, span, ONE / span, first, second)


@inlined
def bend_values(values, curve, scratch, out):
    """Write values, as a Curve changes them, to out.

    values, out : float32, n values, up to PIXELS; they may be the same array
    scratch     : float32 (2, PIXELS), overwritten

    The work of `power` is in four loops, as in `fill_normals`: 1.6 times as fast as in
    one.
    """
    base, span, scale, high, low = curve
    wholes, rests = scratch[0], scratch[1]
    for k in range(len(values)):
        t = (values[k] - base) * scale
        wholes[k], rests[k] = split_number(max(t, LEAST_NORMAL))
    for k in range(len(values)):
        rests[k] = log2_above_one(rests[k])
    for k in range(len(values)):
        wholes[k], rests[k] = split_product(wholes[k], rests[k], high, low)
    for k in range(len(values)):
        t = (values[k] - base) * scale
        result = scaled_power(wholes[k], rests[k])
        out[k] = fma(span, result if t >= LEAST_NORMAL else ZERO, base)


@kernel
def apply_bias_field(plane, floor, coefficients):
    """Multiply the signal by exp of a polynomial of order 3 over the image.

    plane        : float32 (h, w), C-contiguous, changed in place
    floor        : float32, the value in plane that means no signal
    coefficients : float64 (10,), of 1, x, x**2, x**3, y, xy, x**2 y, y**2, x y**2 and
        y**3, where x and y go from -1 at the centres of the first pixels to 1 at those
        of the last (0 for a side of one pixel). The polynomial must stay between -80
        and 80; coefficients of 0 change no bit

    The new value is floor + (value - floor) * exp(polynomial). After Van Leemput et
    al. (1999) and Sudre et al. (2017), as TorchIO's RandomBiasField, which draws each
    coefficient from -0.5 to 0.5. TorchIO has three axes (20 coefficients), calls the
    other of the two axes x, and always uses 0 as floor.
    """
    height, width = plane.shape
    c = coefficients
    floor = F(floor)
    xs = empty(width, np.float32)
    for column in range(width):
        xs[column] = (2 * column - (width - 1)) / max(width - 1, 1)
    for row in range(height):
        y = (2 * row - (height - 1)) / max(height - 1, 1)
        a0 = F((c[0] + y * (c[4] + y * (c[7] + y * c[9]))) * LOG2_E)
        a1 = F((c[1] + y * (c[5] + y * c[8])) * LOG2_E)
        a2, a3 = F((c[2] + y * c[6]) * LOG2_E), F(c[3] * LOG2_E)
        line = plane[row]
        for column in range(width):
            x = xs[column]
            field = (a0 + x * a1) + (x * x) * (a2 + x * a3)
            shifted = field + ROUNDER
            factor = scaled_power(shifted, field - (shifted - ROUNDER))
            line[column] += (line[column] - floor) * (factor - ONE)


@kernel
def gaussian_taps(sigma):
    """Return the weights of a Gaussian at distances 0 to radius, float32, then zeros.

    sigma : float64, above 0, in pixels

    Zeros are added until there are 1 + 3 g weights, with g at least 1. The radius is
    that of scipy: TRUNCATE * sigma, rounded half up.
    """
    radius = int(TRUNCATE * sigma + 0.5)
    weights = zeros(1 + 3 * max((radius + 2) // 3, 1), np.float64)
    total = 0.0
    for k in range(radius + 1):
        weights[k] = small_exp(-0.5 * k * k / (sigma * sigma))
        total += weights[k] if k == 0 else 2 * weights[k]
    taps = empty(len(weights), np.float32)
    for k in range(len(weights)):
        taps[k] = weights[k] / total
    return taps


@kernel
def small_exp(x):
    """Return exp(x) for x from -700 to 0, to a relative error of 1e-12, in float64."""
    x /= 1024
    series = 1.0
    for k in range(12, 0, -1):
        series = 1.0 + series * x / k
    for _ in range(10):
        series *= series
    return series


@kernel
def blur(plane, sigma, scratch):
    """Blur by a Gaussian.

    plane   : float32 (h, w), C-contiguous, changed in place
    sigma   : float64, standard deviation in pixels, not negative
    scratch : float32 (n,) with n at least h * w, overwritten

    The same as scipy.ndimage.gaussian_filter (mode "reflect", truncate 4) but for
    float32 rounding. With a sigma below 1/8 there is one weight, and nothing changes.
    """
    height, width = plane.shape
    if int(TRUNCATE * sigma + 0.5) == 0:
        return
    taps = gaussian_taps(sigma)
    reach = len(taps) - 1
    values = flat(plane)
    padded = empty(width + 2 * reach, np.float32)
    before = reflected_indices(width, reach)
    for row in range(height):
        line = plane[row]
        for x in range(width):
            padded[reach + x] = line[x]
        for k in range(reach):
            padded[k] = line[before[k]]
            padded[reach + width + k] = line[before[reach + width + k]]
        for k in range(1, reach + 1, 3):
            low, high = reach - k, reach + k
            before_it, behind_it = (low, low - 1, low - 2), (high, high + 1, high + 2)
            add_taps(
                taps, k, width, padded, reach, before_it, behind_it,
                scratch, row * width,
            )  # fmt: skip
    rows = reflected_indices(height, reach)
    for row in range(height):
        r = row + reach
        for k in range(1, reach + 1, 3):
            above = (
                rows[r - k] * width, rows[r - k - 1] * width, rows[r - k - 2] * width
            )  # fmt: skip
            below = (
                rows[r + k] * width, rows[r + k + 1] * width, rows[r + k + 2] * width
            )  # fmt: skip
            add_taps(
                taps, k, width, scratch, rows[r] * width, above, below,
                values, row * width,
            )  # fmt: skip


@inlined
def add_taps(taps, k, length, source, centre, before, behind, out, to):
    """Add three pairs of taps to a row; the first three overwrite it.

    taps   : float32 (1 + 3 g,); taps[k : k + 3] are added, and taps[0] too if k is 1
    length : pixels of a row
    source : float32 (n,); rows begin at `centre` for taps[0], and at before[i] and
        behind[i] for taps[k + i]
    out    : float32 (m,), the row begins at `to`

    Indices into long arrays are 2 times faster than slices: to make eight slices takes
    as long as to sum them.
    """
    tap1, tap2, tap3 = taps[k], taps[k + 1], taps[k + 2]
    c, to = np.uint64(centre), np.uint64(to)
    a1, a2, a3 = np.uint64(before[0]), np.uint64(before[1]), np.uint64(before[2])
    b1, b2, b3 = np.uint64(behind[0]), np.uint64(behind[1]), np.uint64(behind[2])
    if k == 1:
        tap0 = taps[0]
        for i in range(length):
            x = np.uint64(i)
            near = tap0 * source[c + x] + tap1 * (source[a1 + x] + source[b1 + x])
            far = tap2 * (source[a2 + x] + source[b2 + x])
            out[to + x] = near + (far + tap3 * (source[a3 + x] + source[b3 + x]))
    else:
        for i in range(length):
            x = np.uint64(i)
            near = out[to + x] + tap1 * (source[a1 + x] + source[b1 + x])
            far = tap2 * (source[a2 + x] + source[b2 + x])
            out[to + x] = near + (far + tap3 * (source[a3 + x] + source[b3 + x]))


@kernel
def reflected_indices(length, reach):
    """Return the pixels that indices -reach to length + reach - 1 reflect to, int64."""
    indices = empty(length + 2 * reach, np.int64)
    for k in range(len(indices)):
        index = (k - reach) % (2 * length)
        indices[k] = min(index, 2 * length - 1 - index)
    return indices


@kernel
def source_pixels(length, factor):
    """Return the pixels that make each pixel of one axis at a lower resolution.

    length : number of pixels
    factor : float64, from 0 to 1

    Returns first, second : int64 (length,), pixels between which to interpolate, and
    fraction : float32 (length,), the weight of the second.
    """
    small = max(int(np.rint(length * factor)), 1)
    first, second = empty(length, np.int64), empty(length, np.int64)
    fraction = empty(length, np.float32)
    for k in range(length):
        coordinate = max((k + 0.5) * small / length - 0.5, 0.0)
        left = int(coordinate)
        right = min(left + 1, small - 1)
        fraction[k] = coordinate - left if left < right else 0.0
        # The pixel at the centre of a large pixel, or to the right of the centre.
        first[k] = (2 * left + 1) * length // (2 * small)
        second[k] = (2 * right + 1) * length // (2 * small)
    return first, second, fraction


@inlined
def interpolate_row(line, first, second, fraction, out):
    """Interpolate a row along x; first, second, fraction are of `source_pixels`."""
    for x in range(len(out)):
        left = line[first[x]]
        out[x] = left + fraction[x] * (line[second[x]] - left)


@kernel
def lower_resolution(plane, factor):
    """Reduce the resolution, and interpolate back to the old size.

    plane  : float32 (h, w), C-contiguous, changed in place
    factor : float64, above 0 and up to 1; 1 changes no bit. The reduced plane has
        round(h * factor) by round(w * factor) pixels, at least 1 by 1

    Reduces by the nearest pixel and enlarges by linear interpolation; the corners of
    both planes coincide. These are torch's "nearest-exact" and "bilinear", as in
    SimulateLowResolutionTransform of batchgeneratorsv2, which nnU-Net uses today. (The
    older batchgenerators enlarges by cubic splines.)
    """
    height, width = plane.shape
    first, second, fraction_x = source_pixels(width, factor)
    above, below, fraction_y = source_pixels(height, factor)
    # Each row is interpolated along x before it is overwritten: below[row] is this row
    # or a later one, and above[row] was below[row] of an earlier row.
    upper, lower = empty(width, np.float32), empty(width, np.float32)
    interpolate_row(plane[above[0]], first, second, fraction_x, upper)
    for x in range(width):
        lower[x] = upper[x]
    in_upper, in_lower = above[0], np.int64(-1)
    for row in range(height):
        if in_upper != above[row]:
            upper, lower = lower, upper
            in_upper, in_lower = in_lower, in_upper
        if below[row] != in_lower and below[row] != above[row]:
            in_lower = below[row]
            interpolate_row(plane[in_lower], first, second, fraction_x, lower)
        line, fraction = plane[row], fraction_y[row]
        for x in range(width):
            line[x] = upper[x] + fraction * (lower[x] - upper[x])


class Steps(NamedTuple):
    """Intensity steps of b samples.

    codes  : int64 (b, k), BRIGHTNESS to LOW_RESOLUTION; others are skipped
    params : float64 (b, k, PARAMETERS), a row per step, see the codes
    stream : uint32, for noise; step i uses the stream `step_stream`(stream, i)
    """

    codes: Any
    params: Any
    stream: int


STEPS = (Steps, "const int64[:, ::1]", "const float64[:, :, ::1]", "uint32")


@inlined
def step_stream(stream, i):
    """Return the random stream of step i: stream + i modulo 2**32, uint32."""
    return np.uint32((np.uint64(stream) + np.uint64(i)) & np.uint64(0xFFFFFFFF))


@kernel
def apply_intensity(patch, steps, j, count, keys, scratch, rare):
    """Do the first `count` steps of sample j, each in a pass over the whole patch.

    A pass over 256 x 256 values in the cache takes 2.3 us, a power 40 us. Doing all
    steps on eight rows before the next eight was 1.3 times slower.

    patch   : float32 (d, h, w), C-contiguous, changed in place
    steps   : Steps
    keys    : Keys, for noise
    scratch : float32 (n,) with n at least h * w, overwritten by BLUR, else unused
    rare    : True, or None, which leaves out the code of BIAS_FIELD and RICIAN
    """
    for i in range(count):
        code, p = steps.codes[j, i], steps.params[j, i]
        key0, key1 = keys.key, keys.samples[j]
        stream = step_stream(steps.stream, i)
        if code == BRIGHTNESS:
            apply_brightness(patch, p[0], p[1])
        elif code == CONTRAST:
            apply_contrast(patch, p[0], p[1] != 0)
        elif code == GAMMA:
            low, high = find_range(patch)
            apply_gamma(patch, p[0], low, high, p[1] != 0, p[2] != 0)
        elif code == GAUSSIAN:
            add_gaussian(patch, p[0], key0, key1, stream)
        elif code == BLUR:
            for k in range(len(patch)):
                blur(patch[k], p[0], scratch)
        elif code == LOW_RESOLUTION:
            for k in range(len(patch)):
                lower_resolution(patch[k], p[0])
        if rare is not None:
            if code == BIAS_FIELD:
                for k in range(len(patch)):
                    apply_bias_field(patch[k], p[0], p[1 : 1 + COEFFICIENTS])
            elif code == RICIAN:
                add_rician(patch, p[0], p[1], key0, key1, stream)


@kernel
def apply_intensity_to(patch, steps, j, keys, scratch, rare, cells, start, streams):
    """Do all steps of sample j on a patch, and write it to cells[start:].

    patch, steps, j, keys, scratch, rare : as for `apply_intensity`
    cells   : float32, 1-D
    streams : bool, whether to write past the caches; then call `stream.settle` after
        the last write
    """
    last = last_step(steps, j, steps.codes.shape[1])
    noisy = last >= 0 and steps.codes[j, last] == GAUSSIAN
    std, stream = ZERO, np.uint32(0)
    if noisy:
        std, stream = F(steps.params[j, last, 0]), step_stream(steps.stream, last)
    before = last_step(steps, j, last) if noisy else last
    curve = Curve(ZERO, ZERO, ZERO, ZERO, ZERO)
    # The range of a patch is known only when all that comes before is done.
    bent = before >= 0 and steps.codes[j, before] == GAMMA
    bent = bent and steps.params[j, before, 2] == 0
    apply_intensity(patch, steps, j, before + (not bent), keys, scratch, rare)
    if bent:
        p = steps.params[j, before]
        low, high = find_range(patch)
        curve = curve_of(p[0], low, high, p[1] != 0)
    key = keys.key, keys.samples[j], stream
    write_changed(patch, curve, noisy, std, key, cells, start, streams)


@inlined
def last_step(steps, j, count):
    """Return the last of the first `count` steps of sample j that is done, or -1."""
    last = count - 1
    while last >= 0 and steps.codes[j, last] < 0:
        last -= 1
    return last


@kernel
def write_changed(patch, curve, noisy, std, key, cells, start, streams):
    """Write the values of a patch to cells[start:], after a gamma and noise.

    patch   : float32, C-contiguous
    curve   : Curve
    noisy   : whether to add noise, as `add_gaussian` does
    std     : float32
    key     : (key0, key1, stream)
    cells, start, streams : as for `apply_intensity_to`

    Values stay in the first-level cache between these steps, and memory is written
    while numbers are made: adding first and then writing takes 1.2 times as long.
    """
    values = flat(patch)
    if curve.span == 0 and not noisy:
        put(values, len(values), cells, start, streams)
        return
    key0, key1, stream = key
    words, scratch, normals = empty_numbers()
    numbers = flat(normals)
    halves, bent = empty((2, PIXELS), F), empty(PIXELS, F)
    for first in range(0, len(values), PIXELS):
        pixels = values[first : first + PIXELS]
        if curve.span != 0:
            bend_values(pixels, curve, halves, bent)
            pixels = bent[: len(pixels)]
        if not noisy:
            put(pixels, len(pixels), cells, start + first, streams)
            continue
        block = np.uint64(first // PIXELS * BLOCKS)
        fill_normals(block, key0, key1, stream, words, scratch, normals)
        for k in range(len(pixels)):
            numbers[k] = pixels[k] + std * numbers[k]
        put(numbers, len(pixels), cells, start + first, streams)
