"""The images of a block: files to pixels in the store, their measures and metadata.

Kernels read and measure the files that they fully understand, many in one call. Every
other file is decoded by Python, and its pixels are measured by the same kernel. After
that, nothing knows the difference.
"""

import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from math import ceil, isnan, nan, prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from fastseg import dicom
from fastseg._kernels.files import content, system
from fastseg._kernels.images import statistics
from fastseg._kernels.images.statistics import Measures
from fastseg.bounds import MAX_HEADER_BYTES
from fastseg.codecs.pool import Pool
from fastseg.errors import DicomError
from fastseg.file_batches import FileBatch
from fastseg.files import Stamp, read_file, stamp_of
from fastseg.ingest.block import Block
from fastseg.paths import Paths
from fastseg.sources import READERS
from fastseg.store import layout
from fastseg.store.layout import Bucket
from fastseg.store.writing.pixel_writers import PixelWriter
from fastseg.urls import is_url

# Bytes of each thread's buffer. With half as many, a build takes a twentieth longer,
# because each call for what is in it costs time. So it does with more of them: images
# are measured and written while they are in a core's caches.
BUFFER_BYTES = 2**21
# A file may be longer than its pixels by this much, or kernels do not read it.
HEADER_BYTES = 2**16


class BlockImages(NamedTuple):
    """What is known of the images of a block, by index in the block.

    measures    : of the pixels
    stamps      : int64 (n, 4), as `files.Stamp`
    file_hashes : uint64 (n,), XXH3-64 of the file
    scans       : the headers
    offsets     : int64 (n, 2), offset and size in the file of pixels
    is_read     : bool (n,), whether all this is known of an image
    """

    measures: Measures
    stamps: NDArray[np.int64]
    file_hashes: NDArray[np.uint64]
    scans: dicom.HeaderScans
    offsets: NDArray[np.int64]
    is_read: NDArray[np.bool_]


class OpenImage(NamedTuple):
    """An image file: its stamp and XXH3-64, and what decodes its pixels."""

    file: dicom.ParsedFile
    stamp: Stamp
    xxh3: int


class DecodedImage(NamedTuple):
    """An image (H, W) in memory; header, stamp and XXH3-64 of its file."""

    header: dicom.Header
    stamp: Stamp
    xxh3: int
    pixels: NDArray[Any]


class StartedImage(NamedTuple):
    """An image whose pixels are being decoded; header, stamp and XXH3-64 of its file.

    pixels : returns them (H, W), no view of the file, or raises DicomError
    """

    header: dicom.Header
    stamp: Stamp
    xxh3: int
    pixels: Callable[[], NDArray[Any]]

    def decode(self) -> DecodedImage:
        """Return the image as soon as it is decoded, or raise DicomError."""
        return DecodedImage(self.header, self.stamp, self.xxh3, self.pixels())


