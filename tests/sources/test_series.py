"""Positions and times of images depend on their headers, and on nothing else."""

from collections import Counter

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastseg
from fastseg import dicom
from fastseg.links import Link, Links
from fastseg.sources.series import (
    Planes,
    are_in_volumes,
    find_problems,
    place_images,
    rows_of_series,
)
from tests.sources.dicom_files import make_frames, save, save_slice, uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SKEWED = (1.0, 0.0, 0.0, 0.5, 0.5, 0.0)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """The header of a slice at the origin."""
    return dicom.read_header(save_slice(tmp_path_factory.mktemp("slice") / "0"))


@st.composite
def images(draw):
    """Up to ten images of two patients with two series each, and their new order."""
    numbers = st.none() | st.integers(0, 2)
    drawn = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "patient": st.sampled_from("AB"),
                    "series": st.sampled_from(["", "1.2"]),
                    "position_mm": st.none()
                    | st.tuples(*[st.sampled_from([-0.0, 0.0, 2.5, 5.0])] * 3),
                    "directions": st.sampled_from([AXIAL, SAGITTAL, SKEWED, None]),
                    "temporal_position": numbers,
                    "trigger_time_ms": numbers,
                    "rows": st.sampled_from([8, 16]),
                }
            ),
            max_size=10,
        )
    )
    return drawn, draw(st.permutations(range(len(drawn))))


def place(links, headers):
    """Return the links of images, placed, as Link objects."""
    return list(place_images(Links.of(links), headers))


def placed(header, drawn, names):
    """Return the links of drawn images, placed."""
    links = [
        Link(patient=image["patient"], dicom_path=name)
        for image, name in zip(drawn, names, strict=True)
    ]
    headers = [
        header._replace(**{k: v for k, v in image.items() if k != "patient"})
        for image in drawn
    ]
    return place(links, headers)


@given(case=images())
def test_the_order_of_images_does_not_matter(header, case):
    """The same images in another order, with other names, get the same columns."""
    drawn, order = case
    names = [f"{k}.dcm" for k in range(len(drawn))]
    straight = placed(header, drawn, names)
    shuffled = placed(header, [drawn[k] for k in order], [names[-k] for k in order])
    assert [link._replace(dicom_path="") for link in shuffled] == [
        straight[k]._replace(dicom_path="") for k in order
    ]


@given(case=images())
def test_a_position_is_known_where_the_plane_is(header, case):
    """Position is None without origin or with directions that span no plane."""
    drawn, _ = case
    for image, link in zip(drawn, placed(header, drawn, "x" * len(drawn)), strict=True):
        is_known = image["position_mm"] and image["directions"] in (AXIAL, SAGITTAL)
        assert (link.position_mm is not None) == bool(is_known)
        if is_known:
            x, _, z = image["position_mm"]
            expected = z if image["directions"] == AXIAL else -x
            assert link.position_mm == pytest.approx(expected)
            assert str(link.position_mm) != "-0.0"
        else:
            assert link.time is None


def test_columns_are_those_of_the_header(header):
    """Series, shape and dtype come from the header; the rest of a link stays."""
    link = Link("P", "a.dcm", "c.txt", label="x", frame=3)
    (filled,) = place([link], [header])
    assert filled == link._replace(
        series=header.series,
        rows=8,
        columns=8,
        dtype="uint16",
        position_mm=0.0,
        time=None,
    )


def test_images_at_one_position_are_told_apart_by_time(header):
    """Times are ranks within a position: by temporal position, then by trigger time."""
    triggers = [(0.0, 40.0), (0.0, 18.5), (2.0, 19.0), (2.0, 41.5)]
    headers = [
        header._replace(position_mm=(0.0, 0.0, z), trigger_time_ms=ms)
        for z, ms in triggers
    ]
    links = place([Link("P", str(k)) for k in range(4)], headers)
    assert [link.time for link in links] == [1, 0, 0, 1]
    by_name = [x._replace(trigger_time_ms=None, instance=k) for k, x in
               enumerate(headers)]  # fmt: skip
    links = place([Link("P", str(k)) for k in range(4)], by_name)
    assert [link.time for link in links] == [None] * 4


def test_rounded_directions_do_not_change_the_order(header):
    """Parallel images have one normal, so far from the origin they stay in order."""
    headers = [
        header._replace(
            position_mm=(900.0, 900.0, 0.05 * k),
            directions=(1.0, 0.0, (-1) ** k * 4e-5, 0.0, 1.0, 0.0),
        )
        for k in range(6)
    ]
    links = place([Link("P", str(k)) for k in range(6)], headers)
    steps = np.diff([link.position_mm for link in links])
    np.testing.assert_allclose(steps, 0.05, atol=1e-6)


def test_problems_name_why_there_is_no_volume(header):
    """A volume has no problem; one with a slice missing says that it is uneven."""
    headers = [header._replace(position_mm=(0.0, 0.0, 2.0 * k)) for k in range(5)]
    links = place_images(Links.of([Link("P", str(k)) for k in range(5)]), headers)
    planes = Planes.of(headers)
    assert find_problems(links, planes, np.arange(5)) == []
    assert are_in_volumes(links, planes).all()
    rest = np.array([0, 1, 3, 4])
    (problem,) = find_problems(links, planes, rest)
    assert not are_in_volumes(links.pick(rest), planes.pick(rest)).any()
    assert problem.startswith("uneven: ")


