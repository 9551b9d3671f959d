"""Where the model looked: what is covered, and that the map is highest where the answer comes from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model.protocols import HeadOutput
from cxr_ft.run.evaluation import saliency


class Head:
    """Scores label i by the grey of cell i of a 4 x 4 grid; finds a text likelier the brighter cell 5 is."""

    output = "scores"

    def __init__(self):
        self.batches = []

    def collate(self, examples):
        self.batches.append(len(examples))
        self.texts = [(one.text, one.targets) for one in examples]
        return {"pixels": torch.tensor(np.stack([one.image for one in examples]), dtype=torch.float32)}

    def cells(self, batch):
        side = batch["pixels"].shape[-1] // 4
        return batch["pixels"].unfold(1, side, side).unfold(2, side, side).mean(dim=(-1, -2)).flatten(1) / 255

    def predict(self, model, batch):
        scores = torch.sigmoid(model(self.cells(batch)[:, :3])).detach()
        return HeadOutput(list(scores), 0.0, 1, scores)

    def loss(self, model, batch):
        return -self.cells(batch)[:, 5].sum(), 1


@pytest.fixture
def parts():
    model = torch.nn.Linear(3, 3, bias=False)
    torch.nn.init.eye_(model.weight)
    return SimpleNamespace(head=Head(), model=model)


@pytest.fixture
def example():
    image = np.zeros((32, 32), np.uint8)
    image[0:8, 0:24] = 200
    image[8:16, 8:16] = 240
    return Example(image, np.array([1.0, 0.0, 1.0]), "the truth")


@pytest.mark.parametrize(("side", "cells"), [(32, 4), (160, 7), (5, 7), (30, 1)])
def test_each_pixel_is_covered_once_and_nothing_else_is_touched(side, cells):
    image = np.random.default_rng(0).integers(1, 255, (side, side)).astype(np.uint8)
    before = image.copy()
    copies = saliency.cover_cells(image, cells)
    assert len(copies) == cells**2
    assert (image == before).all()
    mean = round(float(image.mean()))
    changed = np.array([one != image for one in copies])
    assert (changed.sum(axis=0) == (image != mean)).all()
    assert all((one[where] == mean).all() for one, where in zip(copies, changed, strict=True))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_map_of_a_label_is_highest_where_its_score_comes_from(parts, example, batch_size):
    maps = saliency.of_scores(parts, example, batch_size, cells=4)
    assert maps.shape == (3, 4, 4)
    for label, table in enumerate(maps):
        assert table.argmax() == label
        assert np.count_nonzero(np.abs(table) > 1e-6) == 1
    # The log odds are the cell's grey: what covering takes is the difference to the mean grey.
    mean = round(float(example.image.mean()))
    assert maps[0, 0, 0] == pytest.approx((200 - mean) / 255, abs=1e-5)
    assert max(parts.head.batches) <= batch_size


def test_the_map_of_a_text_asks_about_what_was_written_not_about_the_truth(parts, example):
    table = saliency.of_text(parts, example, "what it wrote", cells=4)
    assert table.argmax() == 5
    assert table[1, 1] == pytest.approx((240 - round(float(example.image.mean()))) / 255, abs=1e-6)
    ((text, targets),) = parts.head.texts
    assert text == "what it wrote"
    assert np.isnan(targets).all()
    assert example.text == "the truth"
