"""Measure how an image was acquired and stored: a hash of its pixels, size, file, header, mean grey level."""

import contextlib
import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cxr_ft.data.dicom import DicomError, read_xray
from cxr_ft.data.pixels.image_decode import MANY, CheckedImages, Pixels, local_copy, pixel_hash, spread
from cxr_ft.data.records import order_key
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

#: Header fields of the acquisition; none that identifies a person.
HEADER = ("Modality", "PhotometricInterpretation", "BitsStored", "Manufacturer", "TransferSyntaxUID")
#: Images of which a thumbnail is kept, at most, and its side in pixels.
THUMBNAILS, SIDE = 2000, 32


class _Look(NamedTuple):
    """One image: its row of `Acquisitions.measured`, why it cannot be read, its thumbnail [SIDE, SIDE]."""

    row: dict[str, object]
    refused: tuple[str, str] | None = None
    thumbnail: Pixels | None = None


class Acquisitions:
    """Looks at images below `root`, each decoded once: can it be read, how was it acquired, how does it look from afar.

    `thumbnails` has the small images [SIDE, SIDE] of THUMBNAILS paths at most, at random, by path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.thumbnails: dict[str, Pixels] = {}
        self._rows: dict[str, dict[str, object]] = {}

    def check(self, paths: Sequence[str]) -> CheckedImages:
        """Decode the images of `paths`; return which cannot be, and a hash of the others' pixels."""
        # By a hash of the path: the same images whatever order they come in.
        order = sorted(paths, key=lambda path: order_key(0, path))
        small = {*order[: max(0, THUMBNAILS - len(self.thumbnails))]}
        jobs = [(path, path in small) for path in paths]
        # Starting processes costs seconds, which a few images do not.
        outcomes = spread(functools.partial(_look, self.root), jobs, None if len(paths) >= MANY else 1, batch=8)
        unreadable, hashes = {}, {}
        for path, look in zip(paths, track(outcomes, "checking images", len(paths)), strict=True):
            self._rows[path] = look.row
            if look.refused is not None:
                unreadable[path] = look.refused
                continue
            hashes[path] = str(look.row["pixels"])
            if look.thumbnail is not None:
                self.thumbnails[path] = look.thumbnail
        return CheckedImages(unreadable, hashes)

    def measured(self) -> "pd.DataFrame":
        """Return a row an image, by path: a hash of its pixels, size, file, header and mean grey level.

        The hash is "" and the rest missing where an image cannot be read. No identifying header field is read.
        """
        import pandas as pd

        if not self._rows:
            return pd.DataFrame(columns=["pixels"])
        return pd.DataFrame([*self._rows.values()], index=pd.Index([*self._rows], name="path"))


def stored(root: Path, paths: Sequence[str]) -> "pd.DataFrame":
    """Return how images are stored, a row for each of `paths`: size, file, header. Their pixels are not decoded.

    What cannot be read is missing. No identifying header field is read.
    """
    import pandas as pd

    rows = [_stored(root, path) for path in track(paths, "reading headers", len(paths))]
    return pd.DataFrame(rows, index=pd.RangeIndex(len(paths)))


def _stored(root: Path, path: str) -> dict[str, object]:
    file = local_copy(root, path)
    try:
        size = file.stat().st_size
    except OSError:
        return {}
    row: dict[str, object] = {"file bytes": size, "file kind": file.suffix.lower(), **_header(file)}
    width, height = row.get("size width"), row.get("size height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        row |= {"size shape": width / height, "file bytes a pixel": size / (width * height)}
    # A broken header can hold several values, or bytes, where one number belongs.
    return {name: value if isinstance(value, str | int | float | None) else str(value) for name, value in row.items()}


def _look(root: Path, job: tuple[str, bool]) -> _Look:
    """Return what one image is, with a thumbnail where the job wants one."""
    import cv2

    path, with_thumbnail = job
    try:
        file = local_copy(root, path)
        pixels = read_xray(file)
    except DicomError as error:
        return _Look({"pixels": ""}, (error.reason.value, error.detail))
    height, width = pixels.shape
    # The file's own size, header and all: it tells scanners and exports apart even where the pixels do not.
    size = file.stat().st_size
    row: dict[str, object] = {
        **_header(file),
        "pixels": pixel_hash(pixels),
        # Of the pixels: what a header says of the size may be wrong, or turned.
        "size height": height,
        "size width": width,
        "size shape": width / height,
        "file bytes": size,
        "file bytes a pixel": size / pixels.size,
        "file kind": file.suffix.lower(),
        "intensity": float(pixels.mean()),
    }
    # Area means: each pixel of the image counts alike.
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA) if with_thumbnail else None
    return _Look(row, None, small)


def _header(file: Path) -> dict[str, object]:
    """Return the size and the values of HEADER in a DICOM file, or the properties of another image file."""
    from cxr_ft.data.dicom import header_scan

    try:
        width, height, *values = header_scan.read(file, ("Columns", "Rows", *HEADER))
    except DicomError:
        return _picture_header(file)
    named = {f"header {tag}": value for tag, value in zip(HEADER, values, strict=True)}
    return {"size width": width, "size height": height, **named}


def _picture_header(file: Path) -> dict[str, object]:
    """Return the size, colour mode, JPEG quality (as the sum of its tables) and resolution of an image file."""
    from PIL import Image

    out: dict[str, object] = {}
    # The pixels were read already; a header that Pillow cannot read must not end the split. These are the errors that
    # it raises on broken or huge files, as in `cxr_ft.data.dicom`.
    broken = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
    with contextlib.suppress(*broken), Image.open(file) as picture:
        # A JPEG holds no quality number. Its quantization tables do, and coarser ones have larger entries.
        tables = getattr(picture, "quantization", None) or {}
        quality = sum(sum(table) for table in tables.values())
        density = picture.info.get("dpi", (0, 0))[0]
        out = {"size width": picture.width, "size height": picture.height, "header mode": picture.mode}
        out |= {"header JPEG tables": quality, "header density": float(density)}
    return out
