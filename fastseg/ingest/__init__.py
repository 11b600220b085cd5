"""From a links table to a store.

links ──> images ──> plan ──> blocks ──> fast_path or item ──> store.writing

builder    `build`: runs the steps, and keeps account of what came of them
images     the links of each image
plan       which images are built, and where each stands in the store
fast_path  the items of a block that are as nearly all are, by compiled code
item       any item, one by one
"""
