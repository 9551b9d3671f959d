"""What a file is besides the film in it: pixels as a hash, size, file, header, mean grey level."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ft.data.dicom import DicomError, read_xray
from cxr_ft.data.pixels.image_decode import MANY, local_copy, spread
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

#: How the film was made; nothing that says of whom.
HEADER = ("Modality", "PhotometricInterpretation", "BitsStored", "Manufacturer", "TransferSyntaxUID")


def measure(root: Path, paths: Sequence[str]) -> "pd.DataFrame":
    """Of each image: a hash of its pixels ("" where it cannot be read), size, file, header and mean grey level.

    Indexed by path. No identifying header field is read.
    """
    import pandas as pd

    outcomes = spread(functools.partial(_measure, root), paths, None if len(paths) >= MANY else 1, batch=8)
    rows = list(track(outcomes, "measuring images", len(paths)))
    return pd.DataFrame(rows, index=pd.Index(paths, name="path"))


def _measure(root: Path, path: str) -> dict[str, Any]:
    file = local_copy(root, path)
    try:
        pixels = read_xray(file)
    except DicomError:
        return {"pixels": ""}
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16)
    digest.update(str(pixels.shape).encode())
    height, width = pixels.shape
    size = file.stat().st_size
    return {
        "pixels": digest.hexdigest(),
        "size height": height,
        "size width": width,
        "size shape": width / height,
        "file bytes": size,
        "file bytes a pixel": size / pixels.size,
        "file kind": file.suffix.lower(),
        "intensity": float(pixels.mean()),
        **_header(file),
    }


def _header(file: Path) -> dict[str, Any]:
    """What a file says of how it was made; nothing that says of whom."""
    from cxr_ft.data.dicom import header_scan

    try:
        values = header_scan.read(file, HEADER)
    except DicomError:
        return _picture_header(file)
    return {f"header {tag}": value for tag, value in zip(HEADER, values, strict=True)}


def _picture_header(file: Path) -> dict[str, Any]:
    from PIL import Image

    with Image.open(file) as picture:
        tables = getattr(picture, "quantization", None) or {}
        quality = sum(sum(table) for table in tables.values())
        density = picture.info.get("dpi", (0, 0))[0]
        return {"header mode": picture.mode, "header JPEG tables": quality, "header density": float(density)}
