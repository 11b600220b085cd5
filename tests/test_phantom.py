"""The synthetic studies: reproducible, valid DICOM, contours that match the images.

`test_phantom_rtstruct.py` has what is true of structure sets alone.
"""

import numpy as np
import pydicom
import pytest

import fastseg
from fastseg import dicom, make_phantom
from fastseg.errors import BuildError, OptionError
from fastseg.phantom import parse_size

SMALL = {"slices": 1, "phases": 3, "sizes": (32, "40x34")}
KINDS = [
    {"kind": "cine", **SMALL},
    {"kind": "rtstruct", "slices": 2, "sizes": (32, "40x34")},
]


def contents(root):
    """Return the bytes of all files under a folder by relative path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def images(root):
    """Return the datasets of all images under a folder by relative path."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.dcm")}
    return {name: pydicom.dcmread(path) for name, path in sorted(paths.items())}


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["kind"])
def test_the_same_call_gives_the_same_bytes(tmp_path, options):
    """Equal arguments give equal bytes; another seed changes every DICOM file."""
    first, second, other = (
        contents(make_phantom(tmp_path / name, patients=2, seed=seed, **options))
        for name, seed in (("first", 7), ("second", 7), ("other", 8))
    )
    assert first == second
    assert first.keys() == other.keys()
    same = {name for name, data in first.items() if other[name] == data}
    assert same == {"link.csv"} & first.keys()


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["kind"])
def test_a_patient_does_not_depend_on_the_others(tmp_path, options):
    """Patient 1 of 1 equals patient 1 of 3, and no two files of the three are equal."""
    one, three = (
        contents(make_phantom(tmp_path / str(n), patients=n, **options)) for n in (1, 3)
    )
    short, long = one.pop("link.csv", b""), three.pop("link.csv", b"")
    assert long.startswith(short)
    assert one.items() <= three.items()
    assert len(set(three.values())) == len(three)


@pytest.mark.parametrize("kind", ["cine", "rtstruct", "faulty"])
def test_the_committed_studies_are_reproduced(studies, kind, tmp_path):
    """Those in data/ equal make_phantom(), but for the name of the DICOM writer."""
    study = make_phantom(tmp_path / "study", kind=kind)
    sample_study = studies[kind]
    committed, fresh = contents(sample_study), contents(study)
    assert committed.keys() == fresh.keys()
    for name in committed:
        if not name.endswith(".dcm"):
            assert committed[name] == fresh[name], name
    committed, fresh = images(sample_study), images(study)
    for name, dataset in committed.items():
        assert dataset == fresh[name], name
        for meta in (dataset.file_meta, fresh[name].file_meta):
            del meta.ImplementationClassUID, meta.ImplementationVersionName
            meta.FileMetaInformationGroupLength = 0
        assert dataset.file_meta == fresh[name].file_meta, name


def test_the_committed_study_is_small_and_varied(sample_study):
    """It has 96 images of two shapes, and 80 contours on 32; all of data/, 4 MB."""
    assert sum(map(len, contents(sample_study.parent).values())) < 4e6
    table = fastseg.link(sample_study)
    assert not table.rejects
    assert (len(table), table.images, table.unlabelled) == (80, 32, 64)
    assert list(table.counts().items()) == [
        ("icontour", 32),
        ("ocontour", 16),
        ("p1contour", 16),
        ("p2contour", 16),
    ]
    headers = [dicom.read_header(path) for path in sample_study.rglob("*.dcm")]
    assert len(headers) == 96
    assert {(header.rows, header.columns) for header in headers} == {
        (96, 96),
        (120, 88),
    }


def check_elements(dataset):
    """Make pydicom check the value of each element; reading checks only some."""
    strict = {"validation_mode": pydicom.config.RAISE}
    for element in dataset:
        pydicom.DataElement(element.tag, element.VR, element.value, **strict)
        for item in element.value if element.VR == "SQ" else ():
            check_elements(item)


@pytest.mark.parametrize("kind", ["cine", "rtstruct"])
def test_every_file_is_valid_dicom(studies, kind):
    """pydicom finds no invalid element in any file, and can print each file."""
    for name, dataset in images(studies[kind]).items():
        check_elements(dataset)
        check_elements(dataset.file_meta)
        # A warning is an error here.
        last = "Contour Data" if name.endswith("RS.dcm") else "Pixel Data"
        assert last in str(dataset), name
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
        if last == "Pixel Data":
            assert dataset.pixel_array.max() < 2**dataset.BitsStored


@pytest.mark.parametrize(
    "fault", [("StudyDate", "today"), ("Modality", "mr"), ("SliceThickness", "1" * 17)]
)
def test_check_elements_refuses_invalid_values(sample_study, fault):
    """check_elements raises for values that DICOM does not allow."""
    dataset = pydicom.dcmread(next(sample_study.rglob("1.dcm")))
    with pydicom.config.disable_value_validation():
        setattr(dataset, *fault)
    with pytest.raises((ValueError, OverflowError), match=r"Invalid value|<= 16"):
        check_elements(dataset)


