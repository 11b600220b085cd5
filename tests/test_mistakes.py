"""Natural mistakes: each call says in one sentence what was expected and what to do."""

from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import fastseg
from fastseg import Loader, augment, dicom
from fastseg.augment import Affine, Compose, Crop, Custom, Flip, Gamma, Noise, Resize
from fastseg.cli.main import app
from fastseg.errors import (
    ArgumentError,
    FastsegError,
    GeometryError,
    LinkError,
    OptionError,
    OutputError,
    RenamedError,
    StateError,
    StoreError,
    UnknownClassError,
)

RING = [(1, 1), (6, 1), (6, 6), (1, 6)]
SHAPE = (96, 96)


@pytest.fixture(scope="module")
def given(store, sample_study, tmp_path_factory):
    """A store and what belongs to it; files of other kinds, by name."""
    folder = tmp_path_factory.mktemp("mistakes")
    fastseg.link(sample_study).save(folder / "links.csv")
    (folder / "heart.h5").symlink_to(store.path)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "empty.h5").touch()
    # What h5py writes for h5py.File(path, "w"), in full: no group, no attribute.
    import h5py

    with h5py.File(folder / "volume.h5", "w") as file:
        file["volume"] = np.zeros((2, 3, 4))

    def loader(**options):
        return Loader(store, **{"size": 96, "masks": "icontour", **options})

    return SimpleNamespace(
        store=store,
        sample=store[0],
        parts=store.split({"train": 0.5, "val": 0.5}),
        loader=loader,
        file=lambda name: str(folder / name),
        study=sample_study,
    )


