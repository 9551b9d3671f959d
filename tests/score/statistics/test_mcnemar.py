"""McNemar: closed cases, statsmodels as reference, and that interval and p-value say the same."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables as contingency

from cxr_ft.score.statistics.mcnemar import exact, mcnemar


def tables(wins, losses, both=10, neither=5):
    """Truth and the answers of two runs that differ on so many rows."""
    first = np.r_[np.ones(wins + both), np.zeros(losses + neither)]
    second = np.r_[np.zeros(wins), np.ones(both), np.ones(losses), np.zeros(neither)]
    return np.ones(len(first)), first, second


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 61), (0, 12)])
def test_exact_and_chi_square_agree_with_statsmodels(wins, losses):
    table = [[10, wins], [losses, 5]]
    assert exact(wins, losses) == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)
    if wins + losses:
        # Each row twice, under one subject each: the clustered form is that of subjects, not of rows.
        truth, first, second = (np.repeat(values, 2) for values in tables(wins, losses))
        result = mcnemar(truth, first, second, np.repeat(np.arange(len(truth) // 2), 2))
        assert result.p == pytest.approx(contingency.mcnemar(table, exact=False, correction=False).pvalue)


@pytest.mark.parametrize(
    ("wins", "losses", "p_exact", "p_chi_square"),
    [
        (3, 9, 0.14599609375, 0.08326451666355042),
        (9, 3, 0.14599609375, 0.08326451666355042),
        (40, 61, 0.046044066929342785, 0.03665571555141613),
        (0, 12, 0.00048828125, 0.0005320055051392492),
        (1, 0, 1.0, 0.31731050786291115),
    ],
)
def test_p_values_are_those_of_statsmodels(wins, losses, p_exact, p_chi_square):
    """contingency_tables.mcnemar of statsmodels 0.15.0: exact, and chi-square without correction for continuity."""
    assert exact(wins, losses) == pytest.approx(p_exact)
    truth, first, second = (np.repeat(values, 2) for values in tables(wins, losses))
    result = mcnemar(truth, first, second, np.repeat(np.arange(len(truth) // 2), 2))
    assert result.p == pytest.approx(p_chi_square)


def test_mid_p_of_closed_cases():
    # 3 against 9 of 12: 2 P(fewer than 3) + P(3) = (2 (1 + 12 + 66) + 220) / 4096.
    truth, first, second = tables(3, 9)
    result = mcnemar(truth, first, second, np.arange(len(truth)))
    assert result.gap == pytest.approx(-6 / 27)
    assert result.p == pytest.approx((2 * (1 + 12 + 66) + 220) / 4096)
    assert result.test == "McNemar, mid-p"
    assert mcnemar(*tables(5, 5), np.arange(25)).p == 1
    assert mcnemar(*tables(0, 0), np.arange(15))[:3] == (0, (0, 0), 1)


def test_with_one_row_a_subject_the_clustered_interval_is_close_to_the_exact_one():
    truth, first, second = tables(70, 40, 500, 200)
    single = mcnemar(truth, first, second, np.arange(len(truth)))
    twice = mcnemar(*(np.repeat(v, 2) for v in (truth, first, second)), np.repeat(np.arange(len(truth)), 2))
    assert twice.interval == pytest.approx(single.interval, abs=0.002)
    assert twice.variance == pytest.approx(single.variance)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 3), level=st.sampled_from([0.8, 0.95]))
def test_the_interval_holds_zero_exactly_where_p_is_large(seed, images, level):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), rng.integers(1, images + 1, 20))
    truth = np.where(rng.random(len(groups)) < 0.05, np.nan, rng.integers(0, 2, len(groups)))
    first, second = (np.where(rng.random(len(groups)) < rng.random(), truth, 2) for _ in range(2))
    result = mcnemar(truth, first, second, groups, level)
    mirror = mcnemar(truth, second, first, groups, level)
    assert mirror.p == pytest.approx(result.p)
    assert mirror.gap == pytest.approx(-result.gap)
    low, high = result.interval
    assert -1 <= low <= result.gap <= high <= 1
    assert mirror.interval == pytest.approx((-high, -low))
    assert (low <= 0 <= high) == (result.p > 1 - level)


def test_rows_of_one_subject_do_not_count_as_many():
    truth, first, second = np.ones(60), np.ones(60), np.zeros(60)
    second[20:] = 1
    alone = mcnemar(truth, first, second, np.arange(60))
    together = mcnemar(truth, first, second, np.repeat(np.arange(6), 10))
    assert alone.p < 1e-4
    assert together.p > 0.1
    assert alone.gap == together.gap


def test_what_cannot_be_known():
    assert math.isnan(mcnemar([np.nan], [1], [0], ["a"]).gap)
    few = mcnemar(np.ones(30), np.ones(30), np.r_[np.zeros(1), np.ones(29)], np.r_[np.zeros(28), 1, 2])
    assert few.interval is None
