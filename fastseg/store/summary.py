"""What a store holds, in numbers: the content of `fastseg info`."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastseg.store.selection import has_class

if TYPE_CHECKING:
    from fastseg.store.reader import Store


def summarize(store: "Store") -> dict[str, Any]:
    """Return what a store holds; see `Store.summary`."""
    items = store.items
    buckets = []
    order = items["bucket"].argsort(kind="stable")
    start = 0
    counts = np.bincount(items["bucket"], minlength=len(store.buckets))
    for (name, bucket), count in zip(
        store.buckets.items(), counts.tolist(), strict=True
    ):
        members = order[start : start + count]
        start += count
        values = np.append(items["min"][members], items["max"][members])
        entry = {
            "name": name,
            "shape": list(bucket.shape),
            "dtype": str(bucket.dtype),
            "samples": count,
            "values": _range(values),
            "spacing_mm": _range(items["spacing_mm"][members]),
        }
        buckets.append(entry)
    classes = []
    for k, name in enumerate(store.classes):
        labelled = has_class(items["labelled"], k)
        count = int(labelled.sum())
        area = float(items["pixels"][labelled, k].mean()) if count else None
        entry = {"name": name, "bit": k, "samples": count, "mean_pixels": area}
        classes.append(entry)
    return {
        "path": str(store.path),
        "bytes": store.path.stat().st_size,
        "samples": len(store),
        "patients": len(store.patients),
        "source_files": len(store.sources["path"]),
        "compression": store.compression,
        "compression_ratio": store.compression_ratio,
        "options": dict(store.options),
        "software": dict(store.software),
        "fingerprint": store.fingerprint,
        "buckets": buckets,
        "classes": classes,
    }


def _range(values: NDArray[np.float64]) -> list[float] | None:
    """Return the least and the greatest of some numbers; None if all are unknown."""
    known = values[np.isfinite(values)]
    return [float(known.min()), float(known.max())] if len(known) else None
