"""One side of benchmarks/loader/race.py in a process of its own.

    python -m benchmarks.loader.side NAME FOLDER

It reads requests, a line of JSON each: "compare" its batches of an epoch with those of
fastseg.Loader, or "run" epochs for a number of seconds. It answers each with one line.
"""

import itertools
import json
import os
import sys
import time

import numpy as np

from benchmarks.loader.peers import SIDES
from benchmarks.loader.samples import BATCH, SEED, Samples


def compare(batches, samples):
    """Compare an epoch with that of fastseg.Loader; return the number of samples."""
    import fastseg

    store = fastseg.open(samples.path)
    loader = fastseg.Loader(
        store, batch_size=BATCH, seed=SEED, drop_last=True, masks="bits"
    )
    theirs = iter(getattr(batches, "checked", batches)(0))
    count = 0
    for ours, batch in zip(loader, theirs, strict=True):
        image, mask, index = map(np.asarray, batch_of(batch))
        assert (image.dtype, mask.dtype) == (np.float32, np.uint8)
        np.testing.assert_array_equal(index, ours.index)
        np.testing.assert_array_equal(mask, ours.mask)
        np.testing.assert_allclose(image, ours.image, rtol=1e-5, atol=1e-6)
        count += len(index)
    return count


def batch_of(batch):
    """Return image, mask and index of a batch."""
    if isinstance(batch, tuple | list):
        return batch
    return batch.image, batch.mask, batch.index


def run(batches, epochs, seconds):
    """Iterate over epochs for a number of seconds; return rate and waits.

    epochs : gives the number of the next epoch

    The rate is in batches/s and includes everything from the start of an epoch to its
    last batch. Waits are those in `next()`, in seconds; an epoch's first is separate.
    """
    firsts = []
    waits = []
    count = 0
    clock = time.perf_counter
    start = clock()
    while (elapsed := clock() - start) < seconds:
        asked = clock()
        before = len(waits)
        for _batch in batches(next(epochs)):
            waits.append(clock() - asked)
            asked = clock()
        count += len(waits) - before
        firsts.append(waits.pop(before))
    median, p99 = np.percentile(waits, [50, 99])
    first = float(np.median(firsts))
    return {"rate": count / elapsed, "p50": median, "p99": p99, "first": first}


def main():
    """Answer the lines of stdin until it ends."""
    name, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    samples = Samples(folder)
    try:
        batches, reply = SIDES[name](samples), {}
    except ImportError as exc:
        batches, reply = None, {"missing": exc.name}
    print(json.dumps(reply), file=answers, flush=True)
    epochs = itertools.count()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "compare":
            reply = {"compared": compare(batches, samples)}
        else:
            reply = run(batches, epochs, request["seconds"])
        print(json.dumps(reply), file=answers, flush=True)
    getattr(batches, "close", lambda: None)()


if __name__ == "__main__":
    main()
