"""From a store to batches.

schedule ──> loader ──> batches ──> workers ──> preprocessing ──> kernels
(orders)                (buffers)               (normalization, augmented, mapping)

loader         the public iterator
schedule       which samples come in which batch of which rank
orders         orders of samples, functions of (seed, epoch)
batches        batches that are being made, in their order
workers        the threads that make them
buffers        memory for batches, used again when nothing refers to it
preprocessing  what a sample becomes, and how
normalization  stored values to network input
augmented      the same, with augmentation
mapping        all geometric transforms of a sample as one mapping
state          where a loader stands, to be resumed
stats          what a loader has done, and what held it up
"""
