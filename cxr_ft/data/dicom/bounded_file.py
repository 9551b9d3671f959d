"""Read a DICOM file within limits: nothing past its end, nor more of a header than headers have.

pydicom allocates what the lengths in a file say and inflates without a bound, so hostile files are stopped below it.
"""

import io
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from pydicom import uid

from cxr_ft.data.dicom.dicom_error import DicomError, Reason

#: Detectors have up to 20 million pixels, and stitched films half as many again.
MAX_PIXELS = 40_000_000
#: The same at 16 bits: what an image, or a whole data set once inflated, may hold.
MAX_BYTES = 2 * MAX_PIXELS
#: Bounds for all that comes before the pixels; pydicom parses some 200,000 elements a second.
MAX_HEADER_BYTES, MAX_HEADER_READS = 2**25, 50_000


class BoundedFile(io.BufferedReader):
    """A file or a byte string that never asks for more than it has: a false length would otherwise take gigabytes."""

    def __init__(self, raw: io.FileIO | io.BytesIO, length: int) -> None:
        super().__init__(raw)
        self.length = length
        self.reads, self.header_bytes = 0, 0

    @classmethod
    def open(cls, path: Path | str) -> "BoundedFile":
        """Open the file at `path`; OSError if it cannot be opened, DicomError if it is no regular file."""
        check_regular(path)
        # The length is taken from the open file, not from the path, which may name another file by now.
        raw = io.FileIO(path)
        return cls(raw, os.fstat(raw.fileno()).st_size)

    @classmethod
    def of(cls, data: bytes) -> "BoundedFile":
        """Return the file of these bytes in memory."""
        return cls(io.BytesIO(data), len(data))

    @property
    def name(self) -> str:
        """Return "": pydicom needs the attribute, and a header need not know where it comes from."""
        return ""

    @property
    def left(self) -> int:
        """Return the number of bytes from here to the end."""
        return max(self.length - self.tell(), 0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes of a header, all if it is negative or None; DicomError beyond bounds."""
        # A short read is an end of file to pydicom, as it should be; a long one is what a false length asks for.
        size = self.left if size is None or size < 0 else min(size, self.left)
        # Both are counted: a hostile header has either huge elements or millions of empty ones.
        self.reads, self.header_bytes = self.reads + 1, self.header_bytes + size
        if self.reads > MAX_HEADER_READS or self.header_bytes > MAX_HEADER_BYTES:
            raise DicomError(Reason.TOO_LARGE, "more elements or bytes before the pixels than any header has")
        return super().read(size)

    def take(self, size: int) -> bytes:
        """Read at most `size` bytes of something else than a header, whose length the caller has checked."""
        return super().read(min(size, self.left))


def check_regular(path: Path | str) -> None:
    """Refuse a named pipe or a device, whose opening or end may never come; OSError if there is nothing at `path`."""
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a directory the system has its own, better word
        raise DicomError(Reason.NOT_READABLE, "not a regular file")


def inflate(file: BoundedFile) -> BoundedFile:
    """Return a deflated file (PS3.5 A.5) as an uncompressed one in memory, up to MAX_BYTES; any other file as it is."""
    # File meta information is some hundred bytes; a header that hides its transfer syntax behind 64 KiB is not
    # deflated.
    head = file.read(2**16)
    meta = head[: _end_of_meta(head)]
    deflated = uid.DeflatedExplicitVRLittleEndian.encode()
    file.seek(len(meta) if deflated in meta else 0)
    if deflated not in meta:
        return file
    # Negative: a raw deflate stream (RFC 1951), without zlib's header and checksum, as PS3.5 A.5 asks for.
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(file.take(MAX_BYTES), MAX_BYTES)
    except zlib.error:
        raise DicomError(Reason.BAD_PIXELS, "the deflated data set is broken") from None
    # More output would follow: the limit stopped it before the memory was taken.
    if stream.unconsumed_tail:
        raise DicomError(Reason.TOO_LARGE, f"the deflated data set has more than {MAX_BYTES} bytes")
    if not stream.eof:
        raise DicomError(Reason.TRUNCATED, "the deflated data set is cut short")
    # Padded to the same length, so that the lengths in the meta information stay true.
    plain = uid.ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
    return BoundedFile.of(meta.replace(deflated, plain) + data)


def _end_of_meta(head: bytes) -> int:
    """Return the end offset of the file meta information, group 0002 in explicit little endian (PS3.10 7.1)."""
    at = 132 if head[128:132] == b"DICM" else 0
    while head[at : at + 2] == b"\2\0":
        # OB and UN have two reserved bytes and a length of four; the other VRs of group 0002 a length of two (PS3.5
        # 7.1.2).
        start, size = (12, 4) if head[at + 4 : at + 6] in (b"OB", b"UN") else (8, 2)
        at += start + int.from_bytes(head[at + start - size : at + start], "little")
    return at


def is_dicom(start: bytes) -> bool:
    """Return True if the first 132 bytes end with the prefix that follows a preamble."""
    return start[128:] == b"DICM"


def peek(file: BinaryIO) -> bytes:
    """Return the first 132 bytes and rewind the file."""
    start = file.read(132)
    file.seek(0)
    return start
