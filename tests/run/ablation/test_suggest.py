"""Targets proposed under a budget: what the gradients say, and what training says of it."""

import json

import numpy as np
import pytest

from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.run.ablation import suggest
from cxr_ft.run.record import results


def module(item, cost, *energy):
    return suggest.Candidate(item, item, cost, np.array(energy))


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
    make_splits(folder.demo(tmp_path), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    tiny = git.tiny()
    tiny.save(tmp_path / "tiny", tiny.lm)
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": str(tmp_path / "tiny"),
        "train": {"epochs": 1, "batch_size": 8},
    }
    sentences = suggest.run(raw, 2000, [0], tmp_path / "out")
    assert sentences[0].startswith("proposal: --targets ") and "of 2,000 parameters" in sentences[0]
    assert len(sentences) == 3 and all("with as many parameters: macro AUROC" in line for line in sentences[1:])
    written = json.loads((tmp_path / "out" / "suggest.json").read_text())
    assert written["proposal"]["parameters"] <= 2000 and written["sentences"] == sentences
    assert set(written["differences"]) == {"q,v", "all"}
    modules = [m["target"] for m in written["modules"]]
    assert len(modules) == len(set(modules)) == 2 * 6 + 2 * 6  # six roles in each block of both towers, and no other
    assert suggest.run(raw, 2000, [0], tmp_path / "out") == sentences  # nothing is trained again


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


@pytest.mark.parametrize(("ours", "words"), [(0.9, "better"), (0.1, "worse"), (0.5, "no significant difference")])
def test_the_verdict_names_the_better_one(tmp_path, ours, words):
    """The proposal's scores follow the truth by `ours`, the rival's are noise; of 200 subjects in two seeds each."""
    import pandas as pd

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    for name, share in (("us-0", ours), ("us-1", ours), ("them-0", 0.5), ("them-1", 0.5)):
        follow = rng.random(200) < share
        score = np.where(follow, truth, 1 - truth) + rng.normal(0, 0.01, 200)
        if share == 0.5:
            score = rng.normal(size=200)
        ids = [("test", f"p{i}", f"s{i}", f"d{i}", "a", truth[i], score[i]) for i in range(200)]
        # On val it is the other way round: what is read there would turn the verdict around.
        ids += [("val", f"p{i}", f"s{i}", f"d{i}", "a", truth[i], -score[i]) for i in range(200)]
        columns = ["split", "subject_id", "study_id", "dicom_id", "label", "truth", "score"]
        results.write_predictions(tmp_path / name, pd.DataFrame(ids, columns=columns))
    pair = suggest._compare(tmp_path, dict.fromkeys(("us-0", "us-1")), dict.fromkeys(("them-0", "them-1")))
    assert abs(pair.gap) < 0.1 if ours == 0.5 else np.sign(pair.gap) == np.sign(ours - 0.5)
    assert suggest._comparison_sentence("q,v", pair).partition("): ")[2].startswith(words)


def test_a_cheaper_module_is_taken_before_a_dear_one_of_a_little_more_energy():
    modules = [module("text.up", 40, 10.0), module("text.q", 10, 9.0), module("text.v", 10, 8.0)]
    assert suggest.propose(modules, 40)[:2] == (("text.q", "text.v"), 1)


def test_each_candidate_is_named_by_a_target_that_means_it_alone():
    from cxr_ft.model import targets

    base = git.tiny()
    names = [name for name, _ in base.lm.named_modules()]
    for name in targets.resolve(["all", "proj"], names, base.targets, "git"):
        assert targets.resolve([targets.narrowest(name, base.targets)], names, base.targets, "git") == [name]


def test_a_task_without_scores_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a task that classifies"):
        suggest.run({"head": {"name": "report"}}, 1000, [0], tmp_path)