class ImageReader:
    """Reads the images of blocks. Threads share it."""

    def __init__(
        self,
        paths: Paths,
        decoders: Pool,
        *,
        max_pixel_bytes: int,
        decode_timeout: float,
    ):
        self.decoders = decoders
        self._paths = paths
        self._max_pixel_bytes = max_pixel_bytes
        self._decode_timeout = decode_timeout
        self._local = threading.local()

    def read(self, block: Block, pixels: PixelWriter | None) -> BlockImages:
        """Read the images that kernels understand, and write their pixels.

        pixels : None to write nothing
        """
        count = len(block)
        dtype = block.bucket.dtype
        area = prod(block.bucket.shape)
        size = area * dtype.itemsize
        ranks = percentile_ranks(area)
        stamps = np.empty((count, 4), np.int64)
        file_hashes = np.empty(count, np.uint64)
        measures = new_measures(count)
        headers = dicom.header_arrays(count)
        offsets = np.zeros((count, 2), np.int64)
        batch = FileBatch(self._direct(block, k, size) for k in range(count))
        buffer = self._buffer(size + HEADER_BYTES)
        values = buffer.view(dtype)
        in_buffer = np.empty(count, np.int64)
        # Where the pixels begin in a file, and so probably in the next ones.
        lead = 0
        first = 0 if system.AVAILABLE else count
        while first < count:
            stop = batch.read(
                *(first, content.WHOLE, lead, buffer),
                *(in_buffer, stamps, file_hashes),
            )
            dicom.note_headers(
                *(buffer, in_buffer, stamps[:, 0], headers),
                first=first,
                stop=stop,
                pixel_bytes=size,
            )
            starts = headers.pixels[first:stop]
            batch.keep(np.flatnonzero(starts < 0) + first)
            if starts[-1] >= 0:
                lead = int(starts[-1] - in_buffer[stop - 1])
            if dtype.itemsize > 2:  # everything in a file begins at even offsets
                align_pixels(buffer, starts, size, dtype.itemsize)
            statistics.measure_images(
                *(values, headers.pixels, first, stop, area, ranks, measures)
            )
            indices = (starts // dtype.itemsize).tolist()
            images = [values[k : k + area] for k in indices if k >= 0]
            if pixels and images:
                some: Any = slice(first, stop)  # faster than indices
                if len(images) < stop - first:
                    some = np.flatnonzero(starts >= 0) + first
                offsets[some] = pixels.write_images(block.slots.pick(some), images)
            first = stop
        scans = dicom.read_headers(headers)
        is_read = (headers.pixels >= 0) & measures.is_counted
        is_read &= are_expected(scans, block.bucket, measures.sums)
        return BlockImages(measures, stamps, file_hashes, scans, offsets, is_read)

    def open(self, block: Block, k: int) -> OpenImage:
        """Read the file of an image and parse its header.

        Raises DicomError, LinkError, MissingExtraError or OSError.
        """
        link = block.links[k][0]
        path = self._paths.resolve(link.dicom_path, link.root)
        # The frames of a file follow each other in the plan, and the file may be
        # large: each thread keeps the file that it read last.
        image: OpenImage | None = None
        if getattr(self._local, "path", None) == path:
            image = self._local.image
        # To ask for the stamp of an object takes as long as to read a small one.
        if image is None or not (is_url(path) or image.stamp == stamp_of(path)):
            limit = self._max_pixel_bytes + MAX_HEADER_BYTES
            data, stamp = read_file(path, limit)
            file = dicom.parse(
                *(data, link.dicom_path, self._max_pixel_bytes, self._decode_timeout)
            )
            image = OpenImage(file, stamp, xxh3_64_intdigest(data))
            self._local.path, self._local.image = path, image
        header = image.file.header
        dicom.check_request(header, link.frame, self._max_pixel_bytes, link.dicom_path)
        found = Bucket((header.rows, header.columns), header.dtype)
        if found != block.bucket:
            raise DicomError(
                f"has changed while the store was built, or after it was linked: it is "
                f"{found.name}, expected {block.bucket.name}; link and build again"
            )
        return image

    def start(
        self, block: Block, k: int, image: OpenImage, values: NDArray[Any] | None
    ) -> StartedImage:
        """Start to decode an image of the block.

        values : its pixels, if they are known; they may be a view

        Raises DicomError or MissingExtraError.
        """
        if values is None:
            pixels = image.file.start(block.links[k][0].frame, self.decoders)
        else:
            copy = values.copy()
            pixels = lambda: copy  # noqa: E731
        header = image.file.header_of(block.links[k][0].frame)
        return StartedImage(header, image.stamp, image.xxh3, pixels)

    def hash_file(self, path: str, root: str) -> tuple[int, Stamp]:
        """Return XXH3-64 and stamp of a file of any kind; raise LinkError or OSError.

        Each thread keeps that of its last file, which may hold the frames of many
        items.
        """
        real = self._paths.resolve(path, root)
        stamp = stamp_of(real)
        if getattr(self._local, "hashed", None) != (real, stamp):
            limits = [reader.max_bytes for reader in READERS.values()]
            largest = max(self._max_pixel_bytes + MAX_HEADER_BYTES, *limits)
            data, stamp = read_file(real, largest)
            self._local.hashed = real, stamp
            self._local.digest = xxh3_64_intdigest(data)
        digest: int = self._local.digest
        return digest, stamp

    def add(
        self,
        block: Block,
        images: BlockImages,
        decoded: Mapping[int, DecodedImage],
        pixels: PixelWriter | None,
    ) -> None:
        """Measure and write images that Python has decoded.

        decoded : by index in the block
        """
        if not decoded:
            return
        some = np.array(list(decoded))
        stack = np.stack([image.pixels for image in decoded.values()])
        columns: Any = zip(measure(stack), images.measures, strict=True)
        for measured, column in columns:
            column[some] = measured
        for k, image in decoded.items():
            images.stamps[k] = image.stamp
            images.file_hashes[k] = image.xxh3
            images.scans.put(k, image.header)
        if pixels:
            slots = block.slots.pick(some)
            images.offsets[some] = pixels.write_images(slots, list(stack))
        images.is_read[some] = True

    def _direct(self, block: Block, k: int, size: int) -> str | None:
        """Return the path of a file that kernels may try to read."""
        link = block.links[k][0]
        if not block.is_todo[k] or link.frame or size > self._max_pixel_bytes:
            return None
        return self._paths.direct(link.dicom_path, link.root)

    def _buffer(self, size: int) -> NDArray[np.uint8]:
        """Return this thread's buffer, at least `size` bytes long.

        It begins, and ends, at a multiple of the size of a cache line.
        """
        buffer: NDArray[np.uint8] | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            size = -(-max(size, BUFFER_BYTES) // content.LINE) * content.LINE
            buffer = np.empty(size + content.LINE, np.uint8)
            start = -buffer.ctypes.data % content.LINE
            buffer = self._local.buffer = buffer[start : start + size]
        return buffer


def new_measures(count: int) -> Measures:
    """Return the Measures of n images that have not been measured."""
    return Measures(
        sums=np.empty((count, 5), np.int64),
        percentiles=np.empty((count, len(layout.PERCENTILES))),
        is_counted=np.zeros(count, np.bool_),
        hashes=np.empty(count, np.uint64),
        codes=np.empty((count, statistics.MAX_CODES), np.uint8),
        code_sizes=np.zeros(count, np.int64),
    )


def measure(stack: NDArray[Any]) -> Measures:
    """Return the Measures of images (n, H, W)."""
    count, area = len(stack), stack[0].size
    measures = new_measures(count)
    ranks = percentile_ranks(area)
    offsets = np.arange(count) * stack[0].nbytes
    statistics.measure_images(
        *(stack.reshape(-1), offsets, 0, count, area, ranks, measures)
    )
    for k in np.flatnonzero(~measures.is_counted).tolist():
        limits = measures.sums[k, :2].tolist()
        *sums, measures.code_sizes[k] = statistics.sum_values(
            stack[k].reshape(-1), *limits, measures.codes[k]
        )
        measures.sums[k, 2:] = sums
        measures.percentiles[k] = np.partition(stack[k], ranks, axis=None)[ranks]
    return measures


def align_pixels(
    buffer: NDArray[np.uint8], offsets: NDArray[np.int64], size: int, itemsize: int
) -> None:
    """Move images to the front that do not lie at a multiple of the size of a pixel.

    offsets  : int64 (n,), of images in the buffer, updated; negative: there is none
    size     : of an image in bytes
    itemsize : of a pixel in bytes
    """
    excess = offsets % itemsize
    for k in np.flatnonzero((offsets >= 0) & (excess > 0)).tolist():
        pixels = buffer[offsets[k] : offsets[k] + size].copy()
        offsets[k] -= excess[k]
        buffer[offsets[k] : offsets[k] + size] = pixels


def are_expected(
    scans: dicom.HeaderScans, bucket: Bucket, sums: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return of which files the header was scanned and fits to their pixels, bool (n,).

    It must be that of one image of this shape and dtype, and all pixels must fit into
    its stored bits.

    sums : as in Measures, of files whose header was scanned
    """
    nothing = 1, 0
    # The last one is that of the files whose header is UNKNOWN.
    limits = [nothing] * (len(scans.headers) + 1)
    for number, header in enumerate(scans.headers):
        found = Bucket((header.rows, header.columns), header.dtype)
        if found == bucket and header.frames == 1:
            limits[number] = dicom.stored_range(header.dtype, header.bits_stored)
    least, greatest = np.array(limits)[scans.header_index].T
    fits = (least <= greatest) & (sums[:, 0] >= least) & (sums[:, 1] <= greatest)
    return np.asarray(fits)


def write_columns(
    block: Block, images: BlockImages, items: NDArray[np.int64], meta: NDArray[Any]
) -> None:
    """Write the columns of a store that come from headers and pixels.

    items : int64 (n,), indices in the block
    meta  : `meta_dtype` (n,)
    """
    measures, scans = images.measures, images.scans
    headers = scans.headers
    index = scans.header_index[items]
    per_file = scans.per_file[items]
    links = [block.links[k][0] for k in items.tolist()]
    meta["frame"] = [link.frame for link in links]
    meta["time"] = [nan if link.time is None else link.time for link in links]
    unknown = nan, nan
    spacings = [header.spacing_mm or unknown for header in headers]
    directions = [header.directions or (nan,) * 6 for header in headers]
    thicknesses = [header.slice_thickness_mm for header in headers]
    meta["spacing_mm"] = np.array(spacings).reshape(-1, 2)[index]
    meta["directions"] = np.array(directions).reshape(-1, 6)[index]
    meta["slice_thickness_mm"] = np.array(thicknesses, np.float64)[index]
    meta["origin_mm"] = per_file[:, dicom.X : dicom.Z + 1] + 0.0  # no -0.0
    meta["instance"] = or_minus_one(per_file[:, dicom.INSTANCE])
    meta["temporal_position"] = or_minus_one(per_file[:, dicom.TEMPORAL_POSITION])
    meta["trigger_time_ms"] = per_file[:, dicom.TRIGGER_TIME]
    value_maps = [header.value_map for header in headers]
    meta["slope"], meta["intercept"] = np.array(value_maps).reshape(-1, 2)[index].T
    windows = per_file[:, dicom.WINDOW_CENTRE : dicom.WINDOW_WIDTH + 1]
    meta["window"] = windows
    is_inverted = [header.photometric != "MONOCHROME2" for header in headers]
    for j in np.flatnonzero(np.array(is_inverted, np.bool_)[index]).tolist():
        centre, width = windows[j].tolist()
        window = None if isnan(width) else (centre, width)
        header = headers[index[j]]._replace(window=window)
        meta["window"][j] = header.value_window or unknown
    sums = measures.sums[items]
    pixels = block.bucket.shape[0] * block.bucket.shape[1]
    moments = [
        mean_and_std(pixels, total, (high << 32) + low)
        for total, high, low in sums[:, 2:].tolist()
    ]
    meta["mean"], meta["std"] = np.array(moments).reshape(-1, 2).T
    meta["min"] = sums[:, 0]
    meta["max"] = sums[:, 1]
    meta["percentiles"] = measures.percentiles[items]
    meta["image_xxh3"] = measures.hashes[items]


def or_minus_one(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return whole numbers with -1 for NaN."""
    return np.where(np.isnan(numbers), -1, numbers)


def mean_and_std(count: int, total: int, squares: int) -> tuple[float, float]:
    """Return mean and standard deviation of integers.

    total, squares : the sums of the integers and of their squares

    Python rounds the quotient of two integers correctly, however large they are.
    """
    variance = (count * squares - total * total) / (count * count)
    return total / count, sqrt(variance)


@cache
def percentile_ranks(count: int) -> NDArray[np.int64]:
    """Return the nearest ranks (0 is the smallest) of `layout.PERCENTILES`."""
    fractions = (Fraction(str(q)) / 100 for q in layout.PERCENTILES)
    ranks = [max(ceil(fraction * count), 1) - 1 for fraction in fractions]
    return np.array(ranks, np.int64)
