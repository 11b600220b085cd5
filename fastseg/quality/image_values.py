"""Rules about images: constant ones, and those unlike the rest."""

from collections.abc import Iterator

import numpy as np

from fastseg.quality.facts import Facts
from fastseg.quality.findings import Finding
from fastseg.quality.rule import Rule


class ConstantImage(Rule):
    """A network learns from it that labels are where nothing is to be seen."""

    name = "constant-image"
    title = "An image of one value"
    severity = "error"
    needs = "images"

    def find(self, facts: Facts) -> Iterator[Finding]:
        """Return a finding for each image of one value."""
        items = facts.items
        for sample in np.flatnonzero(items["min"] == items["max"]).tolist():
            value = items["min"][sample]
            yield Finding(
                rule=self.name,
                severity=self.severity,
                text=f"All pixels have the stored value {value:g}.",
                samples=(sample,),
                amount=float(value),
                unit="stored value",
            )
