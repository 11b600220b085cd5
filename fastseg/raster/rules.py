"""What belongs to a region: the rules of filling."""

from dataclasses import dataclass
from functools import cache

from fastseg.errors import OptionError, one_of

EDGES = ("half-open", "closed", "open")
FILLS = ("even-odd", "nonzero")
ORIGINS = ("center", "corner")
# Winding numbers are kept for so many pixels at a time; larger masks go by bands.
WINDING_CELLS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What belongs to a region.

    edges  : "half-open" centres on a top or left edge are in, on a bottom or right
                         edge out: regions that share an edge own each pixel once
             "closed"    all centres on the outline are in (DICOM PS3.3 C.8.8.6.3)
             "open"      none is
    fill   : "even-odd"  what an odd number of rings surrounds
             "nonzero"   what rings wind around, however often
    origin : "center"    pixel [r, c] has its centre at (x=c, y=r), as in DICOM
             "corner"    it spans [c, c+1] x [r, r+1]

    Raises OptionError for anything else.
    """

    edges: str = "half-open"
    fill: str = "even-odd"
    origin: str = "center"

    def __post_init__(self) -> None:
        for name, allowed in (("edges", EDGES), ("fill", FILLS), ("origin", ORIGINS)):
            if getattr(self, name) not in allowed:
                raise OptionError(one_of(name, getattr(self, name), allowed))

    @property
    def edges_code(self) -> int:
        """The rule for edges as `_kernels.contours.polygon` numbers it."""
        return EDGES.index(self.edges)

    @property
    def shift(self) -> float:
        """Where the first pixel has its centre, in both coordinates."""
        return 0.5 if self.origin == "corner" else 0.0


@cache
def make_rules(edges: str, fill: str, origin: str) -> Rules:
    """Return Rules; each choice is checked once, not in every call of a loop."""
    return Rules(edges=edges, fill=fill, origin=origin)


def scratch_rows(height: int, width: int, rules: Rules) -> int:
    """Return how many rows to fill at a time."""
    if rules.fill == "even-odd":
        return height
    return min(height, max(1, WINDING_CELLS // (width + 1)))
