"""The gallery: spread over the split's rows, each with its own truth and answer, and the likeliest label's map."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.run.evaluation import gallery_files, saliency

LABELS = ("Edema", "Fracture", "Effusion")


class Side:
    """Rows whose pixels, truth and id all say the row's number."""

    def __init__(self, count):
        self.images = [np.full((8, 8), i, np.uint8) for i in range(count)]
        self.targets = np.array([[i % 2, 1 - i % 2, np.nan] for i in range(count)])
        self.texts = [f"truth {i}" for i in range(count)]
        self.ids = pd.DataFrame({"dicom_id": [f"d{i}" for i in range(count)]})

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return Example(self.images[i], self.targets[i], self.texts[i])


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Entries of a gallery, with maps that name the row and the label they are of."""
    monkeypatch.setattr(
        saliency,
        "of_scores",
        lambda parts, example, batch_size: np.array([[[example.image[0, 0], label]] for label in range(3)], float),
    )
    monkeypatch.setattr(saliency, "of_text", lambda parts, example, written: np.array([[float(written[-2:])]]))

    def entries(count, values):
        gallery_files.write_gallery(tmp_path, Side(count), values, LABELS, SimpleNamespace(), batch_size=4)
        return json.loads((tmp_path / "gallery" / "gallery.json").read_text())

    return entries


def test_each_image_has_its_own_truth_answer_and_map(shown):
    values = np.array([[0.01 * i, 0.5 + 0.01 * i, 0.3] for i in range(24)])
    entries = shown(24, values)
    assert [entry["dicom_id"] for entry in entries] == [f"d{i}" for i in range(0, 24, 3)]
    for i, entry in zip(range(0, 24, 3), entries, strict=True):
        assert entry["truth"] == (["Edema"] if i % 2 else ["Fracture"])
        assert entry["predicted"] == pytest.approx(dict(zip(LABELS, values[i], strict=True)))
        # Fracture, the second, has the highest score in every row.
        assert entry["looked"] == {"at": "Fracture", "map": [[i, 1.0]]}


def test_each_text_has_its_own_truth(shown):
    entries = shown(24, [f"written {i:02}" for i in range(24)])
    for i, entry in zip(range(0, 24, 3), entries, strict=True):
        assert (entry["truth"], entry["predicted"]) == (f"truth {i}", f"written {i:02}")
        assert entry["looked"] == {"at": "", "map": [[float(i)]]}


def test_a_small_split_is_shown_whole(shown):
    assert [entry["dicom_id"] for entry in shown(3, np.full((3, 3), 0.5))] == ["d0", "d1", "d2"]
