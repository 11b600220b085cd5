"""The data set in numbers: tiles and tables of the page."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.colours import COLOURS, colour_of
from fastseg.reprs import many, short
from fastseg.store.reader import Store
from fastseg.store.selection import distinct, has_class

# The percentiles of areas that stand in the table.
LOW, HIGH = 5, 95


class ClassRow(NamedTuple):
    """A class in the table of the page; texts but for `style`."""

    name: str
    colour: str
    style: int
    samples: str
    percent: str
    patients: str
    rings: str
    median: str
    range: str


class BucketRow(NamedTuple):
    """Images of one shape and dtype in the table of the page."""

    shape: str
    dtype: str
    values: str
    samples: str
    spacing: str


class Areas(NamedTuple):
    """The areas that classes cover on the samples where they are outlined.

    values : float64 (n,) of each class, in `unit`
    """

    values: list[NDArray[np.float64]]
    unit: str


def line_of(k: int) -> int:
    """Return the number of the line style of class k; colours repeat."""
    return k // len(COLOURS) % 4


def number(value: float) -> str:
    """Return a number with three digits, and no exponent if it is not huge."""
    if not np.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def count(value: int) -> str:
    """Return a whole number in groups of three digits."""
    return f"{value:,}".replace(",", " ")


def areas_of(store: Store) -> Areas:
    """Return the areas of each class: in mm², in pixels if a spacing is unknown."""
    items = store.items
    pixel_mm2 = items["spacing_mm"].prod(axis=1)
    is_known = np.isfinite(pixel_mm2) & (pixel_mm2 > 0)
    labelled = [has_class(items["labelled"], k) for k in range(len(store.classes))]
    # A few samples without a spacing are left out.
    is_in_mm = is_known.mean() > 0.5 if len(store) else False
    values = []
    for k, on in enumerate(labelled):
        chosen = on & is_known if is_in_mm else on
        factor = pixel_mm2[chosen] if is_in_mm else 1.0
        values.append(items["pixels"][chosen, k] * factor)
    return Areas(values, "mm²" if is_in_mm else "pixels")


def class_rows(store: Store) -> list[ClassRow]:
    """Return the table of classes."""
    items = store.items
    _, patient = distinct(items["patient"])
    rings = np.bincount(store.contours["class"], minlength=len(store.classes)).tolist()
    areas = areas_of(store)
    rows = []
    for k, name in enumerate(store.classes):
        on = has_class(items["labelled"], k)
        area = areas.values[k]
        low, middle, high = (
            np.percentile(area, (LOW, 50, HIGH)).tolist() if len(area) else [np.nan] * 3
        )
        samples = int(on.sum())
        rows.append(
            ClassRow(
                name=short(name),
                colour=colour_of(k),
                style=line_of(k),
                samples=count(samples),
                percent=percent(samples, len(store)),
                patients=count(len(set(patient[on].tolist()))),
                rings=count(rings[k]),
                median=f"{number(middle)} {areas.unit}",
                range=f"{number(low)} to {number(high)}",
            )
        )
    return rows


def percent(part: int, total: int) -> str:
    """Return a part in percent."""
    share = 100 * part / max(total, 1)
    return f"{share:.0f} %" if share >= 1 or not part else "< 1 %"


def tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the numbers at the top: name and value."""
    modalities = [entry["name"] or "unknown" for entry in summary["modalities"]]
    pairs = [
        ("patients", count(summary["patients"])),
        ("series", count(summary["series"])),
        ("volumes", count(summary["volumes"]["count"])),
        ("samples", count(summary["samples"])),
        ("classes", count(len(summary["classes"]))),
        ("modality", ", ".join(modalities[:3])),
        ("store", f"{summary['bytes'] / 1e6:,.0f} MB".replace(",", " ")),
    ]
    return [(name, value) for name, value in pairs if value and value != "0"]


def bucket_rows(summary: dict[str, Any]) -> list[BucketRow]:
    """Return the table of images."""
    rows = []
    for bucket in summary["buckets"]:
        height, width = bucket["shape"]
        rows.append(
            BucketRow(
                shape=f"{height} × {width}",
                dtype=bucket["dtype"],
                values=_range(bucket["values"]),
                samples=count(bucket["samples"]),
                spacing=_range(bucket["spacing_mm"]) or "unknown",
            )
        )
    return rows


def _range(pair: Any) -> str:
    """Return two numbers as a range."""
    if not pair:
        return ""
    low, high = pair
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def contents(store: Store) -> str:
    """Return what a store holds, in a phrase."""
    return f"{many(len(store), 'sample')} of {many(len(store.patients), 'patient')}"
