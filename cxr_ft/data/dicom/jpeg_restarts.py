"""Count the restart intervals of a JPEG stream (ITU-T T.81 B.2 and E.1.4), which no decoder does.

A stream that ends between two of them looks whole: libjpeg, and so Pillow and imagecodecs, fills in the missing
ones silently.
"""

import re
import struct
from collections.abc import Iterator

from cxr_ft.data.dicom.dicom_error import DicomError, Reason

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
END, SCAN, INTERVAL = 0xD9, 0xDA, 0xDD
#: The beginning of any segment that sets an interval.
SETS_INTERVAL = b"\xff\xdd\x00\x04"
RESTARTS = [bytes([0xFF, number]) for number in range(0xD0, 0xD8)]
#: Far above what encoders write; without a bound a hostile stream of empty segments takes minutes.
MAX_SEGMENTS = 10_000
#: Any other marker; in coded data an 0xFF is followed by a zero, and fill bytes may come before a marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")


def check_restarts(stream: bytes) -> None:
    """Refuse a stream in which a scan has fewer restart intervals than its image needs.

    Raises DicomError: TRUNCATED, or BAD_PIXELS where the frame or scan headers make no sense.
    """
    # Nearly every file: a search for four bytes, and no walk over the segments.
    if SETS_INTERVAL not in stream:
        return
    interval, kind, frame = 0, 0, b""
    try:
        for marker, body, end in _segments(stream):
            if marker == INTERVAL:
                interval = int(struct.unpack(">H", body)[0])
            elif marker in FRAMES:
                kind, frame = marker, body
            # A DRI of 0 switches restarts off again, and then there is nothing to count.
            elif marker == SCAN and interval:
                needed = -(-_units(frame, body, 1 if kind in LOSSLESS_FRAMES else 8) // interval) - 1
                if _restarts(stream, end) < needed:
                    raise DicomError(Reason.TRUNCATED, "the compressed image lacks some of its restart intervals")
    except (struct.error, LookupError, ZeroDivisionError):
        raise DicomError(Reason.BAD_PIXELS, "the headers of the JPEG stream are broken") from None


def _segments(stream: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, body and end offset of each segment of the first image."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(stream, at)
        if match is None or match[1][0] == END:
            return
        marker, at = match[1][0], match.end()
        length = int(struct.unpack_from(">H", stream, at)[0])
        yield marker, stream[at + 2 : at + length], at + length
        at += length
    raise DicomError(Reason.TOO_LARGE, f"a JPEG stream of more than {MAX_SEGMENTS} segments")


def _restarts(stream: bytes, at: int) -> int:
    """Count the restart markers in the coded data that begin at `at`."""
    # Restart markers are no end of the coded data; any other marker is.
    end = match.start() if (match := _MARKER.search(stream, at)) else len(stream)
    return sum(stream.count(marker, at, end) for marker in RESTARTS)


def _units(frame: bytes, scan: bytes, side: int) -> int:
    """Count the minimum coded units of a scan (A.2), made of blocks of `side` x `side` samples."""
    rows, columns, count = struct.unpack_from(">HHB", frame, 1)
    factors = {frame[at]: divmod(frame[at + 1], 16) for at in range(6, 6 + 3 * count, 3)}
    wide, high = (max(sizes) for sizes in zip(*factors.values(), strict=True))
    # A component on its own comes block by block, several come with as many blocks of each as its factors say.
    across, down = factors[scan[1]] if scan[0] == 1 else (1, 1)
    return -(-_share(columns, across, wide) // side) * -(-_share(rows, down, high) // side)


def _share(length: int, factor: int, largest: int) -> int:
    return -(-length * factor // largest)
