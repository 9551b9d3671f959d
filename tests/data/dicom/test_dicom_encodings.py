"""Every transfer syntax, colour, and PNG and JPEG files, as read_xray shows them."""

import struct
import warnings
import zlib

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_checks import BITS_12, EVERY, NATIVE, RAMP, area_mean, assert_shows, linear, minmax, refusal, shade
from dicom_files import compress, lossless_jpeg, write_dicom
from PIL import Image
from pydicom import DataElement, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array

from cxr_ft.data.dicom import Reason, read_xray


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_grey_picture_keeps_its_levels(file, kind):
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


@pytest.mark.parametrize("fill", [1, 2, 7])
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1], ids=lambda syntax: syntax.keyword)
def test_fill_bytes_before_the_end_change_nothing(file, syntax, fill):
    """ITU-T T.81 B.1.1.2 allows any number of 0xFF before a marker."""
    array = (shade(64, 48) // 17).astype(np.uint8)
    write_dicom(file, array, syntax=syntax)
    plain = read_xray(file)
    stream = compress(array, 8, syntax)
    end = stream.rfind(b"\xff\xd9")
    filled = stream[:end] + b"\xff" * fill + stream[end:]
    write_dicom(file, array, syntax=syntax, PixelData=encapsulate([filled], has_bot=False))
    np.testing.assert_array_equal(read_xray(file), plain)