def test_no_two_files_share_an_identity(tmp_path):
    """SOPInstanceUIDs differ, also if slices and phases have two digits."""
    options = {"patients": 1, "slices": 12, "sizes": [32]}
    cine = make_phantom(tmp_path / "a", phases=11, **options)
    chest = make_phantom(tmp_path / "b", kind="rtstruct", **options)
    names = [
        dataset.SOPInstanceUID
        for study in (cine, chest)
        for dataset in images(study).values()
    ]
    assert len(set(names)) == len(names) == 12 * 11 + 12 + 1


def outlined(store):
    """Yield (image, rings by class) of the samples at end diastole."""
    samples = [sample for sample in store if len(sample.contours) == 4]
    assert len(samples) == 16
    for sample in samples:
        rings = {name: ring for name, (ring,) in sample.contours.items()}
        yield sample.image.astype(float), rings


def contrast(image, rings, dx=0, dy=0):
    """Return the mean of blood minus that of muscle, in the regions of the rings."""
    masks = {
        name: fastseg.rasterize(ring + (dx, dy), image.shape)
        for name, ring in rings.items()
    }
    blood = masks["icontour"] & ~masks["p1contour"] & ~masks["p2contour"]
    muscle = masks["ocontour"] & ~masks["icontour"]
    return image[blood].mean() - image[muscle].mean()


def test_contours_match_the_image(store):
    """Contours separate blood from muscle better than contours half a pixel off."""
    for image, rings in outlined(store):
        aligned = contrast(image, rings)
        assert aligned > 150
        for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            assert contrast(image, rings, dx, dy) < aligned


def test_contours_are_nested(store):
    """Papillary muscles are disjoint and inside the inner contour, it in the outer."""
    for image, rings in outlined(store):
        inner, outer, first, second = (
            fastseg.rasterize(rings[name], image.shape)
            for name in ("icontour", "ocontour", "p1contour", "p2contour")
        )
        assert first.any()
        assert second.any()
        assert not (first & second).any()
        assert not ((first | second) & ~inner).any()
        assert not (inner & ~outer).any()
        assert inner.sum() < outer.sum()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"patients": 0}, "patients is 0, expected at least 1"),
        ({"patients": 10**30}, "1000000000.* images, expected at most 1000000"),
        ({"kind": "rtss"}, "kind is 'rtss', .* did you mean 'rtstruct'"),
        ({"kind": None}, "kind is None, expected"),
        ({"kind": "rtstruct", "phases": 6}, "phases is 6, but kind 'rtstruct' has no"),
        (
            {"kind": "rtstruct", "patients": 10**5, "slices": 11},
            "100000 patients of 11 slices are 1100000 images, expected at most",
        ),
        ({"slices": 0}, "slices is 0"),
        ({"kind": "faulty", "slices": 3}, "slices is 3, but kind 'faulty' has places"),
        ({"phases": 1}, "phases is 1, expected at least 2"),
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": (96, 8)}, "size is 8x8, expected 32 to 4096"),
        ({"sizes": ["4097x96"]}, "size is 4097x96"),
        ({"sizes": ["axb"]}, "size is 'axb', expected as in 96 or 120x88"),
        ({"sizes": ["96x"]}, "size is '96x'"),
        ({"sizes": [(96,)]}, "size is"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_invalid_options_are_refused(tmp_path, option, text):
    """An invalid option raises OptionError, and nothing is written."""
    with pytest.raises(OptionError, match=text):
        make_phantom(tmp_path / "a", **option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((120, 88), (120, 88)),
        ([120, 88], (120, 88)),
        ("120x88", (120, 88)),
        (" 120×88 ", (120, 88)),
        ("96", (96, 96)),
        (96, (96, 96)),
        (np.int64(96), (96, 96)),
    ],
)
def test_sizes_come_in_several_forms(size, shape):
    """A size is rows and columns, as a pair or as text; one number is a square."""
    assert parse_size(size) == shape


def test_a_folder_with_files_is_not_changed(tmp_path):
    """A folder that is not empty, and a file, is refused and keeps its content."""
    (tmp_path / "link.csv").write_text("mine")
    for output in (tmp_path, tmp_path / "link.csv"):
        with pytest.raises(BuildError, match="choose a new folder"):
            make_phantom(output, patients=1, **SMALL)
    assert contents(tmp_path) == {"link.csv": b"mine"}


def test_an_empty_folder_is_used(tmp_path):
    """An existing empty folder is filled and returned."""
    assert make_phantom(tmp_path, patients=1, **SMALL) == tmp_path
    assert len(images(tmp_path)) == 3
