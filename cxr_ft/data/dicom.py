"""One X-ray file to an 8-bit picture, air dark and bone bright, or a refusal with its reason.

What a file is, its first bytes say, not its name. DICOM goes through `_dicom_header` (parse, refuse), `_dicom_pixels`
(decode) and `_greyscale` (what a screen would show); PNG and JPEG take the short way.
"""

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.config import disable_value_validation

from cxr_ft.data._dicom_header import MAX_BYTES, MAX_PIXELS, BoundedFile
from cxr_ft.data._dicom_pixels import read_dicom
from cxr_ft.data._greyscale import numbers, render, stretch
from cxr_ft.data._refusal import DicomError, Reason
from cxr_ft.errors import UsageError

__all__ = ["DicomError", "Reason", "read_xray"]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, the Y of YBR_FULL
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
        with BoundedFile(path) as file, disable_value_validation():
            grey, spacing = _read(file)
        target = _target(grey.shape, spacing, size)
    except DicomError as error:
        raise error.at(path) from None
    except OSError as error:
        raise DicomError(Reason.NOT_READABLE, error.strerror or type(error).__name__, path) from None
    return np.rint(_resample(grey, *target)).astype(np.uint8)


def _read(file: BinaryIO) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Grey levels [H, W] in 0..255, not rounded, and the (vertical, horizontal) spacing of the pixels in any unit."""
    start = file.read(132)
    file.seek(0)
    if start[128:] != b"DICM" and start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return _read_picture(file), (1.0, 1.0)
    header, layout, words = read_dicom(file)
    if layout.samples == 3:
        return words.astype(np.float32) @ LUMA * np.float32(255 / (2**layout.bits.count - 1)), _spacing(header)
    return render(words, header, layout.bits), _spacing(header)


def _read_picture(file: BinaryIO) -> npt.NDArray[np.float32]:
    """A PNG or JPEG's grey levels, float32 [H, W] in 0..255, upright."""
    data = file.read(MAX_BYTES)
    # Pillow takes a file for whole once the last row is there; the reason should not depend on how much is missing.
    if (b"IEND\xaeB`\x82" if data.startswith(b"\x89") else b"\xff\xd9") not in data:
        raise DicomError(Reason.TRUNCATED, "the picture has no end")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DicomError(Reason.TOO_LARGE, f"{image.height} x {image.width} pixels, more than {MAX_PIXELS}")
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith("I")
            pixels: npt.NDArray[Any] = np.asarray(upright if deep else upright.convert("L"))
    except Image.DecompressionBombError:
        raise DicomError(Reason.TOO_LARGE, f"a picture of more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DicomError(Reason.BAD_PIXELS, f"the picture cannot be decoded ({type(error).__name__})") from None
    if not deep:
        return pixels.astype(np.float32)
    grey = stretch(pixels.astype(np.float64), np.ones(pixels.shape, dtype=bool))
    return np.nan_to_num(grey, nan=0.0).astype(np.float32)


def _spacing(header: Dataset) -> tuple[float, float]:
    """The (vertical, horizontal) spacing of the pixels, in the first unit that the header has (PS3.3 C.7.6.3.1.7)."""
    for keyword in SPACINGS:
        found = numbers(header, keyword)
        if len(found) == 2 and min(found) > 0 and np.isfinite(found).all():
            return found[0], found[1]
    return 1.0, 1.0


def _target(shape: tuple[int, ...], spacing: tuple[float, float], size: int | None) -> tuple[int, int]:
    """The height and width of the picture with square pixels, its short side `size`; DicomError if that is huge."""
    vertical, horizontal = spacing
    if abs(vertical / horizontal - 1) < 1e-3:  # one spacing, rounded twice
        vertical = horizontal
    finer = min(vertical, horizontal)
    height, width = shape[0] * (vertical / finer), shape[1] * (horizontal / finer)
    scale = 1.0 if size is None else size / min(height, width)
    height, width = height * scale, width * scale
    if not height * width <= MAX_PIXELS:  # so put, it is also true of NaN
        raise DicomError(Reason.TOO_LARGE, f"with square pixels it would have more than {MAX_PIXELS} of them")
    return max(1, round(height)), max(1, round(width))


def _resample(grey: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Area mean along the sides that shrink, then linear along those that grow."""
    smaller = min(height, grey.shape[0]), min(width, grey.shape[1])
    for (rows, columns), method in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if grey.shape != (rows, columns):
            grey = cv2.resize(grey, (columns, rows), interpolation=method)
    return grey
