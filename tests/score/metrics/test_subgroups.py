"""Subgroups: planted differences are found, intervals cover, small groups and undefined values are said."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_ft.score.metrics import subgroups


def drawn(rng, n, noise):
    truth = (rng.random((n, 2)) < 0.4).astype(float)
    return truth, np.clip(0.5 + 0.25 * (truth - 0.5) + noise * rng.normal(size=(n, 2)), 0, 1)


def test_a_group_with_worse_predictions_has_lower_metrics():
    rng = np.random.default_rng(0)
    parts = [drawn(rng, 400, 0.05), drawn(rng, 400, 0.6)]
    truth, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sex = ["F"] * 400 + ["M"] * 400
    result = subgroups.evaluate(
        truth, score, score >= 0.5, ["a", "b"], groups={"sex": sex}, subjects=[f"s{i // 2}" for i in range(800)]
    )["sex"]
    good, bad = result["groups"]["F"], result["groups"]["M"]
    assert good["auroc"]["low"] > bad["auroc"]["high"] and good["recall"]["low"] > bad["recall"]["high"]
    assert (good["n"], good["subjects"]) == (400, 200)
    wanted = np.mean([roc_auc_score(truth[:400, i], score[:400, i]) for i in (0, 1)])
    assert good["auroc"]["value"] == pytest.approx(wanted)
    assert good["recall"]["value"] == pytest.approx(np.mean((score[:400] >= 0.5)[truth[:400] == 1]))
    # Scores of the good group are too timid by far: 0.4 to 0.6, and right nearly always.
    assert good["calibration_slope"]["low"] > 3 and good["calibration_error"]["value"] > 0.3
    stated = {(gap["group"], gap["metric"]) for gap in result["gaps"] if gap["p"] < 1e-4 and gap["difference"] > 0}
    assert ("sex=F", "auroc") in stated and ("sex=F", "calibration_slope") in stated
    assert result["undefined"] == {}
    json.dumps(result, allow_nan=False)


def test_four_images_of_a_subject_that_are_alike_are_no_more_evidence_than_one():
    truth, score = drawn(np.random.default_rng(4), 60, 0.4)
    collected = []
    for times in (1, 4):
        rows, right = np.repeat(score, times, axis=0), np.repeat(truth, times, axis=0)
        people = np.repeat([f"s{i:02}" for i in range(60)], times)
        result = subgroups.evaluate(
            right, rows, rows >= 0.5, ["a", "b"], groups={"sex": ["F"] * len(rows)}, subjects=people.tolist()
        )
        collected.append(result["sex"]["groups"]["F"])
    for name in ("auroc", "recall", "calibration_error", "calibration_slope", "calibration_intercept"):
        assert collected[1][name] == pytest.approx(collected[0][name], abs=1e-4)


def test_groups_are_compared_on_labels_that_all_of_them_have():
    rng = np.random.default_rng(1)
    truth, score = drawn(rng, 60, 0.2)
    truth[:30, 1] = 0
    groups = {"view": ["AP"] * 30 + ["PA"] * 30}
    result = subgroups.evaluate(
        truth, score, score > 0.5, ["a", "b"], groups=groups, subjects=list(map(str, range(60)))
    )
    assert result["view"]["labels"] == ["a"]
    assert result["view"]["groups"]["PA"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(truth[30:, 0], score[30:, 0])
    )
    truth[30:, 0] = 1
    result = subgroups.evaluate(
        truth, score, score > 0.5, ["a", "b"], groups=groups, subjects=list(map(str, range(60)))
    )
    assert result["view"]["groups"]["AP"]["auroc"] is None
    assert result["view"]["undefined"]["auroc"] == "no label has both classes in every group"


def test_a_group_of_few_subjects_is_counted_and_not_measured():
    rng = np.random.default_rng(2)
    truth, score = drawn(rng, 50, 0.2)
    people = [f"s{i}" for i in range(40)] + ["t"] * 10
    result = subgroups.evaluate(
        truth, score, score > 0.5, ["a", "b"], groups={"sex": ["F"] * 40 + ["M"] * 10}, subjects=people
    )
    few = result["sex"]["groups"]["M"]
    assert (few["n"], few["subjects"], few["auroc"]) == (10, 1, None)
    assert "1 subjects, fewer than 10" in result["sex"]["undefined"]["M"]


def test_no_positive_and_no_known_cell_have_their_reasons():
    truth = np.zeros((20, 1))
    result = subgroups.evaluate(
        truth, truth + 0.2, truth > 1, ["a"], groups={"sex": ["F"] * 20}, subjects=list(map(str, range(20)))
    )["sex"]
    assert result["groups"]["F"]["recall"] is None and "no label is positive" in result["undefined"]["F: recall"]
    truth[:] = np.nan
    result = subgroups.evaluate(
        truth, np.zeros((20, 1)), truth > 1, ["a"], groups={"sex": ["F"] * 20}, subjects=list(map(str, range(20)))
    )["sex"]
    assert result["groups"]["F"]["calibration_error"] is result["groups"]["F"]["calibration_slope"] is None
    assert "0 positive and 0 negative subjects" in result["undefined"]["F: calibration_slope"]
    assert result["gaps"] == [], "one group alone has no other to be compared with"
    json.dumps(result, allow_nan=False)


def test_ages_as_numbers_and_as_bands():
    ages = ["58", "50-59", "90+", "", "unknown", "0", "19", "20", "79"]
    bands = ["40-59", "40-59", "80+", "unknown", "unknown", "0-19", "0-19", "20-39", "60-79"]
    assert subgroups.age_bands(ages) == bands
