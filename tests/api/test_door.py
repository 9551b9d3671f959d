"""`import cxr_ft`: what it offers, how fast, and that each function's example runs as it stands."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

import cxr_ft
from cxr_ft.errors import UsageError


def test_it_offers_its_functions_and_loads_nothing_for_that():
    code = (
        "import sys, cxr_ft\n"
        "assert set(cxr_ft.__all__) < set(dir(cxr_ft))\n"
        "heavy = [m for m in ('numpy', 'pandas', 'torch', 'matplotlib') if m in sys.modules]; assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(callable(getattr(cxr_ft, name)) for name in cxr_ft.__all__)
    with pytest.raises(AttributeError, match="it offers ablate, audit"):
        _ = cxr_ft.fit


#: Examples that train and verify runs: half a minute each, so they run in `make test-all`.
SLOW = ("ablate", "compare", "load_run")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in cxr_ft.__all__]
)
def test_an_example_runs_as_written(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    function = getattr(cxr_ft, name)
    module = importlib.import_module(function.__module__)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, module, globs={})
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example)
    assert runner.failures == 0
    assert not any(doctest.SKIP in one.options for one in example.examples), f"{name}: an example that never runs"


def test_gaps_are_stated_only_where_they_hold_for_all_groups_together():
    rng = np.random.default_rng(0)
    truth = (rng.random((900, 3)) < 0.3).astype(float)
    sex = rng.choice(["F", "M"], 900)
    scores = truth * np.where(sex == "F", 1.6, 0.3)[:, None] + rng.normal(size=(900, 3))
    groups = {"sex": sex, "age": rng.choice(["old", "young", "mid"], 900), "few": ["a"] * 5 + ["b"] * 895}
    evaluation = cxr_ft.evaluate(truth, scores, rng.integers(0, 300, 900), groups=groups, labels=["x", "y", "z"])
    gaps = evaluation.gaps.set_index("group")
    assert gaps.loc["sex=F", "stated"] and gaps.loc["sex=F", "low"] > 0.2
    assert gaps.loc["sex=M", "difference"] == pytest.approx(-gaps.loc["sex=F", "difference"])
    assert not gaps.loc[["age=old", "age=young", "age=mid"], "stated"].any()
    assert gaps.loc["few=a", "note"] == "the group has 5 subjects; 10 are needed"


def test_values_are_scikit_learns_and_intervals_are_of_subjects():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    truth = (rng.random(400) < 0.4).astype(float)
    scores = np.round(truth + rng.normal(size=400), 1)
    alone = cxr_ft.evaluate(truth, scores, subjects=np.arange(400)).to_frame().set_index("metric")
    assert alone.loc["auroc", "value"] == pytest.approx(roc_auc_score(truth, scores))
    assert alone.loc["ap", "value"] == pytest.approx(average_precision_score(truth, scores))
    # Four times the same rows of the same subjects are no more evidence.
    four = cxr_ft.evaluate(np.tile(truth, 4), np.tile(scores, 4), np.tile(np.arange(400), 4)).to_frame()
    four = four.set_index("metric")
    for metric in ("auroc", "ap"):
        assert four.loc[metric, "high"] - four.loc[metric, "low"] == pytest.approx(
            alone.loc[metric, "high"] - alone.loc[metric, "low"], rel=0.02
        )


def test_values_have_the_intervals_of_the_page_or_the_reason():
    from cxr_ft.score.metrics import registry
    from cxr_ft.score.statistics import estimates

    rng = np.random.default_rng(4)
    truth = np.column_stack([rng.random(200) < 0.3, np.arange(200) < 5, np.zeros(200)]).astype(float)
    scores = np.clip(0.4 * truth + 0.6 * rng.random((200, 3)), 0, 1)
    frame = cxr_ft.evaluate(truth, scores, np.arange(200), labels=["usual", "rare", "absent"]).to_frame()
    frame = frame.set_index(["label", "metric"])
    rows = estimates.Answers(
        truth=truth, scores=scores[None], predicted=np.zeros((1, 200, 3), bool), subjects=np.arange(200)
    ).labels()
    for metric in ("auroc", "ap"):
        page = estimates.by_label(registry.metric(metric, "scores").interval, rows)[0]
        assert tuple(frame.loc[("usual", metric), ["value", "low", "high"]]) == (page.value, page.low, page.high)
        assert frame.loc[("rare", metric), "note"] == "no interval: 5 positive subjects"
        assert frame.loc[("absent", metric), "note"] == "no value: 0 positive subjects"
        assert frame.loc[("macro", metric), "low"] < frame.loc[("macro", metric), "value"]


def test_subjects_are_the_same_by_the_rule_of_the_splits():
    rng = np.random.default_rng(2)
    truth, scores = rng.integers(0, 2, 60), rng.random(60)
    spelled = [["7", "7.0", "00007", " 7"][i % 4] if i < 12 else f"p{i}" for i in range(60)]
    plain = ["7" if i < 12 else f"P{i}" for i in range(60)]
    pair = [cxr_ft.evaluate(truth, scores, subjects) for subjects in (spelled, plain)]
    assert pair[0].subjects == pair[1].subjects == 49
    # The order of the subjects decides only the draws of the bootstrap.
    low = [evaluation.to_frame().set_index("metric").loc["auroc", "low"] for evaluation in pair]
    assert low[0] == pytest.approx(low[1], abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "scores", "subjects", "words"),
    [
        ([0, 1], [0.1], ["a", "b"], "do not fit"),
        ([0, 2], [0.1, 0.2], ["a", "b"], "give 1 (positive), 0 (negative) or NaN"),
        ([0, 1], [0.1, np.nan], ["a", "b"], "no finite numbers"),
        ([], [], [], "no rows"),
    ],
)
def test_bad_predictions_are_one_line(truth, scores, subjects, words):
    with pytest.raises(UsageError) as told:
        cxr_ft.evaluate(truth, scores, subjects)
    assert words in str(told.value) and "\n" not in str(told.value)
