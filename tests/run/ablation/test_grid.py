"""Ranks matched in parameters, the tables of the continued study, and runs in processes of their own."""

import json

import pytest
import toy

from cxr_ft.errors import UsageError
from cxr_ft.run.ablation import ablate, grid, workers
from cxr_ft.run.training import train


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    return {
        "data": {"splits": str(place / "splits")},
        "model": str(place / "tiny"),
        "train": {"epochs": 1, "batch_size": 8},
    }


def adapter(cell):
    return train.plan(cell, ("a",), True).parameters.adapter


def test_ranks_are_matched_in_parameters():
    cells = grid.cells(
        {"model": "microsoft/git-base"},
        {"method": ["lora", "full"], "targets": [["text.q", "text.v"], ["vision.q"], ["q", "v"]], "match": 147456},
    )
    counts = {name: adapter(cell) for name, cell in cells.items() if cell.tuning.name == "lora"}
    assert counts == {
        "classify-lora-text.q.text.v-rank8-s0": 147456,
        "classify-lora-vision.q-rank8-s0": 147456,
        "classify-lora-q.v-rank3-s0": 165888,
    }
    assert "classify-full-q.v-s0" in cells


@pytest.mark.parametrize(
    ("varied", "words"),
    [
        ({"match": 1000}, "lora on q,v has 55,296 parameters at rank 1, the nearest to match 1,000"),
        ({"match": "many"}, "match is 'many'; give a number"),
        ({"match": 1000, "rank": [4]}, "match chooses the ranks; leave out rank"),
    ],
)
def test_what_cannot_be_matched_is_one_line(varied, words):
    with pytest.raises(UsageError, match=words):
        grid.cells({"model": "microsoft/git-base"}, {"method": ["lora"], "targets": [["q", "v"]], **varied})


def test_the_continued_studys_tables(raw, tmp_path):
    import pandas as pd

    cells = grid.cells(raw, {"method": ["lora", "full"], "targets": [["q"], ["q", "v"]]})
    ablate.run(cells, tmp_path)
    lora = pd.read_csv(tmp_path / "lora_target_modules_ablation_results.csv")
    assert list(lora["target_modules"]) == ["q", "q,v"] and lora["test_loss"].notna().all()
    assert (lora["trainable_parameters"] > 0).all() and lora["error"].isna().all()
    for name, column in (("ffttrain", "train_loss"), ("fftTest", "test_loss")):
        table = pd.read_csv(tmp_path / f"{name}_target_modules_ablation_results.csv")
        assert list(table["experiment"]) == ["classify-full-q-s0", "classify-full-q.v-s0"]
        assert table[column].notna().all()
    effects = pd.read_csv(tmp_path / "effects.csv").set_index("factor")
    # q is in every set: its effect is nobody's to know; v's is.
    assert "q" not in effects.index and effects.loc["v", "runs"] == 2


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_processes_of_their_own_give_the_same_numbers(raw, tmp_path, jobs):
    # Each process loads torch, ten seconds: one is enough to see another number, two to see two at a time.
    cells = grid.cells(raw, {"method": ["last_layers"], "seeds": [0, 1] if jobs == 1 else [0]})
    alone = ablate.run(cells, tmp_path / "alone")
    separate = ablate.run(cells, tmp_path / "separate", execute=workers.run_parallel(jobs))
    assert [r.metrics for r in separate] == [r.metrics for r in alone]
    assert [r.config_hash for r in separate] == [r.config_hash for r in alone]


def test_a_process_that_dies_is_a_failed_row(raw, tmp_path, monkeypatch):
    cells = grid.cells(raw, {"method": ["zero_shot"]})
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    (result,) = ablate.run(cells, tmp_path, execute=workers.run_parallel(1))
    assert result.status == "failed" and result.error == "its process ended with code 1"
    assert json.loads((tmp_path / "classify-zero_shot-s0" / "result.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_bad_input_of_a_process_is_one_line(raw, tmp_path):
    cells = grid.cells(raw, {"method": ["zero_shot"]})
    other = grid.cells({**raw, "train": {"epochs": 2}}, {"method": ["last_layers"]})
    (first,) = cells
    train.fit(next(iter(other.values())), tmp_path / first, verify=False)
    with pytest.raises(UsageError, match="holds another run"):
        workers.run_parallel(1)(cells, tmp_path)
