"""The pixels of an open store: classes for mapped and compressed ones, used alike."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError
from fastseg.store.compression import Codec
from fastseg.store.mapped_file import MappedFile

Columns = Mapping[str, NDArray[Any]]

EVERYTHING = slice(None)


class Stack(NamedTuple):
    """Images and masks of one shape and dtype, for kernels that make batches.

    images : (n, H, W), stored values
    masks  : (n, H, W), bit fields
    rows   : int64 (b,), the row in images and masks of each requested sample in
        `subset`; negative where that sample is in another stack. (b, d) if d samples
        were requested together
    subset : slice of the requested samples to which `rows` belongs
    """

    images: NDArray[Any]
    masks: NDArray[Any]
    rows: NDArray[np.int64]
    subset: slice


def signed_view(mask: NDArray[Any]) -> NDArray[Any]:
    """Return a view that torch can shift: the same bits, signed if wider than 8."""
    return mask if mask.itemsize == 1 else mask.view(f"i{mask.itemsize}")


def stacks_of(
    arrays: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    numbers: NDArray[Any],
    rows: NDArray[np.int64],
) -> Iterator[Stack]:
    """Yield a Stack for each pair of arrays, images and masks, that is needed.

    numbers : (b,) or (b, d), which of the pairs has each sample; those of a row are of
        one pair
    rows    : of that shape, its row there
    """
    used = [0]
    if len(arrays) > 1:
        # Not np.unique, which imports numpy.ma when it is first called: 8 ms.
        used = np.flatnonzero(np.bincount(numbers.reshape(-1))).tolist()
    for k in used:
        in_pair = rows if len(used) == 1 else np.where(numbers == k, rows, -1)
        yield Stack(*arrays[k], in_pair, EVERYTHING)


class MappedPixels:
    """Pixels of a store without compression: views of the memory map."""

    def __init__(
        self,
        file: MappedFile,
        items: Columns,
        images: dict[str, NDArray[Any]],
        masks: dict[str, NDArray[Any]],
        offsets: Mapping[str, int],
    ):
        self.images = images
        self.masks = masks
        self.file = file
        self._bucket = items["bucket"]
        self._row = items["row"]
        self._arrays = list(zip(images.values(), masks.values(), strict=True))
        # Where they begin in the file, images and masks of each bucket.
        self.starts = [
            (offsets[f"images/{name}"], offsets[f"masks/{name}"]) for name in images
        ]

    def image(self, item: int) -> NDArray[Any]:
        """Return a view of the map."""
        image: NDArray[Any] = self._arrays[self._bucket[item]][0][self._row[item]]
        return image

    def mask(self, item: int) -> NDArray[Any]:
        """Return a view of the map."""
        mask: NDArray[Any] = self._arrays[self._bucket[item]][1][self._row[item]]
        return mask

    def images_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return a view of items that have consecutive rows of one bucket.

        writable : a view of private pages, which become copies when they are written to
        """
        return self._rows(0, items, writable)

    def masks_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return a view of items that have consecutive rows of one bucket.

        writable : a view of private pages, which become copies when they are written to
        """
        return self._rows(1, items, writable)

    def stacks(
        self, items: NDArray[np.int64], with_masks: NDArray[np.int64] | None = None
    ) -> Iterator[Stack]:
        """Yield one stack for each bucket that has some of the items.

        items : (b,), or (b, d): those of a row are of one bucket
        """
        return stacks_of(self._arrays, self._bucket[items], self._row[items])

    def extents(
        self, items: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield offset in the file and size in bytes of each image and mask.

        rows : int64 (n, 2), of which rows of the images, see `Store.read_ahead`
        """
        ends = (
            [(0, None)] * len(items) if rows is None else np.maximum(rows, 0).tolist()
        )
        for item, (first, end) in zip(items.tolist(), ends, strict=True):
            bucket = self._bucket[item]
            for offset, array in zip(
                self.starts[bucket], self._arrays[bucket], strict=True
            ):
                image = array[self._row[item]]
                start = int(self._row[item]) * image.nbytes + first * image.strides[0]
                yield offset + start, image[first:end].nbytes

    def _rows(self, kind: int, items: range, writable: bool) -> NDArray[Any]:
        """Return the images (kind 0) or the masks (kind 1) of consecutive rows."""
        bucket = self._bucket[items.start]
        row = int(self._row[items.start])
        array: NDArray[Any] = self._arrays[bucket][kind]
        rows = array[row : row + len(items)]
        if not writable:
            return rows
        offset = self.starts[bucket][kind] + row * array[0].nbytes
        pages = self.file.map_privately(offset, rows.nbytes)
        return np.frombuffer(pages, array.dtype).reshape(rows.shape)


