"""From a store to batches.

schedule ──> loader ──> batches ──> workers ──> preprocessing ──> kernels
(orders)                (buffers)               (normalization, augmented)

loader         the public iterator
schedule       which samples come in which batch of which rank
orders         orders of samples as functions of (seed, epoch)
batches        the queue of batches that threads fill (fastseg/threads.py)
buffers        memory for batches, reused when no array refers to it
preprocessing  options, images and masks without augmentation
normalization  stored values to network input
augmented      images and masks with augmentation
state          a loader's state, saved and resumed
stats          counts, times and the bottleneck of a loader
"""
