"""Read a DICOM file's pixel data into an array of words. Sections are in DICOM PS3.5."""

import io
import struct

import numpy as np
from pydicom import Dataset, uid

from cxr_ft.data.dicom import codecs
from cxr_ft.data.dicom.bounded_file import BoundedFile, inflate
from cxr_ft.data.dicom.dicom_error import DicomError, Reason
from cxr_ft.data.dicom.greyscale import Image
from cxr_ft.data.dicom.header import UNDEFINED, Layout, check_kind, read_header, read_layout, transfer_syntax

NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)


def read_dicom(file: BoundedFile) -> tuple[Dataset, Layout, Image]:
    """Return an open file's header without pixels, its layout, and its unsigned words [H, W] or colours [H, W, 3].

    What the header can tell is refused before the pixels are read. Raises DicomError without the path.
    """
    file = inflate(file)
    header = read_header(file)
    # Before the transfer syntax: a report in a strange encoding should be refused for being a report.
    check_kind(header)
    syntax = transfer_syntax(header)
    if syntax not in (*NATIVE, *codecs.SYNTAXES):
        raise DicomError(Reason.UNSUPPORTED, f"transfer syntax {syntax.keyword or 'that is not registered'}")
    little = syntax != uid.ExplicitVRBigEndian
    vr, length = find_pixels(file, little=little)
    layout = read_layout(header, whole_words=syntax in (*NATIVE, uid.RLELossless))
    # Before the pixels are read, so that a file cut short costs no allocation.
    if length != UNDEFINED and length > file.left:
        raise DicomError(Reason.TRUNCATED, f"the file ends after {file.left} of {length} bytes of pixel data")
    if syntax in NATIVE:
        return header, layout, read_native(file, layout, vr, length, little=little)
    # No codec makes an image twice as large; what follows the pixel data may be among these bytes, and is left alone.
    data = file.take(min(length, 2 * layout.size + 2**20))
    return header, layout, codecs.decode(join_items(data), layout, syntax)


def find_pixels(file: BoundedFile, *, little: bool) -> tuple[str, int]:
    """Return the VR ("" if implicit) and length of the Pixel Data element that is next in `file`; its value follows."""
    # Read by hand, since pydicom would read the value as well, with whatever length the file claims.
    order = "<" if little else ">"
    head = file.read(12)
    if len(head) < 12 or struct.unpack(order + "HH", head[:4]) != (0x7FE0, 0x0010):
        raise DicomError(Reason.NO_PIXELS, "no Pixel Data element")
    # In implicit VR these two bytes would begin an odd length, which no element has.
    if head[4:6] in (b"OB", b"OW", b"UN"):
        return head[4:6].decode(), int(struct.unpack(order + "L", head[8:])[0])
    file.seek(-4, io.SEEK_CUR)
    return "", int(struct.unpack(order + "L", head[4:8])[0])


def read_native(file: BoundedFile, layout: Layout, vr: str, length: int, *, little: bool) -> Image:
    """Read uncompressed pixels (A.1 to A.3); bytes after the image's own are ignored."""
    if length == UNDEFINED:
        raise DicomError(Reason.BAD_PIXELS, "the uncompressed pixel data has no length")
    # 8-bit pixels in big-endian words come in pairs, each the wrong way round (A.3).
    swapped = not little and layout.allocated == 8 and vr == "OW"
    size = layout.size + (layout.size % 2 if swapped else 0)
    if length < size:
        raise DicomError(Reason.TRUNCATED, f"{length} bytes of pixel data where {size} are needed")
    data = np.empty(size, dtype=np.uint8)  # for an array of this size numpy has the kernel use large pages
    if file.readinto(data.data) < size:
        raise DicomError(Reason.TRUNCATED, "the file became shorter while it was read")
    if swapped:
        data = data.view(">u2").astype("<u2").view(np.uint8)[: layout.size]
    words = data.view(f"{'<' if little else '>'}u{layout.allocated // 8}")
    # OpenCV's look-up takes native words alone; where they are native already nothing is copied.
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    return _colours(words, layout) if layout.samples == 3 else words.reshape(layout.rows, layout.columns)


def _colours(values: Image, layout: Layout) -> Image:
    if layout.photometric == "YBR_FULL_422":  # Y, Y, Cb, Cr for two pixels (PS3.3 C.7.6.3.1.2); only Y is looked at
        if layout.columns % 2:
            raise DicomError(Reason.UNSUPPORTED, "YBR_FULL_422 of an odd number of columns")
        # Only the luminance is used later, so Cb and Cr are not brought to full width.
        luma = values.reshape(-1, 4)[:, :2].reshape(layout.rows, layout.columns, 1)
        return np.repeat(luma, 3, axis=2)
    if layout.planar == 1:
        return values.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return values.reshape(layout.rows, layout.columns, 3)


def join_items(data: bytes) -> bytes:
    """Return the compressed frame of an encapsulated value: all items but the first, which is an offset table (A.4)."""
    items: list[bytes] = []
    at = 0
    while len(head := data[at : at + 8]) == 8:
        tag, length = struct.unpack("<LL", head)
        if tag == 0xE0DDFFFE:
            # One frame may be cut into several fragments (A.4), so all of them belong to it.
            return b"".join(items[1:])
        if tag != 0xE000FFFE:
            raise DicomError(Reason.BAD_PIXELS, "the compressed pixel data is not made of items")
        items.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    raise DicomError(Reason.TRUNCATED, "the file ends within the compressed pixel data")
