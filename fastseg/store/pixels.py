"""The pixels of an open store, mapped or compressed: one way to have them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import StoreError
from fastseg.store.compression import Codec

Columns = Mapping[str, NDArray[Any]]

EVERYTHING = slice(None)
FIRST = np.zeros(1, np.int64)


class Stack(NamedTuple):
    """Samples of one shape for kernels: sample rows[j] is the j-th of `subset`.

    images : stored values (n, H, W)
    masks  : bit fields (n, H, W)
    rows   : int64 (b,); negative where a sample is in another stack
    subset : which of the samples that were asked for these are
    """

    images: NDArray[Any]
    masks: NDArray[Any]
    rows: NDArray[np.int64]
    subset: slice


class MappedPixels:
    """Pixels that lie in the file as they are."""

    def __init__(
        self,
        items: Columns,
        images: dict[str, NDArray[Any]],
        masks: dict[str, NDArray[Any]],
        offsets: Mapping[str, int],
    ):
        self.images, self.masks = images, masks
        self._bucket, self._row = items["bucket"], items["row"]
        self._arrays = list(zip(images.values(), masks.values(), strict=True))
        self._starts = [
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

    def stacks(self, items: NDArray[np.int64]) -> Iterator[Stack]:
        """Yield the views of buckets in which items lie."""
        rows, buckets = self._row[items], self._bucket[items]
        used = range(1) if len(self._arrays) == 1 else np.unique(buckets).tolist()
        for k in used:
            here = rows if len(used) == 1 else np.where(buckets == k, rows, -1)
            yield Stack(*self._arrays[k], here, EVERYTHING)

    def extents(self, items: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield places in the file and lengths of the pixels of items."""
        for item in items.tolist():
            row, starts = int(self._row[item]), self._starts[self._bucket[item]]
            for start, array in zip(
                starts, self._arrays[self._bucket[item]], strict=True
            ):
                yield start + row * array[0].nbytes, array[0].nbytes


class CompressedPixels:
    """Pixels that are decompressed, in the caller's thread, whenever asked for.

    map    : the file
    codecs : of images and of masks, by bucket
    """

    def __init__(
        self,
        items: Columns,
        map: Any,
        codecs: Sequence[tuple[Codec, Codec]],
        path: Path,
    ):
        self._bucket, self._codecs, self._path = items["bucket"], codecs, path
        self._chunks = items["image_chunk"], items["mask_chunk"]
        self._bytes = memoryview(map)

    @property
    def images(self) -> dict[str, NDArray[Any]]:
        """Compressed stores have no arrays of whole buckets."""
        raise StoreError(
            f"{self._path}: is compressed, so no array holds the pixels of a bucket; "
            "store[i] has those of a sample"
        )

    masks = images

    def image(self, item: int) -> NDArray[Any]:
        """Return a new array."""
        return self._decode(0, item)

    def mask(self, item: int) -> NDArray[Any]:
        """Return a new array."""
        return self._decode(1, item)

    def stacks(self, items: NDArray[np.int64]) -> Iterator[Stack]:
        """Yield items one by one, while they are in the caches of the core."""
        for j, item in enumerate(items.tolist()):
            image, mask = self.image(item), self.mask(item)
            yield Stack(image[None], mask[None], FIRST, slice(j, j + 1))

    def extents(self, items: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield places in the file and lengths of the chunks of items."""
        for chunks in self._chunks:
            yield from chunks[items].tolist()

    def _decode(self, part: int, item: int) -> NDArray[Any]:
        start, size = self._chunks[part][item].tolist()
        try:
            codec: Codec = self._codecs[self._bucket[item]][part]
            return codec.decode(self._bytes[start : start + size])
        except StoreError as exc:
            name = ("image", "mask")[part]
            raise StoreError(
                f"{self._path}: {name} of sample {item} {exc}; it is damaged"
            ) from None
