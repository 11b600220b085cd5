"""The DICOM files that pydicom is tested with, read and compared with pydicom."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

import fastseg
from fastseg.errors import FastsegError
from tests.soak import Fault


def run(folder, tries, seed):
    """Yield for each file whether both give the same pixels, or it is refused."""
    known = Path(get_testdata_file("CT_small.dcm")).parent
    for path in sorted(known.glob("*.dcm"))[:tries]:
        try:
            image = fastseg.dicom.read_image(path)
        except FastsegError as exc:
            # The file is named, and is not blamed on the system.
            is_named = str(path) in str(exc)
            yield "refused" if is_named else Fault(f"{path.name}: {exc}")
            continue
        dataset = pydicom.dcmread(path, force=True)
        pixels = pydicom.pixels.pixel_array(dataset, raw=True, index=0)
        is_same = np.array_equal(image.pixels, pixels)
        yield "the same" if is_same else Fault(f"{path.name}: other pixels")
