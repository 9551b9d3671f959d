"""What read_xray shows, against closed forms in float64, and what it refuses.

Where pydicom gets a case wrong, the test says so and shows it, so that a later pydicom that gets it right is noticed.
"""

import errno
import io
import os
import pickle
import re
import struct
import time
import types
import warnings
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import IDENTIFYING, compress, lossless_jpeg, lut, write_dicom
from PIL import Image
from pydicom import DataElement, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.pixels.utils import pixel_array

from cxr_ft.data.dicom import DicomError, Reason, codecs, decoder_process, header_scan, read_xray
from cxr_ft.data.dicom.bounded_file import BoundedFile
from cxr_ft.errors import UsageError

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
BITS_12: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}


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
    said = f"{error} {error.detail} {error!r} {[warning.message for warning in heard]}".upper()
    assert not [value for value in IDENTIFYING.values() if value in said]
    return error


@pytest.fixture
def file(tmp_path):
    return tmp_path / "image.dcm"


# Stored values


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_polarity(file, photometric):
    """Guards against pydicom 3.0.2: none of its functions inverts MONOCHROME1."""
    write_dicom(file, RAMP, PhotometricInterpretation=photometric)
    assert_shows(file, minmax(RAMP) if photometric == "MONOCHROME2" else 255 - minmax(RAMP))


@pytest.mark.parametrize("shape", ["INVERSE", "IDENTITY", None])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_inverse_is_applied_once(file, photometric, shape):
    write_dicom(
        file,
        RAMP,
        PhotometricInterpretation=photometric,
        PresentationLUTShape=shape,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    grey = linear(RAMP, 2048, 4096)
    assert_shows(file, 255 - grey if inverted else grey)


@pytest.mark.parametrize("stored", [10, 12, 16])
def test_signed(file, stored):
    values = np.linspace(-(2 ** (stored - 1)), 2 ** (stored - 1) - 1, 512).astype(np.int16).reshape(16, 32)
    write_dicom(file, values, BitsStored=stored, HighBit=stored - 1)
    assert_shows(file, minmax(values))


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_high_bit_are_not_the_pixels(file, signed):
    """Old files keep overlay planes there."""
    overlay = np.random.default_rng(1).integers(0, 16, RAMP.shape).astype(np.uint16) << 12
    write_dicom(file, RAMP | overlay, **BITS_12, PixelRepresentation=int(signed))
    assert_shows(file, minmax(np.where(RAMP >= 2048, RAMP - 4096.0, RAMP) if signed else RAMP))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_high_bit_shifts(file, signed, syntax):
    """Guards against pydicom 3.0.2: it takes the lowest bits whatever HighBit is, and loses the image's own."""
    dirt = np.random.default_rng(2).integers(0, 16, RAMP.shape).astype(np.uint16)
    words = (RAMP << 4) | dirt
    write_dicom(file, words, syntax=syntax, BitsStored=12, HighBit=15, PixelRepresentation=int(signed))
    values = np.where(RAMP >= 2048, RAMP - 4096.0, RAMP) if signed else RAMP
    assert_shows(file, minmax(values))
    assert not np.array_equal(pixel_array(file), values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize(("stored", "high"), [(32, 31), (20, 19), (20, 27)])
def test_stored_in_32_bits(file, signed, padding, stored, high):
    values = np.random.default_rng(5).integers(0, 2**stored, (30, 40))
    values[:3, :3] = 3
    words = (values << (high + 1 - stored) | (7 << high + 1)).astype(np.uint32)
    tags = {"BitsStored": stored, "HighBit": high, "PixelRepresentation": int(signed), "PixelPaddingValue": padding}
    write_dicom(file, words, **tags)
    values = np.where(signed & (values >= 2 ** (stored - 1)), values - 2**stored, values).astype(float)
    shown = values[values != padding]
    grey = 255 * (values - shown.min()) / (shown.max() - shown.min())
    assert_shows(file, np.where(values == padding, 0, grey))


def test_32_bits(file):
    values = (RAMP.astype(np.uint32) * 1_000_000) + 7
    write_dicom(file, values)
    assert_shows(file, minmax(values))


def test_eight_bits(file):
    values = np.arange(15, 255, dtype=np.uint8).reshape(15, 16)
    write_dicom(file, values)
    assert_shows(file, minmax(values))


# Modality


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.37, -12.25), (2.5, 1024), (-1.5, 300)])
def test_rescale_comes_before_the_window(file, slope, intercept):
    write_dicom(file, RAMP, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=400.5, WindowWidth=901)
    assert_shows(file, linear(slope * RAMP.astype(np.float64) + intercept, 400.5, 901))


def test_negative_slope_darkens_large_stored_values(file):
    """Guards against pydicom 3.0.2: apply_windowing flips the window's output if the slope is negative."""
    write_dicom(file, RAMP, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    assert_shows(file, linear(4095.0 - RAMP, 2048, 4096))
    header = pydicom.dcmread(file)
    theirs = apply_windowing(apply_modality_lut(header.pixel_array, header), header)
    assert theirs[0, 0] < theirs[-1, -1]


@pytest.mark.parametrize(("slope", "intercept"), [(0, 5), ("1e999", 0), (1, "-1e999")])
def test_useless_rescale_is_ignored(file, slope, intercept):
    """Guards against pydicom 3.0.2: a slope of 0 makes one value of every pixel."""
    write_dicom(file, RAMP, RescaleSlope=slope, RescaleIntercept=intercept)
    with pytest.warns(UserWarning, match="RescaleSlope"):
        assert_shows(file, minmax(RAMP))
    header = pydicom.dcmread(file)
    if slope == 0:
        assert np.ptp(apply_modality_lut(header.pixel_array, header)) == 0


def test_modality_lut(file):
    entries = (np.sqrt(np.arange(3000)) * 500).astype(np.uint16)
    write_dicom(file, RAMP, ModalityLUTSequence=lut(100, entries, 16), WindowCenter=12000, WindowWidth=20000)
    values = entries[np.clip(RAMP.astype(int) - 100, 0, 2999)].astype(np.float64)
    assert_shows(file, linear(values, 12000, 20000))


# VOI


@pytest.mark.parametrize("width", [1, 2, 3, 100.5, 4096, 70000])
def test_linear_window(file, width):
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=width)
    assert_shows(file, linear(RAMP, 1000, width))


@pytest.mark.parametrize("width", [0.25, 1, 1000, 4096])
def test_linear_exact_window(file, width):
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=width, VOILUTFunction="LINEAR_EXACT")
    assert_shows(file, 255 * np.clip((RAMP - 1000.0) / width + 0.5, 0, 1))


@pytest.mark.parametrize("width", [0.25, 1, 1000, 4096])
def test_sigmoid_window(file, width):
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=width, VOILUTFunction="SIGMOID")
    with np.errstate(over="ignore"):
        assert_shows(file, 255 / (1 + np.exp(-4 * (RAMP - 1000.0) / width)))


def test_the_first_of_several_windows(file):
    write_dicom(file, RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 10, 20])
    assert_shows(file, linear(RAMP, 1000, 500))


