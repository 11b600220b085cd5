"""Reads the reference volumes of the real data: NIfTI-1 files, gzipped."""

import gzip
import struct

import numpy as np

DTYPES = {2: "<u1", 4: "<i2", 16: "<f4", 64: "<f8", 512: "<u2"}
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
    affine = np.eye(4)
    if sform_code > 0:
        affine[:3] = np.reshape(struct.unpack("<12f", data[280:328]), (3, 4))
    else:
        affine[:3] = quaternion_affine(data)
    voxels = np.frombuffer(data, DTYPES[code], np.prod(shape), int(offset))
    return voxels.reshape(shape[:3], order="F"), RAS_TO_LPS @ affine


def quaternion_affine(data):
    """Return the affine of the qform, float64 (3, 4), as nifti1.h defines it."""
    sign, *steps = np.frombuffer(data, "<f4", 4, 76).astype(float)
    b, c, d, *offset = np.frombuffer(data, "<f4", 6, 256).astype(float)
    a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps[2] *= sign or 1
    return np.column_stack([rotation * steps, offset])
