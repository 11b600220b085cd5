"""From a store to batches.

schedule ──> base ──> batch_queue ──> workers ──> preprocessing ──> kernels
(orders)   (loader)    (buffers)                  (normalization, augmented)

loader         Loader: batches of the samples of a store
patches        PatchLoader: batches of patches of volumes
base           what all loaders do: iterate, resume, close
schedule       which samples come in which batch of which rank
orders         orders of samples as functions of (seed, epoch)
batches        how the arrays of a batch are unpacked and indexed
batch_queue    the queue of batches that threads fill (fastseg/threads.py)
buffers        memory for batches, reused when no array refers to it
format         BatchFormat: the options that say what a sample becomes
preprocessing  images and masks without augmentation
patch_preprocessing  the same for patches of volumes
augmented_patches    patches with augmentation
grids          their voxels, as stored or at a common spacing
placement      where patches lie in their volumes
neighbours     which slices lie beside a sample in its volume
normalization  stored values to network input
augmented      images and masks with augmentation
state          a loader's state, saved and resumed
stats          counts, times and the bottleneck of a loader
"""
