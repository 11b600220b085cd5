"""The report of `check`: one HTML file that needs nothing else, and asks nobody.

findings ──> panels ──> pictures ──┐
store ─────> dataset ──> plots ────┴──> page ──> files

page      `write_report`: orders findings, fills the templates, writes the page
panels    which pictures a finding has: samples, parts of their images
pictures  draws these: pixels, and contours as paths
dataset   the data set in numbers
plots     the data set as plots
files     how a later call recognises its own reports
templates HTML, CSS and the script of the page
"""
