"""The sides of benchmarks/loader/race.py: ours, the limit, and each peer.

A side is a function of the Samples that returns another one, from the number of an
epoch to an iterable of batches (image, mask, index): float32 (B, 1, H, W) scaled to
mean 0 and deviation 1, uint8 (B, H, W) and the samples' indices. All sides follow the
same order. Each is set up as its documentation advises, which is quoted where it
decides; where the documentation leaves a choice, both are sides. A side imports what it
needs: one that is not installed raises ImportError.
"""

import itertools
import logging
import threading
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from benchmarks.inputs import SIDE
from benchmarks.loader.samples import BATCH, SEED

CORES = 2
AHEAD = 4  # batches loaded ahead, where a side lets us choose
MANY_EPOCHS = 10**6  # of peers that iterate without an end


def ours(samples, threads=CORES):
    """fastseg.Loader."""
    import fastseg

    loader = fastseg.Loader(
        fastseg.open(samples.path),
        batch_size=BATCH,
        seed=SEED,
        threads=threads,
        prefetch=AHEAD,
        normalize="zscore",
        masks="bits",
        drop_last=True,
    )

    def batches(epoch):
        loader.epoch = epoch
        return loader

    return batches


def new_batch(count=BATCH):
    """Return arrays for images and masks."""
    return (
        np.empty((count, 1, SIDE, SIDE), np.float32),
        np.empty((count, SIDE, SIDE), np.uint8),
    )