# What is called, the type of the error, and what its message must hold.
MISTAKES = [
    # A file or folder of another kind.
    (lambda g: fastseg.open(g.file("picture.png")), StoreError, "is a PNG picture"),
    (lambda g: fastseg.open(g.file("links.csv")), StoreError, "a text file.*`fastseg"),
    (lambda g: fastseg.open(g.file("volume.h5")), StoreError, "not a fastseg store;.*"),
    (lambda g: fastseg.open(g.file("empty.h5")), StoreError, "is an empty file"),
    (lambda g: fastseg.open(g.study), StoreError, "is a folder, .*`fastseg link`"),
    (lambda g: fastseg.open(g.file("hart.h5")), FileNotFoundError, "mean heart.h5"),
    (lambda g: fastseg.open(g.file("x")), FileNotFoundError, "`fastseg build` writes"),
    (lambda g: fastseg.open(g.store), OptionError, "path is <Store .*expected a path"),
    (lambda g: fastseg.open(b"heart.h5"), OptionError, "expected a path"),
    (lambda g: fastseg.open(), ArgumentError, r"fastseg.open\(\) needs 'path'; call"),
    (lambda g: fastseg.verify(g.file("links.csv")), StoreError, "is a text file"),
    (lambda g: fastseg.verify(5), OptionError, "store is 5, expected a path"),
    (lambda g: Loader(g.file("links.csv")), StoreError, "is a text file"),
    (lambda g: Loader(g.file("hart.h5")), FileNotFoundError, "mean heart.h5"),
    (
        lambda g: Loader(g.parts),
        OptionError,
        "store is .*expected a Store.*or the path",
    ),
    (lambda g: Loader([0, 1]), OptionError, "expected a Store, as fastseg.open"),
    (lambda g: fastseg.bench(5), OptionError, "expected a Store, as fastseg.open"),
    (lambda g: fastseg.build(g.study, "x.h5"), LinkError, "is a folder.*`fastseg link"),
    (
        lambda g: fastseg.build(g.file("volume.h5"), "x.h5"),
        LinkError,
        "is an HDF5 file, expected a links table",
    ),
    (
        lambda g: fastseg.build(g.file("lnks.csv"), "x.h5"),
        FileNotFoundError,
        "mean links.csv",
    ),
    (lambda g: fastseg.build(g.store, "x.h5"), OptionError, "expected a LinkTable"),
    (
        lambda g: fastseg.build(g.file("links.csv"), 5),
        OptionError,
        "output is 5, expected a path",
    ),
    (lambda g: fastseg.link(g.file("links.csv")), LinkError, "is not a folder, expec"),
    (lambda g: fastseg.link(g.file("gone")), LinkError, "does not exist, expected the"),
    (lambda g: fastseg.link(5), OptionError, "root is 5, expected a path"),
    (lambda g: fastseg.link(g.study, labels=3), OptionError, "labels is 3, expected"),
    (lambda g: fastseg.make_phantom(5), OptionError, "output is 5, expected a path"),
    (lambda g: dicom.read_image(0), OptionError, "path is 0, expected a path"),
    (lambda g: dicom.read_header(None), OptionError, "path is None, expected a path"),
    (
        lambda g: fastseg.LinkTable.load(g.file("picture.png")),
        LinkError,
        "is a PNG picture, expected a links table",
    ),
    # The output is what is read: nothing may force that.
    *(
        (call, OutputError, "that is read, and is not replaced; choose another name")
        for call in (
            lambda g: fastseg.build(g.file("links.csv"), g.file("links.csv")),
            lambda g: fastseg.build(
                g.file("links.csv"), g.file("links.csv"), force=True
            ),
            lambda g: fastseg.write_split(
                g.file("heart.h5"), g.store, g.parts, force=True
            ),
        )
    ),
    (
        lambda g: fastseg.show(g.store, g.file("heart.h5"), force=True),
        OptionError,
        "ends with .png",
    ),
    # Arguments that are missing, too many, or not there.
    (lambda g: fastseg.show("heart.h5"), ArgumentError, r"show\(store, 'picture.png'"),
    (lambda g: fastseg.build("a.csv"), ArgumentError, r"build\('links.csv', 'heart.h5"),
    (lambda g: g.store.split(train=0.8), ArgumentError, r"store.split\({'train': 0.8"),
    (lambda g: g.store.split(0.8, 0.2), ArgumentError, r"store.split\({'train': 0.8"),
    (lambda g: g.store.split(test_size=0.2), ArgumentError, r"split\({'train': 0.8"),
    (lambda g: Loader(), ArgumentError, r"needs 'store'; call it as Loader\(store\)"),
    (lambda g: Loader(g.store, 4), ArgumentError, "takes only store without a name"),
    (lambda g: Crop(), ArgumentError, r"needs 'size'; call it as Crop\(size\)"),
    (lambda g: Crop(96, 96), ArgumentError, "takes only size without a name, 2 are"),
    (lambda g: Affine(15), ArgumentError, r"no arguments .*Affine\(rotate=\.\.\.\)"),
    (lambda g: Crop(96, size=3), ArgumentError, "'size' twice"),
    (lambda g: fastseg.LinkTable("links.csv"), ArgumentError, "base=..., links=..."),
    (lambda g: g.store.select("icontour"), ArgumentError, "select.classes='icontour'"),
    (lambda g: g.loader(pad=0), RenamedError, "'pad_value'"),
    # The names of other libraries, and misspelt ones.
    *(
        (lambda g, options=options: g.loader(**options), ArgumentError, text)
        for options, text in (
            ({"num_workers": 4}, "no argument 'num_workers'; did you mean 'threads'"),
            ({"transforms": [Flip()]}, "mean 'augment'"),
            ({"transform": Flip()}, "mean 'augment'"),
            ({"batchsize": 4}, r"Loader\(\) has no argument 'batchsize'.*'batch_size'"),
            ({"image_size": 96}, "mean 'size'"),
            ({"img_size": 96}, "mean 'size'"),
            ({"classes": "icontour"}, "mean 'masks'"),
            ({"random_state": 0}, "mean 'seed'"),
            ({"normalise": None}, "mean 'normalize'"),
            ({"prefetch_factor": 2}, "mean 'prefetch'"),
            ({"num_replicas": 2}, "mean 'world_size'"),
            ({"sampler": None}, "mean 'indices'"),
            ({"pin_memory": True}, r"as_torch\(loader, pin_memory=True\)"),
            ({"device": "cuda"}, r"as_torch\(loader, device=\.\.\.\)"),
            ({"collate_fn": len}, "stacked already"),
        )
    ),
    (lambda g: fastseg.bench(g.store, batchsize=4), ArgumentError, "'batch_size'"),
    (lambda g: fastseg.build("a", "b", num_workers=4), ArgumentError, "'threads'"),
    (lambda g: fastseg.link(g.study, classes="icontour"), ArgumentError, "'labels'"),
    (lambda g: g.store.select(label="icontour"), ArgumentError, "mean 'classes'"),
    (lambda g: g.store.split({}, random_state=1), ArgumentError, "mean 'seed'"),
    (lambda g: Affine(degrees=15), ArgumentError, "Affine.*mean 'rotate'"),
    (lambda g: Flip(prob=0.5), ArgumentError, "mean 'p'"),
    (lambda g: Noise(sigma=1), ArgumentError, "mean 'std'"),
    (lambda g: Gamma(gamma_limit=(80, 120)), ArgumentError, "mean 'gamma'"),
    (lambda g: Crop(height=96, width=96), ArgumentError, "mean 'size'"),
    (lambda g: fastseg.rasterize(RING, size=SHAPE), ArgumentError, "mean 'shape'"),
    (lambda g: fastseg.rasterize(RING, SHAPE, fil=""), ArgumentError, "mean 'fill'"),
    (lambda g: fastseg.coverage(polygon=RING), ArgumentError, "mean 'contours'"),
    # Values of another kind.
    (lambda g: g.store.split(0.8), OptionError, "parts is 0.8, .*'train': 0.8"),
    (lambda g: g.store.split([0.8, 0.2]), OptionError, "'train': 0.8, 'val': 0.2"),
    (lambda g: g.store.split({"a": 0.8}), OptionError, "sum to 0.8, expected 1"),
    (
        lambda g: fastseg.check_split(g.store, [0, 1]),
        OptionError,
        r"parts is \[0, 1\], expected the indices of each part by its name",
    ),
    (
        lambda g: fastseg.write_split(g.store, "splits.csv", g.parts),
        OptionError,
        "path is <Store .*expected a path",
    ),
    (
        lambda g: Compose(Flip(), Affine()),
        OptionError,
        r"expected one list: Compose\(\[first, second\]\)",
    ),
    (
        lambda g: Compose(Flip(), Affine(), Gamma(), Flip()),
        ArgumentError,
        r"Compose\(\[",
    ),
    (lambda g: Compose([Flip]), OptionError, r"a class; write Flip\(\.\.\.\)"),
    (
        lambda g: Compose([len]),
        OptionError,
        r"Custom\(function\) calls one of your own",
    ),
    (lambda g: Compose(5), OptionError, "5 is no transform .*expected one or more"),
    (lambda g: Compose([Compose([]), Flip()]), OptionError, r"\[\*first, \*second\]"),
    (lambda g: Compose([Flip()], border=[]), OptionError, "border is .*'constant'"),
    *(
        (lambda g, options=options: g.loader(**options), OptionError, text)
        for options, text in (
            ({"augment": Flip}, r"a class; write Flip\(\.\.\.\)"),
            ({"augment": "lite"}, "mean 'light'"),
            ({"augment": ["light"]}, "augment='light'"),
            ({"augment": True}, "True is no transform"),
            ({"augment": {}}, "from_dict"),
            ({"masks": ["icontour"]}, "'onehot' has a channel for each class"),
            ({"masks": None}, "masks is None, expected 'labels'.*leave it out"),
            ({"masks": 3}, "masks is 3, expected 'labels'"),
            ({"masks": np.zeros(2)}, "masks is array"),
            ({"masks": "icontuor"}, "mean 'icontour'"),
            ({"normalize": True}, "normalize is True, expected one of 'zscore'"),
            ({"normalize": False}, "expected None for no normalization"),
            ({"normalize": "z-score"}, "mean 'zscore'"),
            ({"normalize": "ZScore"}, "mean 'zscore'"),
            ({"normalize": {}}, "normalize is {}, expected one of 'zscore'"),
            ({"size": "96"}, r"size is '96', expected \(height, width\)"),
            ({"size": (96, 96, 1)}, r"expected \(height, width\), or one number"),
            ({"indices": {"val": [0]}}, r"as one part of a split is: parts\['val'\]"),
            ({"indices": "train"}, r"parts\['train'\]"),
            ({"indices": 0}, "expected a list of whole numbers"),
            ({"shuffle": "yes"}, "shuffle is 'yes', expected True or False"),
            ({"dtype": "uint8"}, "dtype is 'uint8', expected one of 'float32'"),
            ({"missing": []}, r"missing is \[\], expected one of 'background'"),
            ({"on_error": None}, "expected one of 'raise', 'skip'"),
            ({"uneven": {}}, "uneven is {}, expected one of"),
            ({"together": ["patient"]}, "expected one of 'patient', 'series'"),
            ({"labels": np.zeros(3)}, "labels is .*expected one of 'exact'"),
            ({"priority": 5}, "expected the names of the classes"),
            ({"weights": "balanced"}, "expected a number for each of the store's 32"),
            ({"foreground": "icontour"}, r"as in \('icontour', 0.5\)"),
            ({"threads": "auto"}, "threads is 'auto', expected a whole number"),
            ({"batch_size": 33, "drop_last": True}, "at most 32, or drop_last=False"),
        )
    ),
    (lambda g: fastseg.rasterize(SHAPE, RING), OptionError, "the contours come first"),
    (lambda g: fastseg.rasterize(RING, SHAPE, fill=[]), OptionError, "'even-odd'"),
    (lambda g: fastseg.rasterize(RING, SHAPE, fill={}), OptionError, "'even-odd'"),
    (lambda g: fastseg.rasterize(RING, (8, 8), edges="Closed"), OptionError, "closed"),
    (lambda g: fastseg.rasterize(RING, 96), OptionError, r"expected \(rows, columns\)"),
    (lambda g: fastseg.rasterize("c.txt", SHAPE), GeometryError, "contours is str"),
    (lambda g: Flip(0.5), OptionError, r"expected one of 'horizontal'.*Flip\(p=0.5\)"),
    (lambda g: Crop("96"), OptionError, r"expected \(height, width\), or one number"),
    (lambda g: Crop(96, where=5), OptionError, "where is 5, expected 'random'"),
    (lambda g: Noise(kind=[]), OptionError, r"kind is \[\], expected one of 'gaussian"),
    (lambda g: Custom(5), OptionError, "expected a function of"),
    (lambda g: augment.from_dict(5), OptionError, "expected a dict of Compose.as_dict"),
    (lambda g: g.store.select(classes=3), OptionError, "expected one name or several"),
    (lambda g: g.store.class_index([]), UnknownClassError, r"class is \[\], expected"),
    (lambda g: g.sample.mask_of("LV"), UnknownClassError, "expected one of 'icontour'"),
    (lambda g: g.loader().load_state_dict(5), StateError, "a state is a dict"),
    (lambda g: g.loader(return_params=np.zeros(2)), OptionError, "True or False"),
    (lambda g: g.loader(augment=np.array("light")), OptionError, "no transform"),
    (lambda g: fastseg.verify(g.store, sources=5), OptionError, "sources is 5, expec"),
    (lambda g: fastseg.show(g.store, "x.png", count="4"), OptionError, "whole number"),
    (
        lambda g: fastseg.show(g.store, "x.png", dpi="high"),
        OptionError,
        "dpi is 'high'",
    ),
    (
        lambda g: fastseg.show(g.store, "x.png", force="no"),
        OptionError,
        "force is 'no'",
    ),
    (lambda g: fastseg.build("x.csv", "x.h5", force=3), OptionError, "force is 3"),
    (
        lambda g: fastseg.rasterize_labels(5, SHAPE),
        OptionError,
        r"'icontour': \[ring\]",
    ),
    (lambda g: fastseg.LinkTable(base=5, links=[]), OptionError, "base is 5"),
    (lambda g: fastseg.LinkTable(base=".", links=5), OptionError, "links is 5"),
    (lambda g: dicom.decode("a.dcm", "a"), OptionError, "read_image takes its path"),
    # What is no mapping, sequence or iterator.
    (lambda g: g.store["icontour"], TypeError, "select.classes=.*mask_of"),
    (lambda g: g.store[0:4], TypeError, r"\[store\[k\] for k in \.\.\.\]"),
    (lambda g: g.store[[0, 1]], TypeError, "a Loader with indices=... batches"),
    (lambda g: g.sample["image"], TypeError, "its attributes are image, mask"),
    (lambda g: g.loader()[0], TypeError, r"next\(iter\(loader\)\) is one"),
    # Python's own message: with __next__, others would take a Loader for an iterator.
    (lambda g: next(g.loader()), TypeError, "not an iterator"),
    # Attributes and names of modules.
    (lambda g: g.store.mask, AttributeError, r"store\[k\].mask is that of sample k"),
    (lambda g: g.store.image, AttributeError, r"store\[k\].image is that of sample k"),
    (lambda g: g.sample.masks, AttributeError, r"mask_of\(name\) the mask of one"),
    (lambda g: g.sample.pixel_array, AttributeError, "image holds the stored values"),
    (lambda g: g.loader().dataset, AttributeError, "loader.store is the store"),
    (lambda g: g.store.to_pandas(), AttributeError, "store.items has the columns"),
    (lambda g: g.store.train_test_split(), AttributeError, r"store.split\({'train'"),
    (
        lambda g: next(iter(g.loader())).to("cuda"),
        AttributeError,
        r"torch.as_torch\(loader\) makes",
    ),
    (
        lambda g: next(iter(g.loader())).images,
        AttributeError,
        "image holds the images of all",
    ),
    (lambda g: augment.Flip()(g.sample.image), TypeError, r"give it to Loader\(store,"),
    (
        lambda g: augment.Compose([])(image=g.sample.image),
        TypeError,
        r"Compose is not called with images: give it to Loader\(store, augment=",
    ),
    (lambda g: augment.Custom(augment.Flip()), OptionError, "function"),
    (lambda g: fastseg.load, AttributeError, "use fastseg.open"),
    (lambda g: fastseg.Dataset, AttributeError, "use fastseg.torch.Dataset"),
    (lambda g: fastseg.DataLoader, AttributeError, "use fastseg.Loader"),
    (lambda g: fastseg.read_dicom, AttributeError, "use fastseg.dicom.read_image"),
    (lambda g: fastseg.Crop, AttributeError, "use fastseg.augment.Crop"),
    (lambda g: fastseg.opne, AttributeError, r"did you mean open\?"),
    (lambda g: augment.RandomCrop, AttributeError, r"use Crop\(96\)"),
    (lambda g: augment.Rotate, AttributeError, r"use Affine\(rotate=15\)"),
    (lambda g: augment.HorizontalFlip, AttributeError, r"use Flip\(axis='horizontal'"),
    (lambda g: augment.ToTensor, AttributeError, r"use fastseg.torch.as_torch"),
    (lambda g: augment.flip, AttributeError, r"did you mean Flip\?"),
]


