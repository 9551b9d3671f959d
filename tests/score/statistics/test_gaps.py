"""Gaps between groups: planted ones are stated, others in at most 5 % of worlds, whatever sizes and prevalences are."""

import dataclasses

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit, ndtr
from sklearn.metrics import roc_auc_score

from cxr_ft.score.statistics import gaps
from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.multiple_comparisons import holm

CALIBRATION = (gaps.SLOPE, gaps.INTERCEPT)


def world(
    rng, sizes, *, labels=1, prevalence=(0.2, 0.2), rows=1, shift=None, curved=False, mixed=False, slope=1.0, spread=1.5
):
    """Return the arguments of `gaps.gaps`: scores are calibrated but for the first group's slope, or for all alike.

    `shift`: of the log odds of the groups, in truth and scores; `curved`: the scores are wrong in the same way for all;
    `mixed`: a subject has rows in several groups.
    """
    owners = np.repeat(np.arange(sum(sizes)), rows)
    group = np.repeat(np.arange(len(sizes)), sizes)[owners]
    group = rng.permutation(group) if mixed else group
    shared = 0.5 if rows > 1 else 0.0

    def noise():
        by_subject = rng.normal(size=(sum(sizes), labels))[owners]
        return np.sqrt(shared) * by_subject + np.sqrt(1 - shared) * rng.normal(size=(len(owners), labels))

    # The more the log odds vary, the nearer the mean frequency is to a half.
    centre = logit(np.linspace(*prevalence, labels)) * np.sqrt(1 + spread**2 / 2.9)
    together = rng.normal(size=sum(sizes))[owners, None]
    x = centre + spread * np.sqrt(0.5) * (together + noise())
    x = x if shift is None else x + np.asarray(shift)[group, None]
    truth = ndtr(noise()) < expit(np.where((group == 0)[:, None], slope * x, x))
    scores = expit(np.where(x > 0, 2 * x, 0.6 * x) + 0.3 if curved else x)
    names = np.array(list("abcd"))[group]
    return (
        truth.astype(float),
        scores,
        scores >= truth.mean(axis=0),
        owners,
        {"site": names},
        list(map(str, range(labels))),
    )


def stated(arrays, metrics=gaps.METRICS):
    """Return the gaps that are stated, with the error for these metrics alone."""
    tested = [gap for gap in gaps.gaps(*arrays) if gap.metric in metrics]
    return [gap for gap in gaps.adjust(tested) if gap.stated]


def test_a_planted_slope_is_stated_and_a_small_group_of_a_perfect_model_is_not():
    (slope,) = [
        gap for gap in stated(world(np.random.default_rng(0), (300, 600), slope=0.5)) if gap.metric == gaps.SLOPE
    ]
    assert slope.group == "site=a" and slope.against == "site=b" and slope.low < -0.5 < slope.high < 0
    worlds = [world(np.random.default_rng([1, i]), (30, 600), prevalence=(0.5, 0.5)) for i in range(12)]
    assert sum(bool(stated(arrays)) for arrays in worlds) <= 2


def test_an_interval_holds_0_unless_the_gap_is_stated():
    found = gaps.gaps(*world(np.random.default_rng(2), (200, 300), labels=4, prevalence=(0.1, 0.5), slope=0.4))
    assert {gap.stated for gap in found} == {True, False}
    for gap in found:
        assert (gap.low <= 0 <= gap.high) != gap.stated
        assert gap.stated == (gap.adjusted_p <= 0.05) and gap.adjusted_p >= gap.p
    single = [gap for gap in found if gap.label != gaps.ALL]
    assert {gap.label for gap in single} == set("0123") and len(found) - len(single) == 4


