"""One side of benchmarks/loader_speed.py in a process of its own.

    python benchmarks/loader_side.py NAME FOLDER

It is told what to do by lines of JSON: "compare" its batches of an epoch with those of
fastseg.Loader, or "run" epochs for so many seconds. It answers each with one.
"""

import itertools
import json
import os
import sys
import time

import numpy as np
from loader_data import BATCH, SEED, Samples
from loader_peers import SIDES


def compare(batches, samples):
    """Hold an epoch against that of fastseg.Loader; return the samples compared."""
    import fastseg

    store = fastseg.open(samples.path)
    loader = fastseg.Loader(store, batch_size=BATCH, seed=SEED, drop_last=True)
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
    """Go through epochs for so many seconds; return rate and waits.

    epochs : gives the number of the next epoch

    The rate is in batches/s and counts all there is, from the start of an epoch to its
    last batch. Of waits in `next()`, in seconds, an epoch's first is told apart.
    """
    firsts, waits, count = [], [], 0
    clock = time.perf_counter
    start = clock()
    while (elapsed := clock() - start) < seconds:
        asked, began = clock(), len(waits)
        for _batch in batches(next(epochs)):
            waits.append(clock() - asked)
            asked = clock()
        count += len(waits) - began
        firsts.append(waits.pop(began))
    median, late = np.percentile(waits, [50, 99])
    first = float(np.median(firsts))
    return {"rate": count / elapsed, "p50": median, "p99": late, "first": first}


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
