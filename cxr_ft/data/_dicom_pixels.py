"""A DICOM file's pixel data as an array of words, decoded by pydicom once the stream is known to be whole and sane.

Decoders allocate what a stream says, and some take half a stream for a whole one or abort the process, so its size and
its end are looked at first. Sections are in DICOM PS3.5.
"""

import io
import struct
from typing import Any, BinaryIO

import numpy.typing as npt
from pydicom import Dataset, encaps, uid
from pydicom.pixels.decoders.base import get_decoder

from cxr_ft.data._dicom_header import UNDEFINED, Layout, check_kind, inflate, read_header, read_layout, transfer_syntax
from cxr_ft.data._greyscale import HEADER_ERRORS
from cxr_ft.data._refusal import DicomError, Reason

# One decoder a syntax, so that a file means the same everywhere.
NATIVE = dict.fromkeys((uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian), "")
RLE = {uid.RLELossless: "pydicom"}
JPEG = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pylibjpeg",
    uid.JPEGLossless: "pylibjpeg",
    uid.JPEGLosslessSV1: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
}
JPEG_2000 = {uid.JPEG2000Lossless: "pylibjpeg", uid.JPEG2000: "pylibjpeg"}
DECODERS = NATIVE | RLE | JPEG | JPEG_2000

START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def read_dicom(file: BinaryIO) -> tuple[Dataset, Layout, npt.NDArray[Any]]:
    """An open file's header (without the pixels), its layout, and its words, unsigned [H, W] or RGB [H, W, 3].

    What the header can tell is refused before the pixels are read. Raises DicomError without the path.
    """
    file = inflate(file)
    header = read_header(file)
    check_kind(header)
    syntax = transfer_syntax(header)
    if syntax not in DECODERS:
        raise DicomError(Reason.UNSUPPORTED, f"transfer syntax {syntax.keyword or 'that is not registered'}")
    vr, length = find_pixels(file, little=syntax != uid.ExplicitVRBigEndian)
    layout = read_layout(header, whole_words=syntax in NATIVE | RLE)
    data = file.read(-1 if length == UNDEFINED else length)
    if length != UNDEFINED and len(data) < length:
        raise DicomError(Reason.TRUNCATED, f"the file ends after {len(data)} of {length} bytes of pixel data")
    if syntax in NATIVE and len(data) < layout.size:
        raise DicomError(Reason.TRUNCATED, f"{len(data)} bytes of pixel data where {layout.size} are needed")
    if syntax not in NATIVE:
        stream = join_items(data)
        if syntax not in RLE:
            check_stream(stream, layout, jpeg_2000=syntax in JPEG_2000)
        data = encaps.encapsulate([stream], has_bot=False)
    return header, layout, decode(data, layout, syntax, vr)


def find_pixels(file: BinaryIO, *, little: bool) -> tuple[str, int]:
    """The VR (empty if implicit) and length of the Pixel Data element at which `file` stands; its value is next."""
    order = "<" if little else ">"
    head = file.read(12)
    if len(head) < 12 or struct.unpack(order + "HH", head[:4]) != (0x7FE0, 0x0010):
        raise DicomError(Reason.NO_PIXELS, "no Pixel Data element")
    # In implicit VR these two bytes would begin an odd length, which no element has.
    if head[4:6] in (b"OB", b"OW", b"UN"):
        return head[4:6].decode(), int(struct.unpack(order + "L", head[8:])[0])
    file.seek(-4, io.SEEK_CUR)
    return "", int(struct.unpack(order + "L", head[4:8])[0])


def join_items(data: bytes) -> bytes:
    """The compressed frame in an encapsulated value: all items but the first, which is an offset table (A.4)."""
    items: list[bytes] = []
    at = 0
    while len(head := data[at : at + 8]) == 8:
        tag, length = struct.unpack("<LL", head)
        if tag == 0xE0DDFFFE:
            return b"".join(items[1:])
        if tag != 0xE000FFFE:
            raise DicomError(Reason.BAD_PIXELS, "the compressed pixel data is not made of items")
        items.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    raise DicomError(Reason.TRUNCATED, "the file ends within the compressed pixel data")


def check_stream(stream: bytes, layout: Layout, *, jpeg_2000: bool) -> None:
    """Refuse a JPEG of any kind that is cut short, or whose size is not the header's."""
    try:
        found, precision = _size_in_jpeg_2000(stream) if jpeg_2000 else _size_in_jpeg(stream)
    except (struct.error, IndexError):
        raise DicomError(Reason.BAD_PIXELS, "the compressed image has no frame header") from None
    expected = (layout.rows, layout.columns, layout.samples)
    if found != expected or precision > layout.allocated:
        said = f"header {expected} of {layout.allocated} bits, compressed image {found} of {precision}"
        raise DicomError(Reason.BAD_PIXELS, f"(rows, columns, samples) disagree: {said}")
    data_begins = b"\xff\x93" if jpeg_2000 else b"\xff\xda"
    if stream.rfind(b"\xff\xd9") < stream.rfind(data_begins):
        raise DicomError(Reason.TRUNCATED, "the compressed image has no end")


def _size_in_jpeg(stream: bytes) -> tuple[tuple[int, int, int], int]:
    """((rows, columns, samples), precision) of a JPEG or JPEG-LS stream."""
    at = 2
    while (marker := stream[at + 1]) not in START_OF_FRAME:
        # Any marker may be preceded by fill bytes.
        at += 1 if marker == 0xFF else 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    precision, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
    return (rows, columns, samples), precision


def _size_in_jpeg_2000(stream: bytes) -> tuple[tuple[int, int, int], int]:
    """((rows, columns, samples), precision) of a JPEG 2000 stream, in JP2 boxes or not."""
    at = max(stream.find(b"\xff\x4f\xff\x51"), 0)
    right, bottom, left, top = struct.unpack_from(">4L", stream, at + 8)
    samples, precision = struct.unpack_from(">HB", stream, at + 40)
    return (bottom - top, right - left, samples), (precision & 0x7F) + 1


def decode(data: bytes, layout: Layout, syntax: uid.UID, vr: str) -> npt.NDArray[Any]:
    """Pixel data to words, unsigned [H, W], or to RGB [H, W, 3]."""
    # Unsigned and uncorrected, whatever the header says: pydicom 3.0.2 clears the wrong bits where HighBit is unusual.
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.bits.count,
        "pixel_representation": 0,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
        "correct_unused_bits": False,
        "decoding_plugin": DECODERS[syntax],
    }
    try:
        words, _ = get_decoder(syntax).as_array(data, index=0, raw=layout.samples == 1, validate=False, **options)
    except (*HEADER_ERRORS, RuntimeError) as error:
        raise DicomError(Reason.BAD_PIXELS, f"{syntax.keyword} cannot be decoded ({type(error).__name__})") from None
    return words
