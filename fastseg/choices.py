"""The choices of options that the command line offers, too.

They stand here, and not where they are used, so that the command line lists and
completes them without importing numpy.
"""

from typing import Literal

# Which pixels belong to a region, see `raster.rules.Rules`.
Edges = Literal["half-open", "closed", "open"]
Fill = Literal["even-odd", "nonzero", "union"]
Origin = Literal["center", "corner"]
# Which images are linked: those with a contour, those of series that have one, or all.
Slices = Literal["labelled", "series", "all"]
# What a split keeps whole, and in what it makes the parts alike.
By = Literal["patient", "series", "volume", "sample"]
Stratify = Literal["classes", "shape"]
# The pixels and masks of a batch, see `Loader`; masks may also be a class.
DTypeName = Literal["float32", "float16", "raw"]
MaskForm = Literal["labels", "bits", "onehot"]
# The keys of `augment.PRESETS`.
Preset = Literal["light", "standard"]
# The values that are black and white in a picture, see `show`.
Window = Literal["auto", "header", "percentiles"]
# The keys of `_kernels.native.machine.LEVELS`.
Cpu = Literal["x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64"]
# The modules of `phantom` that draw a study.
PhantomKind = Literal["cine", "rtstruct", "faulty"]
# How sure a finding of `check` is to be a fault, the worst first.
Severity = Literal["error", "warning", "note"]
