"""Train a small U-Net to outline the left ventricle: python examples/train_unet.py

Without a store, the script builds one of the sample data: four synthetic hearts, three
for training and one for validation. It takes less than a minute on two CPU cores. It
needs PyTorch (pip install torch), and matplotlib for --picture.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

import fastseg
from fastseg.torch import as_torch

SAMPLE_DATA = Path(__file__).parents[1] / "data" / "phantom"


class UNet(nn.Module):
    """Images (B, 1, h, w) to logits (B, h, w), for sides that are multiples of 4."""

    def __init__(self, width=8):
        super().__init__()
        self.fine = block(1, width)
        self.middle = block(width, 2 * width)
        self.coarse = block(2 * width, 4 * width)
        self.up_middle = block(4 * width + 2 * width, 2 * width)
        self.up_fine = block(2 * width + width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image):
        """Reduce the scale twice, then restore it, with skip connections."""
        fine = self.fine(image)
        middle = self.middle(max_pool2d(fine, 2))
        x = self.coarse(max_pool2d(middle, 2))
        x = self.up_middle(torch.cat([interpolate(x, scale_factor=2), middle], 1))
        x = self.up_fine(torch.cat([interpolate(x, scale_factor=2), fine], 1))
        return self.head(x)[:, 0]


def block(inputs, outputs):
    """Return two convolutions, each with normalization and ReLU."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1)]
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
def predict(model, batches):
    """Return the images, masks and predicted masks of all batches."""
    results = [(image, mask, model(image) > 0) for image, mask in batches]
    return [torch.cat(arrays) for arrays in zip(*results, strict=True)]


def draw(path, images, masks, predictions):
    """Save a picture of four samples: given outlines in green, predicted in red."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
    chosen = torch.linspace(0, len(images) - 1, 4).long()
    for axis, k in zip(axes, chosen, strict=True):
        axis.imshow(images[k, 0], cmap="gray")
        axis.contour(masks[k], [0.5], colors="lime")
        axis.contour(predictions[k], [0.5], colors="red", linestyles="dashed")
        axis.set(
            title=f"Dice {dice(masks[k], predictions[k]):.2f}", xticks=[], yticks=[]
        )
    figure.savefig(path)


def main():
    """Build a store if none is given, train, and print the Dice of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", help="built of the sample data by default")
    parser.add_argument("--label", default="icontour", help="class to learn")
    parser.add_argument("--size", type=int, default=96, help="side of the images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="file to save to after each epoch")
    parser.add_argument("--resume", help="checkpoint to continue from")
    parser.add_argument("--picture", help="file for a picture of predictions")
    args = parser.parse_args()

    folder = tempfile.TemporaryDirectory()
    if args.store is None:
        args.store = Path(folder.name) / "heart.h5"
        fastseg.build(fastseg.link(SAMPLE_DATA), args.store)
    store = fastseg.open(args.store)
    labelled = store.select(classes=args.label)
    parts = store.split({"train": 0.75, "val": 0.25}, indices=labelled, seed=args.seed)
    print(", ".join(f"{name}: {len(part)} samples" for name, part in parts.items()))
    options = {"batch_size": 4, "size": args.size, "masks": args.label}
    train_loader = fastseg.Loader(
        store, indices=parts["train"], seed=args.seed, augment="light", **options
    )
    val_loader = fastseg.Loader(store, indices=parts["val"], shuffle=False, **options)
    training, validation = as_torch(train_loader), as_torch(val_loader)

    torch.manual_seed(args.seed)
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    states = {"model": model, "optimizer": optimizer, "loader": training}
    if args.resume:
        for name, state in torch.load(args.resume).items():
            states[name].load_state_dict(state)

    for epoch in range(training.epoch, args.epochs):
        loss = train(model, optimizer, training)
        _, masks, predictions = predict(model, validation)
        score = dice(masks, predictions)
        print(f"epoch {epoch:2}: loss {loss:.4f}, Dice of {args.label} {score:.4f}")
        if args.checkpoint:
            saved = {name: state.state_dict() for name, state in states.items()}
            torch.save(saved, args.checkpoint)
    if args.picture:
        draw(args.picture, *predict(model, validation))


if __name__ == "__main__":
    main()
