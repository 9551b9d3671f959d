"""Examples of the test split: what is true, what each variant said of the same row, and where it looked."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ft.errors import UsageError
from cxr_ft.show.compare import Comparison
from cxr_ft.show.phrasing import DASH, decimal
from cxr_ft.show.runs import Run

#: At most so many images of a comparison, and bytes of all its thumbnails.
IMAGES, BYTES = 12, 1_500_000

#: At most so many variants show where they looked, in pictures of so many pixels a side, so strong at most.
LOOKS, SIDE, STRENGTH = 6, 96, 0.75
_ORANGE = (230, 159, 0)

#: At most so many labels of a prediction, the likeliest first.
LIKELIEST = 3
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Look:
    """Where a variant looked: a picture as data URI, and the label that it asked about; "" for a text."""

    image: str
    name: str
    at: str


@dataclass(frozen=True)
class GalleryExample:
    """One row: its image as data URI or the text that was given, the truth, and (variant, prediction) for each."""

    image: str
    given: str
    name: str
    truth: str
    predictions: list[tuple[str, str]]
    looks: list[Look]


def open_data(run: Run) -> bool:
    """Whether images and texts of the run's data may stand on a page unasked."""
    return run.result.data.get("card", {}).get("sensitivity") in ("synthetic", "public")


def examples(comparison: Comparison, include_data: bool = False) -> list[GalleryExample]:
    """The images that the runs kept in `gallery/`; of each variant its first seed speaks.

    Args:
        include_data: also those of data that is neither synthetic nor public.
    """
    told: dict[str, dict[str, dict[str, Any]]] = {}
    folders: dict[str, Path] = {}
    for variant in comparison.variants:
        run = variant.runs[0]
        if include_data or open_data(run):
            told[variant.name] = {str(item["dicom_id"]): item for item in _entries(run.folder)}
            folders[variant.name] = run.folder / "gallery"
    ids = list(dict.fromkeys(image for items in told.values() for image in items))
    found: list[GalleryExample] = []
    room = BYTES
    for image in ids[:IMAGES]:
        owner = next(name for name, items in told.items() if image in items)
        item = told[owner][image]
        uri = _data_uri(folders[owner], item["file"]) if item["file"] else ""
        looks = [
            _look(folders[name] / item["file"], name, items[image]["looked"])
            for name, items in told.items()
            if image in items and item["file"] and items[image].get("looked")
        ][:LOOKS]
        room -= len(uri) + sum(len(look.image) for look in looks)
        if room < 0:
            break
        said = [(name, _said(items[image]["predicted"]) if image in items else DASH) for name, items in told.items()]
        found.append(GalleryExample(uri, str(item.get("given", "")), image, _truth(item["truth"]), said, looks))
    return found


def _entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / "gallery" / "gallery.json"
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        needed = ("file", "dicom_id", "truth", "predicted")
        return [{**entry, **{key: entry[key] for key in needed}} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no gallery of cxr-train: {error!r}") from error


def _data_uri(folder: Path, name: object) -> str:
    """A thumbnail as `data:`; a name that leaves the folder, or bytes of no image, are refused."""
    path = folder / str(name)
    if path.name != str(name):
        raise UsageError(f"{folder / 'gallery.json'} names {name!r}: only files beside it are shown")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    kind = next((kind for start, kind in _KINDS.items() if raw.startswith(start)), None)
    if kind is None:
        raise UsageError(f"{path} is neither PNG nor JPEG")
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def _look(path: Path, name: str, looked: Mapping[str, Any]) -> Look:
    """The image in small, orange where covering it took most from the answer."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L").resize((SIDE, SIDE)), float)[..., None]
        table = np.asarray(looked["map"], float)
        at = str(looked["at"])
        if table.ndim != 2 or not table.size:
            raise ValueError(f"a map of shape {table.shape}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path.parent / 'gallery.json'} is no gallery of cxr-train: {error!r}") from error
    most = table.max(initial=0.0)
    share = np.clip(table, 0, None) / most if most > 0 else np.zeros_like(table)
    # Cells are shown as they were asked about: nothing finer is known.
    size = [np.arange(SIDE) * cells // SIDE for cells in share.shape]
    alpha = STRENGTH * share[np.ix_(*size)][..., None]
    mixed = Image.fromarray(np.asarray((1 - alpha) * grey + alpha * np.array(_ORANGE), np.uint8))
    raw = io.BytesIO()
    mixed.save(raw, "JPEG", quality=80)
    return Look(f"data:image/jpeg;base64,{base64.b64encode(raw.getvalue()).decode()}", name, at)


def _truth(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(map(str, value)) or "no finding"


def _said(value: str | Mapping[str, float]) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    likeliest = sorted(value.items(), key=lambda item: -item[1])[:LIKELIEST]
    return ", ".join(f"{label} {decimal(score, 2)}" for label, score in likeliest)