def test_auroc_and_recall_are_differences_with_known_errors():
    truth, scores, predicted, owners, groups, labels = world(np.random.default_rng(3), (400, 500), slope=0.5)
    found = {gap.metric: gap for gap in gaps.gaps(truth, scores, predicted, owners, groups, labels)}
    sides = [groups["site"] == name for name in "ab"]
    areas = [roc_auc_score(truth[side, 0], scores[side, 0]) for side in sides]
    variances = [paired_aurocs(truth[side], scores[None, side], owners[side]).covariance[0, 0] for side in sides]
    auroc = found[gaps.AUROC]
    assert auroc.difference == pytest.approx(areas[0] - areas[1])
    # At least DeLong's error, and little more where both groups are large.
    assert 0.999 <= auroc.error / np.sqrt(sum(variances)) < 1.15
    positives = [predicted[side & (truth[:, 0] == 1), 0] for side in sides]
    recall = found[gaps.RECALL]
    assert recall.difference == pytest.approx(positives[0].mean() - positives[1].mean())
    by_chance = sum(p.mean() * (1 - p.mean()) / len(p) for p in positives)
    assert 0.999 <= recall.error / np.sqrt(by_chance) < 1.15


def test_calibration_is_the_group_s_coefficient_in_a_logistic_regression():
    truth, scores, _, _, groups, _ = arrays = world(np.random.default_rng(4), (900, 900), slope=0.8)
    found = {gap.metric: gap for gap in gaps.gaps(*arrays)}
    x, inside = logit(scores[:, 0]), (groups["site"] == "a").astype(float)
    design = np.column_stack([np.ones_like(x), x, inside, inside * x])
    both = sm.GLM(truth[:, 0], design, family=sm.families.Binomial()).fit()
    one = sm.GLM(truth[:, 0], design[:, :3], family=sm.families.Binomial()).fit()
    for metric, fitted in ((gaps.SLOPE, both), (gaps.INTERCEPT, one)):
        assert found[metric].difference == pytest.approx(fitted.params[-1], abs=0.5 * fitted.bse[-1])
        assert found[metric].error == pytest.approx(fitted.bse[-1], rel=0.15)


def test_rows_of_a_subject_that_are_alike_are_no_more_evidence_than_one():
    truth, scores, predicted, owners, groups, labels = world(np.random.default_rng(5), (150, 200), labels=2, slope=0.5)
    four = np.repeat(np.arange(len(truth)), 4)
    again = gaps.gaps(truth[four], scores[four], predicted[four], owners[four], {"site": groups["site"][four]}, labels)
    for one, many in zip(gaps.gaps(truth, scores, predicted, owners, groups, labels), again, strict=True):
        assert many.difference == pytest.approx(one.difference, abs=0.02) and many.error > 0.85 * one.error


def test_small_groups_and_rare_labels_have_a_reason_and_no_test():
    truth, scores, predicted, owners, _, labels = world(np.random.default_rng(6), (300,), labels=2)
    truth[:100, 1] = 0
    truth[0, 1] = 1
    names = np.array(["a"] * 100 + ["b"] * 100 + ["c"] * 6 + ["unknown"] * 94)
    found = gaps.gaps(truth, scores, predicted, owners, {"age": names, "sex": ["F"] * 300}, labels)
    assert {gap.against for gap in found} == {gaps.OTHERS} and {gap.group for gap in found} == {
        "age=a",
        "age=b",
        "age=c",
    }
    few = [gap for gap in found if gap.group == "age=c"]
    assert len(few) == 4 and {gap.reason for gap in few} == {"age=c: 6 subjects, fewer than 10"}
    (rare,) = [gap for gap in found if (gap.group, gap.label, gap.metric) == ("age=a", "1", gaps.SLOPE)]
    assert rare.p is None and rare.reason.startswith("positive subjects: 1 in the group, ")
    assert not any(gap.label == gaps.ALL for gap in found if gap.group == "age=a"), "one label is not all labels"
    known = names != "unknown"
    without = gaps.gaps(truth[known], scores[known], predicted[known], owners[known], {"age": names[known]}, labels)
    # A row of unknown group is no evidence; sums over more subjects are rounded otherwise.
    assert [gap.p for gap in without] == [gap.p and pytest.approx(gap.p, abs=1e-9) for gap in found]


