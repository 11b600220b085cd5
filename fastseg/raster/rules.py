"""The rules of filling: which pixels belong to a region."""

from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fastseg._kernels.contours.polygon import Rule
from fastseg.choices import Edges, Fill, Origin
from fastseg.errors import choice

EDGES = get_args(Edges)
FILLS = get_args(Fill)
ORIGINS = get_args(Origin)
# A kernel holds winding numbers of at most this many pixels, and so fills a larger
# mask in bands of rows.
WINDING_CELLS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which pixels belong to a region.

    edges  : "half-open" centres on a top or left edge are inside, on a bottom or right
                         edge outside: each pixel on an edge that two regions share
                         belongs to one of them
             "closed"    centres on the outline are inside (DICOM PS3.3 C.8.8.6.3)
             "open"      centres on the outline are outside
    fill   : "even-odd"  points that an odd number of rings surrounds are inside
             "nonzero"   points whose winding number is not 0 are inside
             "union"     points inside any ring are inside; a ring that crosses itself
                         is filled "even-odd"
    origin : "center"    pixel [r, c] has its centre at (x=c, y=r), as in DICOM
             "corner"    pixel [r, c] spans [c, c+1] x [r, r+1]

    Rings come in groups. `edges` and `fill` hold within each group, and what is inside
    any group is inside. By default all rings are one group; with "union" each ring is a
    group of its own, and in groups that are given, it means "even-odd".

    Raises OptionError for anything else.
    """

    edges: Edges = "half-open"
    fill: Fill = "even-odd"
    origin: Origin = "center"

    def __post_init__(self) -> None:
        for name, allowed in (("edges", EDGES), ("fill", FILLS), ("origin", ORIGINS)):
            choice(name, getattr(self, name), allowed)

    @property
    def shift(self) -> float:
        """Both coordinates of the centre of pixel [0, 0]."""
        return 0.5 if self.origin == "corner" else 0.0

    def kernel_rule(self, height: int, width: int) -> Rule | None:
        """Return what kernels that fill masks of this size take as `rule`."""
        nonzero = self.fill == "nonzero"
        if self.edges == "half-open" and not nonzero:
            return None
        rows = height
        if nonzero:
            rows = min(height, max(1, WINDING_CELLS // (width + 1)))
        return Rule(EDGES.index(self.edges), nonzero, rows)

    def groups(self, count: int) -> NDArray[np.int64] | None:
        """Return the groups of `count` rings by default; None is one group of all."""
        return np.arange(count, dtype=np.int64) if self.fill == "union" else None


def make_rules(edges: Edges, fill: Fill, origin: Origin) -> Rules:
    """Return Rules from a cache, so that a loop of calls checks its options once."""
    try:
        return _cached_rules(edges, fill, origin)
    except TypeError:  # a value without a hash, which Rules refuses
        return Rules(edges=edges, fill=fill, origin=origin)


@cache
def _cached_rules(edges: Edges, fill: Fill, origin: Origin) -> Rules:
    return Rules(edges=edges, fill=fill, origin=origin)