def save_series(root, *changes, patient, number):
    """Write a slice for each change, into a folder named like the patient.

    number : of the patient: no two have an image in common
    """
    for k, change in enumerate(changes):
        pixels = np.arange(8 * change.get("Columns", 8)) + 100 * number + k
        options = {"SOPInstanceUID": uid(patient, k), "pixels": pixels, **change}
        save_slice(root / patient / f"{k}.dcm", k, patient=patient, **options)


def at(z, x=0):
    return {"ImagePositionPatient": [x, 0, z]}


@pytest.fixture
def all_kinds(tmp_path):
    """A folder of many series, with a volume and without: one for each patient."""
    wide = {"Columns": 16}
    lying = {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}
    unknown = {"SeriesInstanceUID": None}
    phases = [{**at(k // 2), "TriggerTime": 50 * (k % 2)} for k in range(6)]
    cases = {
        "even": map(at, range(4)),
        "uneven": map(at, (0, 2, 5)),
        "gap": map(at, (0, 4, 8)),
        "tilted": [at(z, z / 3) for z in range(4)],
        "doubled": map(at, (0, 1, 1, 2)),
        "planeless": [{"PixelSpacing": None}, *map(at, range(3))],
        "phases": phases,
        "phase missing": phases[:-1],
        "one wide": [*map(at, range(3)), at(3) | wide],
        "some wide": [*map(at, range(3)), *(at(z) | wide for z in (3, 4))],
        "every second wide": [at(z) | (wide if z % 2 else {}) for z in range(4)],
        "lying": [*map(at, range(2)), *(at(0, x) | lying for x in (5, 6))],
        "no series": [at(z) | unknown for z in range(4)],
        "no series, phases": [phase | unknown for phase in phases],
    }
    for number, (patient, changes) in enumerate(cases.items()):
        save_series(tmp_path, *changes, patient=patient, number=number)
    for name, heights in {"frames": [(0, 1)], "two files": [(0, 2), (1, 3)]}.items():
        for k, zs in enumerate(heights):
            pixels = np.arange(128) + 2000 + 10 * zs[-1] * len(heights)
            ds = make_frames(*zs, k=k, patient=name, pixels=pixels, **unknown)
            save(ds, tmp_path / name / f"{k}.dcm")
    return tmp_path


def check_notes(root, tmp_path):
    """Check `find_problems` against a store; return the volumes of each patient."""
    table = fastseg.link(root, slices="all")
    store = fastseg.open(fastseg.build(table, tmp_path / "checked.h5").path)
    assert len(store) == len(table)
    headers = [dicom.read_header(root / x.dicom_path, x.frame) for x in table.links]
    volume = store.items["volume"]
    planes = Planes.of(headers)
    are_in = are_in_volumes(table.links, planes)
    for rows in rows_of_series(table.links):
        problems = find_problems(table.links, planes, rows)
        assert bool(problems) == (not are_in[rows].all())
        if len(rows) > 1:
            assert bool(problems) == bool((volume[rows] < 0).any()), problems
    return Counter(x.patient for x in store.volumes)


def test_there_is_a_problem_where_the_store_lacks_a_volume(all_kinds, tmp_path):
    """`find_problems` is empty if the store has all images of a series in volumes."""
    volumes = check_notes(all_kinds, tmp_path)
    assert volumes == {
        "even": 1,
        "phases": 2,
        "phase missing": 2,
        "planeless": 1,
        "one wide": 1,
        "some wide": 2,
        "frames": 1,
    }


@pytest.mark.parametrize("name", ["series", "sts/STS_002", "sunnybrook/dicoms"])
def test_real_series_have_a_problem_or_volumes(real_data, name, tmp_path):
    """So it is with real series: tilted and uneven ones, cines, and whole patients."""
    assert check_notes(real_data / name, tmp_path)


@pytest.mark.parametrize("name", ["oblique_philips", "oblique_hitachi"])
def test_a_file_without_a_series_is_one(real_data, name, tmp_path):
    """Of images without SeriesInstanceUID, neither table nor store makes a volume."""
    root = tmp_path / "data"
    root.mkdir()
    paths = sorted((real_data / "series" / name).iterdir())
    for path in paths:
        ds = pydicom.dcmread(path)
        del ds.SeriesInstanceUID
        ds.save_as(root / path.name)
    table = fastseg.link(root, slices="all")
    assert {(link.series, link.time) for link in table.links} == {("", None)}
    assert None not in {link.position_mm for link in table.links}
    assert table.notes == (
        f"{len(paths)} MR series of 1 patient",
        f"{len(paths)} images without SeriesInstanceUID: each file counts as a series, "
        "so they are in no volume",
    )
    store = fastseg.open(fastseg.build(table, tmp_path / "store.h5").path)
    assert len(store) == len(paths)
    assert len(store.volumes) == 0


def test_real_cine_series_have_times(real_data):
    """A Sunnybrook patient is one series of 12 or 13 positions, each at 20 times."""
    table = fastseg.link(real_data / "sunnybrook", slices="all")
    for patient, positions in (("SCD0000101", 12), ("SCD0000201", 13)):
        by_path = {x.dicom_path: x for x in table.links if x.patient == patient}
        links = list(by_path.values())
        assert len({link.series for link in links}) == 1
        places = {(link.position_mm, link.time) for link in links}
        assert len(places) == len(links) == 20 * positions
        assert {link.time for link in links} == set(range(20))
        keys = [(link.time, link.position_mm) for link in links]
        assert keys == sorted(keys)  # the slices of each time, by rising position
        for link in links[::50]:
            ds = pydicom.dcmread(real_data / "sunnybrook" / link.dicom_path)
            x = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
            expected = np.cross(*x) @ np.array(ds.ImagePositionPatient, float)
            assert link.position_mm == pytest.approx(expected, abs=1e-3)
