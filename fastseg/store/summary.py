"""What a store holds, in numbers: the content of `fastseg info`."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastseg.store.selection import distinct, has_class
from fastseg.store.text import decode

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
    several = _count_several_rings(store)
    classes = []
    for k, name in enumerate(store.classes):
        labelled = has_class(items["labelled"], k)
        count = int(labelled.sum())
        area = float(items["pixels"][labelled, k].mean()) if count else None
        entry = {
            "name": name,
            "bit": k,
            "samples": count,
            "mean_pixels": area,
            "several_rings": several[k],
            "rule_dependent": int(has_class(items["rule_dependent"], k).sum()),
        }
        classes.append(entry)
    volumes = store.tables["volumes"]
    return {
        "path": str(store.path),
        "bytes": store.path.stat().st_size,
        "samples": len(store),
        "patients": len(store.patients),
        "series": int((distinct(items["series"])[0] != b"").sum()),
        "modalities": _modalities(store),
        "source_files": len(store.sources["path"]),
        "compression": store.compression,
        "compression_ratio": store.compression_ratio,
        "options": dict(store.options),
        "software": dict(store.software),
        "fingerprint": store.fingerprint,
        "buckets": buckets,
        "classes": classes,
        "volumes": {
            "count": len(volumes["first"]),
            "slices": _range(volumes["slices"]),
            "spacing_mm": _range(volumes["spacing_mm"]),
            "samples": int(volumes["slices"].sum()),
        },
    }


def _count_several_rings(store: "Store") -> list[int]:
    """Return on how many samples each class has several rings."""
    count = len(store.classes)
    pairs = store.contours["item"] * count + store.contours["class"]
    keys, rings = np.unique(pairs, return_counts=True)
    several = np.bincount(keys[rings > 1] % max(count, 1), minlength=count)
    return [*several.tolist()]


def _modalities(store: "Store") -> list[dict[str, Any]]:
    """Return name and number of samples of each modality; None for an unknown one."""
    keys, index = distinct(store.items["modality"])
    counts = np.bincount(index, minlength=len(keys)).tolist()
    return [
        {"name": name or None, "samples": count}
        for name, count in zip(decode(store, keys.tolist()), counts, strict=True)
    ]


def _range(values: NDArray[Any]) -> list[Any] | None:
    """Return the least and the greatest of some numbers; None if all are unknown."""
    known = values[np.isfinite(values)]
    return [known.min().item(), known.max().item()] if len(known) else None
