"""All rules, in the order in which they are asked and listed."""

from collections.abc import Mapping
from types import MappingProxyType

from fastseg.quality import (
    along_volumes,
    class_relations,
    duplicates,
    image_values,
    missing_labels,
    outliers,
    pixel_grid,
    shape,
    splits,
)
from fastseg.quality.rule import Rule

# Each module of rules has its classes here.
_ALL: tuple[type[Rule], ...] = (
    *duplicates.RULES,
    *class_relations.RULES,
    *shape.RULES,
    *pixel_grid.RULES,
    *along_volumes.RULES,
    *outliers.RULES,
    *missing_labels.RULES,
    *image_values.RULES,
    *splits.RULES,
)

RULES: Mapping[str, type[Rule]] = MappingProxyType({rule.name: rule for rule in _ALL})
