"""The rim of a resampled image, and what lies around it."""

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg import Loader
from fastseg.augment import (
    BORDERS,
    Affine,
    Brightness,
    Compose,
    Crop,
    Elastic,
    Flip,
    Resample,
    Resize,
)
from tests.warp_reference import (
    COORDINATE_ERROR,
    MODES,
    apply,
    interpolate,
    output_to_image,
    pixel_centres,
    points_within,
    product,
    rotation,
)

ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
HEIGHT, WIDTH = SHAPE = 9, 12
SIZE = np.array([WIDTH, HEIGHT])
SPACING = 1.5
# Left, top, right and bottom of a rectangle for each class: the whole image, and one
# that reaches beyond it.
RECTANGLES = {
    "all": (-0.5, -0.5, WIDTH - 0.5, HEIGHT - 0.5),
    "beyond": (-7.2, 3.3, 5.4, 30.0),
}
# What the test computes in float64 is this exact, in pixels.
ROUNDING = 1e-9


def build(study, folder, images, rectangles, **elements):
    """Build a store of images, each with a class for each rectangle."""
    template = pydicom.dcmread(min(study.rglob("*.dcm")))
    template.PixelSpacing = [SPACING, SPACING]
    for name, value in elements.items():
        setattr(template, name, value)
    rows = ["patient,dicom_path,contour_path,label"]
    for name, (left, top, right, bottom) in rectangles.items():
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        text = "\n".join(f"{x} {y}" for x, y in corners)
        (folder / f"{name}.txt").write_text(text)
    for number, image in enumerate(images):
        template.Rows, template.Columns = image.shape
        template.BitsAllocated = template.BitsStored = 16
        template.HighBit = 15
        template.PixelRepresentation = int(image.dtype.kind == "i")
        template.PixelData = image.tobytes()
        template.InstanceNumber = number + 1
        template.SOPInstanceUID = f"1.2.3.{number + 1}"
        template.file_meta.MediaStorageSOPInstanceUID = template.SOPInstanceUID
        template.save_as(folder / f"{number}.dcm")
        rows += [f"p,{number}.dcm,{name}.txt,{name}" for name in rectangles]
    table = folder / "links.csv"
    table.write_text("\n".join(rows) + "\n")
    return fastseg.open(fastseg.build(table, folder / "s.h5").path)


@pytest.fixture(scope="module")
def noise_store(small_study, tmp_path_factory):
    """Two images of noise, with the classes of RECTANGLES."""
    random = np.random.default_rng(4)
    images = random.integers(100, 4000, (2, *SHAPE), np.uint16)
    folder = tmp_path_factory.mktemp("rim")
    return build(small_study, folder, images, RECTANGLES)


def scaling(factor_x, factor_y):
    """Return the matrix that keeps the outer edges of the image."""
    return np.array(
        [[factor_x, 0, (factor_x - 1) / 2], [0, factor_y, (factor_y - 1) / 2]]
    )


def about_centre(matrix):
    x, y = (SIZE - 1) / 2
    return product(rotation(0, 1, (x, y)), matrix, rotation(0, 1, (-x, -y)))


def resized(height, width):
    step = Resize(size=(height, width))
    return [step], (height, width), scaling(WIDTH / width, HEIGHT / height)


def turned(degrees, factor=1.0):
    step = Affine(rotate=(degrees, degrees), scale=factor)
    return [step], SHAPE, about_centre(rotation(degrees, 1 / factor))


