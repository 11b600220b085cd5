"""Reads the reference volumes of the real data: NIfTI-1 files, gzipped."""

import gzip
import struct

import numpy as np

DTYPES = {4: "<i2", 16: "<f4", 512: "<u2"}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path):
    """Return the voxels of a file and where they lie in the patient.

    Returns (voxels (X, Y, Z), float64 (4, 4)): the matrix times (x, y, z, 1) is in mm,
    in DICOM's coordinates LPS. The file has RAS: its first two run the other way.
    """
    data = gzip.decompress(path.read_bytes())
    (size,) = struct.unpack("<i", data[:4])
    assert size == 348, f"{path} is no little-endian NIfTI-1 file"
    shape = struct.unpack("<4h", data[42:50])
    assert shape[3] == 1, f"{path} has several times"
    (code,) = struct.unpack("<h", data[70:72])
    offset, slope, intercept = struct.unpack("<3f", data[108:120])
    assert (slope, intercept) == (1, 0), f"{path} has scaled values"
    (sform_code,) = struct.unpack("<h", data[254:256])
    assert sform_code > 0, f"{path} has no sform"
    affine = np.eye(4)
    affine[:3] = np.reshape(struct.unpack("<12f", data[280:328]), (3, 4))
    voxels = np.frombuffer(data, DTYPES[code], np.prod(shape), int(offset))
    return voxels.reshape(shape[:3], order="F"), RAS_TO_LPS @ affine
