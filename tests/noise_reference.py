"""Random numbers of the kernels in Python's integers: slow and obviously right."""

import math

import numpy as np

ROUNDS, BLOCKS = 7, 256


def philox(counter, key, rounds):
    """Return the words of Philox4x32 by the paper, in Python's integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def box_muller(first, second):
    """Return the pair of normal numbers for two words, in float64."""
    radius = math.sqrt(-2 * math.log(((first >> 1) + 0.5) / 2**31))
    signed = second - 2**32 if second >= 2**31 else second
    angle = signed / 2**31 * math.pi / 4
    x, y = math.cos(angle), math.sin(angle)
    if second & 2:
        x, y = y, x
    sign = -1 if second & 1 else 1
    return sign * radius * x, sign * radius * y


def words(key0, key1, stream, count):
    """Return the words of the first blocks of a stream, (count, 4)."""
    key = key0 % 2**32, key0 >> 32
    return [
        philox((block, stream, key1 % 2**32, key1 >> 32), key, ROUNDS)
        for block in range(count)
    ]


def uniforms(key0, key1, stream, count):
    """Return numbers in [0, 1), each of the high bits of two words."""
    pairs = np.reshape(words(key0, key1, stream, -(-count // 2)), (-1, 2))[:count]
    return np.array([((a >> 6) * 2**27 + (b >> 5)) / 2**53 for a, b in pairs.tolist()])


def normals(key0, key1, stream, count):
    """Return normal numbers; 256 blocks make 1024 numbers, as `noise` orders them."""
    groups = -(-count // (4 * BLOCKS))
    rows = words(key0, key1, stream, groups * BLOCKS)
    pairs = np.array([(*box_muller(*row[:2]), *box_muller(*row[2:])) for row in rows])
    # Columns are the two of the first pair, then the two of the second.
    in_order = pairs.reshape(groups, BLOCKS, 4)[:, :, [0, 2, 1, 3]]
    return in_order.transpose(0, 2, 1).ravel()[:count]