@pytest.mark.parametrize(
    ("width", "function"), [(0, None), (-100, None), (0.5, "LINEAR"), (0, "SIGMOID"), ("1e999", None)]
)
def test_useless_window_is_ignored(file, width, function):
    """Guards against pydicom 3.0.2: apply_windowing raises ValueError."""
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=width, VOILUTFunction=function)
    with pytest.warns(UserWarning, match="WindowWidth"):
        assert_shows(file, minmax(RAMP))
    if width == 0:
        with pytest.raises(ValueError, match="Window Width"):
            apply_windowing(RAMP, pydicom.dcmread(file))


@pytest.mark.parametrize("value", [b"10,5", b"wide", b"1 00", b"nan "])
def test_a_window_that_is_no_number_is_ignored(file, value):
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=7777)
    file.write_bytes(file.read_bytes().replace(b"7777", value))
    with pytest.warns(UserWarning, match="WindowWidth is not valid"):
        assert_shows(file, minmax(RAMP))


@pytest.mark.parametrize("missing", ["WindowCenter", "WindowWidth"])
def test_half_a_window_is_ignored(file, missing):
    window: dict[str, Any] = {"WindowCenter": 1000, "WindowWidth": 50, missing: None}
    write_dicom(file, RAMP, **window)
    with pytest.warns(UserWarning, match="WindowWidth"):
        assert_shows(file, minmax(RAMP))


def test_an_unknown_window_function_is_linear(file):
    write_dicom(file, RAMP, WindowCenter=1000, WindowWidth=500, VOILUTFunction="CUBIC")
    with pytest.warns(UserWarning, match="VOILUTFunction"):
        assert_shows(file, linear(RAMP, 1000, 500))


def test_an_empty_window_is_none(file):
    write_dicom(file, RAMP, WindowCenter="", WindowWidth="")
    with warnings.catch_warnings(action="error"):
        assert_shows(file, minmax(RAMP))


@pytest.mark.parametrize(("first", "bits"), [(0, 16), (1745, 16), (500, 12), (500, 10)])
def test_voi_lut(file, first, bits):
    entries = np.linspace(2**bits - 1, 0, 1401).astype(np.uint16)
    write_dicom(file, RAMP, VOILUTSequence=lut(first, entries, bits), WindowCenter=1, WindowWidth=1)
    shown = entries[np.clip(RAMP.astype(int) - first, 0, 1400)]
    assert_shows(file, shown * 255.0 / (2**bits - 1))


@pytest.mark.parametrize("count", [255, 256])
def test_voi_lut_of_8_bit_entries(file, count):
    """Guards against pydicom 3.0.2: apply_voi unpacks 16-bit words, of which there are half as many."""
    entries = (np.sin(np.arange(count) / 30) * 127 + 128).astype(np.uint8)
    write_dicom(file, RAMP, VOILUTSequence=lut(1000, entries, 8))
    shown = entries[np.clip(RAMP.astype(int) - 1000, 0, count - 1)]
    assert_shows(file, shown.astype(float))
    header = pydicom.dcmread(file)
    with pytest.raises(struct.error):
        apply_voi_lut(header.pixel_array, header)


def test_voi_lut_of_8_bit_entries_in_16_bit_words(file):
    """Guards against pydicom 3.0.2: apply_voi computes the place in the table in 8 bits, where it wraps."""
    entries = np.arange(255, -1, -1)
    sequence = lut(1000, entries, 16)
    sequence[0].LUTDescriptor = [256, 1000, 8]
    write_dicom(file, RAMP, VOILUTSequence=sequence)
    shown = entries[np.clip(RAMP.astype(int) - 1000, 0, 255)]
    assert_shows(file, shown.astype(float))
    header = pydicom.dcmread(file)
    assert (apply_voi_lut(header.pixel_array, header) != shown).mean() > 0.5


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_voi_lut_of_65536_entries(file, syntax):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    entries = np.arange(65535, -1, -1)
    sequence = lut(0, entries, 16)
    assert sequence[0].LUTDescriptor[0] == 0
    write_dicom(file, values, syntax=syntax, VOILUTSequence=sequence)
    assert_shows(file, entries[values] * 255 / 65535)


def test_voi_lut_with_a_negative_first_value(file):
    entries = np.arange(0, 65536, 64)
    write_dicom(
        file, RAMP, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=lut(-500, entries, 16), PixelRepresentation=0
    )
    assert_shows(file, entries[np.clip(RAMP.astype(int) - 1024 + 500, 0, 1023)] * 255 / 65535)


def test_voi_lut_in_big_endian(file):
    entries = np.arange(0, 65536, 16)
    sequence = lut(0, entries, 16)
    sequence[0].LUTData = entries.astype(">u2").tobytes()
    write_dicom(file, RAMP, syntax=uid.ExplicitVRBigEndian, VOILUTSequence=sequence)
    assert_shows(file, entries[RAMP] * 255 / 65535)


def test_voi_lut_as_plain_numbers(file):
    entries = np.arange(0, 65536, 64)
    sequence = lut(0, entries, 16)
    sequence[0]["LUTData"].VR = "US"
    sequence[0].LUTData = entries.tolist()
    write_dicom(file, RAMP, VOILUTSequence=sequence)
    assert_shows(file, entries[np.clip(RAMP, 0, 1023)] * 255 / 65535)


@pytest.mark.parametrize("fault", ["short", "no data", "no descriptor", "bits"])
def test_a_broken_lut_is_ignored(file, fault):
    sequence = lut(0, [0] * 4096, 17 if fault == "bits" else 16)
    if fault == "short":
        sequence[0].LUTData = b"\0" * 100
    elif fault == "no data":
        del sequence[0].LUTData
    elif fault == "no descriptor":
        del sequence[0].LUTDescriptor
    write_dicom(file, RAMP, VOILUTSequence=sequence, WindowCenter=1000, WindowWidth=500)
    with pytest.warns(UserWarning, match="VOILUTSequence"):
        assert_shows(file, linear(RAMP, 1000, 500))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 5, 4095])
def test_a_constant_image_is_black(file, photometric, value):
    write_dicom(file, np.full((5, 6), value, dtype=np.uint16), PhotometricInterpretation=photometric)
    with warnings.catch_warnings(action="error"):
        assert_shows(file, np.zeros((5, 6)))


# Padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("ends", [(0, None), (0, 99), (99, 0), (4000, 4095)])
def test_padding_is_black_and_not_counted(file, photometric, ends):
    """Guards against pydicom 3.0.2: it ignores PixelPaddingValue and PixelPaddingRangeLimit."""
    low, high = min(e for e in ends if e is not None), max(e for e in ends if e is not None)
    write_dicom(
        file,
        RAMP,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=ends[0],
        PixelPaddingRangeLimit=ends[1],
    )
    padding = (low <= RAMP) & (high >= RAMP)
    image = RAMP[~padding].astype(np.float64)
    grey = 255 * (RAMP - image.min()) / (image.max() - image.min())
    grey = 255 - grey if photometric == "MONOCHROME1" else grey
    assert_shows(file, np.where(padding, 0.0, grey))


