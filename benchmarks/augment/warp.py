"""Resampling beside OpenCV and scipy: microseconds per sample, one thread.

    python -m benchmarks.augment.warp [--rounds N]

A uint16 image of 256 x 256 becomes float32, resampled, scaled and clipped, and a uint8
mask takes nearest pixels. Each peer takes turns with ours, because the clock of a
shared machine changes from one second to the next; the table has medians (and
quartiles), and the median of the ratios within a turn. Each side's output is compared
with ours first. OpenCV has another cubic (Keys' kernel), and no displacement by
B-splines: there it is only timed. Needs scipy, and opencv-python-headless.
"""

import argparse
import time

import cv2
import numpy as np
from scipy import ndimage

from benchmarks.inputs import SIDE
from benchmarks.tables import spread, table_of
from fastseg._kernels.augment import batch
from fastseg._kernels.augment.intensity import PARAMETERS, Steps
from fastseg._kernels.augment.mapping import Affines, Displacements
from fastseg._kernels.augment.noise import Keys
from fastseg._kernels.augment.warp import CUBIC, Sampling
from fastseg.augment.mapping import MappingArrays

# Distance of control points, in pixels.
SPACING = 32.0
SHIFT, GAIN, LOW, HIGH = (np.float32(x) for x in (100, 0.01, -9, 99))
FIRST = np.array([0])
ONE_IMAGE = batch.PatchSlices(FIRST[:, None, None], np.zeros((1, 1), np.float32))
NO_STEPS = Steps(np.empty((1, 0), np.int64), np.empty((1, 0, PARAMETERS)), 0)
KEYS = Keys(0, np.zeros(1, np.uint64))
IDENTITY = np.eye(2, 3)
NO_FIELD = np.empty((0, 0, 2))
# Allowed difference of scaled values from 0 to 40: OpenCV rounds to 1/32 of a pixel.
AGREE = 0.5
# Fraction of pixels that may differ by more: at the border, OpenCV mixes with what is
# outside, and so do cubics' ties.
DIFFERING = 0.02


def smooth_image(random):
    """Return an image without noise, so that small errors of points stay small."""
    noise = ndimage.gaussian_filter(random.random((SIDE, SIDE)), 4, mode="wrap")
    noise = (noise - noise.min()) / np.ptp(noise)
    return (4000 * noise).astype(np.uint16)


def rotation(degrees, scale):
    """Return the matrix that turns and scales about the centre."""
    cos, sin = (scale * f(np.radians(degrees)) for f in (np.cos, np.sin))
    middle = (SIDE - 1) / 2
    turned = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turned, [middle, middle] - turned @ [middle, middle]])


def scaled(values):
    """Scale and clip resampled float32 values in place, as our kernels do."""
    values -= SHIFT
    values *= GAIN
    return np.clip(values, LOW, HIGH, out=values)


class Ours:
    """Our kernels with buffers, as a loader calls them."""

    def __init__(self, image, mask, mapping):
        self.images, self.masks, self.mapping = image[None], mask[None], mapping
        outer, control, spacing, inner = mapping
        displacements = Displacements(control[None], spacing) if control.size else None
        self.arrays = MappingArrays(Affines(outer[None], inner[None]), displacements)
        numbers = (SHIFT, GAIN, -SHIFT * GAIN)
        columns = (np.full((1, 1, 1), x, np.float32) for x in numbers)
        self.scalings = batch.Scalings(*columns, float(LOW), float(HIGH))
        self.out = np.empty((1, 1, SIDE, SIDE), np.float32)
        self.bits = np.empty((1, SIDE, SIDE), np.uint8)

    def draw(self, order, border=0):
        """Return the image, resampled and scaled."""
        arrays = self.arrays.with_displacements() if order == CUBIC else self.arrays
        batch.augment_images(
            self.images, ONE_IMAGE, *arrays, Sampling(order, border), self.scalings,
            NO_STEPS, KEYS, False, self.out,
        )  # fmt: skip
        return self.out[0, 0]

    def label(self):
        """Return the mask, resampled."""
        batch.warp_masks(self.masks, FIRST, *self.arrays, self.bits)
        return self.bits[0]


def points_of(mapping):
    """Return columns and rows, float64 (h, w), by scipy's own splines."""
    outer, control, spacing, inner = mapping
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    p = np.stack([m[0] * x + m[1] * y + m[2] for m in outer])
    if control.size:
        knots = p[::-1] / spacing + 1
        p = p + np.stack(
            [
                ndimage.map_coordinates(
                    control[..., k], knots, order=3, mode="nearest", prefilter=False
                )
                for k in range(2)
            ]
        )
    return np.stack([m[0] * p[0] + m[1] * p[1] + m[2] for m in inner])


