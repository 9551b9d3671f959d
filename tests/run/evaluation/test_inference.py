"""Evaluation goes on with fewer rows where memory runs out, and hides no other error."""

import numpy as np
import pytest
import torch
import toy

from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.errors import TrainingError
from cxr_ft.model.assembly import build
from cxr_ft.run.evaluation import inference


def parts_of(folder, task="classify"):
    """Return the model of a run on the toy in `folder`."""
    torch.manual_seed(0)
    card = manifest.read(folder / "splits").card
    return build(toy.configured(folder, task=task), card.labels, card.multi_label)


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("classify", MemoryError()),
        ("report", RuntimeError("DefaultCPUAllocator: not enough memory")),
        pytest.param("report", MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_in_evaluation_halves_the_rows(overlapping, monkeypatch, capsys, task, error):
    parts = parts_of(overlapping, task)
    rows = open_split(manifest.read(overlapping / "splits"), "val", 32, text="findings")
    expected = inference.run_inference(parts, rows, 8, "")
    predict, sizes = type(parts.head).predict, []

    def small(self, model, batch):
        sizes.append(len(next(iter(batch.values()))))
        if sizes[-1] > 3:
            raise error
        return predict(self, model, batch)

    monkeypatch.setattr(type(parts.head), "predict", small)
    predictions = inference.run_inference(parts, rows, 8, "val")
    assert sizes[:3] == [8, 4, 2] and sum(n for n in sizes if n <= 3) == len(rows)
    assert predictions.counted == expected.counted and predictions.loss == pytest.approx(expected.loss)
    if task == "classify":
        np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-6)
    else:
        assert predictions.outputs == expected.outputs
    assert "out of memory evaluating val with 8 rows at a time: going on with 4" in capsys.readouterr().err

    def never(self, model, batch):
        raise error

    monkeypatch.setattr(type(parts.head), "predict", never)
    with pytest.raises(TrainingError, match="out of memory on one row of val"):
        inference.run_inference(parts, rows, 8, "val")


def test_another_error_in_evaluation_is_raised(overlapping, monkeypatch):
    parts = parts_of(overlapping)
    monkeypatch.setattr(type(parts.head), "predict", lambda *a: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        inference.run_inference(parts, open_split(manifest.read(overlapping / "splits"), "val", 32), 8, "")
