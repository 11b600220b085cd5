"""Train a small 3-D U-Net to outline an organ: python examples/train_unet3d.py

Without a store, the script builds one of the sample data: three synthetic CTs of the
chest, two for training and one for validation. It takes less than two minutes on two
CPU cores. It needs PyTorch (pip install torch).
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool3d

import fastseg
from fastseg.torch import as_torch

DATA = Path(__file__).parents[1] / "data"
# Slices are thick: the network halves rows and columns, and slices only once.
POOLS = (1, 2, 2), (2, 2, 2)


class UNet(nn.Module):
    """Images (B, 1, d, h, w) to logits (B, d, h, w), for d even, h and w fourfold."""

    def __init__(self, width=8):
        super().__init__()
        self.fine = block(1, width)
        self.middle = block(width, 2 * width)
        self.coarse = block(2 * width, 4 * width)
        self.up_middle = block(4 * width + 2 * width, 2 * width)
        self.up_fine = block(2 * width + width, width)
        self.head = nn.Conv3d(width, 1, 1)

    def forward(self, image):
        """Reduce the scale twice, then restore it, with skip connections."""
        first, second = POOLS
        fine = self.fine(image)
        middle = self.middle(max_pool3d(fine, first))
        x = self.coarse(max_pool3d(middle, second))
        x = torch.cat([interpolate(x, scale_factor=second), middle], 1)
        x = torch.cat([interpolate(self.up_middle(x), scale_factor=first), fine], 1)
        return self.head(self.up_fine(x))[:, 0]


def block(inputs, outputs):
    """Return two convolutions, each with normalization and ReLU."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv3d(channels, outputs, 3, padding=1)]
        layers += [nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def dice(mask, prediction):
    """Return the Dice coefficient: 1 for equal masks, 0 for disjoint ones."""
    return 2 * (mask * prediction).sum() / (mask.sum() + prediction.sum()).clamp(min=1)


def train(model, optimizer, batches):
    """Train for an epoch and return its mean loss."""
    total = 0.0
    for image, mask in batches:
        loss = 1 - dice(mask, model(image).sigmoid())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


@torch.no_grad()
def predict(model, image, patch):
    """Return the predicted mask (D, H, W) of an image (1, D, H, W), in windows."""
    windows = fastseg.windows(image, patch, overlap=0.5)
    batches = map(torch.from_numpy, windows.batches(4))
    # One channel, the logits of the class.
    logits = fastseg.stitch(windows, (model(batch)[:, None] for batch in batches))
    return torch.from_numpy(logits[0] > 0)


def main():
    """Build a store if none is given, train, and print the Dice of whole volumes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", help="built of the sample data by default")
    parser.add_argument("--label", default="heart", help="class to learn")
    parser.add_argument("--patch", type=int, nargs=3, default=(8, 48, 48))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    folder = tempfile.TemporaryDirectory()
    if args.store is None:
        args.store = Path(folder.name) / "chest.h5"
        rois = DATA / "phantom_rt.toml"
        fastseg.build(fastseg.link(DATA / "phantom_rt", rois=rois), args.store)
    store = fastseg.open(args.store)
    whole = store.select(in_volume=True)
    parts = store.split({"train": 0.67, "val": 0.33}, indices=whole, seed=args.seed)
    loader = fastseg.PatchLoader(
        store,
        args.patch,
        indices=parts["train"],
        per_volume=8,
        centred=0.5,
        masks=args.label,
        seed=args.seed,
    )
    # Whole volumes with the values that patches have.
    validation = fastseg.PatchLoader(
        store, args.patch, indices=parts["val"], masks=args.label
    )
    print(f"{len(loader.volumes)} volumes to train, {len(validation.volumes)} to test")

    torch.manual_seed(args.seed)
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = as_torch(loader)
    for epoch in range(args.epochs):
        loss = train(model, optimizer, batches)
        scores = []
        for volume in validation.volumes:
            image, mask = validation.load_volume(volume)
            prediction = predict(model, image, args.patch)
            scores.append(dice(torch.from_numpy(mask), prediction).item())
        score = sum(scores) / len(scores)
        print(f"epoch {epoch:2}: loss {loss:.4f}, Dice of {args.label} {score:.4f}")


if __name__ == "__main__":
    main()
