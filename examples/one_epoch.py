"""One epoch of batches from a store: python examples/one_epoch.py heart.h5."""

import sys
import time

import fastseg

store = fastseg.open(sys.argv[1])
# Some classes are outlined on some images only; missing="ignore" would mark the pixels
# where they could be with 255.
loader = fastseg.Loader(store, batch_size=8, size=96, missing="background")
print(loader.store)

for batch in loader:  # the very first batch on a machine waits for a compiler
    labelled = (batch.mask > 0).mean()
    print(
        f"image {batch.image.dtype} {batch.image.shape}, "
        f"mask {batch.mask.dtype} {batch.mask.shape}, {labelled:.1%} labelled"
    )

start = time.perf_counter()
samples = sum(len(batch) for _ in range(50) for batch in loader)
print(f"{samples / (time.perf_counter() - start):,.0f} samples/s over 50 epochs")
