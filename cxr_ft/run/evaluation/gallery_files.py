"""Thumbnails of some test images with truth, answer and where the model looked; the same images for every run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.files import atomic, write_json
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.evaluation import saliency

#: How many images, and their largest side in pixels.
COUNT, SIDE = 8, 192


def write(
    run: Path, rows: SplitDataset, values: Sequence[Any], saved: dict[str, Any], parts: ModelParts, *, batch_size: int
) -> None:
    """Write `gallery/*.png` and `gallery/gallery.json`: images spread evenly over the side's rows.

    Args:
        rows: of the test side, and `values`, the model's answers to them.
        saved: what the run's labels.json says.
        parts: the model; it is asked again with a part of each image covered, see `saliency`.
        batch_size: rows at a time.
    """
    from PIL import Image

    folder, entries = run / "gallery", list[dict[str, Any]]()
    for place in range(min(COUNT, len(rows))):
        i = place * len(rows) // min(COUNT, len(rows))
        if rows.images[i].size:
            image = Image.fromarray(rows.images[i])
            image.thumbnail((SIDE, SIDE))
            with atomic(folder / f"{place}.png") as temporary:
                image.save(temporary, format="PNG")
        entry = _entry(rows, i, values[i], saved["labels"])
        name = f"{place}.png" if rows.images[i].size else None
        entries.append(
            {"file": name, **entry, **_looked(parts, rows, i, values[i], saved["labels"], batch_size=batch_size)}
        )
    write_json(folder / "gallery.json", entries)


def _entry(rows: SplitDataset, i: int, value: Any, names: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"dicom_id": str(rows.ids["dicom_id"].iloc[i])}
    if given := " | ".join(part for part in (rows[i].given, rows[i].pair) if part):
        entry["given"] = given
    if isinstance(value, str):
        return entry | {"truth": rows.texts[i], "predicted": value}
    truth = [name for name, target in zip(names, rows.targets[i], strict=True) if target == 1]
    scores = {name: round(float(score), 4) for name, score in zip(names, value, strict=True)}
    return entry | {"truth": truth, "predicted": scores}


def _looked(
    parts: ModelParts, rows: SplitDataset, i: int, value: Any, names: Sequence[str], *, batch_size: int
) -> dict[str, Any]:
    """The map of the likeliest label, or of the text that was written; nothing where there is no image, or no text."""
    example = rows[i]
    if not example.image.size or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        found, what = saliency.of_text(parts, example, value), ""
    else:
        label = max(range(len(names)), key=lambda place: float(value[place]))
        found, what = saliency.of_scores(parts, example, batch_size)[label], names[label]
    return {"looked": {"at": what, "map": found.round(4).tolist()}}
