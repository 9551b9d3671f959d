"""DeLong's covariance: every pair of rows compared, with and without clusters, and the bootstrap."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.intervals import auroc, cluster_bootstrap, macro_auroc
from cxr_ft.score.statistics.pairs import compare_values

#: Albumin, total protein, K-G score, benefit from surgery: 43 of the patients of DeLong et al. (1988), as SAS/STAT's
#: example "Comparing Receiver Operating Characteristic Curves" of PROC LOGISTIC lists them.
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def direct(truth, scores, groups):
    """Obuchowski (1997), equation by equation, every pair of rows compared."""
    values = [score.tolist() for score in scores]
    cases = [i for i, t in enumerate(truth) if t == 1]
    controls = [i for i, t in enumerate(truth) if t == 0]
    m, n = len(cases), len(controls)
    area, v10, v01 = [], [], []
    for score in values:
        won = {(i, j): (score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i in cases for j in controls}
        area.append(sum(won.values()) / (m * n))
        v10.append({i: sum(won[i, j] for j in controls) / n for i in cases})
        v01.append({j: sum(won[i, j] for i in cases) / m for j in controls})
    names = sorted(set(groups))
    i10, i01 = len({groups[i] for i in cases}), len({groups[j] for j in controls})
    out = np.zeros((len(values), len(values)))
    for a, b in itertools.product(range(len(values)), repeat=2):
        x = {r: [sum(v10[k][i] - area[k] for i in cases if groups[i] == r) for k in (a, b)] for r in names}
        y = {r: [sum(v01[k][j] - area[k] for j in controls if groups[j] == r) for k in (a, b)] for r in names}
        s10 = i10 / ((i10 - 1) * m) * sum(x[r][0] * x[r][1] for r in names)
        s01 = i01 / ((i01 - 1) * n) * sum(y[r][0] * y[r][1] for r in names)
        s11 = len(names) / (len(names) - 1) * sum(x[r][0] * y[r][1] for r in names)
        mirror = len(names) / (len(names) - 1) * sum(y[r][0] * x[r][1] for r in names)
        out[a, b] = s10 / m + s01 / n + (s11 + mirror) / (m * n)
    return np.array(area), out


def delong(truth, scores):
    """DeLong et al. (1988) without clusters: the covariance of placement values, by numpy's own estimator."""
    won = (scores[:, truth == 1, None] > scores[:, None, truth == 0]) + 0.5 * (
        scores[:, truth == 1, None] == scores[:, None, truth == 0]
    )
    m, n = won.shape[1:]
    return won.mean(axis=(1, 2)), np.cov(won.mean(axis=2)) / m + np.cov(won.mean(axis=1)) / n


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.integers(0, 3), images=st.integers(1, 4))
def test_ranks_give_what_every_pair_gives(seed, decimals, images):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 30 // images, 30)
    truth, scores = rng.integers(0, 2, 30).astype(float), rng.random((3, 30)).round(decimals)
    estimate = paired_aurocs(truth, scores, groups)
    points, covariance = direct(truth, scores, groups)
    assert estimate.points == pytest.approx(points)
    assert estimate.covariance == pytest.approx(covariance, abs=1e-12)


def test_one_row_a_subject_is_delong():
    rng = np.random.default_rng(3)
    truth, scores = rng.integers(0, 2, 80), rng.random((3, 80)).round(1)
    points, covariance = delong(truth, scores)
    estimate = paired_aurocs(truth, scores, np.arange(80))
    assert estimate.points == pytest.approx(points)
    assert estimate.covariance == pytest.approx(covariance)


def test_the_patients_of_delong_s_paper():
    """Few rows, many ties, correlated tests. The p-values are those of other published code: MLstatkit 0.1.91."""
    table = np.array(PATIENTS.split(), float).reshape(-1, 4)
    scores = np.stack([10 - table[:, 2], table[:, 0], table[:, 1]])
    points, covariance = delong(table[:, 3], scores)
    estimate = paired_aurocs(table[:, 3], scores, np.arange(len(table)))
    assert estimate.points == pytest.approx(points)
    assert estimate.covariance == pytest.approx(covariance)
    pairs = compare_values(points[:, None], covariance, len(table), "DeLong")
    for pair, p in (((0, 1), 0.9102063472), ((0, 2), 0.4561397075), ((1, 2), 0.1118282101)):
        assert pairs[pair].p == pytest.approx(p, abs=1e-9)


def world(rng, subjects=300, labels=3):
    groups = np.repeat(np.arange(subjects), rng.integers(1, 5, subjects))
    truth = (rng.random((len(groups), labels)) < rng.choice([0.2, 0.6], (subjects, 1))[groups]).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    shared = np.nan_to_num(truth) + rng.normal(0, 1, (subjects, labels))[groups]
    return groups, truth, shared + rng.normal(0, 1, (2, *truth.shape))


def test_several_labels_vary_as_the_bootstrap_says():
    groups, truth, scores = world(np.random.default_rng(5))
    estimate = paired_aurocs(truth, scores, groups)
    assert estimate.points == pytest.approx([float(macro_auroc(truth, run)) for run in scores])
    weights = cluster_bootstrap(groups, 4000, 0)
    expected = np.cov([macro_auroc(truth, run, weights) for run in scores])
    assert estimate.covariance == pytest.approx(expected, rel=0.1)


def test_a_table_of_one_label_is_that_label():
    groups, truth, scores = world(np.random.default_rng(6), 40, 1)
    whole, known = paired_aurocs(truth, scores, groups), ~np.isnan(truth[:, 0])
    alone = paired_aurocs(truth[known, 0], scores[:, known, 0], groups[known])
    assert whole.points == pytest.approx(alone.points)
    assert whole.covariance == pytest.approx(alone.covariance)
    assert whole.points[0] == pytest.approx(float(auroc(truth[known, 0], scores[0, known, 0])))


def test_any_increasing_transformation_and_any_order_of_rows_change_nothing():
    groups, truth, scores = world(np.random.default_rng(7), 40)
    order = np.random.default_rng(0).permutation(len(groups))
    moved = paired_aurocs(truth[order], np.exp(3 * scores[:, order]), groups[order])
    assert moved.covariance == pytest.approx(paired_aurocs(truth, scores, groups).covariance)


def test_what_cannot_be_known_has_a_reason():
    one_class = paired_aurocs([1, 1, 1], [[0.1, 0.2, 0.3]], list("abc"))
    assert np.isnan(one_class.points).all()
    assert one_class.covariance is None
    assert "no label" in one_class.reason
    lone = paired_aurocs([1, 1, 0, 0], [[0.1, 0.2, 0.3, 0.4]], ["a", "a", "b", "c"])
    assert lone.points == pytest.approx([0])
    assert lone.covariance is None
    assert "one subject" in lone.reason
    assert paired_aurocs([], np.zeros((2, 0)), []).covariance is None
