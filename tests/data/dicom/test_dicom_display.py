"""The grey levels that read_xray shows, against closed forms in float64: stored values, modality, VOI.

Where pydicom gets a case wrong, the test shows it, so that a later pydicom that gets it right is noticed.
"""

import struct
import warnings

import numpy as np
import pydicom
import pytest
from dicom_checks import BITS_12, RAMP, assert_shows, linear, minmax
from dicom_files import lut, write_dicom
from pydicom import uid
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.pixels.utils import pixel_array


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


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.37, -12.25), (2.5, 1024), (-1.5, 300)])
def test_rescale_comes_before_the_window(file, slope, intercept):
    write_dicom(file, RAMP, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=400.5, WindowWidth=901)
    assert_shows(file, linear(slope * RAMP.astype(np.float64) + intercept, 400.5, 901))


def test_negative_slope_darkens_large_stored_values(file):
    """Guards against pydicom 3.0.2: apply_windowing flips the window's output if the slope is negative."""
    write_dicom(file, RAMP, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    assert_shows(file, linear(4095.0 - RAMP, 2048, 4096))
    header = pydicom.dcmread(file)
    by_pydicom = apply_windowing(apply_modality_lut(header.pixel_array, header), header)
    assert by_pydicom[0, 0] < by_pydicom[-1, -1]


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
    window: dict[str, object] = {"WindowCenter": 1000, "WindowWidth": 50, missing: None}
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
