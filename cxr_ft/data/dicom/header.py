"""Parse a DICOM file's header, and refuse what the header alone rules out.

pydicom parses, within the limits of `file`. Sections named C. are in DICOM PS3.3, others in PS3.5.
"""

import re
import warnings
import zlib
from dataclasses import dataclass

from pydicom import Dataset, dcmread, uid
from pydicom.dataelem import RawDataElement

from cxr_ft.data.dicom.bounded_file import MAX_BYTES, MAX_PIXELS, BoundedFile, is_dicom, peek
from cxr_ft.data.dicom.dicom_error import DicomError, Reason
from cxr_ft.data.dicom.greyscale import Bits
from cxr_ft.data.dicom.header_values import HEADER_ERRORS, numbers, text

UNDEFINED = 0xFFFFFFFF
#: A LUT sequence has up to 128 KiB a table, and other values are far shorter.
MAX_VALUE = 2**20

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
OTHER_COLOURS = ("PALETTE COLOR", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "HSV", "ARGB", "CMYK")
MODALITIES = ("CR", "DX", "RG", "OT", "")
EXPECTED = "CR, DX, RG, OT or none"
DOCUMENTS = ("SR", "PR", "KO", "DOC")
RADIOGRAPHS = ("ComputedRadiography", "DigitalXRay", "SecondaryCapture", "MultiFrame")
#: Body parts of PS3.16 annex L, as archives spell them, that show a film is of something else.
CHEST = "CHEST|THORA|TORAX|LUNG|HEART|RIB|STERN|TORSO|TRUNK|WHOLE"
OTHER_PARTS = (
    "ABDOM|ANKLE|ARM|BREAST|BRAIN|CALCANEUS|CLAVIC|COCCYX|COLON|ELBOW|EXTREM|FACE|FEMUR|FIBULA|FINGER|FOOT|HAND|HEAD"
    "|HIP|HUMERUS|JAW|KIDNEY|KNEE|LEG|MANDIB|MAXILLA|NASAL|NECK|ORBIT|PELVI|RADIUS|SACR|SCAPULA|SHOULDER|SINUS|SKULL"
    "|SPINE|TEETH|THIGH|TIBIA|TOE|TOOTH|ULNA|WRIST"
)
#: All of a header that is looked at.
WANTED = (
    *("SOPClassUID", "Modality", "PresentationIntentType", "NumberOfFrames", "BodyPartExamined"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
)


#: A data set with none of these describes no image (C.7.6.3.1).
IMAGE_TAGS = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated")


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
        """Return the number of bytes of one uncompressed frame."""
        size = self.rows * self.columns * self.samples * self.allocated // 8
        # 4:2:2 stores Cb and Cr once for two pixels: four bytes instead of six (PS3.3 C.7.6.3.1.2).
        return size * 2 // 3 if self.photometric == "YBR_FULL_422" else size


def read_header(file: BoundedFile) -> Dataset:
    """Parse what the picture depends on up to the pixel data, where `file` is then positioned.

    No other element is kept, least of all the identifying ones. A data set without preamble will do if it is an image.
    """
    start = peek(file)
    bare = not is_dicom(start)
    # The groups that a data set can begin with, in either byte order.
    if bare and not {start[:2], start[1::-1]} & {b"\2\0", b"\x08\0", b"\x10\0", b"\x18\0", b"\x20\0", b"\x28\0"}:
        raise DicomError(Reason.NOT_DICOM, "neither DICOM nor PNG nor JPEG")
    try:
        # `force` for data sets without a preamble; the check of the first tag above keeps it from reading any file at
        # all.
        header = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(WANTED))
        elements: list[object] = [header.get_item(tag) for tag in list(header.keys())]
    except (*HEADER_ERRORS, zlib.error) as error:
        # pydicom raises OSError without a number for a broken sequence; with one it is the disk, not the header.
        if isinstance(error, OSError) and error.errno:
            raise
        # What pydicom says may quote the header, so only the kind of error is passed on.
        reason = Reason.NOT_DICOM if bare else Reason.BAD_HEADER
        raise DicomError(reason, f"the header cannot be parsed ({type(error).__name__})") from None
    if bare and not ("Rows" in header and "Columns" in header):
        raise DicomError(Reason.NOT_DICOM, "no DICOM preamble, and no image without one")
    # pydicom returns a short value without an error where the file ends inside it.
    if file.tell() > file.length or not all(map(_is_whole, elements)):
        raise DicomError(Reason.TRUNCATED, "the file ends within its header")
    # A false length may take in megabytes of what follows; no element of a sound header comes near the limit.
    if any(isinstance(element, RawDataElement) and element.length > MAX_VALUE for element in elements):
        raise DicomError(Reason.BAD_HEADER, f"a value of more than {MAX_VALUE} bytes")
    return header


def _is_whole(element: object) -> bool:
    # Raw, as read: converting the value first would raise for reasons that have nothing to do with its length.
    return not isinstance(element, RawDataElement) or element.length in (len(element.value or b""), UNDEFINED)


