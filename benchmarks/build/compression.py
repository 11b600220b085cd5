"""Compressed stores beside plain ones: bytes, time to build, rate of reading.

    python benchmarks/compress.py [STUDY]

STUDY is a folder that `fastseg link` understands: by default the real Sunnybrook data
where they are (see tests/conftest.py), else the sample data. The files and the stores
are in the page cache; a store that must come from a disk, a network or a full cache
gains what it is smaller by. All kinds take turns, because the clock of a shared machine
changes from one second to the next; the table has medians. Batches of all stores are
compared, and are equal to the last bit. The second table is of the codecs alone, and
tells why it is zstd after HDF5's shuffle. The tables are printed and saved to
benchmarks/results/compress.md.
"""

import argparse
import platform
import statistics
import tempfile
import threading
import time
from itertools import product
from pathlib import Path

from epoch_rate import PROJECT, REAL
from xxhash import xxh3_64

import fastseg
from fastseg.store import compression
from fastseg.threads import usable_cores

LEVELS, REPEATS, BATCH = (1, 3, 9), 7, 16


def build(table, path, level):
    """Build a store with one worker, plain if level is None; return the seconds."""
    path.unlink(missing_ok=True)
    if level is not None:
        compression.LEVEL = level
        compression._contexts = threading.local()  # which have been made for a level
    start = time.perf_counter()
    fastseg.build(table, path, compress=level is not None, threads=1)
    return time.perf_counter() - start


def loader_of(path, threads):
    """Return a loader of all samples."""
    store = fastseg.open(path)
    size = max(bucket.shape for bucket in store.buckets.values())
    return fastseg.Loader(store, batch_size=BATCH, size=size, threads=threads)


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


def stores(table, folder):
    """Yield the rows of the table of stores."""
    kinds = {"plain": None} | {f"zstd {level}": level for level in LEVELS}
    kinds["zstd 1"] = compression.LEVEL = 1
    paths = {name: Path(folder) / f"{name}.h5".replace(" ", "") for name in kinds}
    seconds, rates = {}, {}
    for turn in range(REPEATS + 1):  # the first is to warm up
        for name, level in kinds.items():
            took = build(table, paths[name], level)
            found = {threads: read(paths[name], threads) for threads in (1, 2)}
            if turn:
                seconds.setdefault(name, []).append(took)
                for threads, rate in found.items():
                    rates.setdefault((name, threads), []).append(rate)
    assert len({digest(path) for path in paths.values()}) == 1, "the batches differ"
    yield "store", "MB", "pixels smaller", "build", "read, 1 thread", "2 threads"
    for name, path in paths.items():
        store = fastseg.open(path)
        yield (
            name,
            f"{path.stat().st_size / 1e6:.1f}",
            f"{store.compression_ratio:.2f} ×",
            f"{statistics.median(seconds[name]) / len(store) * 1e6:.0f} µs an image",
            *(f"{statistics.median(rates[name, k]):,.0f} a second" for k in (1, 2)),
        )


def codecs(images):
    """Yield the rows of the table of codecs."""
    yield "codec, one core", "smaller", "to compress", "to decompress"
    for level, shuffles in product(LEVELS, (True, False)):
        compression.LEVEL, compression._contexts = level, threading.local()
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
    """Return a row: ratio and the medians of times per image."""
    chunks, times = [], ([], [])
    for image in images:
        start = time.perf_counter()
        chunk = encode(image)
        middle = time.perf_counter()
        again = decode(chunk)
        times[0].append(middle - start)
        times[1].append(time.perf_counter() - middle)
        chunks.append(len(chunk))
        assert bytes(memoryview(again)) == image.tobytes()
    ratio = sum(image.nbytes for image in images) / sum(chunks)
    return (
        name,
        f"{ratio:.2f} ×",
        *(f"{statistics.median(t) * 1e6:.0f} µs" for t in times),
    )


def table_of(rows):
    """Return rows as a table in Markdown."""
    first, *others = rows
    lines = [first, ["---"] * len(first), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    """Measure, compare what came out, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sunnybrook = REAL / "sunnybrook"
    usual = sunnybrook if sunnybrook.is_dir() else PROJECT / "data" / "phantom"
    parser.add_argument("study", nargs="?", type=Path, default=usual)
    table = fastseg.link(parser.parse_args().study, keep_unlabelled=True)
    with tempfile.TemporaryDirectory() as folder:
        first = table_of(stores(table, folder))
        opened = fastseg.open(Path(folder) / "plain.h5")
        bucket = opened[0].image
        images = [s.image for s in opened if s.image.shape == bucket.shape]
        second = table_of(
            codecs([image for image in images if image.dtype == bucket.dtype])
        )
        shape = f"{len(images)} images of {bucket.shape[0]}x{bucket.shape[1]}"
    text = (
        f"{first}\n{second}\n{shape} {bucket.dtype}, cached; one worker builds, "
        f"{usable_cores()} cores; {platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}.\n"
    )
    print(text)
    results = PROJECT / "benchmarks" / "results" / "compress.md"
    results.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