def bare_gather(samples, buffers=CORES):
    """Two threads, a compiled call per batch, the same buffers over and over.

    No queue and no consumer: each batch is overwritten by a later one. This is what
    memory and two cores can do, in whatever order of threads. With as many buffers as
    a loader holds, they do not stay in the cores' caches.
    """
    import numba

    @numba.njit(nogil=True, error_model="numpy")
    def gather(images, masks, indices, shift, gain, image, mask):
        for j in range(len(indices)):
            index = indices[j]
            pixels, scaled = images[index], image[j]
            low, factor = shift[index], gain[index]
            for x in range(len(pixels)):
                scaled[x] = (np.float32(pixels[x]) - low) * factor
            bits, copied = masks[index], mask[j]
            for x in range(len(bits)):  # twice as fast as copied[:] = bits
                copied[x] = bits[x]

    arrays = [np.asarray(a).reshape(samples.count, -1) for a in samples.maps()]
    filled = [new_batch() for _ in range(buffers)]

    def fill(indices, image, mask):
        out = image.reshape(BATCH, -1), mask.reshape(BATCH, -1)
        gather(*arrays, indices, samples.shift, samples.gain, *out)

    def work(numbers, batches, own):
        for batch in itertools.cycle(own):
            if (k := next(numbers)) >= len(batches):
                return
            fill(batches[k], *batch)

    def epoch_of(epoch):
        numbers, batches = itertools.count(), samples.batches(epoch)
        threads = [
            threading.Thread(target=work, args=(numbers, batches, own))
            for own in (filled[k::CORES] for k in range(CORES))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return itertools.repeat(None, len(batches))

    def one_by_one(epoch):
        """Yield the batches that are otherwise overwritten, to compare them."""
        for indices in samples.batches(epoch):
            fill(indices, *filled[0])
            yield *filled[0], indices

    epoch_of.checked = one_by_one
    return epoch_of


class Opened:
    """A data set that opens its file in the process that reads it.

    "The file is to be opened in the worker": handles of h5py do not survive a fork.
    """

    def __init__(self, samples, kind):
        self.samples, self.kind, self._arrays = samples, kind, None

    def __len__(self):
        return self.samples.count

    def arrays(self):
        """Return images and masks."""
        if self._arrays is None:
            self._arrays = getattr(self.samples, self.kind)()
        return self._arrays


class OneByOne(Opened):
    """`dataset[i]` is a sample, as most people write it."""

    def __getitem__(self, i):
        images, masks = self.arrays()
        return self.samples.scaled(images[i], i)[None], masks[i], i


class WholeBatches(Opened):
    """`dataset[indices]` is a batch, filled by numpy without another copy."""

    def __getitem__(self, indices):
        images, masks = self.arrays()
        image, mask = new_batch(len(indices))
        for j, i in enumerate(indices):
            self.samples.scaled(images[i], i, out=image[j, 0])
            mask[j] = masks[i]
        return image, mask, np.array(indices)


class Order:
    """A sampler of all samples, in the order of an epoch that others set."""

    def __init__(self, samples):
        self.samples, self.epoch = samples, 0

    def __len__(self):
        return self.samples.count // BATCH * BATCH

    def __iter__(self):
        return iter(self.samples.batches(self.epoch).ravel().tolist())

    def by_epoch(self, loader):
        """Return the loader's batches as a function of the epoch."""

        def batches(epoch):
            self.epoch = epoch
            return loader

        return batches


def torch_loader(samples, kind, workers, whole=False):
    """torch.utils.data.DataLoader, of samples or of whole batches.

    Workers persist, and load 2 batches ahead each, as is the default. Whole batches
    are "loaded from the dataset directly" with `batch_size=None` and a sampler of
    lists, which the documentation advises where that is cheaper.
    """
    from torch.utils.data import BatchSampler, DataLoader

    # A map is read-only and a tensor never is; torch copies it before anyone writes.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    order = Order(samples)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    if whole:
        lists = BatchSampler(order, BATCH, drop_last=True)
        dataset = WholeBatches(samples, kind)
        return order.by_epoch(DataLoader(dataset, None, sampler=lists, **options))
    dataset = OneByOne(samples, kind)
    return order.by_epoch(DataLoader(dataset, BATCH, sampler=order, **options))


def monai_cache(samples, workers=0):
    """CacheDataset with ThreadDataLoader.

    Everything that is not random is done once and cached, scaling too. "It leverages
    the separate thread ... to avoid unnecessary IPC": no workers, as MONAI's guide to
    fast training says. Where there are workers, they are threads.
    """
    import torch
    from monai.data import CacheDataset, ThreadDataLoader
    from monai.transforms import Compose, Transform

    class Read(Transform):
        def __call__(self, index):
            image = samples.scaled(samples.images[index], index)[None]
            mask = torch.from_numpy(np.array(samples.masks[index]))
            return {"image": torch.from_numpy(image), "mask": mask, "index": index}

    cached = CacheDataset(
        range(samples.count), Compose([Read()]), num_workers=CORES, progress=False
    )
    order = Order(samples)
    loader = ThreadDataLoader(
        cached,
        buffer_size=AHEAD,
        batch_size=BATCH,
        sampler=order,
        num_workers=workers,
        use_thread_workers=workers > 0,
    )
    named = order.by_epoch(loader)
    return lambda epoch: (tuple(batch.values()) for batch in named(epoch))


def endless(samples, batches):
    """Return the batches of an endless iterator as a function of the epoch."""
    count = len(samples.batches(0))
    return lambda epoch: itertools.islice(batches, count)


class AllEpochs:
    """The samples of all epochs, one after the other, by their number."""

    def __init__(self, samples):
        self.samples, self.epoch = samples, None

    def __len__(self):
        return MANY_EPOCHS * self.samples.count

    def __getitem__(self, number):
        epoch, k = divmod(number, self.samples.count)
        if epoch != self.epoch:
            self.order = self.samples.order(epoch).tolist()
            self.epoch = epoch
        return self.order[k]


def grain_dataset(samples, threads, workers=0):
    """A Grain MapDataset that becomes an IterDataset as late as possible.

    "If the data are already loaded in memory, we recommend setting this to 0 to avoid
    Python GIL contention": one side has no threads, one has two, one two processes.
    The order comes with the source, instead of `shuffle`.
    """
    logging.getLogger("absl").setLevel("ERROR")  # it warns that jax is missing
    import grain

    read = OneByOne(samples, "maps").__getitem__
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
    batches = grain.MapDataset.source(AllEpochs(samples)).map(read).batch(BATCH)
    batches = batches.to_iter_dataset(options)
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # as absl's app.run does
        several = grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(several)
    return endless(samples, iter(batches))


def spdl_pipeline(samples, whole):
    """An SPDL pipeline of threads.

    Of samples, which are then stacked, as its documentation translates a DataLoader;
    or of whole batches: "do not create an intermediate Tensor for each individual
    media object, instead create a batch Tensor directly".
    """
    from spdl.pipeline import PipelineBuilder

    def index_lists():
        for epoch in range(MANY_EPOCHS):
            yield from samples.batches(epoch).tolist()

    def stack(items):
        image, mask, index = zip(*items, strict=True)
        return np.stack(image), np.stack(mask), np.array(index)

    builder = PipelineBuilder()
    if whole:
        read = WholeBatches(samples, "maps").__getitem__
        builder.add_source(index_lists())
        builder.pipe(read, concurrency=CORES, output_order="input")
    else:
        read = OneByOne(samples, "maps").__getitem__
        builder.add_source(itertools.chain.from_iterable(index_lists()))
        builder.pipe(read, concurrency=CORES, output_order="input")
        builder.aggregate(BATCH).pipe(stack)
    pipeline = builder.add_sink(AHEAD).build(num_threads=CORES)
    pipeline.start()
    batches = endless(samples, pipeline.get_iterator())
    batches.close = pipeline.stop
    return batches


class Cases:
    """Cases as nnU-Net v2 stores them: two blosc2 files each, of image and mask.

    As in its `nnUNetDatasetBlosc2`: zstd at level 8, a chunk of the whole image, blocks
    of 16 kB (its `comp_blosc2_params`), mapped, and decompressed by one thread a
    process. Unlike it, values are uint16 and are scaled when they are read, which is
    faster than its float32, and no pickled properties are read.
    """

    def __init__(self, samples):
        self.samples, self.folder = samples, samples.folder / "cases"
        if not self.folder.exists():
            self.write()

    def path(self, index, kind):
        """Return a file's path; kind is "" for the image or "_seg"."""
        return str(self.folder / f"{index:06}{kind}.b2nd")

    def write(self):
        """Write all cases."""
        import blosc2

        self.folder.mkdir()
        options = {"codec": blosc2.Codec.ZSTD, "clevel": 8, "nthreads": CORES}
        blocks = {"": (1, 1, 64, 128), "_seg": (1, 1, 128, 128)}
        for index in range(self.samples.count):
            pixels = {"": self.samples.images[index], "_seg": self.samples.masks[index]}
            for kind, values in pixels.items():
                blosc2.asarray(
                    np.array(values)[None, None],
                    urlpath=self.path(index, kind),
                    chunks=(1, 1, SIDE, SIDE),
                    blocks=blocks[kind],
                    cparams=options,
                )

    def read(self, index, kind):
        """Return an image or a mask."""
        import blosc2

        options = {"mode": "r", "mmap_mode": "r", "dparams": {"nthreads": 1}}
        return blosc2.open(self.path(index, kind), **options)[0, 0]

    def __getitem__(self, indices):
        image, mask = new_batch(len(indices))
        for j, i in enumerate(indices):
            self.samples.scaled(self.read(i, ""), i, out=image[j, 0])
            mask[j] = self.read(i, "_seg")
        return image, mask, np.array(indices)


def blosc2_processes(samples):
    """Two processes of torch's DataLoader, instead of nnU-Net's, read cases."""
    import blosc2
    from torch.utils.data import BatchSampler, DataLoader

    blosc2.set_nthreads(1)
    order, cases = Order(samples), Cases(samples)
    lists = BatchSampler(order, BATCH, drop_last=True)
    options = {"num_workers": CORES, "persistent_workers": True}
    return order.by_epoch(DataLoader(cases, None, sampler=lists, **options))


def blosc2_threads(samples):
    """Two threads read cases, a batch each."""
    import blosc2

    blosc2.set_nthreads(1)
    cases = Cases(samples)

    def batches(epoch):
        with ThreadPoolExecutor(CORES) as pool:
            waiting = deque()
            for indices in samples.batches(epoch).tolist():
                waiting.append(pool.submit(cases.__getitem__, indices))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    return batches


LIMIT, OURS = "bare gather, two buffers", "fastseg.Loader"
ON_MAP, ON_H5PY = "torch DataLoader, memmap", "torch DataLoader, h5py"
MAP, H5PY = partial(torch_loader, kind="maps"), partial(torch_loader, kind="datasets")
MANY_BUFFERS = partial(bare_gather, buffers=CORES + AHEAD)

SIDES = {
    LIMIT: bare_gather,
    "bare gather, as many buffers as a loader": MANY_BUFFERS,
    OURS: ours,
    "fastseg.Loader, 1 thread": partial(ours, threads=1),
    f"{ON_MAP}, 0 workers": partial(MAP, workers=0),
    f"{ON_MAP}, 2 workers": partial(MAP, workers=CORES),
    f"{ON_MAP}, 0 workers, whole batches": partial(MAP, workers=0, whole=True),
    f"{ON_MAP}, 2 workers, whole batches": partial(MAP, workers=CORES, whole=True),
    f"{ON_H5PY}, 0 workers": partial(H5PY, workers=0),
    f"{ON_H5PY}, 2 workers": partial(H5PY, workers=CORES),
    f"{ON_H5PY}, 0 workers, whole batches": partial(H5PY, workers=0, whole=True),
    "MONAI CacheDataset, no workers": monai_cache,
    "MONAI CacheDataset, 2 thread workers": partial(monai_cache, workers=CORES),
    "Grain, no threads": partial(grain_dataset, threads=0),
    "Grain, 2 threads": partial(grain_dataset, threads=CORES),
    "Grain, 2 processes": partial(grain_dataset, threads=0, workers=CORES),
    "SPDL, 2 threads, samples": partial(spdl_pipeline, whole=False),
    "SPDL, 2 threads, whole batches": partial(spdl_pipeline, whole=True),
    "blosc2 cases, 2 threads": blosc2_threads,
    "blosc2 cases, 2 processes": blosc2_processes,
}
