"""Commands that copy stores to URLs, and compare them there."""

import hashlib
from pathlib import Path

import pytest

import fastseg

fsspec = pytest.importorskip("fsspec")
URL = "memory://bucket/heart.h5"
pytestmark = pytest.mark.usefixtures("requests")


def test_commands_upload_and_verify(memory, call, sample_study, tmp_path, monkeypatch):
    """`build --upload`, `finish --upload`, `upload`, and `verify` of a URL."""
    monkeypatch.chdir(tmp_path)
    fastseg.link(sample_study).save("links.csv")
    done = call(f"build links.csv -o x.h5 --upload {URL}")
    assert done.status == 0
    digest = hashlib.sha256(Path("x.h5").read_bytes()).hexdigest()
    assert f"{URL}: uploaded, sha256 {digest}" in done.out
    done = call(f"build links.csv -o x.h5 --upload {URL}")
    assert "the same is there already" in done.out
    for words in (
        "plan links.csv -o y.h5",
        "part y.h5.plan 1/1",
        "finish y.h5.plan --upload memory://bucket/y.h5",
        "verify memory://bucket/y.h5",
        f"verify {URL}",
        "upload x.h5 memory://bucket/z.h5",
    ):
        done = call(words)
        assert (done.status, done.err) == (0, ""), words
    memory.pipe_file(URL, memory.cat_file(URL)[:-1])
    done = call(f"verify {URL}")
    assert done.status == 1
    assert "damaged: its checksum says" in done.out
    assert '"is_valid": false' in call(f"verify {URL} --json").out
    assert call(f"verify {URL} --threads 2").status == 2