@pytest.mark.parametrize(
    "mistake", MISTAKES, ids=[f"{k}" for k in range(len(MISTAKES))]
)
def test_a_mistake_is_answered_in_one_sentence(given, mistake):
    """The error has the expected type, and its message says what to do instead."""
    call, kind, text = mistake
    with pytest.raises(kind, match=text) as caught:
        call(given)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    # Errors that Python would raise by itself have types of their own, too.
    is_builtin = kind in (TypeError, AttributeError, FileNotFoundError)
    assert is_builtin or isinstance(caught.value, FastsegError)


def test_an_error_inside_a_function_is_raised_unchanged():
    """A TypeError of a function that was called is not taken for one of its call."""

    def raises(image, mask, random):
        raise TypeError("takes 1 argument")

    with pytest.raises(TypeError, match=r"^takes 1 argument$") as caught:
        fastseg.calls.check_call()(raises)(1, 2, 3)
    assert not isinstance(caught.value, ArgumentError)


PUBLIC = [
    *(getattr(fastseg, name) for name in fastseg.__all__),
    *(getattr(augment, name) for name in augment.__all__),
    *(dicom.read_image, dicom.read_header, dicom.decode),
    *(fastseg.Store.select, fastseg.Store.split, fastseg.Store.class_index),
    *(fastseg.LinkTable.load, fastseg.LinkTable.save),
]
# Users make none of these.
RECORDS = {
    *("Batch", "BenchReport", "BuildReport", "Finding", "Findings", "Link"),
    *("PartReport", "RoiList", "Sample", "UploadReport"),
    *("VerifyReport", "Volume", "Window", "Windows"),
}


