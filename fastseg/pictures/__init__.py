"""Pictures: image, mask and contours of samples, augmented versions, volumes.

samples, planes ──> view, window ──> panels ──┐
titles ───────────────────────────────────────┴──> layout ──> picture ──> files

picture  `show`: checks its options, draws the samples and writes the picture
samples  which samples are drawn
planes   the orthogonal planes of a volume, with outlines
view     which contours and which part of an image are shown
window   which image values are black and white
panels   the panels: image, mask and both, augmented versions, or planes
titles   what is written above them
layout   where the blocks and the legend lie; a block is a sample or a volume
style    colours, lines and sizes of letters
files    formats, and how a later call recognises its own pictures
"""
