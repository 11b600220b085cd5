"""What a notebook shows of a Store or a Batch: a line of text and small pictures.

The pictures are PNG files inside the HTML, so that a saved notebook has them. zlib
writes them: a notebook needs no package for pictures, and does not wait for matplotlib.
"""

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.colours import COLOURS, colour_of, rgb_of
from fastseg.escapes import escaped

# A notebook shows so many samples.
MAX_SAMPLES = 4
# Longer sides of images are thinned out to at most so many pixels; all images are shown
# with this longer side.
SIDE = 160
# The label of pixels of which nobody knows whether a class is there.
IGNORED = 255
IGNORED_RGB = (0.5, 0.5, 0.5)
# How much of the colour of a class covers the image.
OPACITY = 0.5


class Thumbnail(NamedTuple):
    """One sample as it is shown: the image, and below it the image with its mask.

    image   : numbers (h, w); its 0.5th percentile is black, its 99.5th is white
    labels  : integers (h, w): 0 nothing, k + 1 the colour of class k, 255 grey
    caption : text below both
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    caption: str


def as_html(
    text: str,
    thumbnails: Iterable[Thumbnail],
    classes: Sequence[str] = (),
    rows: Iterable[tuple[str, str]] = (),
) -> str:
    """Return HTML: a text, and below it a table, samples and the classes' colours.

    rows : of the table, a name and a text each

    Text, captions, classes and rows are plain text, from anywhere.
    """
    cells = "".join(
        f'<tr><th style="text-align: left">{_plain(name)}</th>'
        f'<td style="text-align: left">{_plain(value)}</td></tr>'
        for name, value in rows
    )
    table = f"<table>{cells}</table>" if cells else ""
    figures = "".join(map(_figure, thumbnails))
    legend = "".join(
        f'<span style="margin-right: 1em"><span style="color: {colour_of(k)}">■</span> '
        f"{_plain(name)}</span>"
        for k, name in enumerate(classes)
    )
    return (
        f"<div><div><code>{_plain(text)}</code></div>{table}"
        f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{figures}</div>'
        f"<div>{legend}</div></div>"
    )


def thinning(shape: tuple[int, ...]) -> int:
    """Return the step between the rows and columns that are shown of an image."""
    return -(-max(shape) // SIDE) or 1


def join_regions(regions: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the labels, uint8 (h, w), of regions that may overlap.

    regions : (K, h, w), not 0 where class k is; 255 where that is not known

    The smallest region lies on top, so that one inside another stays visible.
    """
    labels = np.where((regions == IGNORED).any(axis=0), IGNORED, 0).astype(np.uint8)
    known = (regions != 0) & (regions != IGNORED)
    for k in np.argsort(-known.sum(axis=(1, 2)), kind="stable").tolist():
        labels[known[k]] = 1 + k % len(COLOURS)
    return labels


def _plain(text: str) -> str:
    import html  # takes longer than all of this module; most programs show nothing

    return html.escape(escaped(text))


def _figure(thumbnail: Thumbnail) -> str:
    height, width = thumbnail.image.shape
    step = thinning((height, width))
    grey = _grey(np.asarray(thumbnail.image)[::step, ::step])
    image = np.repeat(grey[..., None], 3, axis=2)
    pixels = np.concatenate([image, _overlaid(image, thumbnail.labels[::step, ::step])])
    data = b64encode(_png(pixels)).decode()
    shown = max(1, round(SIDE * width / max(height, width, 1)))
    return (
        f'<figure style="margin: 0"><img width="{shown}" '
        'style="image-rendering: pixelated" alt="image, and image with mask" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{_plain(thumbnail.caption)}</figcaption></figure>"
    )


def _grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return values from 0, black, to 1, white; black where there is no number."""
    values = image.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = np.percentile(values[finite], (0.5, 99.5))
    values[~finite] = low
    grey: NDArray[np.float64] = np.clip((values - low) / ((high - low) or 1), 0, 1)
    return grey


def _overlaid(image: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return an image, (h, w, 3), covered by the colours of its labels."""
    colours = np.array([*map(rgb_of, range(len(COLOURS)))])[(labels - 1) % len(COLOURS)]
    colours[labels == IGNORED] = IGNORED_RGB
    covered = (labels != 0)[..., None]
    overlaid: NDArray[np.float64] = np.where(
        covered, (1 - OPACITY) * image + OPACITY * colours, image
    )
    return overlaid


def _png(pixels: NDArray[np.float64]) -> bytes:
    """Return red, green and blue, each 0 to 1, (h, w, 3), as a PNG file."""
    height, width, _ = pixels.shape
    values = np.rint(pixels * 255).astype(np.uint8).reshape(height, 3 * width)
    # Each row begins with the number of its filter: none.
    rows = np.pad(values, ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
