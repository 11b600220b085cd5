"""Strings of a store's columns as Python texts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fastseg.errors import StoreError
from fastseg.store import layout

if TYPE_CHECKING:
    from fastseg.store.reader import Store


def decode(store: "Store", values: Iterable[bytes]) -> list[str]:
    """Return strings of the store's columns as texts.

    Raises StoreError that names the column and the sample if one is not UTF-8.
    """
    texts = []
    for value in values:
        try:
            texts.append(bytes(value).decode())
        except UnicodeDecodeError:
            raise StoreError(
                f"{store.path}: {_where(store, value)} is not UTF-8; the file is "
                "damaged or was changed: build it again"
            ) from None
    return texts


def _where(store: "Store", value: bytes) -> str:
    """Return the column that has a value, and its sample."""
    for name in layout.STRING_COLUMNS:
        samples = np.flatnonzero(store.items[name] == value)
        if len(samples):
            return f"items/{name} of sample {samples[0]}"
    rows = np.flatnonzero(store.sources["path"] == value)
    samples = np.flatnonzero(np.isin(store.items["source"], rows))
    if len(samples):
        return f"sources/path of sample {samples[0]}"
    if len(rows):
        return f"sources/path of file {rows[0]}"
    volumes = store.tables["volumes"]
    name = "patient" if (volumes["patient"] == value).any() else "series"
    return f"volumes/{name} of volume {np.flatnonzero(volumes[name] == value)[0]}"
