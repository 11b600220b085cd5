"""Without object code, numba compiles kernels in the process, and keeps them."""

import pytest

from fastseg._kernels.jit import INTERPRETED
from tests.kernels.native.test_cache import call, objects_in

pytestmark = pytest.mark.skipif(INTERPRETED, reason="kernels run as Python")

CALL = """
    import sys
    import numpy as np
    from fastseg._kernels.native import {patch}
    from tests.kernels.native import examples
    from tests.kernels.native.examples import Pair

    values = np.zeros(6)
    examples.add_to_all(values[::2], 2)
    pair = Pair(np.arange(4, dtype=np.int32), np.zeros(4, np.uint8))
    examples.pour(pair, 2)
    print(values.sum(), pair.second.sum(), "numba" in sys.modules)
"""
ELSEWHERE = "machine; machine.is_supported = lambda: False"
OTHER_LAYOUT = "engine; engine.layouts_hold = lambda: False"


def test_another_platform_has_its_own_cache(tmp_path):
    folder = tmp_path / "cache"
    first = call(folder, CALL.format(patch=ELSEWHERE))
    assert first.stdout == "6.0 12 True\n"
    [line] = first.stderr.splitlines()
    assert "compiling its code for this machine" in line
    second = call(folder, CALL.format(patch=ELSEWHERE))
    assert second.stdout == first.stdout
    assert not second.stderr
    assert not objects_in(folder)
    assert {path.suffix for path in folder.rglob("*.nb?")} == {".nbi", ".nbc"}


def test_unknown_layouts_of_objects_are_said_to_be(tmp_path):
    finished = call(tmp_path / "cache", CALL.format(patch=OTHER_LAYOUT))
    assert finished.stdout == "6.0 12 True\n"
    assert "lays out its objects in another way" in finished.stderr
    assert not objects_in(tmp_path)


def test_without_a_folder_nothing_is_kept_and_that_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    finished = call(file, CALL.format(patch=ELSEWHERE))
    assert finished.stdout == "6.0 12 True\n"
    assert "Set FASTSEG_CACHE_DIR to a folder that can" in finished.stderr
