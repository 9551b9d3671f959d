"""Padding, sizes and square pixels of read_xray, against exact area means."""

import cv2
import numpy as np
import pytest
from dicom_checks import RAMP, area_mean, assert_shows, linear, minmax, shade
from dicom_files import lut, write_dicom
from pydicom import DataElement

from cxr_ft.data.dicom import read_xray
from cxr_ft.errors import UsageError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


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
    in_image = values[values != padding].astype(float)
    shown[values != padding] = 255 * (in_image - in_image.min()) / (in_image.max() - in_image.min())
    if photometric == "MONOCHROME1":
        shown[values != padding] = 255 - shown[values != padding]
    header: dict[str, object] = {"BitsStored": stored, "HighBit": stored - 1, "PhotometricInterpretation": photometric}
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
    header: dict[str, object] = {"PixelPaddingValue": ends[0], "PixelPaddingRangeLimit": ends[1]}
    write_dicom(file, values, BitsStored=stored, HighBit=stored - 1, **header)
    in_image = values[~padding] if not padding.all() else values
    grey = 255 * (values - float(in_image.min())) / float(np.ptp(in_image))
    assert_shows(file, np.where(padding, 0, grey))


def test_padding_that_is_no_number_is_ignored(file):
    write_dicom(file, RAMP, PixelPaddingValue=DataElement("PixelPaddingValue", "LO", "none"))
    with pytest.warns(UserWarning, match="PixelPaddingValue"):
        assert_shows(file, minmax(RAMP))


def test_nothing_but_padding(file):
    write_dicom(file, np.full((4, 4), 7, dtype=np.uint16), PixelPaddingValue=7, PhotometricInterpretation="MONOCHROME1")
    assert_shows(file, np.zeros((4, 4)))


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


@pytest.mark.parametrize("keyword", SPACINGS)
def test_pixels_become_square(file, keyword):
    """The finer spacing wins, so the coarser side grows; the spacing of rows stands first (PS3.3 C.7.6.3.1.7)."""
    array = shade(20, 30)
    upright: dict[str, object] = {keyword: [3, 2]}
    write_dicom(file, array, **upright)
    assert_shows(file, cv2.resize(minmax(array), (30, 30), interpolation=cv2.INTER_LINEAR))
    lying: dict[str, object] = {keyword: [1, 2]}
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
