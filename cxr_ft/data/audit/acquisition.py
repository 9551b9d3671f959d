"""Measure how an image was acquired and stored: a hash of its pixels, size, file, header, mean grey level."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.dicom import DicomError, read_xray
from cxr_ft.data.pixels.image_decode import MANY, local_copy, pixel_hash, spread
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

#: Header fields of the acquisition; none that identifies a person.
HEADER = ("Modality", "PhotometricInterpretation", "BitsStored", "Manufacturer", "TransferSyntaxUID")


def measure(root: Path, paths: Sequence[str]) -> "pd.DataFrame":
    """Return a row an image, by path: a hash of its pixels, size, file, header and mean grey level.

    The hash is "" and the rest missing where an image cannot be read. No identifying header field is read.
    """
    import pandas as pd

    outcomes = spread(functools.partial(_measure, root), paths, None if len(paths) >= MANY else 1, batch=8)
    rows = list(track(outcomes, "measuring images", len(paths)))
    return pd.DataFrame(rows, index=pd.Index(paths, name="path"))


def _measure(root: Path, path: str) -> dict[str, object]:
    """Return one image's row of `measure`."""
    file = local_copy(root, path)
    try:
        pixels = read_xray(file)
    except DicomError:
        return {"pixels": ""}
    height, width = pixels.shape
    # The file's own size, header and all: it tells scanners and exports apart even where the pixels do not.
    size = file.stat().st_size
    return {
        "pixels": pixel_hash(pixels),
        "size height": height,
        "size width": width,
        "size shape": width / height,
        "file bytes": size,
        "file bytes a pixel": size / pixels.size,
        "file kind": file.suffix.lower(),
        "intensity": float(pixels.mean()),
        **_header(file),
    }


def _header(file: Path) -> dict[str, object]:
    """Return the values of HEADER in a DICOM file, or the properties of another image file."""
    from cxr_ft.data.dicom import header_scan

    try:
        values = header_scan.read(file, HEADER)
    except DicomError:
        return _picture_header(file)
    return {f"header {tag}": value for tag, value in zip(HEADER, values, strict=True)}


def _picture_header(file: Path) -> dict[str, object]:
    """Return the colour mode, JPEG quality (as the sum of its tables) and resolution of an image file."""
    from PIL import Image

    with Image.open(file) as picture:
        # A JPEG holds no quality number. Its quantization tables do, and coarser ones have larger entries.
        tables = getattr(picture, "quantization", None) or {}
        quality = sum(sum(table) for table in tables.values())
        density = picture.info.get("dpi", (0, 0))[0]
        return {"header mode": picture.mode, "header JPEG tables": quality, "header density": float(density)}
