"""Thumbnails of some test images with truth and answer; the same images for every run on the same splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_ft.data.batches import Rows
from cxr_ft.files import atomic, write_json

#: How many images, and their largest side in pixels.
COUNT, SIDE = 8, 192


def write(run: Path, rows: Rows, values: Sequence[Any], saved: dict[str, Any], output: str) -> None:
    """Write `gallery/*.png` and `gallery/gallery.json`: images spread evenly over the side's rows."""
    from PIL import Image

    folder, entries = run / "gallery", []
    for place in range(min(COUNT, len(rows))):
        i = place * len(rows) // min(COUNT, len(rows))
        image = Image.fromarray(rows.images[i])
        image.thumbnail((SIDE, SIDE))
        with atomic(folder / f"{place}.png") as temporary:
            image.save(temporary, format="PNG")
        entry: dict[str, Any] = {"file": f"{place}.png", "dicom_id": str(rows.ids["dicom_id"].iloc[i])}
        if output == "text":
            entry |= {"truth": rows.texts[i], "predicted": values[i]}
        else:
            names = saved["labels"]
            truth = [name for name, value in zip(names, rows.targets[i], strict=True) if value == 1]
            scores = {name: round(float(score), 4) for name, score in zip(names, values[i], strict=True)}
            entry |= {"truth": truth, "predicted": scores}
        entries.append(entry)
    write_json(folder / "gallery.json", entries)
