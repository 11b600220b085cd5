"""Medical images and hand-drawn contours into training batches.

    DICOM files ─┐
                 ├─ link ──> links.csv ── build ──> store.h5 ── Loader ──> batches
    contours ────┘

The public names are imported when they are first used, so that `import fastseg` is
fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastseg import augment as augment
    from fastseg import dicom as dicom
    from fastseg import errors as errors
    from fastseg import geometry as geometry
    from fastseg import torch as torch
    from fastseg.benchmark import BenchReport as BenchReport
    from fastseg.benchmark import bench as bench
    from fastseg.errors import FastsegError as FastsegError
    from fastseg.ingest.builder import build as build
    from fastseg.ingest.parts import PartReport as PartReport
    from fastseg.ingest.parts import build_part as build_part
    from fastseg.ingest.parts import finish_parts as finish_parts
    from fastseg.ingest.parts import plan_parts as plan_parts
    from fastseg.ingest.report import BuildReport as BuildReport
    from fastseg.links import Link as Link
    from fastseg.links import LinkTable as LinkTable
    from fastseg.loading.batches import Batch as Batch
    from fastseg.loading.loader import Loader as Loader
    from fastseg.loading.patches import PatchLoader as PatchLoader
    from fastseg.paths import StrPath
    from fastseg.phantom import make_phantom as make_phantom
    from fastseg.pictures.picture import show as show
    from fastseg.quality.check import check as check
    from fastseg.quality.findings import Finding as Finding
    from fastseg.quality.findings import Findings as Findings
    from fastseg.quality.findings_file import write_findings as write_findings
    from fastseg.raster.area import coverage as coverage
    from fastseg.raster.distance import signed_distance as signed_distance
    from fastseg.raster.masks import rasterize as rasterize
    from fastseg.raster.masks import rasterize_batch as rasterize_batch
    from fastseg.raster.masks import rasterize_labels as rasterize_labels
    from fastseg.sliding_windows import Window as Window
    from fastseg.sliding_windows import Windows as Windows
    from fastseg.sliding_windows import stitch as stitch
    from fastseg.sliding_windows import windows as windows
    from fastseg.sources import link as link
    from fastseg.sources.roi_list import RoiList as RoiList
    from fastseg.sources.rois import list_rois as list_rois
    from fastseg.store.concat import ConcatStore as ConcatStore
    from fastseg.store.concat import concat as concat
    from fastseg.store.reader import Sample as Sample
    from fastseg.store.reader import Store as Store
    from fastseg.store.split_table import check_split as check_split
    from fastseg.store.split_table import read_split as read_split
    from fastseg.store.split_table import write_split as write_split
    from fastseg.store.splits import hold_out as hold_out
    from fastseg.store.uploads import UploadReport as UploadReport
    from fastseg.store.uploads import upload as upload
    from fastseg.store.uploads import verify_upload as verify_upload
    from fastseg.store.verify import VerifyReport as VerifyReport
    from fastseg.store.verify import verify as verify
    from fastseg.store.volumes import Volume as Volume

    # The decorated function itself would be a cycle of types.
    def open(path: StrPath) -> Store:
        """See `store.reader.open_store`."""


_HOME = {
    "Batch": "fastseg.loading.batches",
    "BenchReport": "fastseg.benchmark",
    "BuildReport": "fastseg.ingest.report",
    "ConcatStore": "fastseg.store.concat",
    "FastsegError": "fastseg.errors",
    "Finding": "fastseg.quality.findings",
    "Findings": "fastseg.quality.findings",
    "Link": "fastseg.links",
    "LinkTable": "fastseg.links",
    "Loader": "fastseg.loading.loader",
    "PartReport": "fastseg.ingest.parts",
    "PatchLoader": "fastseg.loading.patches",
    "RoiList": "fastseg.sources.roi_list",
    "Sample": "fastseg.store.reader",
    "Store": "fastseg.store.reader",
    "UploadReport": "fastseg.store.uploads",
    "VerifyReport": "fastseg.store.verify",
    "Volume": "fastseg.store.volumes",
    "Window": "fastseg.sliding_windows",
    "Windows": "fastseg.sliding_windows",
    "bench": "fastseg.benchmark",
    "build": "fastseg.ingest.builder",
    "build_part": "fastseg.ingest.parts",
    "finish_parts": "fastseg.ingest.parts",
    "plan_parts": "fastseg.ingest.parts",
    "check": "fastseg.quality.check",
    "concat": "fastseg.store.concat",
    "coverage": "fastseg.raster.area",
    "hold_out": "fastseg.store.splits",
    "link": "fastseg.sources",
    "list_rois": "fastseg.sources.rois",
    "open": "fastseg.store.reader",
    "make_phantom": "fastseg.phantom",
    "check_split": "fastseg.store.split_table",
    "rasterize": "fastseg.raster.masks",
    "rasterize_batch": "fastseg.raster.masks",
    "rasterize_labels": "fastseg.raster.masks",
    "read_split": "fastseg.store.split_table",
    "show": "fastseg.pictures.picture",
    "signed_distance": "fastseg.raster.distance",
    "stitch": "fastseg.sliding_windows",
    "upload": "fastseg.store.uploads",
    "verify": "fastseg.store.verify",
    "verify_upload": "fastseg.store.uploads",
    "windows": "fastseg.sliding_windows",
    "write_findings": "fastseg.quality.findings_file",
    "write_split": "fastseg.store.split_table",
}
# The functions whose name in their module differs from the public one.
_NAME_THERE = {"open": "open_store"}
_MODULES = ("augment", "dicom", "errors", "geometry")
# Not in __all__, so that a star import and help() work without the optional package.
_OPTIONAL_MODULES = ("torch",)
_RENAMED = {"prove_split": "check_split"}
# What to write instead of names that other libraries have.
_ELSEWHERE = {
    "load": "fastseg.open",
    "read": "fastseg.open",
    "File": "fastseg.open",
    "load_store": "fastseg.open",
    "DataLoader": "fastseg.Loader, or fastseg.torch.Dataset with torch's DataLoader",
    "Dataset": "fastseg.torch.Dataset, or fastseg.Loader",
    "TorchLoader": "fastseg.torch.as_torch",
    "as_torch": "fastseg.torch.as_torch",
    "read_dicom": "fastseg.dicom.read_image",
    "read_image": "fastseg.dicom.read_image",
    "imread": "fastseg.dicom.read_image",
    "dcmread": "fastseg.dicom.read_image",
    "read_header": "fastseg.dicom.read_header",
    "Plane": "fastseg.geometry.Plane",
    "Compose": "fastseg.augment.Compose",
    "transforms": "fastseg.augment",
    "split": "the method split of a store, as in fastseg.open('heart.h5').split(...)",
    "train_test_split": "the method split of a store",
    "KFold": "the method split of a store",
    "info": "print(fastseg.open('heart.h5')), or `fastseg info` in a shell",
    "plot": "fastseg.show",
    "fillPoly": "fastseg.rasterize",
    "polygon2mask": "fastseg.rasterize",
    "draw_polygon": "fastseg.rasterize",
    "polygon_to_mask": "fastseg.rasterize",
    "distance_transform": "fastseg.signed_distance",
    "distance_transform_edt": "fastseg.signed_distance",
    "sliding_window_inference": "fastseg.windows, then fastseg.stitch",
    "SlidingWindowInferer": "fastseg.windows, then fastseg.stitch",
    "GridSampler": "fastseg.windows",
    "GridAggregator": "fastseg.stitch",
    "ConcatDataset": "fastseg.concat",
    "concatenate": "fastseg.concat",
    "write": "fastseg.build",
    "create": "fastseg.build",
    "convert": "fastseg.link, then fastseg.build",
    "phantom": "fastseg.make_phantom",
    **{
        name: f"fastseg.augment.{name}"
        for name in (
            *("Affine", "Crop", "Elastic", "Flip", "Resample", "Resize", "Rot90"),
            *("BiasField", "Blur", "Brightness", "Contrast", "Custom", "Gamma"),
            *("LowResolution", "Noise"),
        )
    },
}

__all__ = ["__version__", *_HOME, *_MODULES]

# Type checkers do not see this function, so that they find misspelt names.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _MODULES or name in _OPTIONAL_MODULES:
            return import_module(f"fastseg.{name}")
        if name in _RENAMED:
            raise AttributeError(
                f"fastseg.{name} was renamed: fastseg.{_RENAMED[name]}"
            )
        if name not in _HOME:
            from fastseg.calls import unknown_attribute

            raise unknown_attribute(__name__, name, __all__, _ELSEWHERE)
        value = getattr(import_module(_HOME[name]), _NAME_THERE.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