class CompressedPixels:
    """Pixels of a compressed store: each access decompresses, in the caller's thread.

    map    : memory map of the file
    codecs : of images and of masks, for each bucket
    path   : the file, for errors
    """

    def __init__(
        self,
        items: Columns,
        map: Any,
        codecs: Sequence[tuple[Codec, Codec]],
        path: Path,
    ):
        self._bucket = items["bucket"]
        self._codecs = codecs
        self._path = path
        self._chunks = items["image_chunk"], items["mask_chunk"]
        self._bytes = memoryview(map)

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """Raise StoreError: a compressed store has no arrays of whole buckets."""
        raise StoreError(
            f"{self._path}: is compressed, so no array holds the pixels of a bucket; "
            "read those of a sample with store[i]"
        )

    masks = images

    def image(self, item: int) -> NDArray[Any]:
        """Return a new array."""
        return self._decode(0, item)

    def mask(self, item: int) -> NDArray[Any]:
        """Return a new array."""
        return self._decode(1, item)

    def images_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return the images of one shape and dtype as a new array."""
        return self._decode_all(0, items, writable)

    def masks_of(self, items: range, *, writable: bool = False) -> NDArray[Any]:
        """Return the masks of one shape as a new array."""
        return self._decode_all(1, items, writable)

    def stacks(
        self, items: NDArray[np.int64], with_masks: NDArray[np.int64] | None = None
    ) -> Iterator[Stack]:
        """Yield a stack for each item, while its pixels are in the core's caches.

        items : (b,), or (b, d) to yield a stack for each row, of one bucket
        with_masks : (b, e), those of each row whose masks are decompressed; those of
            the others hold anything. By default all
        """
        every = items.reshape(len(items), -1)
        masked = every if with_masks is None else with_masks
        for j, (together, some) in enumerate(
            zip(every.tolist(), masked.tolist(), strict=True)
        ):
            each_once = {item: k for k, item in enumerate(dict.fromkeys(together))}
            images = self._decode_all(0, each_once)
            masks = self._decode_all(1, each_once, needed=some)
            rows = np.array([each_once[item] for item in together])
            rows = rows.reshape(1, *items.shape[1:])
            yield Stack(images, masks, rows, slice(j, j + 1))

    def extents(
        self, items: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield offset in the file and size in bytes of each chunk, whatever `rows`."""
        for chunks in self._chunks:
            yield from chunks[items].tolist()

    def _decode_all(
        self,
        kind: int,
        items: Iterable[int],
        writable: bool = False,
        needed: Sequence[int] | None = None,
    ) -> NDArray[Any]:
        """Return the images (kind 0) or the masks (kind 1) of items of one bucket.

        needed : the items that are decompressed, by default all; others hold anything
        """
        each = [
            self._decode(kind, item)
            if needed is None or item in needed
            else self._codecs[self._bucket[item]][kind].blank()
            for item in items
        ]
        is_copied = len(each) > 1 or writable
        arrays = np.stack(each) if is_copied else each[0][None]
        arrays.flags.writeable = writable  # those of one item are not
        return arrays

    def _decode(self, kind: int, item: int) -> NDArray[Any]:
        """Return the image (kind 0) or the mask (kind 1) of an item."""
        offset, size = self._chunks[kind][item].tolist()
        try:
            codec: Codec = self._codecs[self._bucket[item]][kind]
            return codec.decode(self._bytes[offset : offset + size])
        except StoreError as exc:
            name = ("image", "mask")[kind]
            raise StoreError(
                f"{self._path}: {name} of sample {item} {exc}; it is damaged"
            ) from None