def test_equal_and_separating_scores_are_no_evidence_of_a_gap():
    truth, _, predicted, owners, groups, labels = world(np.random.default_rng(10), (60, 300), shift=(1, -1))
    same = gaps.gaps(truth, np.full_like(truth, 0.3), predicted, owners, groups, labels)
    reasons = {gap.metric: gap.reason for gap in same}
    assert reasons[gaps.AUROC] == reasons[gaps.SLOPE] == "nothing varies between subjects"
    perfect = gaps.gaps(truth, 0.1 + 0.8 * truth, truth > 0, owners, groups, labels)
    assert not any(gap.stated for gap in perfect) and len(perfect) == 4


def test_seeds_are_averaged_and_what_they_differ_by_is_added():
    first = next(gap for gap in gaps.gaps(*world(np.random.default_rng(7), (200, 300), slope=0.5)))
    again = gaps.from_record(gaps.as_record(first))
    assert gaps.over_seeds([again, again]) == dataclasses.replace(again, p=pytest.approx(again.p))
    other = dataclasses.replace(again, difference=again.difference + 0.2)
    mean = gaps.over_seeds([again, other])
    assert mean.difference == pytest.approx(again.difference + 0.1)
    assert mean.error == pytest.approx(np.hypot(again.error, 0.1)) and mean.freedom < 10 and mean.p > again.p
    refused = dataclasses.replace(again, p=None, difference=None, reason="few")
    assert gaps.over_seeds([again, refused]).reason == "few" and gaps.from_record(gaps.as_record(refused)).p is None


def test_the_error_is_shared_by_weight():
    values = [0.01, 0.04, None, 0.03]
    assert holm(values, [0.25] * 4) == pytest.approx(holm(values), nan_ok=False)
    # Of weight 3/4: 0.03 / 0.75 comes first, then 0.02 with what is left.
    assert holm([0.02, 0.03], [0.25, 0.75]) == pytest.approx([0.04, 0.04])


#: Worlds without a gap; where AUROC and recall truly differ (calibrated groups of other prevalence) these are left out.
NO_GAP = {
    "30 and 600": {"sizes": (30, 600), "labels": 5, "prevalence": (0.05, 0.5)},
    "30 and 600, one label": {"sizes": (30, 600), "prevalence": (0.5, 0.5)},
    "100 and 600": {"sizes": (100, 600), "labels": 5, "prevalence": (0.05, 0.5)},
    "three groups, three rows": {
        "sizes": (100, 200, 600),
        "labels": 5,
        "prevalence": (0.05, 0.5),
        "rows": 3,
    },
    "rows in several groups": {"sizes": (40, 200), "labels": 5, "prevalence": (0.05, 0.5), "rows": 4, "mixed": True},
    "other prevalence": {"sizes": (100, 300), "labels": 5, "prevalence": (0.1, 0.5), "shift": (-1, 1)},
    "other prevalence, curved": {
        "sizes": (100, 300),
        "labels": 5,
        "prevalence": (0.1, 0.5),
        "shift": (-1, 1),
        "curved": True,
    },
    "AUROC .97": {"sizes": (30, 600), "labels": 5, "prevalence": (0.1, 0.5), "spread": 4.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_GAP)
def test_false_alarms_are_at_most_5_percent(name):
    worlds = 400
    metrics = CALIBRATION if "shift" in NO_GAP[name] else gaps.METRICS
    alarms = sum(bool(stated(world(np.random.default_rng([8, i]), **NO_GAP[name]), metrics)) for i in range(worlds))
    print(f"\nfalse alarms, {name}: {alarms / worlds:.3f} of {worlds} worlds")
    # .05 and 2.3 standard errors of 400 worlds.
    assert alarms / worlds <= 0.075


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("labels", [1, 5])
def test_a_slope_of_half_in_300_of_900_subjects_is_stated(prevalence, labels):
    worlds, found = 200, 0
    for i in range(worlds):
        arrays = world(
            np.random.default_rng([9, i]), (300, 600), labels=labels, prevalence=(prevalence,) * 2, slope=0.5
        )
        found += any(gap.metric in CALIBRATION for gap in stated(arrays))
    print(f"\npower, prevalence {prevalence}, {labels} labels: {found / worlds:.3f} of {worlds} worlds")
    assert found / worlds >= 0.8
