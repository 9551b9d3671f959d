"""Targets proposed under a budget: what the gradients say, and what training says of it."""

import json

import numpy as np
import pytest

from cxr_ft.data import manifest
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits import Asked
from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.run import evaluate, results, suggest


def module(item, cost, *energy):
    return suggest.Module(item, item, cost, np.array(energy))


def test_the_budget_goes_where_the_energy_is():
    modules = [module("text.q", 10, 1.0, 0.0), module("text.v", 10, 9.0, 8.0), module("text.up", 40, 9.5, 0.0)]
    assert suggest.propose(modules, 20)[:3] == (("text.v",), 2, 20)  # .v twice as deep beats .v and .q
    assert suggest.propose(modules, 60)[:3] == (("text.q", "text.v", "text.up"), 1, 60)
    with pytest.raises(UsageError, match="the smallest module takes 10 parameters"):
        suggest.propose(modules, 9)


def test_the_energy_of_a_product_of_two_vectors_is_all_in_its_first_value():
    import torch

    rng = np.random.default_rng(0)
    low = torch.tensor(rng.normal(size=(6, 1)) @ rng.normal(size=(1, 6)))
    energy = suggest._energy(low)
    assert energy[0] == pytest.approx(float((low**2).sum())) and energy[1:] == pytest.approx(0, abs=1e-9)


def test_it_proposes_tries_and_says(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "verify_all", lambda runs: [evaluate.verify(run) for run in runs])
    manifest.make(folder.demo(tmp_path), "folder", Asked(per_label=12), tmp_path / "splits")
    tiny = git.tiny()
    tiny.save(tmp_path / "tiny", tiny.lm)
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": str(tmp_path / "tiny"),
        "train": {"epochs": 1, "batch_size": 8},
    }
    told = suggest.run(raw, 2000, [0, 1], tmp_path / "out")
    assert told[0].startswith("proposal: --targets ") and "of 2,000 parameters" in told[0]
    assert len(told) == 3 and all("at the same budget: macro AUROC" in line for line in told[1:])
    written = json.loads((tmp_path / "out" / "suggest.json").read_text())
    assert written["proposal"]["parameters"] <= 2000 and written["told"] == told
    assert set(written["differences"]) == {"q,v", "all"}
    modules = [m["target"] for m in written["modules"]]
    assert len(modules) == len(set(modules)) == 2 * 6 + 2 * 6  # six roles in each block of both towers, and no other
    assert suggest.run(raw, 2000, [0, 1], tmp_path / "out") == told  # nothing is trained again


def test_predictions_are_read_row_by_row(tmp_path):
    import pandas as pd

    ids = [{"split": "test", "subject_id": f"p{i}", "study_id": f"s{i}", "dicom_id": f"d{i}"} for i in range(300)]
    rows = [
        {**row, "label": label, "truth": np.nan if label == "b" else i % 2, "score": i / 300}
        for i, row in enumerate(ids)
        for label in "ab"
    ]
    results.write_predictions(tmp_path, pd.DataFrame(rows[::-1]))
    subjects, truth, score = suggest._test(tmp_path)
    assert truth.shape == score.shape == (300, 2) and len(set(subjects)) == 300
    assert np.isnan(truth[:, 1]).all() and not np.isnan(truth[:, 0]).any()
    assert [truth[list(subjects).index(f"p{i}"), 0] for i in range(4)] == [0, 1, 0, 1]


def test_a_task_without_scores_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a task that classifies"):
        suggest.run({"head": {"name": "report"}}, 1000, [0], tmp_path)
