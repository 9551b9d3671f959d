"""The CSVs of an ablation: each number is in the column of its own split, and effects are those of test."""

import pandas as pd
import pytest

from cxr_ft.run.ablation import result_tables
from cxr_ft.run.record import results

SCORES = ("auroc", "ap", "f1", "precision", "recall", "accuracy")
TEXTS = ("bleu_1", "bleu_4", "rouge_l", "label_f1", "distinct")
SPLIT_VALUES = {"train": 0.1, "val": 0.3, "test": 0.5, "test_natural": 0.7}


def run_of(targets, seed, test, *, status="success", method="lora", task="classify"):
    """Return a record whose every metric says its split: val is as good as test is bad."""
    values = {**SPLIT_VALUES, "test": test, "val": 1 - test}
    metrics = {
        split: {"loss": value + 0.01, "macro": {name: value + i / 1000 for i, name in enumerate(SCORES)}}
        | {name: value + i / 1000 for i, name in enumerate(TEXTS)}
        for split, value in values.items()
    }
    tuning = {"name": method, "targets": list(targets), **({"rank": 8} if method == "lora" else {})}
    return results.Result(
        status=status,
        config={"tuning": tuning, "head": {"name": task}, "train": {"seed": seed}},
        config_hash="",
        plan={"output": "text" if task == "report" else "scores"},
        cost={"parameters": {"trainable": 11, "total": 99, "adapter": 7, "head": 4}},
        metrics=metrics,
        error="broken" if status == "failed" else None,
    )


@pytest.fixture
def done():
    """v adds 0.2 on test; one run failed, at a value that would turn the effect around."""
    runs = {f"{'.'.join(t)}-s{s}": run_of(t, s, 0.5 + 0.2 * ("v" in t)) for t in (("q",), ("q", "v")) for s in (0, 1)}
    return {**runs, "q.v-s2": run_of(("q", "v"), 2, -9.0, status="failed")}


@pytest.mark.parametrize(("task", "names"), [("classify", SCORES), ("report", TEXTS)])
def test_each_split_has_its_own_numbers(tmp_path, task, names):
    result_tables.write(tmp_path, {"one": run_of(("q",), 3, 0.9, task=task)})
    (row,) = pd.read_csv(tmp_path / "ablation.csv").to_dict("records")
    for split, value in (("train", 0.1), ("val", 1 - 0.9), ("test", 0.9)):
        assert row[f"{split}_loss"] == pytest.approx(value + 0.01)
        assert [row[f"{split}_{name}"] for name in names] == pytest.approx(
            [value + i / 1000 for i in range(len(names))]
        )
    assert (row["run"], row["seed"], row["rank"], row["targets"]) == ("one", 3, 8, "q")
    counted = [row[f"{what}_parameters"] for what in ("trainable", "total", "adapter", "head")]
    assert counted == [11, 99, 7, 4]


def test_an_effect_is_that_on_test_of_the_runs_that_succeeded(tmp_path, done):
    result_tables.write(tmp_path, done)
    effects = pd.read_csv(tmp_path / "effects.csv").set_index("factor")
    assert effects.loc["v", "effect"] == pytest.approx(0.2)
    assert effects.loc["v", "runs"] == 2
    failed = pd.read_csv(tmp_path / "ablation.csv").set_index("run").loc["q.v-s2"]
    assert (failed["status"], failed["error"]) == ("failed", "broken")


def test_a_word_without_a_tower_means_both(tmp_path):
    """`q` against `text.q` differs in the vision tower, and not in the text tower."""
    result_tables.write(tmp_path, {"a": run_of(("text.q",), 0, 0.5), "b": run_of(("q",), 0, 0.6)})
    effects = pd.read_csv(tmp_path / "effects.csv").set_index("factor")
    assert effects.loc["vision", "effect"] == pytest.approx(0.1) and "text" not in effects.index


def test_full_fine_tuning_and_low_rank_have_tables_of_their_own(tmp_path):
    runs = {"l": run_of(("q",), 0, 0.5), "f": run_of(("q",), 0, 0.6, method="full")}
    result_tables.write(tmp_path, {**runs, "b": run_of(("q",), 0, 0.7, method="ia3")})
    for stem, run in (("lora", "l"), ("ffttrain", "f"), ("fftTest", "f")):
        table = pd.read_csv(tmp_path / f"{stem}_target_modules_ablation_results.csv")
        assert list(table["experiment"]) == [run]