@pytest.mark.parametrize(
    "function",
    [
        public
        for public in PUBLIC
        if callable(public)
        and public.__name__ not in RECORDS
        and not (isinstance(public, type) and issubclass(public, Exception))
        and public.__name__
        not in ("Transform", "as_compose", "light", "standard", "standard_3d")
    ],
    ids=lambda function: function.__qualname__,
)
def test_all_public_calls_explain_unknown_arguments(function):
    """An argument that does not exist is an ArgumentError of each public function."""
    with pytest.raises(ArgumentError, match="has no argument 'xyz_'"):
        function(xyz_=1)


@pytest.mark.parametrize(
    ("named", "positional"),
    [
        (Crop(size=(96, 80)), Crop((96, 80))),
        (Resize(size=128), Resize(128)),
        (Flip(axis="vertical"), Flip("vertical")),
        (Gamma(gamma=(0.5, 2)), Gamma((0.5, 2))),
        (Noise(std=0.1, p=0.5), Noise(0.1, p=0.5)),
        (Custom(function=len), Custom(len)),
        (augment.Resample(spacing_mm=1.5), augment.Resample(1.5)),
        (augment.Blur(sigma=2), augment.Blur(2)),
        (augment.Elastic(magnitude=4), augment.Elastic(4)),
        (Compose([Flip()]), Compose(Flip())),
    ],
    ids=lambda step: type(step).__name__,
)
def test_what_a_transform_is_named_for_needs_no_name(named, positional):
    """The first parameter may be given by position, with the same result."""
    assert named == positional


