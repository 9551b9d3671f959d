"""Read one X-ray file as an 8-bit image, air dark and bone bright, or reject it with a reason code.

The first bytes of a file decide what it is. DICOM goes through `header` (parse, refuse), `pixel_data` (decode) and
`greyscale` (what a screen would show); PNG and JPEG, which may not be named as DICOM is, are decoded by Pillow.
`resampling` changes the size.
"""

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageOps
from pydicom import Dataset
from pydicom.config import disable_value_validation

from cxr_ft.data.dicom.bounded_file import MAX_BYTES, MAX_PIXELS, BoundedFile, is_dicom, peek
from cxr_ft.data.dicom.dicom_error import DicomError, Reason
from cxr_ft.data.dicom.greyscale import Grey, Image, Levels, levels, stretch
from cxr_ft.data.dicom.header import Layout
from cxr_ft.data.dicom.header_values import numbers
from cxr_ft.data.dicom.jpeg_restarts import check_restarts
from cxr_ft.data.dicom.pixel_data import read_dicom
from cxr_ft.data.dicom.resampling import resample
from cxr_ft.errors import UsageError

__all__ = ["DicomError", "Reason", "read_xray"]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, the Y of YBR_FULL
#: Colours whose first sample is the luminance; those of JPEG 2000 (YBR_RCT, YBR_ICT) are RGB once decoded.
YBR = ("YBR_FULL", "YBR_FULL_422")
#: Names of DICOM files; one without a suffix may be anything.
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def read_xray(path: Path | str, size: int | None = None) -> npt.NDArray[np.uint8]:
    """Read one DICOM, PNG or JPEG file as it would be shown: uint8 [H, W], air dark, bone bright, pixels square.

    Grey levels follow the file's own display settings: the first VOI LUT, else the first window, else smallest to
    largest, where an image without contrast is 0; padding is 0. PNG and JPEG keep their 8 bits, 16 are spread smallest
    to largest; colour becomes luminance.

    size: length of the short side in pixels; None keeps the full size. Shrinking takes the exact mean over each new
    pixel's area, of grey levels that are not yet rounded; enlarging is bilinear.

    Raises DicomError for what cannot be shown, UsageError for a size below 1.
    """
    if size is not None and size < 1:
        raise UsageError(f"size {size} of an image's short side; it must be at least 1 pixel, or None")
    path = Path(path)
    try:
        # pydicom's warnings about invalid values quote them, and in a broken header that may be the patient's name.
        with BoundedFile.open(path) as file, disable_value_validation():
            image, shown, spacing = _read(file, path.suffix)
        target = _target(image.shape, spacing, size)
    except DicomError as error:
        # `from None`: the chained pydicom error would quote the header in a traceback.
        raise error.at(path) from None
    except OSError as error:
        raise DicomError(Reason.NOT_READABLE, error.strerror or type(error).__name__, path) from None
    return resample(image, shown, *target)


def _read(file: BoundedFile, suffix: str) -> tuple[Image, Levels, tuple[float, float]]:
    """Return words [H, W] or colours [H, W, 3], their grey levels, and the (vertical, horizontal) pixel spacing."""
    # A DICOM preamble may hold anything, the first bytes of a PNG or a TIFF included: its own mark at byte 128 goes
    # first.
    start = peek(file)
    if not is_dicom(start) and start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        # The file that should bear this name had other grey levels, and a header that could refuse it.
        if suffix.lower() in DICOM_SUFFIXES:
            raise DicomError(Reason.NOT_DICOM, f"a PNG or JPEG picture named {suffix.lower()}")
        picture = _read_picture(file)
        return picture, (_as_they_are if picture.dtype == np.uint8 else stretch(picture)), (1.0, 1.0)
    header, layout, image = read_dicom(file)
    shown = _luminance(layout) if layout.samples == 3 else levels(image, header, layout.bits)
    return image, shown, _spacing(header)


def _as_they_are(rows: Image) -> Grey:
    return rows.astype(np.float32)


def _luminance(layout: Layout) -> Levels:
    """Return the grey levels of colours [h, W, 3]; of Y, Cb and Cr the first is the luminance itself."""
    largest = np.float32(2**layout.bits.count - 1)
    weights = np.array([1, 0, 0], dtype=np.float32) if layout.photometric in YBR else LUMA
    # The weights sum to 1 only up to float32's last bit, which would take white beyond 255.
    return lambda rows: np.minimum(rows.astype(np.float32) @ weights, largest) * (255 / largest)


def _read_picture(file: BoundedFile) -> Image:
    """Return a PNG or JPEG's pixels, uint8 or uint16 [H, W], upright."""
    # Read whole and once: what is checked below is then what Pillow decodes, even if the file changes meanwhile.
    data = file.take(MAX_BYTES)
    # Pillow takes a file for whole once the last row is there; the reason should not depend on how much is missing.
    if (b"IEND\xaeB`\x82" if data.startswith(b"\x89") else b"\xff\xd9") not in data:
        raise DicomError(Reason.TRUNCATED, "the picture has no end")
    if data.startswith(b"\xff"):
        check_restarts(data)
    try:
        with Picture.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            # Opening reads the size alone; refused here, the pixels are never allocated.
            if picture.width * picture.height > MAX_PIXELS:
                raise DicomError(Reason.TOO_LARGE, f"{picture.height} x {picture.width} pixels, more than {MAX_PIXELS}")
            # Phones and scanners store a turned picture with an EXIF tag that says how to turn it back.
            upright = ImageOps.exif_transpose(picture)
            # Modes I;16 and I hold 16-bit PNG, which convert("L") would not spread over the 8 bits.
            if upright.mode.startswith("I"):
                return np.asarray(upright).astype(np.uint16)
            return np.asarray(upright.convert("L"))
    # Pillow's own limit comes before ours where an opened header claims even more pixels.
    except Picture.DecompressionBombError:
        raise DicomError(Reason.TOO_LARGE, f"a picture of more than {MAX_PIXELS} pixels") from None
    # What Pillow's PNG and JPEG readers raise on broken files; their texts are not passed on.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DicomError(Reason.BAD_PIXELS, f"the picture cannot be decoded ({type(error).__name__})") from None


def _spacing(header: Dataset) -> tuple[float, float]:
    """Return the (vertical, horizontal) pixel spacing, in the first unit that the header has (PS3.3 C.7.6.3.1.7)."""
    for keyword in SPACINGS:
        spacing = numbers(header, keyword)
        if len(spacing) == 2 and min(spacing) > 0 and np.isfinite(spacing).all():
            return spacing[0], spacing[1]
    return 1.0, 1.0


def _target(shape: tuple[int, ...], spacing: tuple[float, float], size: int | None) -> tuple[int, int]:
    """Return height and width with square pixels and a short side of `size`; DicomError if that is huge."""
    vertical, horizontal = spacing
    # Resampling for the sake of the last digit of a spacing would blur every row of the image.
    if abs(vertical / horizontal - 1) < 1e-3:  # one spacing, rounded twice
        vertical = horizontal
    # The finer side keeps its pixels: square pixels should not cost detail that the file has.
    finer = min(vertical, horizontal)
    height, width = shape[0] * (vertical / finer), shape[1] * (horizontal / finer)
    scale = 1.0 if size is None else size / min(height, width)
    height, width = height * scale, width * scale
    if not height * width <= MAX_PIXELS:  # so put, it is also true of NaN
        raise DicomError(Reason.TOO_LARGE, f"with square pixels it would have more than {MAX_PIXELS} of them")
    return max(1, round(height)), max(1, round(width))
