"""Read the main header of a JPEG 2000 codestream (ITU-T T.800 annex A) and refuse what exceeds its limits.

OpenJPEG allocates by tiles, precincts, layers and code-blocks before it decodes, so that a hundred bytes can ask for
gigabytes.
"""

import struct
from collections.abc import Iterator

from cxr_ft.data.dicom.dicom_error import DicomError, Reason

SIZ, COD, COC, POC, SOT, SOD, END = 0x51, 0x52, 0x53, 0x5F, 0x90, 0x93, 0xD9
#: Far above what encoders make of a radiograph.
MAX_TILES, MAX_PACKETS, MAX_BLOCKS = 4096, 2**17, 2**17


def size_in_jpeg_2000(stream: bytes) -> tuple[tuple[int, int, int], int]:
    """Return ((rows, columns, samples), precision) of a JPEG 2000 stream, in JP2 boxes or not."""
    # SIZ (A.5.1): the image is the reference grid from (left, top) to (right, bottom); the top bit of the precision is
    # the sign.
    at = _start(stream)
    right, bottom, left, top = struct.unpack_from(">4L", stream, at + 8)
    samples, precision = struct.unpack_from(">HB", stream, at + 40)
    return (bottom - top, right - left, samples), (precision & 0x7F) + 1


def check_jpeg_2000(stream: bytes, rows: int, columns: int) -> None:
    """Refuse a stream with more pieces than an image of rows x columns pixels needs."""
    try:
        for marker, body in _segments(stream):
            if marker == SIZ:
                _check_tiles(body)
            elif marker == COD:
                _check_pieces(body, rows, columns)
            # They could change precincts or layers after COD was checked, so the count of packets would not hold.
            elif marker in (COC, POC):
                raise DicomError(Reason.UNSUPPORTED, "a JPEG 2000 stream with coding styles or orders that change")
    except (struct.error, IndexError):
        raise DicomError(Reason.BAD_PIXELS, "the headers of the JPEG 2000 stream are broken") from None


def _start(stream: bytes) -> int:
    # SOC and SIZ always follow each other (A.4.1, A.5.1), so both together mark the codestream inside a JP2 file's
    # boxes.
    return max(stream.find(b"\xff\x4f\xff\x51"), 0)


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker segments of the main header and of each tile-part header."""
    at = _start(stream) + 2
    tile_part, length = 0, 0
    while at + 2 <= len(stream):
        fill, marker = stream[at], stream[at + 1]
        if marker == END:
            return
        # A length that is wrong led into the middle of something else: reading on would trust chance bytes.
        if fill != 0xFF:
            raise IndexError
        if marker == SOD:
            if length == 0:  # this tile-part goes on to the end
                return
            # Coded data is skipped by the tile-part's length: it may hold any bytes, markers among them.
            at = tile_part + length
            continue
        size = int(struct.unpack_from(">H", stream, at + 2)[0])
        body = stream[at + 4 : at + 2 + size]
        if marker == SOT:
            tile_part, length = at, int(struct.unpack_from(">L", body, 2)[0])
            # Shorter than its own SOT and SOD: the walk would not move forward, and never end.
            if 0 < length < 14:
                raise IndexError
        yield marker, body
        at += 2 + size


def _check_tiles(body: bytes) -> None:
    _, right, bottom, left, top, width, height, x, y, samples = struct.unpack_from(">H8LH", body)
    if min(width, height) < 1 or any(body[at : at + 2] != b"\1\1" for at in range(37, 36 + 3 * samples, 3)):
        raise DicomError(Reason.BAD_PIXELS, "a JPEG 2000 stream with empty tiles or thinned out samples")
    if max(left, top, x, y) > 0 or -(-right // width) * -(-bottom // height) > MAX_TILES:
        raise DicomError(Reason.UNSUPPORTED, f"a JPEG 2000 stream with an offset, or more than {MAX_TILES} tiles")


def _check_pieces(body: bytes, rows: int, columns: int) -> None:
    # COD (A.6.1): code-blocks are 2^(wide + 2) x 2^(high + 2). With bit 0 of the style each resolution level has a
    # precinct size of its own, two exponents in a byte; without it all precincts have the largest size, 2^15.
    style, _, layers, _, levels, wide, high = struct.unpack_from(">BBHBBBB", body)
    # Exponents beyond 10 are not allowed (A.6.1); bounded, a false one cannot shift everything to 0.
    blocks = (rows >> min(high + 2, 10)) * (columns >> min(wide + 2, 10))
    precincts = 0
    # A packet is one layer of one precinct of one resolution level (B.9); OpenJPEG allocates for each.
    for level in range(min(levels, 32) + 1):
        size = body[10 + level] if style & 1 else 0xFF
        shift = min(levels, 32) - level
        precincts += ((rows >> shift + (size >> 4)) + 1) * ((columns >> shift + (size & 15)) + 1)
    if levels > 32 or precincts * max(layers, 1) > MAX_PACKETS or blocks > MAX_BLOCKS:
        raise DicomError(Reason.TOO_LARGE, "a JPEG 2000 stream in more pieces than its image needs")
