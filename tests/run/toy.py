"""A toy whose classes overlap, so that a model can be better or worse: AUROC on val lies between chance and 1."""

import numpy as np
import pandas as pd
from PIL import Image

from cxr_ft import config
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model.bases import git
from cxr_ft.run.training import checkpoint

#: Mean shade of the images of each class, and how much it varies from image to image: much more than the means differ.
SHADES = {"clear": 100, "opaque": 125}
SPREAD = 30
SIDE = 32
FINDINGS = {
    "clear": ("No edema.", "The lungs are clear.", "Heart size is normal. No effusion is seen."),
    "opaque": ("Edema.", "Small left effusion.", "There is a large opacity on the left, with an effusion."),
}


def make(place, per_class=40, per_label=None):
    """Write splits and a tiny pretrained model into the folder `place`: `splits`, `tiny`.

    Args:
        place: an existing folder.
        per_class: images of each class, each of its own subject.
        per_label: images of each class in the splits; None: all. With fewer the natural side has other rows than test.
    """
    rng = np.random.default_rng(0)
    (place / "images").mkdir()
    rows = []
    for name, shade in SHADES.items():
        for i in range(per_class):
            pixels = rng.normal(rng.normal(shade, SPREAD), 15, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "images" / f"{name}{i}.png")
            row = {"path": f"{name}{i}.png", "subject_id": f"{name}{i}", "label": name}
            rows.append({**row, "findings": FINDINGS[name][i % 3]})
    pd.DataFrame(rows).to_csv(place / "images" / "table.csv", index=False)
    make_splits(
        str(place / "images"),
        "folder",
        SplitRequest(per_label=per_label or per_class, text="findings", ratios=(50.0, 35.0, 15.0)),
        place / "splits",
    )
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)


def make_shades(place):
    """Write splits of two classes that differ in shade, and a tiny pretrained model, into `place`: `splits`, `tiny`."""
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)


def interrupt_second_save(monkeypatch):
    """Interrupt training, as Ctrl-C does, at its second checkpoint; return the function that puts `save` back."""
    save, calls = checkpoint.save, []

    def interrupt(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*arguments, **more)

    monkeypatch.setattr(checkpoint, "save", interrupt)
    return lambda: monkeypatch.setattr(checkpoint, "save", save)


def configured(place, method="lora", task="classify", tuning=None, **train):
    """The configuration of a run on what `make` wrote in `place`."""
    raw = {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "tiny"),
        "head": {"name": task, **({"max_tokens": 16} if task == "report" else {})},
        "tuning": {"name": method, **(tuning or {})},
        "train": {"epochs": 5, "batch_size": 8, **train},
    }
    return config.resolve(raw)


def best_epoch(history):
    """What the best epoch reached on val and its place in `history`: the highest AUROC, or the lowest loss of texts."""
    if history[0]["val"] is None:
        value, place = min((row["val_loss"], place) for place, row in enumerate(history))
    else:
        value, place = max((row["val"], -place) for place, row in enumerate(history))
    return value, abs(place)
