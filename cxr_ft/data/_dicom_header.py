"""A DICOM file's header, and what it alone is enough to refuse.

pydicom parses; what is here keeps broken and hostile files from it: nothing is read past a file's end, and a deflated
file is inflated up to a limit. Sections named C. are in DICOM PS3.3, others in PS3.5.
"""

import io
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread, uid
from pydicom.dataelem import RawDataElement

from cxr_ft.data._greyscale import HEADER_ERRORS, Bits, numbers, text
from cxr_ft.data._refusal import DicomError, Reason

MAX_PIXELS = 100_000_000
MAX_BYTES = 4 * MAX_PIXELS
UNDEFINED = 0xFFFFFFFF

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
MODALITIES = ("CR", "DX", "OT", "")
DOCUMENTS = ("SR", "PR", "KO", "DOC")


class BoundedFile(io.BufferedReader):
    """A file that never asks for more than it has: a false length in a header would otherwise allocate gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; all that are left if it is negative or None."""
        left = max(self.length - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The Image Pixel module (C.7.6.3): how the pixel data is to be read."""

    rows: int
    columns: int
    samples: int
    allocated: int
    bits: Bits
    photometric: str
    planar: int

    @property
    def size(self) -> int:
        """The bytes of one uncompressed frame."""
        size = self.rows * self.columns * self.samples * self.allocated // 8
        return size * 2 // 3 if self.photometric == "YBR_FULL_422" else size


def inflate(file: BinaryIO) -> BinaryIO:
    """A deflated file (A.5) as an uncompressed one in memory; any other file as it is.

    pydicom inflates whatever comes, and a megabyte can hold a gigabyte, so here there is a limit.
    """
    head = file.read(2**16)
    meta = head[: _end_of_meta(head)]
    deflated = uid.DeflatedExplicitVRLittleEndian.encode()
    file.seek(len(meta) if deflated in meta else 0)
    if deflated not in meta:
        return file
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(file.read(MAX_BYTES), MAX_BYTES)
    except zlib.error:
        raise DicomError(Reason.BAD_PIXELS, "the deflated data set is broken") from None
    if stream.unconsumed_tail:
        raise DicomError(Reason.TOO_LARGE, f"the deflated data set has more than {MAX_BYTES} bytes")
    if not stream.eof:
        raise DicomError(Reason.TRUNCATED, "the deflated data set is cut short")
    plain = uid.ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
    return io.BytesIO(meta.replace(deflated, plain) + data)


def _end_of_meta(head: bytes) -> int:
    """Where the file meta information ends, group 0002 in explicit little endian (PS3.10 7.1); 0 without a preamble."""
    if head[128:132] != b"DICM":
        return 0
    at = 132
    while head[at : at + 2] == b"\2\0":
        start, size = (12, 4) if head[at + 4 : at + 6] in (b"OB", b"UN") else (8, 2)
        at += start + int.from_bytes(head[at + start - size : at + start], "little")
    return at


def read_header(file: BinaryIO) -> Dataset:
    """Parse up to the pixel data, where `file` then stands; a data set without preamble will do if it is an image."""
    start = file.read(132)
    file.seek(0)
    bare = start[128:] != b"DICM"
    # The groups that a data set can begin with, in either byte order.
    if bare and not {start[:2], start[1::-1]} & {b"\2\0", b"\x08\0", b"\x10\0", b"\x18\0", b"\x20\0", b"\x28\0"}:
        raise DicomError(Reason.NOT_DICOM, "neither DICOM nor PNG nor JPEG")
    try:
        header = dcmread(file, stop_before_pixels=True, force=True)
        complete = _is_complete(header)
    except (*HEADER_ERRORS, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        # What pydicom says may quote the header, so only the kind of error is passed on.
        reason = Reason.NOT_DICOM if bare else Reason.BAD_HEADER
        raise DicomError(reason, f"the header cannot be parsed ({type(error).__name__})") from None
    if bare and not ("Rows" in header and "Columns" in header):
        raise DicomError(Reason.NOT_DICOM, "no DICOM preamble, and no image without one")
    if not complete:
        raise DicomError(Reason.TRUNCATED, "the file ends within its header")
    return header


def _is_complete(header: Dataset) -> bool:
    if not header:
        return False
    last: object = header.get_item(list(header.keys())[-1])
    return not isinstance(last, RawDataElement) or last.length in (len(last.value or b""), UNDEFINED)


def check_kind(header: Dataset) -> None:
    """Refuse what is not one projection radiograph made for the eye; a missing modality is let through."""
    kind = uid.UID(text(header, "SOPClassUID") or text(header.file_meta, "MediaStorageSOPClassUID")).keyword
    modality = text(header, "Modality")
    if modality in DOCUMENTS or (kind and "ImageStorage" not in kind):
        raise DicomError(Reason.NOT_AN_IMAGE, f"a document, not an image ({kind or modality})")
    if modality not in MODALITIES:
        raise DicomError(Reason.WRONG_MODALITY, f"modality {_code(modality)} where CR, DX, OT or none is expected")
    if kind.endswith("ForProcessing") or text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise DicomError(Reason.FOR_PROCESSING, "raw detector data, meant for processing and not for the eye")
    if (frames := numbers(header, "NumberOfFrames")) and frames[0] > 1:
        raise DicomError(Reason.MULTI_FRAME, f"{frames[0]:.0f} frames where one is expected")


def _code(value: str) -> str:
    """A code as it may stand in a message: where lengths are wrong, what follows in the file is part of the value."""
    return value if re.fullmatch("[A-Z0-9_ ]{1,16}", value) else "that is no code"


def transfer_syntax(header: Dataset) -> uid.UID:
    """The declared syntax; without one uncompressed, in the byte order in which pydicom found the header."""
    if declared := text(header.file_meta, "TransferSyntaxUID"):
        return uid.UID(declared)
    return uid.ExplicitVRBigEndian if header.original_encoding[1] is False else uid.ExplicitVRLittleEndian


def read_layout(header: Dataset, *, whole_words: bool) -> Layout:
    """The Image Pixel module, checked. `whole_words`: values keep their place below HighBit, as in no JPEG stream."""
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if min(rows, columns) < 1:
        raise DicomError(Reason.BAD_HEADER, f"{rows} rows and {columns} columns")
    if rows * columns > MAX_PIXELS:
        raise DicomError(Reason.TOO_LARGE, f"{rows} x {columns} pixels, more than {MAX_PIXELS}")
    photometric = _photometric(header)
    samples = _whole(header, "SamplesPerPixel", default=1 if photometric in GREY else 3)
    allocated = _whole(header, "BitsAllocated")
    grey = photometric in GREY and samples == 1 and allocated in (8, 16, 32)
    colour = photometric in COLOUR and samples == 3 and allocated == 8
    if not grey and not colour:
        raise DicomError(Reason.UNSUPPORTED, f"{_code(photometric)}, {samples} samples, {allocated} bits allocated")
    return Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        allocated=allocated,
        bits=_bits(header, allocated, whole_words=whole_words),
        photometric=photometric,
        planar=_whole(header, "PlanarConfiguration", default=0),
    )


def _photometric(header: Dataset) -> str:
    found = text(header, "PhotometricInterpretation")
    if not found:
        raise DicomError(Reason.BAD_HEADER, "PhotometricInterpretation is missing")
    if str(header.PhotometricInterpretation).strip() != found:
        warnings.warn("a DICOM file's PhotometricInterpretation is not one value in capitals", stacklevel=2)
    return found


def _bits(header: Dataset, allocated: int, *, whole_words: bool) -> Bits:
    stored = _whole(header, "BitsStored")
    high = _whole(header, "HighBit", default=stored - 1)
    sign = _whole(header, "PixelRepresentation")
    if not (1 <= stored <= high + 1 <= allocated and sign in (0, 1)):
        detail = f"{allocated} bits allocated, {stored} stored, high bit {high}, pixel representation {sign}"
        raise DicomError(Reason.BAD_HEADER, detail)
    return Bits(low=high + 1 - stored if whole_words else 0, count=stored, signed=sign == 1)


def _whole(header: Dataset, keyword: str, default: int | None = None) -> int:
    found = numbers(header, keyword)
    if not found and default is not None:
        return default
    if len(found) != 1 or not found[0].is_integer():
        raise DicomError(Reason.BAD_HEADER, f"{keyword} is {'not one whole number' if found else 'missing'}")
    return int(found[0])