def check_kind(header: Dataset) -> None:
    """Refuse what is not one radiograph of a chest made for the eye; what the header leaves out is let through."""
    # A missing tag refuses nothing, since de-identification may have removed it.
    sop_class = _sop_class(header)
    kind = sop_class.keyword
    if kind == "MediaStorageDirectoryStorage":
        raise DicomError(Reason.NO_IMAGE, "a directory of DICOM files (DICOMDIR)")
    modality = text(header, "Modality")
    if modality in DOCUMENTS or (kind and "ImageStorage" not in kind):
        raise DicomError(Reason.NOT_AN_IMAGE, f"a document, not an image ({kind or modality})")
    if modality not in MODALITIES:
        raise DicomError(Reason.WRONG_MODALITY, f"modality {_modality(modality)} where {EXPECTED} is expected")
    if kind and not kind.startswith(RADIOGRAPHS):
        raise DicomError(Reason.WRONG_MODALITY, f"{kind} where {EXPECTED} is expected")
    if kind.endswith("ForProcessing") or text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise DicomError(Reason.FOR_PROCESSING, "raw detector data, meant for processing and not for the eye")
    if not any(tag in header for tag in IMAGE_TAGS):
        # A file of an image's class was one before it was cut, whatever the element it was cut after; one that says
        # nothing at all was cut too, since every file declares its class (PS3.10 7.1).
        if "ImageStorage" in kind or not (sop_class or len(header)):
            raise DicomError(Reason.TRUNCATED, "the file ends within its header")
        raise DicomError(Reason.NO_IMAGE, "none of the tags that describe an image")
    frames = numbers(header, "NumberOfFrames")
    if frames and not frames[0] >= 1:  # so put, it is also true of NaN
        raise DicomError(Reason.BAD_HEADER, f"{frames[0]:g} frames")
    if frames and frames[0] > 1:
        raise DicomError(Reason.MULTI_FRAME, f"{frames[0]:.0f} frames where one is expected")
    part = text(header, "BodyPartExamined")
    # Chest words win: CHEST_ABDOMEN is a film of the chest as well.
    other = re.search(OTHER_PARTS, part)
    if other and not re.search(CHEST, part):
        raise DicomError(Reason.NOT_CHEST, f"the body part examined is not the chest ({other[0]})")


def _sop_class(header: Dataset) -> uid.UID:
    """Return the class that the data set, or else the file's meta information, declares; "" for none."""
    return uid.UID(text(header, "SOPClassUID") or text(header.file_meta, "MediaStorageSOPClassUID"))


def _modality(value: str) -> str:
    """Return a modality as a message may quote it: where lengths are wrong, anything may be part of the value."""
    return value if re.fullmatch("[A-Z]{2,3}|RT[A-Z]+", value) else "that is no code"


def transfer_syntax(header: Dataset) -> uid.UID:
    """Return the declared transfer syntax, else uncompressed in the byte order that pydicom detected."""
    if declared := text(header.file_meta, "TransferSyntaxUID"):
        return uid.UID(declared)
    return uid.ExplicitVRBigEndian if header.original_encoding[1] is False else uid.ExplicitVRLittleEndian


def read_layout(header: Dataset, *, whole_words: bool) -> Layout:
    """Return the checked Image Pixel module. `whole_words`: values stay below HighBit, unlike in JPEG streams."""
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if min(rows, columns) < 1:
        raise DicomError(Reason.BAD_HEADER, f"{rows} rows and {columns} columns")
    if rows * columns > MAX_PIXELS:
        raise DicomError(Reason.TOO_LARGE, f"{rows} x {columns} pixels, more than {MAX_PIXELS}")
    photometric = _photometric(header)
    # Where it is missing, the photometric interpretation implies it.
    samples = _whole(header, "SamplesPerPixel", default=1 if photometric in GREY else 3)
    allocated = _whole(header, "BitsAllocated")
    grey = photometric in GREY and samples == 1 and allocated in (8, 16, 32)
    colour = photometric in COLOUR and samples == 3 and allocated == 8
    if not grey and not colour:
        raise DicomError(Reason.UNSUPPORTED, f"{_term(photometric)}, {samples} samples, {allocated} bits allocated")
    layout = Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        allocated=allocated,
        bits=_bits(header, allocated, whole_words=whole_words),
        photometric=photometric,
        planar=_whole(header, "PlanarConfiguration", default=0),
    )
    # Pixels are within bounds by now, but 32-bit words or three samples are more bytes than the bound was made for.
    if layout.size > MAX_BYTES:
        raise DicomError(Reason.TOO_LARGE, f"an image of {layout.size} bytes, more than {MAX_BYTES}")
    return layout


def _term(photometric: str) -> str:
    return photometric if photometric in (*GREY, *COLOUR, *OTHER_COLOURS) else "no photometric interpretation"


def _photometric(header: Dataset) -> str:
    photometric = text(header, "PhotometricInterpretation")
    if not photometric:
        raise DicomError(Reason.BAD_HEADER, "PhotometricInterpretation is missing")
    # Read all the same, since its meaning is clear, but with a warning: PS3.3 allows one code in capitals.
    if str(header.PhotometricInterpretation).strip() != photometric:
        warnings.warn("a DICOM file's PhotometricInterpretation is not one value in capitals", stacklevel=2)
    return photometric


def _bits(header: Dataset, allocated: int, *, whole_words: bool) -> Bits:
    stored = _whole(header, "BitsStored")
    high = _whole(header, "HighBit", default=stored - 1)
    sign = _whole(header, "PixelRepresentation")
    if not (1 <= stored <= high + 1 <= allocated and sign in (0, 1)):
        detail = f"{allocated} bits allocated, {stored} stored, high bit {high}, pixel representation {sign}"
        raise DicomError(Reason.BAD_HEADER, detail)
    # A compressed stream codes the value alone, so what comes out of a decoder begins at bit 0.
    return Bits(low=high + 1 - stored if whole_words else 0, count=stored, signed=sign == 1)


def _whole(header: Dataset, keyword: str, default: int | None = None) -> int:
    values = numbers(header, keyword)
    if not values and default is not None:
        return default
    if len(values) != 1 or not values[0].is_integer():
        raise DicomError(Reason.BAD_HEADER, f"{keyword} is {'not one whole number' if values else 'missing'}")
    return int(values[0])
