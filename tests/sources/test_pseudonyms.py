"""Pseudonyms are keyed hashes of patients' IDs, the same in every run."""

import errno
import hashlib
import hmac
import os
import subprocess
import sys

import pytest

import fastseg
from fastseg.errors import OptionError, RejectedWarning
from tests.sources.dicom_files import save_slice

ID = "MRN-4711"


@pytest.fixture
def key(tmp_path):
    """A valid key file."""
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


def test_a_pseudonym_is_a_keyed_hash(tmp_path, key):
    """It is the beginning of the HMAC-SHA256 of the ID; other columns stay."""
    root = tmp_path / "data"
    for k in range(4):
        save_slice(root / f"{k}", k, patient=f"{ID}-{k // 2}", series=k // 2)
    plain = fastseg.link(root, slices="all")
    table = fastseg.link(root, slices="all", pseudonyms=key)
    expected = {
        link.dicom_path: hmac.new(
            key.read_bytes(), link.patient.encode(), hashlib.sha256
        ).hexdigest()[:16]
        for link in plain.links
    }
    assert {link.dicom_path: link.patient for link in table.links} == expected
    patients = [link.patient for link in table.links]
    assert patients == sorted(patients)
    bare = [
        sorted(link._replace(patient="") for link in x.links) for x in (plain, table)
    ]
    assert bare[0] == bare[1]


def test_any_source_takes_pseudonyms(study, key):
    """In the Sunnybrook layouts, too: the links are the same but for the patient."""
    plain = fastseg.link(study)
    table = fastseg.link(study, pseudonyms=str(key))
    bare = [
        sorted(link._replace(patient="") for link in x.links) for x in (plain, table)
    ]
    assert bare[0] == bare[1]
    assert len({x.patient for x in table.links}) == len(
        {x.patient for x in plain.links}
    )
    assert not {x.patient for x in table.links} & {x.patient for x in plain.links}


def test_another_key_gives_other_pseudonyms(study, key, tmp_path):
    """Pseudonyms of one key repeat; those of two keys have nothing in common."""
    other = tmp_path / "other"
    other.write_bytes(b"another secret key")
    other.chmod(0o400)
    found = [
        {link.patient for link in fastseg.link(study, pseudonyms=path).links}
        for path in (key, key, other)
    ]
    assert found[0] == found[1]
    assert not found[0] & found[2]


def test_no_table_and_no_message_holds_the_id(tmp_path, key, fastseg_command):
    """Output, table, rejects and store of a tree name the pseudonym alone."""
    root = tmp_path / "data"
    for k in range(3):
        save_slice(root / f"{k}", k, patient=ID)
    save_slice(root / "x", 2, patient=ID, pixels=range(64))  # the UID of another one
    (root / "broken.dcm").write_bytes((root / "0").read_bytes()[:500])
    command = "link", "data", "--slices", "all", "--pseudonyms", str(key), "--verbose"
    result = fastseg_command(*command)
    assert result.returncode == 3
    built = fastseg_command("build", "links.csv", "--verbose")
    assert built.returncode == 0
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {"links.csv", "links.csv.rejects.csv", "store.h5"} <= {
        path.name for path in files
    }
    contents = [path.read_bytes() for path in files]
    for text in (result.stdout, result.stderr, built.stdout, built.stderr):
        contents.append(text if isinstance(text, bytes) else text.encode())
    assert not [x for x in contents if ID.encode() in x or b"Secret" in x]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"x" * 15, 0o600, "is no key, it must have 16 to 65536 bytes"),
        (b"", 0o600, "is no key, it must have 16 to 65536 bytes"),
        (b"x" * 65537, 0o600, "is no key, it must have 16 to 65536 bytes"),
        (b"x" * 32, 0o640, "others than its owner can read this key.*: chmod 600 "),
        (b"x" * 32, 0o604, "others than its owner can read this key.*: chmod 600 "),
    ],
)
def test_a_bad_key_is_refused(study, tmp_path, content, mode, reason):
    """A key that can be guessed, or that others can read, protects nobody."""
    path = tmp_path / "bad"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(OptionError, match=reason):
        fastseg.link(study, pseudonyms=path)


def test_a_key_is_a_regular_file(study, tmp_path):
    """A pipe or a folder is refused at once, without waiting."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no regular file"):
        fastseg.link(study, pseudonyms=tmp_path / "pipe")
    with pytest.raises(OSError, match="is a folder"):
        fastseg.link(study, pseudonyms=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="has another shell")
@pytest.mark.parametrize(
    "name",
    ["key", "new key", """it's "my" $(exit 3) `x` \\ key""", "two\nlines", "ä €"],
)
def test_the_error_without_a_key_has_a_command_that_makes_one(study, tmp_path, name):
    """The command at the end of the message makes a key that is taken."""
    path = tmp_path / name
    with pytest.raises(FileNotFoundError) as info:
        fastseg.link(study, pseudonyms=path)
    assert info.value.errno == errno.ENOENT
    text, _, command = str(info.value).partition("; make one with: ")
    assert text == f"there is no key file {path}"
    assert command.startswith("python3 -c 'import os; ")
    assert "\n" not in command
    command = command.replace("python3", f'"{sys.executable}"', 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert path.stat().st_size == 32
    assert path.stat().st_mode & 0o777 == 0o600
    fastseg.link(study, pseudonyms=path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_the_error_for_an_open_key_has_a_command_that_closes_it(study, tmp_path):
    """The command at the end of the message makes the key one that is taken."""
    path = tmp_path / "it's a $(exit 3) key"
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(OptionError, match="can read this key") as info:
        fastseg.link(study, pseudonyms=path)
    command = str(info.value).partition("pseudonyms these are: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    fastseg.link(study, pseudonyms=path)


def test_rejects_do_not_name_the_patient(study, key):
    """A contour without an image, and a row that is listed twice, quote no ID."""
    (study / "dicoms" / "PHANTOM0001" / "4.dcm").unlink()
    with (study / "link.csv").open("a") as file:
        file.write("PHANTOM0001,PH-9\n")
    with pytest.warns(RejectedWarning):
        table = fastseg.link(study, pseudonyms=key)
    assert table.rejects
    assert not [reject for reject in table.rejects if "PHANTOM" in reject.reason]