@pytest.mark.parametrize("vr", ["SS", "US"])
def test_padding_of_signed_pixels_may_be_written_unsigned(file, vr):
    values = RAMP.astype(np.int16)
    values[:5] = -2000
    write_dicom(
        file, values, PixelPaddingValue=DataElement("PixelPaddingValue", vr, -2000 % (65536 if vr == "US" else -65536))
    )
    assert_shows(file, np.where(values == -2000, 0.0, 255 * (values - 320.0) / (4095 - 320)))


@pytest.mark.parametrize("tags", [{"PixelPaddingRangeLimit": 99}, {"PixelPaddingValue": [1, 2, 3]}], ids=str)
def test_padding_that_makes_no_sense(file, tags):
    """A limit alone says nothing; of several values the first is taken, as of windows."""
    padding = tags.get("PixelPaddingValue", [None])[0]
    write_dicom(file, RAMP, **tags)
    shown = np.where(padding == RAMP, 0.0, minmax(RAMP))
    assert_shows(file, shown)


@pytest.mark.parametrize(
    ("dtype", "stored", "padding", "tags"),
    [
        (np.uint16, 12, 4095, (0xFFFF,)),
        (np.uint16, 12, 4095, (0xFFFF, 0xFFF0)),
        (np.uint16, 12, 4, (0x8004,)),
        (np.uint8, 8, 255, (0xFFFF,)),
        (np.uint8, 7, 127, (0xFF,)),
        (np.int16, 12, -2000, (-2000 % 4096,)),
        (np.int16, 12, -1, (0x0FFF,)),
        (np.int16, 12, -2000, (-2000 % 65536,)),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_written_as_a_word_of_more_bits(file, dtype, stored, padding, tags, photometric):
    """No pixel has the value as it stands, so its lowest bits count, as a pixel's do."""
    values = np.arange(100, dtype=dtype).reshape(10, 10) + dtype(8)
    shown = minmax(values)
    values[0, :5] = padding
    shown[0, :5] = 0
    kept = values[values != padding].astype(float)
    shown[values != padding] = 255 * (kept - kept.min()) / (kept.max() - kept.min())
    if photometric == "MONOCHROME1":
        shown[values != padding] = 255 - shown[values != padding]
    header: dict[str, Any] = {"BitsStored": stored, "HighBit": stored - 1, "PhotometricInterpretation": photometric}
    for keyword, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), tags, strict=False):
        header[keyword] = DataElement(keyword, "US", value)
    write_dicom(file, values, **header)
    assert_shows(file, shown)


@pytest.mark.parametrize(("ends", "stored"), [((4000, 5000), 12), ((4000, 4096), 12), ((0, 0x7FF), 11)])
def test_a_range_of_padding_may_end_beyond_the_values(file, ends, stored):
    """It is not bent round to the other end, where the image is."""
    values = np.arange(1, 65, dtype=np.uint16).reshape(8, 8)
    values[0] = min(ends[1], 2**stored - 1)
    padding = values >= ends[0]
    header: dict[str, Any] = {"PixelPaddingValue": ends[0], "PixelPaddingRangeLimit": ends[1]}
    write_dicom(file, values, BitsStored=stored, HighBit=stored - 1, **header)
    kept = values[~padding] if not padding.all() else values
    grey = 255 * (values - float(kept.min())) / float(np.ptp(kept))
    assert_shows(file, np.where(padding, 0, grey))


def test_padding_that_is_no_number_is_ignored(file):
    write_dicom(file, RAMP, PixelPaddingValue=DataElement("PixelPaddingValue", "LO", "none"))
    with pytest.warns(UserWarning, match="PixelPaddingValue"):
        assert_shows(file, minmax(RAMP))


def test_nothing_but_padding(file):
    write_dicom(file, np.full((4, 4), 7, dtype=np.uint16), PixelPaddingValue=7, PhotometricInterpretation="MONOCHROME1")
    assert_shows(file, np.zeros((4, 4)))


# Size


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


@pytest.mark.parametrize("size", [1, 7, 24, 47, 48])
@pytest.mark.parametrize(
    "tags", [{}, {"WindowCenter": 1000, "WindowWidth": 700}, {"PhotometricInterpretation": "MONOCHROME1"}]
)
def test_shrinking_is_the_exact_area_mean(file, size, tags):
    array = shade(48, 65)
    write_dicom(file, array, **tags)
    grey = linear(array, 1000, 700) if "WindowCenter" in tags else minmax(array)
    grey = 255 - grey if "PhotometricInterpretation" in tags else grey
    assert_shows(file, area_mean(grey, size, round(65 * size / 48)), size)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 1900, "WindowWidth": 300, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 500, "WindowWidth": 1},
        {"VOILUTSequence": lut(700, np.linspace(65535, 0, 999).astype(int), 16)},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 900},
        {"RescaleSlope": "-0.25", "RescaleIntercept": "100", "WindowCenter": -200, "WindowWidth": 333.5},
    ],
    ids=lambda tags: next(iter(tags)),
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32])
def test_a_size_is_the_area_mean_of_the_full_picture(file, tags, photometric, dtype):
    """More rows than one band has, and a ratio that is no whole number."""
    array = shade(401, 333).astype(dtype)
    write_dicom(file, array, PhotometricInterpretation=photometric, **tags)
    stored = array.astype(np.float64)
    if "VOILUTFunction" in tags:
        grey = 255 / (1 + np.exp(-4 * (stored - 1900) / 300))
    elif "VOILUTSequence" in tags:
        grey = np.linspace(65535, 0, 999).astype(int)[np.clip(array.astype(int) - 700, 0, 998)] / 257
    elif "PixelPaddingValue" in tags:
        grey = np.clip(
            255 * (stored - stored[stored > 900].min()) / (stored.max() - stored[stored > 900].min()), 0, 255
        )
    elif "RescaleSlope" in tags:
        grey = linear(-0.25 * stored + 100, -200, 333.5)
    else:
        grey = linear(stored, 500, 1)
    grey = 255 - grey if photometric == "MONOCHROME1" else grey
    if "PixelPaddingValue" in tags:
        grey = np.where(stored <= 900, 0, grey)
    assert_shows(file, grey)
    assert_shows(file, area_mean(grey, round(401 * 100 / 333), 100), 100)


def test_shrinking_is_not_done_on_rounded_levels(file):
    """A window so wide that full-size pixels round to 127 or 128, and their mean to neither end."""
    array = np.tile(np.array([[1000, 1100]], dtype=np.uint16), (8, 8))
    write_dicom(file, array, WindowCenter=1050.5, WindowWidth=25501)
    assert set(np.unique(read_xray(file))) == {127, 128}
    assert_shows(file, area_mean(linear(array, 1050.5, 25501), 4, 8), 4)


def test_enlarging_is_linear(file):
    array = shade(20, 31)
    write_dicom(file, array)
    expected = cv2.resize(minmax(array), (62, 40), interpolation=cv2.INTER_LINEAR)
    assert_shows(file, expected, 40)


def test_the_short_side_of_an_upright_picture(file):
    write_dicom(file, shade(65, 48))
    assert read_xray(file, 24).shape == (32, 24)


def test_size_must_be_positive(file):
    write_dicom(file, RAMP)
    with pytest.raises(UsageError, match="at least 1"):
        read_xray(file, 0)


SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


