"""Medical images and hand-drawn contours into training batches.

    DICOM files ─┐
                 ├─ link ──> links.csv ── build ──> store.h5 ── Loader ──> batches
    contours ────┘

The public names below are imported when first used, so that `import fastseg`
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastseg.benchmark import BenchReport as BenchReport
    from fastseg.benchmark import bench as bench
    from fastseg.errors import FastsegError as FastsegError
    from fastseg.ingest.builder import BuildReport as BuildReport
    from fastseg.ingest.builder import build as build
    from fastseg.links import Link as Link
    from fastseg.links import LinkTable as LinkTable
    from fastseg.loading.batches import Batch as Batch
    from fastseg.loading.loader import Loader as Loader
    from fastseg.phantom import make_phantom as make_phantom
    from fastseg.pictures import show as show
    from fastseg.raster.area import coverage as coverage
    from fastseg.raster.distance import signed_distance as signed_distance
    from fastseg.raster.masks import rasterize as rasterize
    from fastseg.raster.masks import rasterize_batch as rasterize_batch
    from fastseg.raster.masks import rasterize_labels as rasterize_labels
    from fastseg.sources import link as link
    from fastseg.store.reader import Sample as Sample
    from fastseg.store.reader import Store as Store
    from fastseg.store.reader import open_store
    from fastseg.store.split_table import read_split as read_split
    from fastseg.store.split_table import write_split as write_split
    from fastseg.store.splits import check_split as check_split
    from fastseg.store.verify import VerifyReport as VerifyReport
    from fastseg.store.verify import verify as verify

    open = open_store

_HOME = {
    "Batch": "fastseg.loading.batches",
    "BenchReport": "fastseg.benchmark",
    "BuildReport": "fastseg.ingest.builder",
    "FastsegError": "fastseg.errors",
    "Link": "fastseg.links",
    "LinkTable": "fastseg.links",
    "Loader": "fastseg.loading.loader",
    "Sample": "fastseg.store.reader",
    "Store": "fastseg.store.reader",
    "VerifyReport": "fastseg.store.verify",
    "bench": "fastseg.benchmark",
    "build": "fastseg.ingest.builder",
    "coverage": "fastseg.raster.area",
    "link": "fastseg.sources",
    "open": "fastseg.store.reader",
    "make_phantom": "fastseg.phantom",
    "check_split": "fastseg.store.splits",
    "rasterize": "fastseg.raster.masks",
    "rasterize_batch": "fastseg.raster.masks",
    "rasterize_labels": "fastseg.raster.masks",
    "read_split": "fastseg.store.split_table",
    "show": "fastseg.pictures",
    "signed_distance": "fastseg.raster.distance",
    "verify": "fastseg.store.verify",
    "write_split": "fastseg.store.split_table",
}
_NAME_THERE = {"open": "open_store"}
_ROOMS = ("augment", "dicom", "errors")
# Not in __all__, so that a star import, or help(), works where their extra is missing.
_OPTIONAL_ROOMS = ("torch",)

__all__ = ["__version__", *_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS or name in _OPTIONAL_ROOMS:
        return import_module(f"fastseg.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), _NAME_THERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
