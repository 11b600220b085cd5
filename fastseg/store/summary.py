"""What a store holds, in numbers: the content of `fastseg info`."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastseg import geometry
from fastseg.reprs import MOST_COUNTED
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
    return {
        "path": str(store.path),
        "bytes": sum(path.stat().st_size for path in store.paths),
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
        "volumes": _volumes(store),
    }


def _volumes(store: "Store") -> dict[str, Any]:
    """Return what there is to say of all volumes, and of the samples in none."""
    items = store.items
    volumes = store.tables["volumes"]
    first = volumes["first"]
    counts = np.bincount(items["bucket"][first], minlength=len(store.buckets)).tolist()
    buckets = zip(store.buckets.values(), counts, strict=True)
    # Once each: buckets of one shape differ in their dtype.
    shapes = dict.fromkeys(bucket.shape for bucket, count in buckets if count)
    return {
        "count": len(first),
        "samples": int(volumes["slices"].sum()),
        "slices": _range(volumes["slices"]),
        "shapes": list(map(list, shapes)),
        "spacing_mm": _range(volumes["spacing_mm"]),
        "pixel_spacing_mm": _range(items["spacing_mm"][first]),
        "in_none": _why_in_none(store),
    }


def _why_in_none(store: "Store") -> list[dict[str, Any]] | None:
    """Return the rules that keep samples out of volumes, and how many samples each.

    None if it would take long to find out.
    """
    items = store.items
    is_in_none = items["volume"] < 0
    # Series as a build sees them: of files without a SeriesInstanceUID, each is one.
    has_uid = items["series"] != b""
    uids, series = distinct(items["series"])
    patients, patient = distinct(items["patient"])
    keys, group = distinct(
        np.where(
            has_uid,
            patient * len(uids) + series,
            len(patients) * len(uids) + items["source"],
        )
    )
    is_searched = np.zeros(len(keys), bool)
    is_searched[group[is_in_none]] = True
    searched = np.flatnonzero(is_searched[group])
    if len(searched) > MOST_COUNTED:
        return None
    rules = geometry.broken_rules(
        origins=items["origin_mm"][searched],
        directions=items["directions"][searched],
        spacings_mm=items["spacing_mm"][searched],
        thicknesses_mm=items["slice_thickness_mm"][searched],
        kinds=group[searched] * len(store.buckets) + items["bucket"][searched],
        times=items["time"][searched],
    )
    names = [
        "no series" if rule == "single" and not is_named else rule or "interleaved"
        for rule, is_named in zip(rules, has_uid[searched].tolist(), strict=True)
    ]
    counts = Counter(
        name
        for name, is_counted in zip(names, is_in_none[searched].tolist(), strict=True)
        if is_counted
    )
    return [
        {"name": name, "samples": count}
        for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


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
