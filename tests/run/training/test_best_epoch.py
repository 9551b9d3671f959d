"""The epoch that is best on val is the one that is saved, on data whose classes overlap."""

import numpy as np
import pytest
import torch
import toy

from cxr_ft.data import manifest
from cxr_ft.run.evaluation.inference import run_inference
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import saved_model
from cxr_ft.run.training import checkpoint, train
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics.intervals import macro_auroc

#: The rate rises nearly to the end and gets too high, so that the last epochs are worse than one before.
SPOILING = {"warmup": 0.9, "epochs": 4}
RATES = {"classify": 0.01, "report": 0.1}


@pytest.mark.parametrize("task", ["classify", "report"])
def test_the_saved_model_is_that_of_the_best_epoch(overlapping, tmp_path, monkeypatch, task):
    monkeypatch.setattr(checkpoint, "remove", lambda folder: None)
    chosen = toy.configured(overlapping, "full", task, {"lr": RATES[task]}, **SPOILING)
    result = train.fit(chosen, tmp_path / "run", verify=False)
    value, best = toy.best_epoch(result.history)
    # Without this the test could not fail.
    assert best not in (0, len(result.history) - 1)
    if task == "classify":
        # Chosen by AUROC: the loss would have chosen another one.
        assert 0.6 < value < 0.95
        assert best != min(range(len(result.history)), key=lambda epoch: result.history[epoch]["val_loss"])

    parts, again, _ = saved_model.load(tmp_path / "run")
    rows = build_datasets(again, manifest.read(overlapping / "splits"), parts.base.image_size)["val"]
    answers = run_inference(parts, rows, 8, "", generate=False)
    assert answers.loss == pytest.approx(result.history[best]["val_loss"], rel=1e-5)
    assert result.metrics["val"]["loss"] == pytest.approx(result.history[best]["val_loss"], rel=1e-5)
    if task == "classify":
        assert float(macro_auroc(rows.targets, answers.scores)) == value
        assert result.metrics["val"]["macro"]["auroc"] == pytest.approx(value, abs=1e-9)

    last = checkpoint.read(tmp_path / "run", result.config_hash).train["weights"]
    saved = checkpoint.changing(parts.model)
    assert any(not torch.allclose(saved[name], tensor) for name, tensor in last.items() if name in saved)


def test_the_history_says_what_each_epoch_was(overlapping, tmp_path):
    chosen = toy.configured(overlapping, "lora", epochs=2)
    result = train.fit(chosen, tmp_path / "run", verify=False)
    steps = -(-result.data["rows"]["train"] // chosen.train.batch_size)
    assert [(row["epoch"], row["step"]) for row in result.history] == [(1, steps), (2, 2 * steps)]


def test_another_primary_metric_chooses_the_epoch_without_a_change_of_the_loop(overlapping, tmp_path, monkeypatch):
    def error(truth, scores, weights):
        return np.nanmean((truth - scores) ** 2)

    fields = {"name": "brier", "title": "Brier score", "output": "scores", "description": "Mean squared error."}
    other = registry.Metric(**fields, statistic=error, higher_is_better=False, paths=(("brier",),))
    monkeypatch.setattr(registry, "primary", lambda output: other)
    monkeypatch.setattr(checkpoint, "remove", lambda folder: None)
    chosen = toy.configured(overlapping, "full", "classify", {"lr": RATES["classify"]}, **SPOILING)
    result = train.fit(chosen, tmp_path / "run", verify=False)
    values = [row["val"] for row in result.history]
    # Were larger values better, another epoch would be the best.
    assert min(values) < max(values) < 1
    parts, again, _ = saved_model.load(tmp_path / "run")
    rows = build_datasets(again, manifest.read(overlapping / "splits"), parts.base.image_size)["val"]
    scores = run_inference(parts, rows, 8, "", generate=False).scores
    assert error(rows.targets, scores, None) == pytest.approx(min(values), rel=1e-5)
