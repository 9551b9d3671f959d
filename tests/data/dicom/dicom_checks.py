"""Images, closed forms and checks that the tests of read_xray share."""

import warnings

import numpy as np
import pytest
from dicom_files import IDENTIFYING
from pydicom import uid

from cxr_ft.data.dicom import DicomError, read_xray

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
BITS_12: dict[str, object] = {"BitsStored": 12, "HighBit": 11}
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
LOSSLESS = (
    *(uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
    *(uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
)
EVERY = (*NATIVE, uid.DeflatedExplicitVRLittleEndian, *LOSSLESS)


def shade(rows=48, columns=65, seed=0):
    """A shaded 12-bit picture with some noise, uint16."""
    noise = np.random.default_rng(seed).integers(0, 40, (rows, columns))
    return (np.add.outer(np.arange(rows), np.arange(columns)) * 35 % 4000 + noise).astype(np.uint16)


def minmax(values):
    values = np.asarray(values, dtype=np.float64)
    return 255 * (values - values.min()) / (values.max() - values.min())


def linear(values, centre, width):
    """The standard's own lines (PS3.3 C.11.2.1.2.1)."""
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    inside = ((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255
    return np.where(values <= low, 0.0, np.where(values > high, 255.0, inside))


def assert_shows(path, grey, size=None):
    """The picture is `grey` with one rounding: never further off than half a level."""
    picture = read_xray(path, size)
    assert picture.dtype == np.uint8
    assert picture.shape == np.shape(grey)
    assert np.abs(picture - np.asarray(grey, dtype=np.float64)).max() <= 0.5 + 1e-3


def refusal(path, reason, size=None):
    """The error with which the file is refused; neither it nor a warning may give the patient away."""
    with warnings.catch_warnings(record=True, action="always") as heard, pytest.raises(DicomError) as caught:
        read_xray(path, size)
    error = caught.value
    assert (error.reason, error.path) == (reason, path)
    texts = f"{error} {error.detail} {error!r} {[warning.message for warning in heard]}".upper()
    assert not [value for value in IDENTIFYING.values() if value in texts]
    return error


def area_mean(grey, height, width):
    """The mean over each new pixel's area, side by side, by cumulative sums."""
    for axis, new in ((0, height), (1, width)):
        old = grey.shape[axis]
        total = np.insert(np.cumsum(grey, axis=axis), 0, 0, axis=axis)
        edges = np.linspace(0, old, new + 1)
        whole = np.minimum(edges.astype(int), old - 1)
        part = np.expand_dims(edges - whole, 1 - axis)
        sums = np.take(total, whole, axis) + part * np.take(grey, whole, axis)
        grey = np.diff(sums, axis=axis) * new / old
    return grey