def test_paths_are_taken_wherever_a_store_is(given, tmp_path):
    """A path does what the store that lies there does."""
    path = given.file("heart.h5")
    fastseg.check_split(path, given.parts)
    table = fastseg.write_split(tmp_path / "splits.csv", path, given.parts)
    read = fastseg.read_split(table, path)
    for name, part in given.parts.items():
        np.testing.assert_array_equal(read[name], part)
    loader = Loader(path, size=96, masks="icontour")
    assert loader.store.fingerprint == given.store.fingerprint
    assert len(loader) == len(given.loader())


COMMANDS = [
    (["build", "{study}"], "is a folder, expected a links table; `fastseg link"),
    (["build", "{links.csv}", "-o", "{links.csv}"], "is the links table that is read"),
    (["build", "{picture.png}"], "is a PNG picture, expected a links table"),
    (["split", "{heart.h5}", "-o", "{heart.h5}", "--part", "a=1", "--force"], "is the"),
    (["info", "{picture.png}"], "is a PNG picture, expected a store"),
    (["info", "{links.csv}"], "is a text file, expected a store"),
    (["info", "{volume.h5}"], "an HDF5 file, but not a fastseg store"),
    (["info", "{hart.h5}"], "did you mean heart.h5?"),
    (["info", "{study}"], "is a folder, expected a store"),
    (["show", "{heart.h5}", "-o", "{heart.h5}"], "ends with .png"),
    (["link", "{links.csv}"], "is not a folder, expected the folder of a data set"),
]


@pytest.mark.parametrize(("words", "text"), COMMANDS, ids=lambda x: "")
def test_a_mistake_on_the_command_line_is_answered_in_one_sentence(given, words, text):
    """The tool prints the sentence, and fails."""
    paths = {word: given.file(word[1:-1]) for word in words if word.startswith("{")}
    paths["{study}"] = str(given.study)
    result = CliRunner().invoke(app, [paths.get(word, word) for word in words])
    assert result.exit_code in (1, 2)
    assert text in result.stderr
    assert given.store.is_unchanged