def cases(random):
    """Yield (title, {side: function}); the first side is ours."""
    image = smooth_image(random)
    matrix = rotation(17, 1.0)
    mask = (image > 2000).astype(np.uint8)
    flat = Ours(image, mask, (matrix, NO_FIELD, 1.0, IDENTITY))
    control = random.uniform(-8, 8, (11, 11, 2))
    bent = Ours(image, mask, (IDENTITY, control, SPACING, matrix))
    size = SIDE, SIDE

    def cv_affine(source, flags):
        return cv2.warpAffine(source, matrix, size, flags=flags | cv2.WARP_INVERSE_MAP)

    def scipy_map(ours, source, order):
        x, y = points_of(ours.mapping)
        return ndimage.map_coordinates(
            source, [y, x], np.float32 if order else np.uint8, order, "constant"
        )

    def cv_bent(source, flags):
        # The field by OpenCV's cubic resize, the fastest way there.
        field = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
        return cv2.remap(source, grid_x + field[..., 0], grid_y + field[..., 1], flags)

    small = control.astype(np.float32)
    turned = points_of(flat.mapping).astype(np.float32)
    grid_x, grid_y = turned[0].copy(), turned[1].copy()
    for order, name, flags in (
        (1, "linear", cv2.INTER_LINEAR),
        (3, "cubic", cv2.INTER_CUBIC),
    ):
        yield (
            f"affine, {name}",
            {
                "fastseg": lambda order=order: flat.draw(order),
                "cv2": lambda f=flags: scaled(cv_affine(np.float32(image), f)),
                "scipy": lambda o=order: scaled(scipy_map(flat, np.float32(image), o)),
            },
        )
    yield (
        "affine, mask",
        {
            "fastseg": flat.label,
            "cv2": lambda: cv_affine(mask, cv2.INTER_NEAREST),
            "scipy": lambda: scipy_map(flat, mask, 0),
        },
    )
    for order, name, flags in (
        (1, "linear", cv2.INTER_LINEAR),
        (3, "cubic", cv2.INTER_CUBIC),
    ):
        yield (
            f"elastic, {name}",
            {
                "fastseg": lambda order=order: bent.draw(order),
                "cv2 (other field)": lambda f=flags: scaled(
                    cv_bent(np.float32(image), f)
                ),
                "scipy": lambda o=order: scaled(scipy_map(bent, np.float32(image), o)),
            },
        )
    yield (
        "elastic, mask",
        {
            "fastseg": bent.label,
            "cv2 (other field)": lambda: cv_bent(mask, cv2.INTER_NEAREST),
            "scipy": lambda: scipy_map(bent, mask, 0),
        },
    )
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    ring = 128 + 30 * np.column_stack([np.cos(angle), np.sin(angle)])
    ends = np.array([0, len(ring)])
    yield (
        "a contour of 80 vertices",
        {
            "fastseg, affine": lambda: flat.arrays.move_rings(ring, ends),
            "elastic": lambda: bent.arrays.move_rings(ring, ends),
        },
    )


def check(title, sides):
    """Compare the results of sides with ours, except for pixels at the border."""
    if "contour" in title:
        return
    ours = next(iter(sides.values()))().copy()
    for name, side in list(sides.items())[1:]:
        if "other" in name or ("cubic" in title and name == "cv2"):
            continue
        off = np.abs(side().astype(float) - ours)
        allowed = AGREE if ours.dtype == np.float32 else 0
        fraction = (off > allowed).mean()
        assert fraction < DIFFERING, (title, name, fraction)


def measure(ours, side, rounds):
    """Return microseconds of both, (2, rounds), taken in turns."""
    micros = np.empty((2, rounds))
    for turn in range(-1, rounds):  # the first one warms up
        for k, work in enumerate((ours, side)):
            start = time.perf_counter()
            work()
            if turn >= 0:
                micros[k, turn] = 1e6 * (time.perf_counter() - start)
    return micros


def rows_of(rounds):
    """Yield the rows of the table."""
    yield "work", "fastseg, µs", "beside", "µs", "times ours"
    for title, sides in cases(np.random.default_rng(0)):
        check(title, sides)
        (_, ours), *others = sides.items()
        for name, side in others:
            # scipy takes milliseconds: fewer rounds will do.
            micros = measure(ours, side, rounds // 10 if name == "scipy" else rounds)
            our_words, side_words = (spread(row, "{:.0f}") for row in micros)
            ratio = np.median(micros[1] / micros[0])
            yield title, our_words, name, side_words, f"{ratio:.2f}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    print(table_of(rows_of(rounds)))


if __name__ == "__main__":
    main()
