"""Histograms of a store equal those that numpy makes of its images and masks."""

import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

import fastseg
from fastseg._kernels import jit
from fastseg._kernels.images import statistics
from fastseg.errors import StoreError
from fastseg.ingest.images import measure
from fastseg.ingest.items import count_classes
from fastseg.store import layout
from fastseg.store.histograms import decode_counts, read_histograms
from tests.series import table_of, write_image

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
# Of values and masks; each pair compiles a kernel.
DTYPES = [("<i2", "|u1"), ("<i4", "<u8"), ("<u2", "<u2"), ("<u4", "|u1")]
if not jit.INTERPRETED:  # pairs that no wheel has take long to compile
    DTYPES = DTYPES[:2]


def decoded(codes):
    """Return the counts of all bins from their codes, as `layout` describes them."""
    numbers = []
    shift = number = 0
    for code in codes.tolist():
        number |= (code & 127) << shift
        shift += 7
        if code < 128:
            numbers.append(number)
            shift = number = 0
    assert shift == 0
    counts = []
    given = iter(numbers)
    for number in given:
        counts += [0] * next(given) if number == 0 else [number]
    return counts


def check_histogram(values, pixels, numbers, moments, codes):
    """Compare a histogram with values; return how wide its bins are.

    pixels  : of its image
    numbers : least, width and count
    """
    least, width, count = numbers
    counts = decoded(codes)
    assert count == len(values) == sum(counts)
    assert counts[0]
    assert counts[-1]
    assert least % width == 0
    bins = values.astype(np.int64) // width - least // width
    assert_array_equal(np.bincount(bins), counts)
    wide = values.astype(np.longdouble)
    assert_allclose(moments, [wide.mean(), wide.std()], rtol=1e-9, atol=1e-7)
    if values.min() == values.max():
        assert moments[1] == 0
    assert len(counts) <= min(max(pixels // 64, 16), 1024)
    return width


def check_widths(values, pixels, width):
    """Check that bins of half the width would be too many."""
    halves = values.astype(np.int64) // max(width // 2, 1)
    is_narrowest = halves.max() - halves.min() >= min(max(pixels // 64, 16), 1024)
    assert width == 1 or is_narrowest


@pytest.mark.kernel
@given(st.data())
def test_kernels_count_what_numpy_counts(data):
    """Bins, moments and codes of images, of each class and of any class are right."""
    shape = data.draw(SIZES)
    dtype, mask_dtype = map(np.dtype, data.draw(st.sampled_from(DTYPES)))
    limits = np.iinfo(dtype)
    middle = data.draw(st.integers(limits.min, limits.max))
    spread = data.draw(st.sampled_from([0, 3, 200, 5000, 2**20, 2**32]))
    low, high = max(limits.min, middle - spread), min(limits.max, middle + spread)
    seed = data.draw(st.integers(0, 2**32))
    draw = np.random.default_rng(seed)
    images = draw.integers(low, high, (3, *shape), dtype, endpoint=True)
    masks = data.draw(arrays(mask_dtype, (2, *shape), fill=st.just(0)))
    # Up to 80 labels, of which the kernel counts SLOTS apart.
    masks |= draw.integers(0, data.draw(st.integers(1, 81)), masks.shape, mask_dtype)
    classes = 8 * mask_dtype.itemsize
    pixels = np.zeros((3, classes), np.int64)
    boxes = np.zeros((3, classes, 4), np.int64)
    labelled = statistics.LabelledImages(
        *(images.reshape(-1), np.arange(3) * images[0].nbytes),
        *(masks, np.array([1, -1, 0]), pixels, boxes),
    )
    most = np.array([classes, 0, classes])
    rows = count_classes(labelled, measure(images), np.arange(3), most)
    expected = []
    for j, mask in ((0, masks[1]), (1, None), (2, masks[0])):
        if mask is not None and mask.any():
            expected.append((j, -2, images[j][mask != 0]))
        expected.append((j, -1, images[j].reshape(-1)))
        for k in range(classes if mask is not None else 0):
            is_in = mask >> mask_dtype.type(k) & mask_dtype.type(1) != 0
            if is_in.any():
                expected.append((j, k, images[j][is_in]))
    assert rows.numbers[:, :2].tolist() == [[j, kind] for j, kind, _ in expected]
    areas = {(j, kind): len(values) for j, kind, values in expected}
    for j, k in np.ndindex(pixels.shape):
        assert pixels[j, k] == areas.get((j, k), 0)
    ends = np.cumsum(rows.numbers[:, -1])
    assert ends[-1] == len(rows.codes)
    codes = np.split(rows.codes, ends[:-1])
    area = shape[0] * shape[1]
    for (_, kind, values), numbers, moments, code in zip(
        expected, rows.numbers, rows.moments, codes, strict=True
    ):
        if kind == -1:
            moments = values.astype(np.longdouble)
            moments = moments.mean(), moments.std()
        width = check_histogram(values, area, numbers[2:5].tolist(), moments, code)
        if kind < 0:
            check_widths(values, area, width)


def check_store(store):
    """Compare all rows of /histograms with images and masks."""
    table = store.tables["histograms"]
    rows = iter(range(len(table["item"])))
    for k, sample in enumerate(store):
        image, mask = sample.image, sample.mask
        kinds = [("any", -2, image[mask != 0]), ("image", -1, image.reshape(-1))]
        kinds += [
            (name, number, image[sample.mask_of(name)])
            for number, name in enumerate(store.classes)
        ]
        for _, number, values in kinds:
            if not len(values):
                continue
            row = next(rows)
            assert (table["item"][row], table["class"][row]) == (k, number)
            start, stop = table["offsets"][row : row + 2]
            numbers = [int(table[name][row]) for name in ("least", "width", "pixels")]
            moments = table["mean"][row], table["std"][row]
            codes = table["counts"][start:stop]
            check_histogram(values, image.size, numbers, moments, codes)
    assert next(rows, None) is None
    assert table["offsets"][0] == 0
    assert table["offsets"][-1] == len(table["counts"])


def test_a_store_has_the_histograms_of_its_samples(store):
    """Each row describes the pixels of its sample and class."""
    check_store(store)


def test_compressed_and_resumed_builds_have_the_same(store, sample_study, tmp_path):
    """The whole table is the same, whatever wrote it."""
    options = {"compress": True, "threads": 3}
    path = fastseg.build(fastseg.link(sample_study), tmp_path / "c.h5", **options).path
    other = fastseg.open(path).tables["histograms"]
    for name, column in store.tables["histograms"].items():
        assert_array_equal(column, other[name], strict=True)


def test_an_image_of_one_value_has_one_bin(tmp_path):
    """Its width is 1, and its deviation exactly 0."""
    write_image(tmp_path / "1.dcm", np.full((9, 7), 1234))
    path = fastseg.build(table_of(tmp_path), tmp_path / "x.h5").path
    table = fastseg.open(path).tables["histograms"]
    assert {name: column.tolist() for name, column in table.items()} == {
        "item": [0],
        "class": [-1],
        "pixels": [63],
        "mean": [1234],
        "std": [0],
        "width": [1],
        "least": [1234],
        "offsets": [0, 1],
        "counts": [63],
    }


@given(
    st.lists(
        st.lists(st.sampled_from([0, 0, 1, 127, 128, 2**31]), min_size=1, max_size=40),
        min_size=1,
        max_size=4,
    )
)
def test_counts_survive_their_codes(histograms):
    """Decoding gives the bins that are not empty."""
    parts = []
    for counts in histograms:
        counts.insert(0, 1)
        counts.append(3)
        codes = np.empty(5 * len(counts), np.uint8)
        stop = statistics.write_codes(np.array(counts), 0, len(counts), codes, 0)
        parts.append(codes[:stop])
        assert decoded(parts[-1]) == counts
    sizes = np.array([len(part) for part in parts])
    owner, bins, counts = decode_counts(np.concatenate(parts), sizes)
    expected = [
        (j, k, count)
        for j, counts in enumerate(histograms)
        for k, count in enumerate(counts)
        if count
    ]
    assert list(zip(*(x.tolist() for x in (owner, bins, counts)), strict=True)) == (
        expected
    )


@given(st.binary(min_size=1, max_size=30), st.data())
def test_damaged_codes_are_refused_or_harmless(content, data):
    """Any bytes give bins below 1024, or None."""
    codes = np.frombuffer(content, np.uint8)
    cut = data.draw(st.integers(1, len(codes)))
    sizes = np.array([x for x in (cut, len(codes) - cut) if x])
    result = decode_counts(codes, sizes)
    if result is not None:
        owner, bins, counts = result
        assert (bins < layout.MAX_BINS).all()
        assert (bins >= 0).all()
        assert (counts > 0).all()
        assert set(owner.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("item", -1),
        ("item", 10**6),
        ("item", 3),
        ("class", 0),
        ("offsets", 10**9),
        ("offsets", -1),
        ("width", 3),
        ("width", 0),
        ("least", 2**40),
        ("pixels", 5),
        ("counts", 200),
    ],
)
def test_a_damaged_table_is_refused_when_it_is_read(store, tmp_path, column, value):
    """The store opens, as histograms are read when they are needed; then StoreError."""
    path = shutil.copy(store.path, tmp_path / "copy.h5")
    with h5py.File(path, "r+") as file:
        row = file["histograms/class"][()].tolist().index(layout.WHOLE_IMAGE)
        last = file["histograms/offsets"][row + 1] - 1
        file[f"histograms/{column}"][last if column == "counts" else row] = value
    damaged = fastseg.open(path)
    with pytest.raises(StoreError, match="/histograms is damaged; build it again"):
        read_histograms(damaged, np.arange(len(damaged)), layout.WHOLE_IMAGE)
    assert not fastseg.verify(path).is_valid


def test_read_histograms_are_those_of_the_samples(store):
    """They count the values of the chosen samples alone, also of one class."""
    samples = np.array([5, 2, 17])
    for kind, name in ((-1, None), (1, store.classes[1])):
        read = read_histograms(store, samples, kind)
        labelled = [k for k in (2, 5, 17) if not name or store[k].mask_of(name).any()]
        assert read.sample.tolist() == labelled
        for j, k in enumerate(read.sample.tolist()):
            values = store[k].image
            values = values[store[k].mask_of(name)] if name else values.reshape(-1)
            is_own = read.owner == j
            counts = np.bincount(values // read.width[j])
            bins = np.flatnonzero(counts)
            assert_array_equal(read.least[is_own], bins * read.width[j])
            assert_array_equal(read.counts[is_own], counts[bins])
