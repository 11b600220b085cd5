"""From a links table to a store.

links ──> images ──> plan ──> blocks ──> fast_path or item ──> store.writing

builder    `build`: runs these steps in order and reports the results
images     the links of each image
plan       which images are built, and their position in the store
fast_path  builds the usual items of a block, many in one call of compiled code
item       builds any item, one at a time, and says what is wrong with a bad one
"""
