"""Noise: random numbers that are a function of a key and of the pixel's place.

Words come from Philox4x32-7: Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
as easy as 1, 2, 3" (SC 2011). For each key of 64 bits it is a bijection of a counter of
128 bits: there is no state, and streams of one key never share a block. With 7 rounds
it passes BigCrush, as the paper says; the 10 rounds that it recommends for more of a
margin make `add_gaussian` 1.2 times slower. Ours are

    key     = key0, low word first
    counter = (block, stream, low word of key1, high word of key1)

so that (key0, key1, stream) names 2**160 streams of 2**32 blocks of four words, without
any hashing. Two words make two normal numbers, by Box and Muller's method (1958).

All arithmetic is on integers and by single operations of float32 in a fixed order, with
no call into a library of mathematics: every machine makes the same bits.
"""

import math

import numpy as np

from fastseg._kernels.images.stream import put
from fastseg._kernels.jit import fma, inlined, kernel

ROUNDS = 7
# Blocks that are made together, in vector registers; a plane is served in pieces of
# PIECE pixels. Part of what the numbers are: another size gives others.
BLOCKS = 256
PIECE = 4 * BLOCKS

# Multipliers and the steps of the key: table 2 of the paper, and Random123.
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
# -2 ln(2): from log2(u) to the square of Box and Muller's radius.
SQUARED = F(-1.3862944)
# From words to numbers: 2**-31, and half of that step.
FINE, HALF_STEP = F(2.0**-31), F(0.5)


@inlined
def split_log2(x):
    """Return log2(x) as an integer and a rest from -1/2 to 1/2, both float32.

    x : float32, normal (at least 2**-126) and finite

    The rest's relative error is below 4e-7, also where x is close to 1.
    """
    # Each result is cast back: numba widens to 64 bits, at half the speed.
    bits = np.float32(x).view(np.int32)
    beyond = np.int32(bits - ROOT_HALF)
    exponent = np.int32(beyond >> np.int32(23))
    mantissa = np.int32(np.int32(beyond & MANTISSA) + ROOT_HALF)
    z = mantissa.view(np.float32) - F(1)
    # In pairs (Estrin's scheme), not one after the other: 1.1 times
    # faster noise.
    square = z * z
    low = fma(square, fma(L3, z, L2), fma(L1, z, L0))
    high = fma(square, fma(L7, z, L6), fma(L5, z, L4))
    return F(exponent), z * fma(square * square, high, low)


@inlined
def fill_words(block, key0, key1, stream, out):
    """Write the words of BLOCKS blocks, by Philox4x32 with ROUNDS rounds.

    block  : uint64, number of the first block, below 2**32 with those that follow
    key0, key1, stream : as for `add_gaussian`
    out    : uint32 (4, BLOCKS); out[:, j] are the four words of block + j
    """
    out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
    for j in range(BLOCKS):
        # Words stand in 64 bits each: what is above the low 32 is ignored by the
        # instruction that multiplies (vpmuludq), so that its masks cost nothing.
        word0, word1 = block + np.uint64(j), np.uint64(stream)
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
def normal_pair(first, second):
    """Return two independent normal numbers, float32, from two words, uint32.

    Their absolute error is below 1e-5, but below 3e-4 where both are below 0.01, once
    in 20,000 pairs; the greatest possible number is 6.66.
    """
    # The radius: u from 2**-32 to 1, so that log2(u) is never above 0. All bits of a
    # small u count, and those make the tail.
    u = (F(np.int32(first >> np.uint32(1))) + HALF_STEP) * FINE
    whole, rest = split_log2(u)
    radius = F(math.sqrt(SQUARED * (whole + rest)))
    # The angle: within 45 degrees of the x axis by the word as a signed number, then
    # moved to any of the four quarters by its last two bits, which it hardly feels.
    t = F(np.uint32(second).view(np.int32)) * FINE
    square = t * t
    sine = t * (S0 + square * (S1 + square * S2))
    cosine = (C0 + square * C1) + square * square * (C2 + square * C3)
    sign = np.uint32(np.uint32(second & np.uint32(1)) << np.uint32(31))
    radius = np.uint32(np.float32(radius).view(np.uint32) | sign).view(np.float32)
    swap = np.uint32(second & np.uint32(2)) != np.uint32(0)
    x, y = (sine, cosine) if swap else (cosine, sine)
    return radius * x, radius * y


