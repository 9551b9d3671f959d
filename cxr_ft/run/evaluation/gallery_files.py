"""Write a run's gallery: thumbnails of some test images with truth, prediction and saliency, the same for every run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.files import atomic, make_folder, write_json
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.evaluation import saliency

#: How many images, and their largest side in pixels.
COUNT, SIDE = 8, 192
#: One image's part of gallery.json: file, dicom_id, given, truth, predicted, looked.
Entry = dict[str, object]
#: What the model predicted for a row: scores [L], or a text.
Output = NDArray[np.float64] | str


def write_gallery(
    run: Path,
    dataset: SplitDataset,
    outputs: Sequence[Output],
    labels: Sequence[str],
    parts: ModelParts,
    *,
    batch_size: int,
) -> None:
    """Write `gallery/*.png` and `gallery/gallery.json` into the run's folder.

    The images are spread evenly over the rows of the split, so that runs on the same split show the same ones.

    Args:
        run: the run's folder.
        dataset: the test split.
        outputs: the model's predictions on it.
        labels: L names, in the order of the scores.
        parts: the model; it predicts again with a part of each image covered, see `saliency`.
        batch_size: rows in a forward pass.
    """
    from PIL import Image

    folder, entries = run / "gallery", list[Entry]()
    make_folder(folder, private=True, own=True)
    count = min(COUNT, len(dataset))
    for number in range(count):
        # By position alone, never by score: nobody can choose the images that flatter a run.
        row = number * len(dataset) // count
        name = None
        if dataset.images[row].size:
            name = f"{number}.png"
            image = Image.fromarray(dataset.images[row])
            image.thumbnail((SIDE, SIDE))
            with atomic(folder / name, private=True) as temporary:
                image.save(temporary, format="PNG")
        entry = _entry(dataset, row, outputs[row], labels)
        looked = _saliency(parts, dataset, row, outputs[row], labels, batch_size=batch_size)
        entries.append({"file": name, **entry, **looked})
    write_json(folder / "gallery.json", entries, private=True)


def _entry(dataset: SplitDataset, row: int, output: Output, labels: Sequence[str]) -> Entry:
    """Return the id of a row, the text that the model read, the truth and the prediction."""
    entry: Entry = {"dicom_id": str(dataset.ids["dicom_id"].iloc[row])}
    example = dataset[row]
    if texts := " | ".join(text for text in (example.given, example.pair) if text):
        entry["given"] = texts
    if isinstance(output, str):
        return entry | {"truth": dataset.texts[row], "predicted": output}
    truth = [name for name, target in zip(labels, dataset.targets[row], strict=True) if target == 1]
    scores = {name: round(float(score), 4) for name, score in zip(labels, output, strict=True)}
    return entry | {"truth": truth, "predicted": scores}


def _saliency(
    parts: ModelParts, dataset: SplitDataset, row: int, output: Output, labels: Sequence[str], *, batch_size: int
) -> Entry:
    """Return the saliency map of the likeliest label or of the generated text; empty without an image or a text."""
    example = dataset[row]
    if not example.image.size or (isinstance(output, str) and not output.strip()):
        return {}
    if isinstance(output, str):
        map_, label = saliency.of_text(parts, example, output), ""
    else:
        best = int(np.argmax(output))
        map_, label = saliency.of_scores(parts, example, batch_size)[best], labels[best]
    return {"looked": {"at": label, "map": map_.round(4).tolist()}}