# Transforms, the size of the batch, and the matrix from it to the image.
GEOMETRIES = {
    "twice": resized(2 * HEIGHT, 2 * WIDTH),
    "five times": resized(5 * HEIGHT, 5 * WIDTH),
    "fractions": resized(31, 17),
    "smaller": resized(4, 5),
    "spacing": (
        [Resample(spacing_mm=SPACING / 3)],
        (3 * HEIGHT, 3 * WIDTH),
        scaling(1 / 3, 1 / 3),
    ),
    "a little smaller": turned(0, 0.9999),
    "a little larger": turned(0, 1.0001),
    "a hundredth of a degree": turned(0.01),
    "tilted": turned(-23, 1.4),
    "quarter turn": turned(90),
    "half turn": turned(180),
    "half a pixel": (
        [Affine(translate_x=(0.5 / WIDTH, 0.5 / WIDTH))],
        SHAPE,
        rotation(0, 1, (-0.5, 0)),
    ),
    "half a pixel back": (
        [Affine(translate_y=(-0.5 / HEIGHT, -0.5 / HEIGHT))],
        SHAPE,
        rotation(0, 1, (0, 0.5)),
    ),
    "larger window": (
        [Resize(size=(2 * HEIGHT, 2 * WIDTH)), Crop(size=40, pad=True), Flip(p=1)],
        (40, 40),
        product(
            scaling(1 / 2, 1 / 2),
            rotation(0, 1, (-(40 - 2 * WIDTH) // 2, -(40 - 2 * HEIGHT) // 2)),
            np.array([[-1, 0, 39], [0, 1, 0]]),
        ),
    ),
}
BENT = {
    "bent": ([Elastic(magnitude=2, spacing=6)], SHAPE),
    "bent and turned": (
        [Affine(rotate=(30, 30)), Elastic(magnitude=2, spacing=6), Resize(size=29)],
        (29, 29),
    ),
}


def mapped_points(name, loader, index):
    """Return the point of the image that each pixel of the batch shows, (n, 2)."""
    if name in GEOMETRIES:
        _, size, matrix = GEOMETRIES[name]
        return apply(matrix, pixel_centres(size))
    preprocessing = loader.preprocessing
    samples = np.array([index])
    drawn = preprocessing.draw(samples, 0)
    arrays = preprocessing.find_mappings(
        preprocessing.locate(samples, 0), drawn
    ).arrays(drawn.key)
    (outer, inner), (control, spacing) = arrays.with_displacements()
    mapping = outer[0], control[0], spacing, inner[0]
    return output_to_image(mapping, pixel_centres(preprocessing.size))


def is_near(values, ends, gap):
    """Return which points have a coordinate within a gap of one of two ends, (n,)."""
    near = [np.abs(values - np.array(end)) < gap for end in ends]
    return np.any(near, axis=(0, 2))


@pytest.mark.parametrize("name", [*GEOMETRIES, *BENT])
@pytest.mark.parametrize("labels", ["exact", "nearest"])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("interpolation", ORDERS)
def test_the_rim_shows_the_nearest_pixels(
    noise_store, interpolation, border, labels, name
):
    """Image and labels reach half a pixel beyond pixel centres, then padding begins."""
    steps, size = {**GEOMETRIES, **BENT}[name][:2]
    compose = Compose(steps, interpolation, border)
    options = {"size": size, "batch_size": 1, "masks": "bits", "shuffle": False}
    loader = Loader(noise_store, augment=compose, labels=labels, **options)
    order, mode = ORDERS[interpolation], MODES[BORDERS.index(border)]
    for batch in loader:
        (index,) = batch.index.tolist()
        image = noise_store[index].image.astype(float)
        points = mapped_points(name, loader, index)
        # A displacement is float32 in the kernel; else the edge itself is tested.
        ends = (-0.5, -0.5), SIZE - 0.5
        at_edge = is_near(points, ends, COORDINATE_ERROR if name in BENT else 0)
        inside = (np.abs(points - (SIZE - 1) / 2) <= SIZE / 2 + ROUNDING).all(axis=1)
        assert inside.any()

        within = points_within(points, SIZE, mode)
        expected = interpolate(image, within, order, mode)
        if border == "constant":
            expected[~inside] = image.min()
        expected = (expected - image.mean()) / image.std()
        doubtful = at_edge if border == "constant" else np.zeros(len(points), bool)
        if order == 0:
            doubtful = doubtful | is_tie(within)
        error = np.abs(batch.image.ravel() - expected)
        assert error[~doubtful].max(initial=0) < 3e-4

        nearest = np.clip(points, 0, SIZE - 1)
        for bit, class_name in enumerate(noise_store.classes):
            left, top, right, bottom = RECTANGLES[class_name]
            if labels == "exact":
                shown = points
                ends = (left, top), (right, bottom)
                # The outline goes through the kernel in float64.
                doubtful = at_edge | is_near(
                    points, ends, 1e-2 if name in BENT else 1e-6
                )
            else:
                shown = np.floor(nearest + 0.5)
                doubtful = at_edge | is_tie(nearest)
            covered = (shown >= (left, top)) & (shown < (right, bottom))
            expected = covered.all(axis=1) & inside
            actual = (batch.mask.ravel() >> bit) & 1
            assert_array_equal(actual[~doubtful], expected[~doubtful])


def is_tie(points):
    """Return which points are about as near to one pixel as to the next, (n,)."""
    return (np.abs(points - np.floor(points) - 0.5) < COORDINATE_ERROR).any(axis=1)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_constant_image_stays_constant(small_study, tmp_path, name):
    """Where points are in an image of 1000s, it and its label show no padding."""
    images = [np.full(SHAPE, 1000, np.uint16)]
    store = build(small_study, tmp_path, images, {"all": RECTANGLES["all"]})
    steps, size, matrix = GEOMETRIES[name]
    options = {"normalize": None, "pad_value": -5000.0, "masks": "all", "size": size}
    points = apply(matrix, pixel_centres(size))
    inside = (np.abs(points - (SIZE - 1) / 2) <= SIZE / 2 + ROUNDING).all(axis=1)
    for interpolation in ORDERS:
        compose = Compose(steps, interpolation)
        loader = Loader(
            store, augment=compose, labels="nearest", batch_size=1, **options
        )
        batch = next(iter(loader))
        expected = np.where(inside, 1000, -5000)
        assert_allclose(batch.image.ravel(), expected, rtol=1e-6)
        assert_array_equal(batch.mask.ravel(), inside)


# The value of the darkest pixel, of the image values.
DARKEST = {
    "zscore": lambda image: (image.min() - image.mean()) / image.std(),
    "percentile": lambda image: 0,
    "window": lambda image: 0.1,
    None: lambda image: image.min(),
}


@pytest.mark.parametrize("normalize", DARKEST)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_has_the_least_value_of_its_image(
    small_study, tmp_path, photometric, normalize
):
    """Around each image lies its darkest pixel, with and without augmentation."""
    random = np.random.default_rng(9)
    images = [
        random.integers(150, 4000, (8, 7), np.uint16),
        random.integers(2000, 3000, (5, 10), np.uint16),
    ]
    for image in images:
        image[2, 3:5] = 100, 5000
    store = build(
        small_study,
        tmp_path,
        images,
        {"all": RECTANGLES["all"]},
        PhotometricInterpretation=photometric,
        RescaleSlope="2",
        RescaleIntercept="-300",
    )
    # The window has the least value of both images at a tenth of its height.
    slope, intercept = (store.items[name] for name in ("slope", "intercept"))
    assert ((slope < 0) == (photometric == "MONOCHROME1")).all()
    values = [store[k].image * slope[k] + intercept[k] for k in range(2)]
    window = values[0].min() - 199.5 + 1000, 2001
    store._items = {**store.items, "window": np.array([window, window])}
    size = 12, 14
    options = {"shuffle": False, "size": size, "batch_size": 2, "masks": "bits"}
    scaled = {**options, "normalize": normalize}
    changes = [Affine(), Brightness(add=(3, 3))]
    plain, half, moved, fixed, stored = (
        next(iter(loader))
        for loader in (
            Loader(store, **scaled),
            Loader(store, dtype="float16", **scaled),
            Loader(store, augment=changes, **scaled),
            Loader(store, pad_value=0.25, **scaled),
            Loader(store, dtype="raw", **options),
        )
    )
    with np.errstate(over="ignore"):
        assert_array_equal(half.image, plain.image.astype(np.float16))
    assert_array_equal(moved.image, plain.image + np.float32(3))
    for k, image in enumerate(values):
        around = np.ones(size, bool)
        top, left = ((a - b) // 2 for a, b in zip(size, image.shape, strict=True))
        around[top : top + image.shape[0], left : left + image.shape[1]] = False
        padding = plain.image[k, 0][around]
        assert_allclose(padding, DARKEST[normalize](image), rtol=1e-4)
        # Exactly what the darkest pixel becomes.
        assert (padding == plain.image[k].min()).all()
        assert (fixed.image[k, 0][around] == 0.25).all()
        darkest = store[k].image.flat[image.argmin()]
        assert (stored.image[k, 0][around] == darkest).all()
        assert not plain.mask[k][around].any()


def test_raw_padding_ignores_images_of_other_dtypes(small_study, tmp_path):
    """The least value of an image that is not loaded may not fit into the batch."""
    images = [np.full((4, 4), 60000, np.uint16), np.full((4, 4), -9, np.int16)]
    store = build(small_study, tmp_path, images, {"all": RECTANGLES["all"]})
    for index, image in zip(store.select(), images, strict=True):
        loader = Loader(
            store, indices=[index], dtype="raw", size=6, batch_size=1, masks="bits"
        )
        batch = next(iter(loader))
        assert batch.image.dtype == image.dtype
        assert (batch.image == image[0, 0]).all()
