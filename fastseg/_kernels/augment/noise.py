"""Noise: random numbers that are a function of a key and of the pixel's index.

Philox4x32-7 makes the random words: Salmon, Moraes, Dror and Shaw, "Parallel random
numbers: as easy as 1, 2, 3" (SC 2011). For each 64-bit key it is a bijection of a
128-bit counter: it has no state, and two streams of one key have no block in common. It
passes BigCrush with 7 rounds, according to the paper; the 10 rounds that the paper
recommends as a margin make `add_gaussian` 1.2 times slower. Key and counter are

    key     = key0, low word first
    counter = (block, stream, low word of key1, high word of key1)

so (key0, key1, stream) selects one of 2**160 streams of 2**32 blocks of four words, and
nothing is hashed. Two words make two normal numbers, by Box and Muller's method (1958).

All arithmetic is on integers, or single float32 operations in a fixed order, and no
mathematical library is called: every machine makes the same bits.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastseg._kernels.jit import empty, flat, fma, inlined, kernel

ROUNDS = 7
# Blocks that are made together, in vector registers, and the pixels whose numbers they
# make. Another value of BLOCKS gives other numbers.
BLOCKS = 256
PIXELS = 4 * BLOCKS

# Multipliers, and the steps of the key: table 2 of the paper, and Random123.
TIMES_0, TIMES_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEP_0, STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

F = np.float32
# log2(1 + z) = z * (L0 + L1 z + ...) on sqrt(1/2) - 1 <= z <= sqrt(2) - 1, minimax in
# relative error: 1.7e-7 before rounding.
ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
MANTISSA = np.int32(0x7FFFFF)
L0, L1, L2, L3 = F(1.44269496), F(-0.72135279), F(0.48092324), F(-0.36023964)
L4, L5, L6, L7 = F(0.28709869), F(-0.24887689), F(0.23404243), F(-0.14581170)
# sin and cos of t * pi / 4 on -1 <= t <= 1, minimax in absolute error: 5.6e-7, 2.8e-8.
S0, S1, S2 = F(0.78539423), F(-0.080713999), F(0.0024271059)
C0, C1, C2, C3 = F(0.99999997), F(-0.30842425), F(0.015849915), F(-0.00031888064)
# -2 ln(2): log2(u) times this is the square of Box and Muller's radius.
SQUARED = F(-1.3862944)
# FINE scales 31 bits to [0, 1), and a signed word to [-1, 1). With HALF_STEP added, the
# 31 bits never make 0.
FINE, HALF_STEP = F(2.0**-31), F(0.5)


class Keys(NamedTuple):
    """The keys of b samples.

    key     : uint64, key0 of all
    samples : uint64 (b,), key1 of each
    """

    key: int
    samples: Any


KEYS = (Keys, "uint64", "const uint64[::1]")


@inlined
def split_number(x):
    """Return x as whole and z, both float32: it is 2**whole * (1 + z).

    x : float32, normal (at least 2**-126) and finite

    z is from sqrt(1/2) - 1 to sqrt(2) - 1.
    """
    # Each result is cast back: numba widens to 64 bits, at half the speed.
    bits = np.float32(x).view(np.int32)
    beyond = np.int32(bits - ROOT_HALF)
    exponent = np.int32(beyond >> np.int32(23))
    mantissa = np.int32(np.int32(beyond & MANTISSA) + ROOT_HALF)
    return F(exponent), mantissa.view(np.float32) - F(1)


@inlined
def log2_above_one(z):
    """Return log2(1 + z), float32, for the z of `split_number`.

    The relative error is below 4e-7, also where z is close to 0.
    """
    # In pairs (Estrin's scheme), not one after the other: noise is 1.1 times faster.
    square = z * z
    low = fma(square, fma(L3, z, L2), fma(L1, z, L0))
    high = fma(square, fma(L7, z, L6), fma(L5, z, L4))
    return z * fma(square * square, high, low)


@inlined
def fill_words(block, key0, key1, stream, out):
    """Write the words of BLOCKS blocks, by Philox4x32 with ROUNDS rounds.

    block  : uint64, number of the first block; the last one's must be below 2**32
    key0, key1, stream : as for `add_gaussian`
    out    : uint32 (4, BLOCKS); out[:, j] are the four words of block + j
    """
    out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
    for j in range(BLOCKS):
        # Each word is in 64 bits: the instruction that multiplies (vpmuludq) ignores
        # all but the low 32, so that its masks cost nothing.
        word0, word1 = (block + np.uint64(j)) & WORD, np.uint64(stream)
        word2, word3 = key1 & WORD, key1 >> HALF
        low, high = key0 & WORD, key0 >> HALF
        for _ in range(ROUNDS):
            product0, product1 = word0 * TIMES_0, word2 * TIMES_1
            word0 = (product1 >> HALF) ^ word1 ^ low
            word2 = (product0 >> HALF) ^ word3 ^ high
            word1, word3 = product1 & WORD, product0 & WORD
            low, high = (low + STEP_0) & WORD, (high + STEP_1) & WORD
        out0[j], out1[j], out2[j], out3[j] = word0, word1, word2, word3


@inlined
def split_uniform(word):
    """Return u as whole and z, see `split_number`, for a word, uint32.

    u is from 2**-32 to 1, so that log2(u) is never above 0. A small u keeps all its
    bits, and small u make the tail.
    """
    return split_number((F(np.int32(word >> np.uint32(1))) + HALF_STEP) * FINE)


@inlined
def radius_of(whole, z):
    """Return the radius of Box and Muller for the u that whole and z stand for."""
    return F(math.sqrt(SQUARED * (whole + log2_above_one(z))))


@inlined
def sine_and_cosine(word):
    """Return sine and cosine of an angle within 45 degrees of the x axis.

    word : uint32, as a signed number it gives the angle
    """
    t = F(np.uint32(word).view(np.int32)) * FINE
    square = t * t
    sine = t * (S0 + square * (S1 + square * S2))
    cosine = (C0 + square * C1) + square * square * (C2 + square * C3)
    return sine, cosine


@inlined
def point_on_circle(word, radius, sine, cosine):
    """Return x and y of a point; the last two bits of the word choose the quarter.

    They hardly change the angle that is made of all bits.
    """
    sign = np.uint32(np.uint32(word & np.uint32(1)) << np.uint32(31))
    signed = np.uint32(np.float32(radius).view(np.uint32) | sign).view(np.float32)
    swap = np.uint32(word & np.uint32(2)) != np.uint32(0)
    x, y = (sine, cosine) if swap else (cosine, sine)
    return signed * x, signed * y


@inlined
def normal_pair(first, second):
    """Return two independent normal numbers, float32, from two words, uint32.

    Their absolute error is below 1e-5. Where both are below 0.01, once in 20,000 pairs,
    it is below 3e-4. The greatest possible number is 6.66.
    """
    whole, z = split_uniform(first)
    sine, cosine = sine_and_cosine(second)
    return point_on_circle(second, radius_of(whole, z), sine, cosine)


@inlined
def empty_numbers():
    """Return the arrays that `fill_normals` needs: words, scratch and out."""
    return (
        empty((4, BLOCKS), np.uint32),
        empty((2, BLOCKS), np.float32),
        empty((4, BLOCKS), np.float32),
    )


@inlined
def fill_normals(block, key0, key1, stream, words, scratch, out):
    """Write the 4 * BLOCKS normal numbers of BLOCKS blocks.

    Rows 0 and 2 of out, and rows 1 and 3, are the pairs of `normal_pair`.

    words   : uint32 (4, BLOCKS), overwritten
    scratch : float32 (2, BLOCKS), overwritten
    out     : float32 (4, BLOCKS)

    The work of `normal_pair` is in four loops. Each of its operations waits for the one
    before. A processor works on all numbers that fit into its window of about a hundred
    operations, which are more the fewer operations a loop has: 1.3 times as fast as one
    loop.
    """
    fill_words(block, key0, key1, stream, words)
    wholes, radii = scratch[0], scratch[1]
    for pair in range(2):
        first, second = words[2 * pair], words[2 * pair + 1]
        out_x, out_y = out[pair], out[pair + 2]
        for j in range(BLOCKS):
            wholes[j], radii[j] = split_uniform(first[j])
        for j in range(BLOCKS):
            radii[j] = radius_of(wholes[j], radii[j])
        for j in range(BLOCKS):
            out_x[j], out_y[j] = sine_and_cosine(second[j])
        for j in range(BLOCKS):
            out_x[j], out_y[j] = point_on_circle(
                second[j], radii[j], out_x[j], out_y[j]
            )


@kernel
def add_gaussian(patch, std, key0, key1, stream):
    """Add std * normal to each value.

    patch      : float32, C-contiguous, changed in place; at most 2**33 values
    std        : float32 (or rounded to it), in the units of patch, at least 0
    key0, key1 : uint64
    stream     : uint32

    Each triple (key0, key1, stream) gives other numbers. The number of a pixel is a
    function of the triple and of its index in the flat patch: 4 rows of 8 get the same
    numbers as 2 rows of 16. Does as batchgenerators' `augment_gaussian_noise` and
    TorchIO's RandomNoise (with mean 0).
    """
    std = F(std)
    values = flat(patch)
    words, scratch, normals = empty_numbers()
    numbers = flat(normals)
    for start in range(0, len(values), PIXELS):
        block = np.uint64(start // PIXELS * BLOCKS)
        fill_normals(block, key0, key1, stream, words, scratch, normals)
        pixels = values[start : start + PIXELS]
        for k in range(len(pixels)):
            pixels[k] += std * numbers[k]


@kernel
def add_rician(patch, std, floor, key0, key1, stream):
    """Replace each value by its magnitude after complex Gaussian noise is added.

    patch, std, key0, key1, stream : as for `add_gaussian`
    floor : float32, the value in patch that means no signal

    With the signal m = value - floor, in the units of patch, the new value is floor +
    sqrt((m + std * normal)**2 + (std * normal)**2), which is Rice-distributed:
    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data" (1995).
    Interpolation may make values below floor. Their m is negative and counts as a
    signal of opposite phase, so the new value is distributed as for -m. So no new value
    is below floor, and with std 0 it is floor + abs(m). batchgeneratorsv2 and TorchIO
    have no such parameter: the first uses the least value as floor, and restores mean
    and deviation afterwards.
    """
    std, floor = F(std), F(floor)
    values = flat(patch)
    words, scratch, normals = empty_numbers()
    numbers = flat(normals)
    half = PIXELS // 2
    real, imaginary = numbers[:half], numbers[half:]
    for start in range(0, len(values), half):
        block = np.uint64(start // half * BLOCKS)
        fill_normals(block, key0, key1, stream, words, scratch, normals)
        pixels = values[start : start + half]
        for k in range(len(pixels)):
            x = pixels[k] - floor + std * real[k]
            y = std * imaginary[k]
            pixels[k] = floor + F(math.sqrt(x * x + y * y))
