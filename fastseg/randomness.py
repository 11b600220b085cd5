"""Which key and which stream of random numbers belongs to what.

Random numbers depend on a seed and on what they are for, and on nothing else: no
generator keeps a state. A key and a stream select a sequence of numbers. Both
generators encrypt a counter with the key, and the stream is a part of the counter, so
no two sequences of one key have a counter in common.

================================  =========  ============================  ==========
numbers                           generator  key                           stream
================================  =========  ============================  ==========
order of the samples in an epoch  numpy      seed, epoch                   ``*_ORDER``
split into single samples         numpy      seed, SPLIT_EPOCH             0
functions of ``Custom``           numpy      augmentation_key, sample      CUSTOM, and
                                                                           the step
where patches of volumes lie      numpy      augmentation_key, entry       PATCHES
synthetic studies                 numpy      seed, and what is drawn       0
parameters of all transforms      kernels    augmentation_key, sample      PARAMETERS
control points of ``Elastic``     kernels    augmentation_key, sample      ELASTIC
coefficients of ``BiasField``     kernels    augmentation_key, sample      BIAS_FIELD
pixels of ``Noise``               kernels    augmentation_key, sample      noise_stream
================================  =========  ============================  ==========

numpy's generator is Philox4x64 with 10 rounds (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", SC 2011); numpy promises that its words never change, but not its
distributions and shuffles. That of the kernels is Philox4x32 with 7 rounds, see
`_kernels.augment.noise`.

Resumed runs depend on all numbers here: never give one to something else. A new use
gets a new number.
"""

import numpy as np
from xxhash import xxh3_64_intdigest

# Streams with the key (seed, epoch).
SAMPLE_ORDER = 0  # all samples, or those of each group
GROUP_ORDER = 1
INTERVAL_ORDER = 2  # the samples' intervals in `weighted_order`
INTERVAL_START = 3  # where the first of these intervals starts
DRAW_ORDER = 4  # the draws of `weighted_order`
FLAGGED_ORDER = 5  # the flagged samples, in each cycle of `foreground_order`
CANDIDATE_ORDER = 6  # the candidates for the rest of `foreground_order`
BATCH_ORDER = 7  # the samples of each batch of `foreground_order`
# The greatest epoch, which no training reaches.
SPLIT_EPOCH = 2**64 - 1

# Streams with the key (augmentation_key, sample), or, for patches, the entry: a volume
# and the number of the patch in the epoch. Each class of transforms that draws more
# than its parameters has one; see `step_stream`.
PARAMETERS = 0
ELASTIC = 1
BIAS_FIELD = 2
CUSTOM = 3
PATCHES = 4
CLASSES = 16  # streams below this are those of classes
MAX_STEPS = 2**12  # of a Compose
NOISE = 2**16


def philox(first: int, second: int, stream: int, step: int = 0) -> "np.random.Philox":
    """Return numpy's generator of one stream.

    first, second : the key, two words and not their sum, so that each pair has its own
        numbers
    stream, step  : the highest words of the counter, which numbers never reach

    numpy imports `numpy.random` when it is first used, which takes 5 ms.
    """
    key = np.array([first, second], np.uint64)
    counter = np.array([0, 0, step, stream], np.uint64)
    return np.random.Philox(key=key, counter=counter)


def augmentation_key(seed: int, epoch: int) -> int:
    """Return the first word of the keys of augmentation, a hash of both arguments."""
    return xxh3_64_intdigest(np.array([seed, epoch], "<u8").tobytes())


def step_stream(stream: int, repeat: int) -> int:
    """Return the kernels' stream of one step of a class of transforms.

    stream : that of the class
    repeat : how many steps of this class come before it, below MAX_STEPS
    """
    return stream + CLASSES * repeat


def noise_stream(first: int) -> int:
    """Return the kernels' stream of the first of some intensity steps in a row.

    first : index of the step in the Compose after which these steps come, 0 for the
        first ones. Each of them adds 1 to the stream of the step before it
    """
    return NOISE * (1 + first)
