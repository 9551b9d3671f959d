"""Collect examples of the test split: the truth, the prediction of each variant, and its occlusion map."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from cxr_ft import json_values
from cxr_ft.errors import UsageError
from cxr_ft.show.number_format import DASH, decimal
from cxr_ft.show.verdicts import Comparison

#: At most so many images of a comparison, and bytes of all its thumbnails.
IMAGES, BYTES = 12, 1_500_000

#: At most so many variants show an occlusion map, of so many pixels a side, with this opacity at most.
MAPS, SIDE, OPACITY = 6, 96, 0.75
_ORANGE = (230, 159, 0)

#: At most so many labels of a prediction, the likeliest first.
LIKELIEST = 3
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}


class RecordedMap(TypedDict):
    """An occlusion map as recorded: the loss of score for each cell [rows, columns], and the label it is of."""

    map: list[list[float]]
    at: str


class Entry(TypedDict):
    """One example in a run's gallery.json."""

    file: str
    dicom_id: str
    truth: str | list[str]
    predicted: str | dict[str, float]
    given: NotRequired[str]
    looked: NotRequired[RecordedMap | None]


@dataclass(frozen=True)
class OcclusionMap:
    """The occlusion map of a variant: the image as data URI, and the label it explains; "" for a text."""

    image: str
    name: str
    label: str


@dataclass(frozen=True)
class GalleryExample:
    """One row: its image as data URI ("": none) or its text, the truth, and (variant, prediction) for each."""

    image: str
    text: str
    name: str
    truth: str
    predictions: list[tuple[str, str]]
    maps: list[OcclusionMap]


def examples(comparison: Comparison) -> list[GalleryExample]:
    """Return the examples that the runs kept in `gallery/`, with the predictions of each variant's first seed.

    They are images, ids and texts of the data: only a page that may show them asks for them.
    """
    entries: dict[str, dict[str, Entry]] = {}
    folders: dict[str, Path] = {}
    for row in comparison.rows:
        run = row.runs[0]
        entries[row.name] = {str(entry["dicom_id"]): entry for entry in _entries(run.folder)}
        folders[row.name] = run.folder / "gallery"
    # In the order of the first run that stored an image, so that equal runs make an equal page.
    ids = list(dict.fromkeys(image for by_id in entries.values() for image in by_id))
    shown: list[GalleryExample] = []
    room = BYTES
    for image in ids[:IMAGES]:
        # All variants saw the same image; the first that stored it shows it.
        owner = next(name for name, by_id in entries.items() if image in by_id)
        entry = entries[owner][image]
        uri = _data_uri(folders[owner], entry["file"]) if entry["file"] else ""
        maps = [
            _occlusion_map(folders[name] / entry["file"], name, recorded)
            for name, by_id in entries.items()
            if image in by_id and entry["file"] and (recorded := by_id[image].get("looked"))
        ][:MAPS]
        # The room counts what is embedded, in characters of base64.
        room -= len(uri) + sum(len(drawn.image) for drawn in maps)
        # Whole examples or none: one without its maps would look as if the model had none.
        if room < 0:
            break
        predictions = [
            (name, _prediction(by_id[image]["predicted"]) if image in by_id else DASH)
            for name, by_id in entries.items()
        ]
        text = str(entry.get("given", ""))
        shown.append(GalleryExample(uri, text, image, _truth(entry["truth"]), predictions, maps))
    return shown


def _entries(folder: Path) -> list[Entry]:
    path = folder / "gallery" / "gallery.json"
    if not path.exists():
        return []
    try:
        entries: list[Entry] = list(json_values.loads(path.read_text(encoding="utf-8")))
        for entry in entries:
            # Checked here, in one place, so that the functions below may rely on the keys.
            if missing := Entry.__required_keys__ - dict(entry).keys():
                raise KeyError(min(missing))
        return entries
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no gallery of cxr-train: {error!r}") from error


def _data_uri(folder: Path, name: object) -> str:
    """Return a thumbnail as `data:` URI.

    Raises:
        UsageError: for a name that leaves the folder, and for bytes of no image: the page must not publish other files.
    """
    path = folder / str(name)
    # The file comes from a run's folder, which may be another person's.
    if path.name != str(name):
        raise UsageError(f"{folder / 'gallery.json'} names {name!r}: only files beside it are shown")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    # By its first bytes: the name of a file proves nothing about its content.
    kind = next((kind for start, kind in _KINDS.items() if raw.startswith(start)), None)
    if kind is None:
        raise UsageError(f"{path} is neither PNG nor JPEG")
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def _occlusion_map(path: Path, name: str, recorded: RecordedMap) -> OcclusionMap:
    """Return the small image, orange where covering it lowered the score most.

    Args:
        recorded: "map" [rows, columns], the loss of score for each cell; "at", the label.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L").resize((SIDE, SIDE)), float)[..., None]
        losses = np.asarray(recorded["map"], float)
        label = str(recorded["at"])
        if losses.ndim != 2 or not losses.size:
            raise ValueError(f"a map of shape {losses.shape}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path.parent / 'gallery.json'} is no gallery of cxr-train: {error!r}") from error
    most = losses.max(initial=0.0)
    # Cells whose cover raised the score are left grey: the map shows support alone. Without any support nothing is
    # orange.
    share = np.clip(losses, 0, None) / most if most > 0 else np.zeros_like(losses)
    # Cells stay blocks: interpolation would show detail that was never measured.
    nearest = [np.arange(SIDE) * cells // SIDE for cells in share.shape]
    alpha = OPACITY * share[np.ix_(*nearest)][..., None]
    mixed = Image.fromarray(np.asarray((1 - alpha) * grey + alpha * np.array(_ORANGE), np.uint8))
    raw = io.BytesIO()
    mixed.save(raw, "JPEG", quality=80)
    return OcclusionMap(f"data:image/jpeg;base64,{base64.b64encode(raw.getvalue()).decode()}", name, label)


def _truth(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(map(str, value)) or "no finding"


def _prediction(value: str | Mapping[str, float]) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    # sorted is stable: equal scores keep the order of the labels.
    likeliest = sorted(value.items(), key=lambda item: -item[1])[:LIKELIEST]
    return ", ".join(f"{label} {decimal(score, 2)}" for label, score in likeliest)
