"""Main effects and interactions: differences of means in a full design, statsmodels elsewhere, else no number."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from cxr_ft.score.statistics import factor_effects


def design(levels, seeds=1):
    names = list(levels)
    return [dict(zip(names, row, strict=True)) for row in itertools.product(*levels.values()) for _ in range(seeds)]


def by_name(effects):
    return {(e.factor, e.level): e for e in effects}


def test_a_full_design_gives_differences_of_means():
    runs = design({"q": [False, True], "v": [False, True]}, seeds=3)
    rng = np.random.default_rng(0)
    y = [0.6 + 0.05 * run["q"] + 0.02 * run["v"] + 0.04 * (run["q"] and run["v"]) + rng.normal(0, 0.01) for run in runs]
    effects = by_name(factor_effects.estimate(runs, y))
    mean = {
        cell: np.mean([v for r, v in zip(runs, y, strict=True) if (r["q"], r["v"]) == cell])
        for cell in itertools.product([False, True], repeat=2)
    }
    q = (mean[True, True] + mean[True, False] - mean[False, True] - mean[False, False]) / 2
    assert effects["q", "True"].effect == pytest.approx(q)
    crossed = effects["q x v", "True, True"]
    assert crossed.effect == pytest.approx(
        mean[True, True] - mean[True, False] - mean[False, True] + mean[False, False]
    )
    assert crossed.runs == 3 and effects["q", "True"].runs == 6
    assert effects["q", "True"].low < 0.07 < effects["q", "True"].high


def test_three_levels_sum_to_nothing():
    runs = design({"rank": [4, 8, 16]}, seeds=2)
    effects = factor_effects.estimate(runs, [1.0, 1.0, 2.0, 2.0, 6.0, 6.0])
    assert [(e.level, e.runs) for e in effects] == [("4", 2), ("8", 2), ("16", 2)]
    assert [e.effect for e in effects] == pytest.approx([-2, -1, 3])
    assert all(e.se == pytest.approx(0) for e in effects)


def test_what_always_goes_together_has_no_number():
    runs = [{"q": True, "text": True}, {"q": False, "text": False}, {"q": True, "text": True}]
    effects = factor_effects.estimate(runs, [1.0, 2.0, 3.0])
    assert {(e.factor, e.effect, e.note) for e in effects} == {
        ("q", None, "cannot be separated from text"),
        ("text", None, "cannot be separated from q"),
        ("q x text", None, "cannot be separated from the others together"),
    }


def test_three_of_four_cells_have_main_effects_and_no_interaction():
    runs = [{"q": True}, {"v": True}, {"q": True, "v": True}]
    effects = by_name(factor_effects.estimate(runs, [1.0, 2.0, 4.0]))
    assert effects["q", "True"].effect == pytest.approx(2) and effects["v", "True"].effect == pytest.approx(3)
    assert effects["q x v", "True, True"].effect is None


def test_one_seed_has_no_interval():
    (effects,) = factor_effects.estimate([{"q": True}, {"q": False}], [1.0, 2.0])
    assert effects.effect == pytest.approx(-1) and effects.se is effects.low is effects.high is None


def test_what_does_not_vary_is_left_out():
    assert factor_effects.estimate([{"q": True}] * 3, [1.0, 2.0, 3.0]) == []
    assert factor_effects.estimate([], []) == []


def test_it_agrees_with_statsmodels():
    rng = np.random.default_rng(1)
    runs = design({"q": [False, True], "v": [False, True], "rank": [4, 8, 16]}, seeds=3)
    runs = [run for run in runs if run["q"] or run["v"]]  # an unbalanced design
    y = rng.normal(0, 1, len(runs))
    table = pd.DataFrame(runs).assign(y=y, q=[r["q"] - 0.5 for r in runs], v=[r["v"] - 0.5 for r in runs])
    fit = smf.ols("y ~ q + v + C(rank, Sum)", table).fit()
    effects = by_name(factor_effects.estimate(runs, y))
    assert effects["q", "True"].effect == pytest.approx(fit.params["q"])
    assert effects["rank", "4"].effect == pytest.approx(fit.params["C(rank, Sum)[S.4]"])
    # The error there is that of the whole fit, here that between seeds.
    full = smf.ols("y ~ C(q) * C(v) * C(rank)", table).fit()
    scale = np.sqrt(full.mse_resid / fit.mse_resid)
    assert effects["q", "True"].se == pytest.approx(fit.bse["q"] * scale)
    assert effects["rank", "16"].se == pytest.approx(effects["rank", "4"].se)


def test_an_unbalanced_design_has_the_values_of_statsmodels():
    """ols("y ~ q + v + C(rank, Sum)") of statsmodels 0.15.0; the error is that of the saturated fit, of 9 freedoms."""
    runs = [
        run
        for run in design({"q": [False, True], "v": [False, True], "rank": [4, 8, 16]}, 2)
        if any((run["q"], run["v"]))
    ]
    y = [0.61, 0.63, 0.70, 0.69, 0.66, 0.71, 0.58, 0.60, 0.72, 0.68, 0.69, 0.65, 0.75, 0.71, 0.80, 0.77, 0.74, 0.79]
    effects = by_name(factor_effects.estimate(runs, y))
    for key, effect, se in (
        (("q", "True"), 0.09333333333333349, 0.01465656217585879),
        (("v", "True"), 0.1066666666666668, 0.01465656217585879),
        (("rank", "4"), -0.04666666666666678, 0.00846197011762656),
        (("rank", "8"), 0.033333333333333395, 0.00846197011762656),
    ):
        assert (effects[key].effect, effects[key].se) == pytest.approx((effect, se))
        # Student's 97.5 % of 9 degrees of freedom, as printed in tables: 2.262.
        assert effects[key].high - effect == pytest.approx(2.262 * se, rel=1e-4)
        assert effect - effects[key].low == pytest.approx(2.262 * se, rel=1e-4)
