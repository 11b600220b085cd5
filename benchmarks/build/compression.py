"""Compressed stores beside plain ones: bytes, time to build, rate of reading.

    python -m benchmarks.build.compression [STUDY] [--no-save]

STUDY is a folder that `fastseg link` understands: by default the Sunnybrook data where
they are (see benchmarks/inputs.py), else the sample data. The files and the stores are
in the page cache; a store that must come from a disk or a network gains by its smaller
size as well. All kinds of stores take turns, because the clock of a shared machine
changes from one second to the next; the table has medians. Batches of all stores are
equal to the last bit. The second table, of the codecs alone, shows why it is zstd after
HDF5's shuffle. The tables are printed, saved to benchmarks/results/compress.md and put
into docs/benchmarks.md.
"""

import argparse
import platform
import statistics
import tempfile
import threading
import time
from itertools import product
from pathlib import Path

from xxhash import xxh3_64

import fastseg
from benchmarks.inputs import default_study
from benchmarks.tables import publish, table_of
from fastseg.store import compression
from fastseg.threads import usable_cores

LEVELS = (1, 3, 9)
THREADS = (1, 2)
REPEATS = 7
BATCH = 16
# Name of a store: its level of zstd, None without compression.
KINDS = {"plain": None, **{f"zstd {level}": level for level in LEVELS}}


def set_level(level):
    """Let fastseg compress at another level than its own."""
    compression.LEVEL = level
    compression._contexts = threading.local()  # each was created for a level


def build(table, path, level):
    """Build a store with one thread, plain if level is None; return the seconds."""
    path.unlink(missing_ok=True)
    if level is not None:
        set_level(level)
    start = time.perf_counter()
    fastseg.build(table, path, compress=level is not None, threads=1)
    return time.perf_counter() - start


def loader_of(path, threads):
    """Return a loader of all samples."""
    store = fastseg.open(path)
    size = max(bucket.shape for bucket in store.buckets.values())
    return fastseg.Loader(
        store, batch_size=BATCH, size=size, masks="bits", threads=threads
    )


def read(path, threads):
    """Return the samples a second of an epoch."""
    loader = loader_of(path, threads)
    start = time.perf_counter()
    for _ in loader:
        pass
    return len(loader.store) / (time.perf_counter() - start)


def digest(path):
    """Return a checksum of all batches of an epoch."""
    whole = xxh3_64()
    for batch in loader_of(path, 1):
        whole.update(batch.image)
        whole.update(batch.mask)
    return whole.hexdigest()


def stores(table, paths):
    """Build and read stores in turns; yield the rows of their table."""
    seconds = {name: [] for name in KINDS}
    rates = {(name, threads): [] for name in KINDS for threads in THREADS}
    for turn in range(REPEATS + 1):  # the first one warms up
        for name, level in KINDS.items():
            building = build(table, paths[name], level)
            reading = {threads: read(paths[name], threads) for threads in THREADS}
            if turn:
                seconds[name].append(building)
                for threads, rate in reading.items():
                    rates[name, threads].append(rate)
    assert len({digest(path) for path in paths.values()}) == 1, "the batches differ"
    yield "store", "MB", "pixels smaller", "build", "read, 1 thread", "2 threads"
    for name, path in paths.items():
        store = fastseg.open(path)
        micros = statistics.median(seconds[name]) / len(store) * 1e6
        yield (
            name,
            f"{path.stat().st_size / 1e6:.1f}",
            f"{store.compression_ratio:.2f} ×",
            f"{micros:.0f} µs an image",
            *(f"{statistics.median(rates[name, k]):,.0f} a second" for k in THREADS),
        )


def codecs(images):
    """Yield the rows of the table of codecs."""
    yield "codec, one core", "smaller", "to compress", "to decompress"
    for level, shuffles in product(LEVELS, (True, False)):
        set_level(level)
        codec = compression.Codec(images[0].shape, images[0].dtype, shuffles)
        name = f"zstd {level}" + (", shuffled" if shuffles else "")
        yield measure(name, images, codec.encode, codec.decode)
    try:
        import blosc2
    except ImportError:
        print("blosc2 is not installed, so it is left out")
        return
    for kind in ("SHUFFLE", "BITSHUFFLE"):
        for codec, level in (("ZSTD", 1), ("ZSTD", 5), ("LZ4", 5)):
            options = {"typesize": images[0].itemsize, "nthreads": 1, "clevel": level}
            options |= {"codec": blosc2.Codec[codec], "filters": [blosc2.Filter[kind]]}
            yield measure(
                f"blosc2 {codec.lower()} {level}, {kind.lower()}",
                images,
                lambda image, options=options: blosc2.compress2(image, **options),
                lambda chunk: blosc2.decompress2(chunk, nthreads=1),
            )


def measure(name, images, encode, decode):
    """Return the row of a codec: ratio, and the medians of times per image."""
    compressed_bytes = 0
    encoding = []
    decoding = []
    for image in images:
        start = time.perf_counter()
        chunk = encode(image)
        encoded = time.perf_counter()
        again = decode(chunk)
        decoding.append(time.perf_counter() - encoded)
        encoding.append(encoded - start)
        compressed_bytes += len(chunk)
        assert bytes(memoryview(again)) == image.tobytes()
    ratio = sum(image.nbytes for image in images) / compressed_bytes
    medians = [statistics.median(times) * 1e6 for times in (encoding, decoding)]
    return name, f"{ratio:.2f} ×", *(f"{micros:.0f} µs" for micros in medians)


def images_of_one_kind(store):
    """Return the images that have shape and dtype of the first one."""
    first = store[0].image
    return [
        sample.image
        for sample in store
        if (sample.image.shape, sample.image.dtype) == (first.shape, first.dtype)
    ]


def main():
    """Measure, compare batches, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=default_study())
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    table = fastseg.link(arguments.study, keep_unlabelled=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.h5".replace(" ", "") for name in KINDS}
        first = table_of(stores(table, paths))
        images = images_of_one_kind(fastseg.open(paths["plain"]))
        second = table_of(codecs(images))
    height, width = images[0].shape
    text = (
        f"{first}\n{second}\n{len(images)} images of {height}x{width} "
        f"{images[0].dtype}, cached; one thread builds, {usable_cores()} cores; "
        f"{platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}.\n"
    )
    print(text)
    if not arguments.no_save:
        publish("compress", text)


if __name__ == "__main__":
    main()
