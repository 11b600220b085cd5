"""Pictures of samples: image, mask and contours, or augmented versions.

samples ──> view, window ──> panels ──┐
titles ───────────────────────────────┴──> layout ──> picture ──> files

picture  `show`: checks its options, draws the samples and writes the picture
samples  which samples are drawn
view     which contours and which part of an image are shown
window   which image values are black and white
panels   the panels of a sample: image, mask and both, or augmented versions
titles   what is written above them
layout   where the blocks and the legend lie; a block has the panels of a sample
style    colours, lines and sizes of letters
files    formats, and how a later call recognises its own pictures
"""
