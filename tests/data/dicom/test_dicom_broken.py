"""Files and streams that are cut short, or that hold something else than their header says."""

import io
import re
import struct
import warnings

import numpy as np
import pydicom
import pytest
from dicom_checks import BITS_12, EVERY, LOSSLESS, RAMP, assert_shows, minmax, refusal, shade
from dicom_files import compress, lossless_jpeg, write_dicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame

from cxr_ft.data.dicom import DicomError, Reason, read_xray


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
    options: dict[str, object] = {
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
    colour: dict[str, object] = {"PhotometricInterpretation": "YBR_FULL_422"} if "colour" in kind else {}
    array = np.zeros((100, 80, 3) if colour else (100, 80), np.uint16 if kind == "lossless" else np.uint8)
    tags = BITS_12 if kind == "lossless" else colour
    syntax = uid.JPEGLosslessSV1 if kind == "lossless" else uid.JPEGBaseline8Bit
    write_dicom(file, array, syntax=syntax, PixelData=encapsulate([stream], has_bot=False), **tags)


@pytest.mark.parametrize("kind", [*KINDS, "progressive"])
def test_a_jpeg_that_ends_before_a_restart_marker(file, kind):
    """Guards against libjpeg-turbo 3.1 and Pillow 12: both fill up what is missing after whole intervals."""
    stream = with_restarts(kind)
    coded = stream.index(b"\xff\xda")
    places = [coded + match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", stream[coded:])]
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
