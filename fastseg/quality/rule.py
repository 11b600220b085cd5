"""Rule: what finds one kind of fault, and the thresholds by which it does."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, dataclass_transform

from fastseg.choices import Severity
from fastseg.errors import OptionError, real_number
from fastseg.quality.facts import Facts, Needs
from fastseg.quality.findings import Finding

# Rules whose findings often follow from a contour that is wrong, for `explains`.
AGAINST_CLASSES = ("not-inside", "overlap")
ALONG_VOLUMES = (
    "area-jump",
    "centre-jump",
    "overlap-jump",
    "slices-swapped",
    "end-slice-unlike-rest",
    "time-jump",
)
AGAINST_THE_REST = (
    "area-unlike-others",
    "position-unlike-others",
    "intensity-unlike-others",
    "outline-unlike-others",
)


def threshold(default: float, unit: str, meaning: str, *, least: float = 0.0) -> Any:
    """Return a field of a rule: a number that the user may change.

    unit, meaning : in words, for lists of rules
    least         : the smallest value that makes sense
    """
    metadata = {"unit": unit, "meaning": meaning, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(threshold,)
)
class Rule(ABC):
    """A kind of fault; its docstring says what it costs to ignore it.

    name     : words with hyphens between them
    title    : what is found, as a heading
    severity : of most of its findings
    needs    : what a store must have, so that the rule can be asked
    explains : names of rules whose findings on the same samples and classes follow from
        one of this rule, see `fold`
    """

    name: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    needs: ClassVar[Needs]
    explains: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for field in thresholds_of(type(self)):
            name = f"{self.name}.{field.name}"
            value = real_number(name, getattr(self, field.name))
            least = field.metadata["least"]
            if value < least:
                raise OptionError(f"{name} is {value:g}, expected at least {least:g}")
            object.__setattr__(self, field.name, value)

    @abstractmethod
    def find(self, facts: Facts) -> Iterable[Finding]:
        """Return what is wrong, at most one finding for the same samples and classes.

        A fault that a contour has in several places is one finding with several points.
        """

    def why_not(self, facts: Facts) -> str:
        """Return why the rule cannot be asked about a store, "" if it can."""
        return facts.lacks(self.needs)


def thresholds_of(rule: type[Rule]) -> list["dataclasses.Field[Any]"]:
    """Return the fields of a rule that are thresholds."""
    fields = dataclasses.fields(rule)  # type: ignore[arg-type]
    return [field for field in fields if "least" in field.metadata]
