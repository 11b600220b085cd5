"""From a links table to a store.

links ──> plan ──> blocks ──> annotations, images ──> items ──> store.writing

builder      `build`: runs these steps in order
request      what is asked of a build, checked
left_out     leaves out images that a table of findings names
plan         which images are built, and their rows in the store
block        neighbouring images that are built together
annotations  the contours of a block: files to rings
images       the images of a block: files to pixels, measures and metadata
items        the items of a block: draws masks, and makes records
parts        builds by parts, on many machines
executors    builds by parts on processes, or on a cluster of Dask
plan_folder  the folder of a plan that they share
part_journal what a process has made of it
report       counts what was built, reused and rejected
"""