@inlined
def fill_normals(block, key0, key1, stream, words, out):
    """Write 4 * BLOCKS normal numbers, from BLOCKS blocks; rows 2 and 3 pair 0 and 1.

    words : uint32 (4, BLOCKS), overwritten
    out   : float32 (4, BLOCKS)
    """
    fill_words(block, key0, key1, stream, words)
    for pair in range(2):
        first, second = words[2 * pair], words[2 * pair + 1]
        out_x, out_y = out[pair], out[pair + 2]
        for j in range(BLOCKS):
            out_x[j], out_y[j] = normal_pair(first[j], second[j])


@kernel
def add_gaussian(plane, std, key0, key1, stream):
    """Add std * normal to each value.

    plane      : float32 (h, w), C-contiguous, changed in place; at most 2**33 values
    std        : float32 (or rounded to it), in the units of plane, at least 0
    key0, key1 : uint64, and
    stream     : uint32: other numbers for each triple

    The number of a pixel is a function of its place in memory and of the triple: a
    plane of 4 rows of 8 gets the same as one of 2 rows of 16. As in batchgenerators'
    `augment_gaussian_noise` and TorchIO's RandomNoise (with mean 0).
    """
    std = F(std)
    values = plane.reshape(plane.size)
    words = np.empty((4, BLOCKS), np.uint32)
    normals = np.empty((4, BLOCKS), np.float32)
    numbers = normals.reshape(PIECE)
    for start in range(0, len(values), PIECE):
        block = np.uint64(start // PIECE * BLOCKS)
        fill_normals(block, key0, key1, stream, words, normals)
        piece = values[start : start + PIECE]
        for k in range(len(piece)):
            piece[k] += std * numbers[k]


@kernel
def send_gaussian(plane, std, key0, key1, stream, cells, start, streams):
    """Write to cells[start:] what `add_gaussian` would make of a plane.

    cells   : float32, 1-D
    streams : past the caches; then `stream.settle` comes after the last one

    Memory is written while numbers are made: to add and to send one after the other
    takes 1.2 times as long.
    """
    std = F(std)
    values = plane.reshape(plane.size)
    words = np.empty((4, BLOCKS), np.uint32)
    normals = np.empty((4, BLOCKS), np.float32)
    numbers = normals.reshape(PIECE)
    for first in range(0, len(values), PIECE):
        block = np.uint64(first // PIECE * BLOCKS)
        fill_normals(block, key0, key1, stream, words, normals)
        piece = values[first : first + PIECE]
        for k in range(len(piece)):
            numbers[k] = piece[k] + std * numbers[k]
        put(numbers, len(piece), cells, start + first, streams)


@kernel
def add_rician(plane, std, floor, key0, key1, stream):
    """Make each value the magnitude of itself with complex Gaussian noise.

    plane, std, key0, key1, stream : as for `add_gaussian`
    floor : float32, the value in plane that stands for no signal at all

    With m = value - floor, the signal in units of plane, the new value is
    floor + sqrt((m + std * normal)**2 + (std * normal)**2), so Rice-distributed:
    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data" (1995). Where m
    is negative (values below what stands for no signal: interpolation may make them)
    it counts as a signal of that magnitude and opposite phase, so that the outcome is
    distributed as for -m: no new value is below floor, and with std 0 the values are
    folded, floor + abs(m). batchgeneratorsv2 and TorchIO have no floor of their own:
    the one takes the least value and restores mean and deviation thereafter.
    """
    std, floor = F(std), F(floor)
    values = plane.reshape(plane.size)
    words = np.empty((4, BLOCKS), np.uint32)
    normals = np.empty((4, BLOCKS), np.float32)
    numbers = normals.reshape(PIECE)
    half = PIECE // 2
    real, imaginary = numbers[:half], numbers[half:]
    for start in range(0, len(values), half):
        block = np.uint64(start // half * BLOCKS)
        fill_normals(block, key0, key1, stream, words, normals)
        piece = values[start : start + half]
        for k in range(len(piece)):
            x = piece[k] - floor + std * real[k]
            y = std * imaginary[k]
            piece[k] = floor + F(math.sqrt(x * x + y * y))