@pytest.mark.parametrize("keyword", SPACINGS)
def test_pixels_become_square(file, keyword):
    """The finer spacing wins, so the coarser side grows; the spacing of rows stands first (PS3.3 C.7.6.3.1.7)."""
    array = shade(20, 30)
    upright: dict[str, Any] = {keyword: [3, 2]}
    write_dicom(file, array, **upright)
    assert_shows(file, cv2.resize(minmax(array), (30, 30), interpolation=cv2.INTER_LINEAR))
    lying: dict[str, Any] = {keyword: [1, 2]}
    write_dicom(file, array, **lying)
    assert_shows(file, cv2.resize(minmax(array), (60, 20), interpolation=cv2.INTER_LINEAR))
    assert_shows(file, area_mean(cv2.resize(minmax(array), (30, 10), interpolation=cv2.INTER_AREA), 10, 30), 10)


def test_the_first_spacing_that_makes_sense_counts(file):
    write_dicom(file, shade(20, 30), PixelSpacing=[0, 1], ImagerPixelSpacing=[0.2, 0.1], PixelAspectRatio=[1, 7])
    assert read_xray(file).shape == (40, 30)


@pytest.mark.parametrize("spacing", [["0.139", "0.13900001"], [0.1], [-1, 1], ["1e999", 1], None])
def test_no_spacing_or_a_square_one_changes_nothing(file, spacing):
    array = shade()
    write_dicom(file, array, PixelSpacing=spacing)
    assert_shows(file, minmax(array))


def test_two_roundings_of_one_spacing_are_square(file):
    write_dicom(file, shade(4, 4000), PixelSpacing=[0.1, 0.10005])
    assert read_xray(file).shape == (4, 4000)


# Encodings

NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
LOSSLESS = (
    *(uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
    *(uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
)
EVERY = (*NATIVE, uid.DeflatedExplicitVRLittleEndian, *LOSSLESS)


@pytest.mark.parametrize("syntax", EVERY, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("kind", ["12 bits", "8 bits, odd", "signed"])
def test_every_syntax_shows_the_same(file, syntax, kind):
    array = shade(47, 65) if kind != "8 bits, odd" else (shade(47, 65) // 17).astype(np.uint8)
    if kind == "signed":
        array = array.astype(np.int16) - 2048
    write_dicom(file, array, syntax=syntax, **({} if array.dtype == np.uint8 else BITS_12))
    assert_shows(file, minmax(array))


def test_deflated_files_are_read(file):
    """Guards against pydicom 3.0.2: pydicom.pixels.pixel_array(path) finds no pixel data in them."""
    write_dicom(file, RAMP, syntax=uid.DeflatedExplicitVRLittleEndian)
    assert_shows(file, minmax(RAMP))
    with pytest.raises(AttributeError), pytest.warns(UserWarning):
        pixel_array(file)


def test_baseline_jpeg(file):
    array = (shade(64, 64) // 17).astype(np.uint8)
    write_dicom(file, array, syntax=uid.JPEGBaseline8Bit)
    stream = get_frame(pydicom.dcmread(file).PixelData, 0, number_of_frames=1)
    assert_shows(file, minmax(cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_GRAYSCALE)))


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_jpeg_of_every_predictor(file, predictor, bits):
    array = (shade().astype(int) * 2**bits // 4096).astype(np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpeg8_encode(array, lossless=True, predictor=predictor, bitspersample=bits)
    data = encapsulate([stream], has_bot=False)
    write_dicom(file, array, syntax=uid.JPEGLossless, PixelData=data, BitsStored=bits, HighBit=bits - 1)
    assert_shows(file, minmax(array))


@pytest.mark.parametrize("syntax", [uid.JPEGExtended12Bit, uid.JPEGLSNearLossless], ids=lambda syntax: syntax.keyword)
def test_a_syntax_with_losses(file, syntax):
    array = shade(64, 64)
    write_dicom(file, array, syntax=syntax, WindowCenter=2048, WindowWidth=4096, **BITS_12)
    assert np.abs(read_xray(file) - linear(array, 2048, 4096)).max() < 3


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("named", [True, False])
def test_colours_of_a_jpeg(file, photometric, named):
    """A JFIF header says that a stream is YCbCr; without it the data set's word counts."""
    y, x = np.mgrid[:64, :64]
    colours = np.stack([x * 3, y * 3, 255 - x - y], axis=-1).astype(np.uint8)
    if photometric == "RGB" and not named:
        stream = imagecodecs.jpeg8_encode(colours, level=98, colorspace="RGB", outcolorspace="RGB")
    else:
        stream = imagecodecs.jpeg8_encode(colours, level=98)
        stream = stream if named else stream[:2] + stream[20:]
    assert (b"JFIF" in stream) == named
    data = encapsulate([stream], has_bot=False)
    write_dicom(file, colours, syntax=uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric, PixelData=data)
    assert np.abs(read_xray(file) - colours @ [0.299, 0.587, 0.114]).max() < 4


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
def test_colours_by_planes(file, syntax):
    grey = (shade() // 17).astype(np.uint8)
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    data = {} if syntax.is_encapsulated else {"PixelData": colours.transpose(2, 0, 1).tobytes()}
    write_dicom(file, colours, syntax=syntax, PlanarConfiguration=1, **data)
    assert_shows(file, colours @ [0.299, 0.587, 0.114])


@pytest.mark.parametrize("frame", [0xC2, 0xC9])
def test_a_jpeg_of_another_kind_than_declared(file, frame):
    array = (shade(64, 64) // 17).astype(np.uint8)
    stream = compress(array, 8, uid.JPEGBaseline8Bit).replace(b"\xff\xc0", bytes([255, frame]), 1)
    write_dicom(file, array, syntax=uid.JPEGBaseline8Bit, PixelData=encapsulate([stream], has_bot=False))
    refusal(file, Reason.BAD_PIXELS)


def test_a_stream_in_several_items_behind_an_offset_table(file):
    array = shade()
    stream = lossless_jpeg(array, 12)
    data = encapsulate([stream], fragments_per_frame=3, has_bot=True)
    write_dicom(file, array, syntax=uid.JPEGLosslessSV1, PixelData=data, **BITS_12)
    assert_shows(file, minmax(array))


def test_fill_bytes_before_a_marker(file):
    array = shade()
    stream = lossless_jpeg(array, 12).replace(b"\xff\xc3", b"\xff\xff\xff\xc3", 1)
    data = encapsulate([stream], has_bot=False)
    write_dicom(file, array, syntax=uid.JPEGLosslessSV1, PixelData=data, **BITS_12)
    assert_shows(file, minmax(array))


def test_high_bit_does_not_shift_a_codestream(file):
    array = shade()
    write_dicom(file, array, syntax=uid.JPEGLosslessSV1, BitsStored=12, HighBit=15)
    assert_shows(file, minmax(array))


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
def test_a_bare_data_set_is_read(file, syntax):
    """Guards against pydicom 3.0.2: even with force it knows no transfer syntax for it."""
    write_dicom(file, RAMP, syntax=syntax, meta=False)
    assert_shows(file, minmax(RAMP))
    with pytest.raises(AttributeError):
        _ = pydicom.dcmread(file, force=True).pixel_array


def test_meta_information_without_preamble(file):
    write_dicom(file, RAMP)
    file.write_bytes(file.read_bytes()[132:])
    assert_shows(file, minmax(RAMP))


def test_big_endian_bytes_in_words(file):
    array = np.arange(1, 16, dtype=np.uint8).reshape(3, 5)
    swapped = np.frombuffer(array.tobytes() + b"\0", ">u2").astype("<u2").tobytes()
    write_dicom(file, array, syntax=uid.ExplicitVRBigEndian, vr="OW", PixelData=swapped)
    assert_shows(file, minmax(array))


def test_a_preamble_may_begin_like_a_picture(file):
    write_dicom(file, RAMP)
    file.write_bytes(b"\xff\xd8\xff" + file.read_bytes()[3:])
    assert_shows(file, minmax(RAMP))


def test_unknown_vr_of_the_pixels_and_trailing_bytes(file):
    write_dicom(file, RAMP, vr="UN", PixelData=RAMP.tobytes() + b"after the pixels")
    file.write_bytes(file.read_bytes() + b"and after the data set")
    with warnings.catch_warnings(action="error"):
        assert_shows(file, minmax(RAMP))


def test_lower_case_photometric_interpretation(file):
    """Guards against pydicom 3.0.2: ValueError, an unknown photometric interpretation."""
    write_dicom(file, RAMP)
    file.write_bytes(file.read_bytes().replace(b"MONOCHROME2", b"Monochrome1"))
    with pytest.warns(UserWarning, match="PhotometricInterpretation"):
        assert_shows(file, 255 - minmax(RAMP))
    with pytest.raises(ValueError, match="Photometric"):
        pixel_array(file)


@pytest.mark.parametrize(
    "tags", [{"BitsStored": 12, "HighBit": None}, {"SamplesPerPixel": None}, {"NumberOfFrames": 1}, {"Modality": None}]
)
def test_what_may_be_missing(file, tags):
    write_dicom(file, RAMP, **tags)
    assert_shows(file, minmax(RAMP))


@pytest.mark.parametrize(
    "part", [None, "", "CHEST", "Chest", "NON GRID CHEST", "PORTABLE CHEST", "THORAX", "CHEST ABDOMEN"]
)
def test_body_parts_that_are_read(file, part):
    """Of 7,469 headers of Open-I a third have none; a word that is not known may mean a chest, and is let through."""
    write_dicom(file, RAMP, BodyPartExamined=part and DataElement("BodyPartExamined", "LO", part))
    assert_shows(file, minmax(RAMP))


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT", None, ""])
def test_modalities_that_are_read(file, modality):
    write_dicom(file, RAMP, Modality=modality, SOPClassUID=uid.SecondaryCaptureImageStorage)
    assert_shows(file, minmax(RAMP))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_colour_becomes_luminance(file, syntax):
    grey = (shade() // 17).astype(np.uint8)
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    write_dicom(file, colours, syntax=syntax)
    assert_shows(file, colours @ [0.299, 0.587, 0.114])


def test_luminance_spans_the_bits_stored(file):
    grey = (shade() // 34).astype(np.uint8)
    write_dicom(file, np.stack([grey] * 3, axis=-1), BitsStored=7, HighBit=6)
    assert_shows(file, grey * 255.0 / 127)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_luminance_of_ybr_is_y(file, photometric):
    luma = (shade(48, 64) // 17).astype(np.uint8)
    neutral = np.full_like(luma, 128)
    ybr = np.stack([luma, neutral, neutral], axis=-1)
    data = ybr.tobytes()
    if photometric == "YBR_FULL_422":
        data = np.stack([luma[:, ::2], luma[:, 1::2], neutral[:, ::2], neutral[:, ::2]], axis=-1).tobytes()
    write_dicom(file, ybr, PhotometricInterpretation=photometric, PixelData=data)
    assert_shows(file, luma.astype(float))


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_grey_picture_keeps_its_levels_whatever_its_name(file, kind):
    array = (shade() // 20).astype(np.uint8)
    Image.fromarray(array).save(file, kind)
    assert_shows(file, np.asarray(Image.open(file)).astype(float))
    assert_shows(file, area_mean(np.asarray(Image.open(file)).astype(float), 24, 32), 24)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_picture_becomes_luminance(file, mode):
    grey = (shade() // 17).astype(np.uint8)
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    picture = Image.fromarray(colours).convert(mode)
    picture.save(file, "PNG")
    shown = np.asarray(picture.convert("RGB")) @ [0.299, 0.587, 0.114]
    assert np.abs(read_xray(file) - shown).max() <= 1


@pytest.mark.parametrize("low", [0, 30000])
def test_a_16_bit_png_is_stretched(file, low):
    array = shade() + np.uint16(low)
    Image.fromarray(array).save(file, "PNG")
    assert_shows(file, minmax(array))
    assert_shows(file, area_mean(minmax(array), 24, 32), 24)


def test_a_constant_16_bit_png_is_black(file):
    Image.fromarray(np.full((4, 5), 900, dtype=np.uint16)).save(file, "PNG")
    assert_shows(file, np.zeros((4, 5)))


def test_a_picture_taken_sideways_is_turned(file):
    array = (shade() // 20).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(file, "PNG", exif=exif)
    assert_shows(file, np.rot90(array, -1).astype(float))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("left", [0.3, 0.7, 0.99])
def test_a_truncated_picture(file, kind, left):
    Image.fromarray((shade() // 20).astype(np.uint8)).save(file, kind)
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    refusal(file, Reason.TRUNCATED)


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_broken_picture(file, magic):
    file.write_bytes(magic + b"nonsense" * 50 + b"IEND\xaeB`\x82\xff\xd9")
    refusal(file, Reason.BAD_PIXELS)


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_picture_too_large(file, side):
    head = struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = [struct.pack(">L", len(d)) + t + d + struct.pack(">L", zlib.crc32(t + d)) for t, d in chunks]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    refusal(file, Reason.TOO_LARGE)


# Refusals


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7" * 100, b"\0" * 1000, b"\x08\0\x05\0" + b"\xff" * 500])
def test_not_dicom(file, content):
    file.write_bytes(content)
    refusal(file, Reason.NOT_DICOM)


def test_a_bare_data_set_that_is_no_image_is_not_dicom(file):
    write_dicom(file, RAMP, meta=False, Rows=None, Columns=None)
    refusal(file, Reason.NOT_DICOM)


def test_not_readable(tmp_path):
    refusal(tmp_path / "missing.dcm", Reason.NOT_READABLE)
    refusal(tmp_path, Reason.NOT_READABLE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "pipe.dcm")
    for path in (tmp_path / "pipe.dcm", tmp_path / "link.dcm"):
        refusal(path, Reason.NOT_READABLE)
        with pytest.raises(DicomError) as caught:
            header_scan.read(path)
        assert (caught.value.reason, caught.value.path) == (Reason.NOT_READABLE, path)


def test_a_disk_that_fails_in_the_middle_of_a_header(file, monkeypatch):
    """The file may be sound, so it is not called broken."""

    def read_a_little(self, size=-1):
        if self.tell() > 200:
            raise OSError(errno.EIO, "Input/output error")
        return io.BufferedReader.read(self, size)

    write_dicom(file, RAMP)
    monkeypatch.setattr(BoundedFile, "read", read_a_little)
    monkeypatch.setattr("cxr_ft.data.dicom.pixel_data.inflate", lambda file: file)
    refusal(file, Reason.NOT_READABLE)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "CT"}, Reason.WRONG_MODALITY),
        ({"Modality": "XA"}, Reason.WRONG_MODALITY),
        ({"Modality": "MG"}, Reason.WRONG_MODALITY),
        ({"Modality": "RF"}, Reason.WRONG_MODALITY),
        ({"Modality": None, "SOPClassUID": uid.CTImageStorage}, Reason.WRONG_MODALITY),
        ({"Modality": None, "SOPClassUID": uid.XRayRadiofluoroscopicImageStorage}, Reason.WRONG_MODALITY),
        ({"Modality": "OT", "SOPClassUID": uid.XRayAngiographicImageStorage}, Reason.WRONG_MODALITY),
        (
            {"Modality": "DX", "SOPClassUID": uid.DigitalMammographyXRayImageStorageForPresentation},
            Reason.WRONG_MODALITY,
        ),
        ({"SOPClassUID": uid.RawDataStorage}, Reason.NOT_AN_IMAGE),
        ({"BodyPartExamined": "HAND"}, Reason.NOT_CHEST),
        ({"BodyPartExamined": "EXTREMETY"}, Reason.NOT_CHEST),
        ({"BodyPartExamined": DataElement("BodyPartExamined", "LO", "Abdomen")}, Reason.NOT_CHEST),
        ({"Modality": "SR"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.BasicTextSRStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.GrayscaleSoftcopyPresentationStateStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.KeyObjectSelectionDocumentStorage, "PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": uid.EncapsulatedPDFStorage, "PixelData": None, "Modality": "OT"}, Reason.NOT_AN_IMAGE),
        ({"PresentationIntentType": "FOR PROCESSING", "Modality": "DX"}, Reason.FOR_PROCESSING),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "Modality": "DX"}, Reason.FOR_PROCESSING),
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"PixelData": None}, Reason.NO_PIXELS),
        ({"PixelData": None, "FloatPixelData": b"\0" * 4 * 4096}, Reason.NO_PIXELS),
        ({"Rows": None}, Reason.BAD_HEADER),
        ({"Rows": 0}, Reason.BAD_HEADER),
        ({"Columns": 0}, Reason.BAD_HEADER),
        ({"BitsStored": 17}, Reason.BAD_HEADER),
        ({"BitsStored": None}, Reason.BAD_HEADER),
        ({"BitsStored": 12, "HighBit": 3}, Reason.BAD_HEADER),
        ({"HighBit": 16}, Reason.BAD_HEADER),
        ({"PixelRepresentation": 2}, Reason.BAD_HEADER),
        ({"PixelRepresentation": None}, Reason.BAD_HEADER),
        ({"PhotometricInterpretation": None}, Reason.BAD_HEADER),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED),
        ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, Reason.UNSUPPORTED),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, Reason.UNSUPPORTED),
        ({"BitsAllocated": None}, Reason.BAD_HEADER),
        ({"PixelData": RAMP.tobytes()[:-2]}, Reason.TRUNCATED),
    ],
    ids=str,
)
def test_refused_by_the_header(file, tags, reason):
    write_dicom(file, RAMP, **tags)
    refusal(file, reason)


def test_unsupported_syntax(file):
    write_dicom(file, RAMP, syntax=uid.MPEG2MPML, PixelData=encapsulate([b"\0" * 64]))
    refusal(file, Reason.UNSUPPORTED)
    write_dicom(file, RAMP)
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.10"))
    refusal(file, Reason.UNSUPPORTED)


@pytest.mark.parametrize("keyword", ["TransferSyntaxUID", "Modality", "PhotometricInterpretation"])
def test_a_value_that_swallows_the_patients_name_is_not_quoted(file, keyword):
    """Guards against pydicom 3.0.2: its warning about a value too long quotes all of it."""
    write_dicom(file, RAMP, Modality="CT" if keyword == "Modality" else "CR")
    header = pydicom.dcmread(file)
    value = (header if keyword in header else header.file_meta)[keyword].value.encode()
    whole = file.read_bytes()
    if keyword == "PhotometricInterpretation":  # the name comes before it, so another one is put behind
        whole = whole.replace(b"MONOCHROME2 ", b"ROENTGEN^ANN")
    at = whole.find(value if value in whole else b"ROENTGEN^ANN")
    length = max(whole.find(b"ROENTGEN^ANNA", at) + 14 - at, 12)
    file.write_bytes(whole[: at - 2] + struct.pack("<H", length) + whole[at:])
    reason = Reason.WRONG_MODALITY if keyword == "Modality" else Reason.UNSUPPORTED
    refusal(file, reason)


@pytest.mark.parametrize("syntax", EVERY, ids=lambda syntax: syntax.keyword)
def test_cut_short_by_any_amount(file, syntax):
    write_dicom(file, shade(), syntax=syntax, **BITS_12)
    whole = file.read_bytes()
    pixels = whole.find(struct.pack(">HH" if syntax == uid.ExplicitVRBigEndian else "<HH", 0x7FE0, 0x10))
    least = 2 if syntax == uid.DeflatedExplicitVRLittleEndian else 1  # its last byte may be padding
    for left in (len(whole) - least, len(whole) - 9, (max(pixels, 140) + len(whole)) // 2, max(pixels + 13, 500)):
        file.write_bytes(whole[:left])
        refusal(file, Reason.TRUNCATED)


def test_cut_short_within_the_header(file):
    write_dicom(file, RAMP)
    whole = file.read_bytes()
    name = whole.find(b"ROENTGEN")
    for left in (140, name + 4):
        file.write_bytes(whole[:left])
        refusal(file, Reason.TRUNCATED)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_half_a_codestream_in_a_whole_file(file, syntax):
    array = shade()
    write_dicom(file, array, syntax=syntax, **BITS_12)
    stream = get_frame(pydicom.dcmread(file).PixelData, 0, number_of_frames=1)
    half = encapsulate([stream[: len(stream) // 2]], has_bot=False)
    write_dicom(file, array, syntax=syntax, PixelData=half, **BITS_12)
    refusal(file, Reason.BAD_PIXELS if syntax == uid.RLELossless else Reason.TRUNCATED)


STREAMS = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *LOSSLESS[1:], uid.JPEGLSNearLossless)


@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("left", [0.3, 0.9, -40, -6])
def test_part_of_a_stream_with_a_forged_end(file, syntax, left):
    """Guards against pydicom 3.0.2: its JPEG plugins fill up what is missing, pylibjpeg's in JPEG-LS as well."""
    array, tags = shade(), BITS_12
    if syntax == uid.JPEGBaseline8Bit:
        array, tags = (array // 17).astype(np.uint8), {}
    stream = compress(array, 8 * array.dtype.itemsize if not tags else 12, syntax).rstrip(b"\0")
    cut = stream[: int(left * len(stream)) if left > 0 else left] + b"\xff\xd9"
    write_dicom(file, array, syntax=syntax, PixelData=encapsulate([stream], has_bot=False), **tags)
    read_xray(file)
    write_dicom(file, array, syntax=syntax, PixelData=encapsulate([cut], has_bot=False), **tags)
    with pytest.raises(DicomError) as caught:
        read_xray(file)
    assert caught.value.reason in (Reason.TRUNCATED, Reason.BAD_PIXELS)


def with_restarts(kind):
    """A JPEG stream with a restart marker every row of units or two, 100 x 80 pixels."""
    array = shade(100, 80)
    if kind == "lossless":  # after a marker, prediction starts as in an image of one row
        rows = [lossless_jpeg(row[None], 12) for row in array]
        start = rows[0].index(b"\xff\xda")
        at = rows[0].index(b"\xff\xc3")
        head = rows[0][: at + 5] + struct.pack(">H", 100) + rows[0][at + 7 : start]
        coded = [row[start + 10 : -2] + bytes([255, 0xD0 + number % 8]) for number, row in enumerate(rows)]
        interval = b"\xff\xdd" + struct.pack(">HH", 4, 80)
        return head + interval + rows[0][start : start + 10] + b"".join(coded)[:-2] + b"\xff\xd9"
    grey = (array // 17).astype(np.uint8)
    colours = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    options: dict[str, Any] = {
        "grey": {"restart_marker_rows": 1},
        "every block": {"restart_marker_blocks": 1},
        "colour": {"restart_marker_rows": 1, "subsampling": 0},
        "thinned colour": {"restart_marker_blocks": 7, "subsampling": 2},
        "progressive": {"restart_marker_rows": 1, "progressive": True},
    }[kind]
    buffer = io.BytesIO()
    Image.fromarray(colours if "colour" in kind else grey).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


KINDS = {"grey": 12, "every block": 129, "colour": 12, "thinned colour": 4, "lossless": 99}


def write_jpeg(file, kind, stream):
    """The stream in a DICOM file, or, progressive as no transfer syntax is, as a file of its own."""
    if kind == "progressive":
        file.write_bytes(stream)
        return
    colour: dict[str, Any] = {"PhotometricInterpretation": "YBR_FULL_422"} if "colour" in kind else {}
    array = np.zeros((100, 80, 3) if colour else (100, 80), np.uint16 if kind == "lossless" else np.uint8)
    tags = BITS_12 if kind == "lossless" else colour
    syntax = uid.JPEGLosslessSV1 if kind == "lossless" else uid.JPEGBaseline8Bit
    write_dicom(file, array, syntax=syntax, PixelData=encapsulate([stream], has_bot=False), **tags)


@pytest.mark.parametrize("kind", [*KINDS, "progressive"])
def test_a_jpeg_that_ends_before_a_restart_marker(file, kind):
    """Guards against libjpeg-turbo 3.1 and Pillow 12: both fill up what is missing after whole intervals."""
    stream = with_restarts(kind)
    coded = stream.index(b"\xff\xda")
    places = [coded + found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", stream[coded:])]
    assert len(places) == KINDS.get(kind, len(places)) > 0
    write_jpeg(file, kind, stream)
    if kind == "lossless":
        assert_shows(file, minmax(shade(100, 80)))
    else:
        expected = np.asarray(Image.open(io.BytesIO(stream)).convert("L"), dtype=float)
        stretched = kind in ("grey", "every block")
        assert np.abs(read_xray(file) - (minmax(expected) if stretched else expected)).max() < 4
    parts = [stream[:place] + b"\xff\xd9" for place in [*places[:9], *places[9::10], places[-1]]]
    parts.append(stream[: places[0]] + stream[places[1] :])  # one interval lost within
    for part in parts:
        write_jpeg(file, kind, part)
        refusal(file, Reason.TRUNCATED)
        if kind != "lossless":
            file.write_bytes(part)
            refusal(file, Reason.TRUNCATED)


@pytest.mark.parametrize("fault", ["no frame", "no factors", "another component", "too many segments"])
def test_broken_headers_before_restarts(file, fault):
    stream = with_restarts("grey")
    frame, scan = stream.index(b"\xff\xc0"), stream.index(b"\xff\xda")
    broken = {
        "no frame": stream[:frame] + stream[scan:],
        "no factors": stream[: frame + 11] + b"\0" + stream[frame + 12 :],
        "another component": stream[: scan + 5] + b"\7" + stream[scan + 6 :],
        "too many segments": stream[:2] + b"\xff\xfe\0\2" * 10_001 + stream[2:],
    }[fault]
    if fault == "no frame":
        broken = broken[:2] + b"\xff\xdd\0\4\0\1" + broken[2:]
    file.write_bytes(broken)
    refusal(file, Reason.TOO_LARGE if "many" in fault else Reason.BAD_PIXELS)


@pytest.mark.parametrize("syntax", LOSSLESS[1:], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("tags", [{"Rows": 65, "Columns": 48}, {"Rows": 40}, {"Columns": 6000, "Rows": 6000}], ids=str)
def test_a_codestream_of_another_size(file, syntax, tags):
    """Guards against pydicom 3.0.2: exchanged sides go unnoticed, and a false size is allocated."""
    array = shade()
    write_dicom(file, array, syntax=syntax, **BITS_12)
    data = pydicom.dcmread(file).PixelData
    write_dicom(file, array, syntax=syntax, PixelData=data, **BITS_12, **tags)
    refusal(file, Reason.BAD_PIXELS)


def test_a_codestream_with_more_bits_than_there_is_room_for(file):
    array = shade()
    for syntax in (uid.JPEG2000Lossless, uid.JPEGLosslessSV1):
        write_dicom(file, array, syntax=syntax, **BITS_12)
        data = pydicom.dcmread(file).PixelData
        write_dicom(file, (array // 16).astype(np.uint8), syntax=syntax, PixelData=data)
        refusal(file, Reason.BAD_PIXELS)


def test_plain_pixels_where_a_codestream_is_declared(file):
    write_dicom(file, RAMP + 9)
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    refusal(file, Reason.BAD_PIXELS)


def test_noise_instead_of_a_codestream(file):
    noise = np.random.default_rng(3).bytes(500)
    for syntax in LOSSLESS:
        write_dicom(file, RAMP, syntax=syntax, PixelData=encapsulate([noise], has_bot=False))
        refusal(file, Reason.BAD_PIXELS)


def test_a_huge_image_is_refused_before_anything_is_allocated(file):
    for syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless):
        write_dicom(file, RAMP, syntax=syntax, Rows=20000, Columns=20000, PixelData=encapsulate([b"\0" * 64]))
        refusal(file, Reason.TOO_LARGE)


def test_a_huge_spacing_is_refused_before_anything_is_allocated(file):
    write_dicom(file, RAMP, PixelSpacing=["1e-150", "1e150"])
    refusal(file, Reason.TOO_LARGE)
    refusal(file, Reason.TOO_LARGE, 64)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.keyword)
def test_a_few_bytes_that_become_a_huge_image(file, syntax):
    array = np.zeros((3000, 3000), dtype=np.uint16)
    write_dicom(file, array, syntax=syntax)
    assert file.stat().st_size < 5000
    refusal(file, Reason.TOO_LARGE)


def coding(layers=1, blocks=0x0404, precincts=b""):
    """A JPEG 2000 coding style of five levels (ITU-T T.800 A.6.1)."""
    body = struct.pack(">BBHBBHBB", bool(precincts), 0, layers, 0, 5, blocks, 0, 1) + precincts
    return struct.pack(">HH", 0xFF52, len(body) + 2) + body


@pytest.mark.parametrize("part", ["tiles", "layers", "precincts", "blocks", "other components"])
def test_a_jpeg_2000_stream_in_too_many_pieces(file, part, monkeypatch):
    """OpenJPEG would allocate for each of them, gigabytes for a stream of some hundred bytes."""
    array = shade(512, 512)
    stream = bytearray(compress(array, 12, uid.JPEG2000Lossless))
    at = stream.index(b"\xff\x52")
    end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    if part == "tiles":
        stream[24:32] = struct.pack(">LL", 1, 1)
    elif part == "other components":
        stream[end:end] = bytes.fromhex("ff53 0009 00 00 05 04 04 00 01")
    else:
        stream[at:end] = {
            "layers": coding(layers=65535),
            "precincts": coding(layers=99, precincts=b"\0" * 6),
            "blocks": coding(blocks=0),
        }[part]
    if part == "blocks":
        monkeypatch.setattr("cxr_ft.data.dicom.jpeg_2000.MAX_BLOCKS", 2**13)
    write_dicom(file, array, syntax=uid.JPEG2000Lossless, PixelData=encapsulate([bytes(stream)], has_bot=False))
    monkeypatch.setattr("cxr_ft.data.dicom.codecs._elsewhere", None)
    refusal(file, Reason.UNSUPPORTED if part in ("tiles", "other components") else Reason.TOO_LARGE)


@pytest.mark.parametrize("end", ["time", "memory", "crash"])
def test_a_decoder_that_dies_takes_nothing_with_it(file, monkeypatch, end):
    pack, start = decoder_process.REQUEST.pack, codecs._worker

    def tight(codec, seconds, memory, length):
        return pack(codec, 1e-6 if end == "time" else seconds, 2**12 if end == "memory" else memory, length)

    def killed():
        process = start()
        process.kill()
        process.wait()
        return process

    array = shade(1200, 900)
    write_dicom(file, array, syntax=uid.JPEG2000Lossless, **BITS_12)
    request = types.SimpleNamespace(pack=tight)
    monkeypatch.setattr(codecs, "worker", types.SimpleNamespace(**vars(decoder_process) | {"REQUEST": request}))
    if end == "crash":
        monkeypatch.setattr(codecs, "_worker", killed)
    refusal(file, Reason.BAD_PIXELS)
    monkeypatch.undo()
    assert_shows(file, minmax(array))


def test_a_header_of_a_million_elements(file):
    """pydicom would be busy for seconds, and for minutes with more."""
    write_dicom(file, RAMP)
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    elements = b"".join(struct.pack("<HH2sH", 0x0019, 0x1001, b"LO", 0) for _ in range(1_000_000))
    file.write_bytes(whole[:at] + elements + whole[at:])
    start = time.perf_counter()
    refusal(file, Reason.TOO_LARGE)
    assert time.perf_counter() - start < 5


def test_a_value_far_too_long(file):
    write_dicom(file, RAMP, PixelSpacing=None, VOILUTSequence=lut(0, [0] * 4096, 16))
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    long = struct.pack("<HH2sHL", 0x0028, 0x0001, b"UN", 0, 2**21) + b"\0" * 2**21
    file.write_bytes(whole[:at] + long.replace(b"\x28\0\1\0", struct.pack("<HH", 0x0018, 0x1164)) + whole[at:])
    refusal(file, Reason.BAD_HEADER)


def test_a_large_element_that_is_not_looked_at(file):
    write_dicom(file, RAMP, EncapsulatedDocument=b"\0" * 2**22)
    assert_shows(file, minmax(RAMP))


def test_a_deflated_bomb(file, monkeypatch):
    """Guards against pydicom 3.0.2: it inflates all there is."""
    monkeypatch.setattr("cxr_ft.data.dicom.bounded_file.MAX_BYTES", 10_000)
    write_dicom(file, np.zeros((200, 200), dtype=np.uint16), syntax=uid.DeflatedExplicitVRLittleEndian)
    assert file.stat().st_size < 10_000
    refusal(file, Reason.TOO_LARGE)


@pytest.mark.parametrize("length", [0x7FFFFFF0, 0xFFFFFFFE])
@pytest.mark.parametrize("place", ["header", "pixels"])
def test_an_element_longer_than_the_file(file, place, length):
    """Guards against pydicom 3.0.2: MemoryError, or gigabytes asked for."""
    write_dicom(file, RAMP, PixelData=RAMP.tobytes(), ModalityLUTSequence=lut(0, [1] * 300, 16))
    whole = file.read_bytes()
    tag = struct.pack("<HH2sH", 0x0028, 0x3006, b"OW", 0) if place == "header" else b"\xe0\x7f\x10\0OW\0\0"
    at = whole.find(tag) + 8
    if place == "header":  # of the sequence, of its item and of the element within it
        at = whole.find(struct.pack("<HH2sH", 0x0028, 0x3000, b"SQ", 0)) + 8
    file.write_bytes(whole[:at] + struct.pack("<L", length) + whole[at + 4 :])
    refusal(file, Reason.TRUNCATED)


def test_a_read_asks_for_no_more_than_there_is(file):
    file.write_bytes(b"0123456789")
    with BoundedFile.open(file) as opened:
        assert (opened.read(3), opened.read(2**62), opened.read(2**62)) == (b"012", b"3456789", b"")
        opened.seek(20)
        assert opened.read() == b""


def test_sequences_nested_beyond_reason(file):
    write_dicom(file, RAMP)
    whole = file.read_bytes()
    at = whole.find(struct.pack("<HH", 0x0028, 0x0002))
    opening = struct.pack("<HH2sHLHHL", 0x0018, 0x9346, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    file.write_bytes(whole[:at] + opening * 5000 + whole[at:])
    refusal(file, Reason.BAD_HEADER)


def test_the_error_survives_a_worker_process(file):
    write_dicom(file, RAMP, Modality="CT")
    error = refusal(file, Reason.WRONG_MODALITY)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.reason, again.path, again.detail) == (str(error), error.reason, error.path, error.detail)


# Properties


@pytest.mark.parametrize("seed", range(20))
def test_no_flipped_byte_ends_in_a_traceback(file, seed):
    """A file with a few wrong bytes is shown or refused, never anything else."""
    rng = np.random.default_rng(seed)
    syntax = EVERY[seed % len(EVERY)]
    write_dicom(file, shade(seed=seed), syntax=syntax, WindowCenter=1000, WindowWidth=500, **BITS_12)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(20):
        broken = whole.copy()
        places = rng.integers(128, len(whole) if rng.random() < 0.2 else min(700, len(whole)), 3)
        broken[places] = rng.integers(0, 256, 3)
        file.write_bytes(broken.tobytes())
        with warnings.catch_warnings(action="ignore"):
            try:
                assert read_xray(file).dtype == np.uint8
            except DicomError as error:
                assert isinstance(error.reason, Reason)


def test_every_reason_is_tested():
    source = open(__file__, encoding="utf-8").read()  # noqa: PTH123, SIM115
    assert all(f"Reason.{reason.name}" in source for reason in Reason)
