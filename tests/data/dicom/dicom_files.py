"""Small DICOM files for tests: written tag by tag, sound unless a test asks for a fault."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import DataElement, Dataset, FileMetaDataset, uid
from pydicom.encaps import encapsulate

#: Images of any type of words, signed ones too.
Pixels = npt.NDArray[np.generic]
# Every file carries these, so that any message can be searched for them.
IDENTIFYING = {"PatientName": "ROENTGEN^ANNA", "PatientID": "HAND-1895", "StudyDate": "18951222"}


def write_dicom(
    path: Path,
    array: Pixels,
    *,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    meta: bool = True,
    vr: str = "",
    **tags: object,
) -> Path:
    """Write `array`, [H, W] or RGB [H, W, 3], as a CR image and return `path`.

    tags: keyword=value or an element with a VR of its own, over the defaults; None leaves the tag out. PixelData=bytes
    replaces the encoded array.
    meta: False writes the bare data set, without preamble and file meta information. vr: the VR of the pixel data.
    """
    header = Dataset()
    for keyword, value in (_defaults(array) | tags).items():
        if isinstance(value, DataElement):
            header.add(value)
        elif value is not None:
            setattr(header, keyword, value)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    if tags.get("PixelData", b"") is not None:
        header.PixelData = tags.get("PixelData") or encode(array, header, syntax)
        header["PixelData"].VR = vr or ("OB" if syntax.is_encapsulated or array.dtype.itemsize == 1 else "OW")
        header["PixelData"].is_undefined_length = syntax.is_encapsulated
    if meta:
        header.preamble = b"\0" * 128
        header.save_as(path, enforce_file_format=True)
    else:
        del header.file_meta
        header.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return path


def _defaults(array: Pixels) -> dict[str, object]:
    bits = 8 * array.dtype.itemsize
    colour = {"PlanarConfiguration": 0} if array.ndim == 3 else {}
    return IDENTIFYING | {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": uid.generate_uid(),
        "Modality": "CR",
        "SamplesPerPixel": 3 if array.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if array.ndim == 3 else "MONOCHROME2",
        **colour,
        "Rows": array.shape[0],
        "Columns": array.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
    }


def encode(array: Pixels, header: Dataset, syntax: uid.UID) -> bytes:
    """The array as a PixelData value in the syntax."""
    if not syntax.is_encapsulated:
        data = array.astype(array.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
        return data + b"\0" * (len(data) % 2)
    stream = rle(array) if syntax == uid.RLELossless else compress(array, int(header.BitsStored), syntax)
    return encapsulate([stream], has_bot=False)


def rle(array: Pixels) -> bytes:
    """One frame in RLE (PS3.5 G); pydicom 3.0.2 loses half of the bytes if 8 bits of 16 are stored."""
    words = np.ascontiguousarray(array).reshape(array.shape[0] * array.shape[1], -1)
    planes = words.view(np.uint8).reshape(len(words), words.shape[1], -1)[:, :, ::-1].reshape(len(words), -1).T
    segments = [bytes(imagecodecs.packbits_encode(np.ascontiguousarray(plane))) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def compress(array: Pixels, bits: int, syntax: uid.UID) -> bytes:
    """One frame as a codestream of the syntax; of the two lossless JPEG ones by our own encoder, below."""
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return lossless_jpeg(array, bits)
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(array, level=95, bitspersample=max(bits, 8)))
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        # JPEG-LS knows no sign: the bits are coded as they are.
        words = array.view(f"u{array.dtype.itemsize}") & np.array(2**bits - 1, dtype=f"u{array.dtype.itemsize}")
        return bytes(imagecodecs.jpegls_encode(words, level=0 if syntax == uid.JPEGLSLossless else 2))
    if syntax in (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K):
        return bytes(imagecodecs.htj2k_encode(array, reversible=True))
    return bytes(imagecodecs.jpeg2k_encode(array, reversible=True, codecformat="j2k", bitspersample=bits))


def lossless_jpeg(array: Pixels, precision: int) -> bytes:
    """A lossless JPEG stream (ITU-T T.81 H), each sample predicted from its left neighbour, codes all of 5 bits."""
    samples = array.astype(np.int64) & (2**precision - 1)
    left = np.roll(samples, 1, axis=1)
    left[1:, 0] = samples[:-1, 0]
    left[0, 0] = 2 ** (precision - 1)
    bits: list[str] = []
    wrapped = (samples - left + 2**15) % 2**16 - 2**15
    for difference in wrapped.ravel().tolist():
        size = abs(difference).bit_length()
        value = difference if difference >= 0 else difference + 2**size - 1
        bits.append(f"{size:05b}" + (f"{value:0{size}b}" if 0 < size < 16 else ""))
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = struct.pack(">BHHB3B", precision, *array.shape, 1, 1, 0x11, 0)
    scan = bytes([1, 1, 0, 1, 0, 0])
    segments = ((0xC4, table), (0xC3, frame), (0xDA, scan))
    head = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def lut(first: int, entries: npt.ArrayLike, bits: int) -> list[Dataset]:
    """A LUT sequence of one table; 8-bit entries are packed two to a word, as the standard asks."""
    words = np.asarray(entries).astype("u1" if bits == 8 else "<u2")
    item = Dataset()
    item.LUTDescriptor = [len(words) % 2**16, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = words.tobytes() + b"\0" * (words.nbytes % 2)
    item["LUTData"].VR = "OW"
    return [item]
