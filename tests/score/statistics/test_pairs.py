"""Which test is used when, that intervals and p-values say the same, what cannot be known, and the margin."""

import math

import numpy as np
import pytest
import simulated_predictions as simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind

from cxr_ft.errors import UsageError
from cxr_ft.score.statistics import intervals
from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.pairs import Pair, compare, compare_all, compare_values, non_inferior


def recall(truth, answer, weights):
    """A metric without a closed form here."""
    positive = np.asarray(weights) * (truth == 1)
    with np.errstate(invalid="ignore"):
        return (positive * (answer == truth)).sum(axis=-1) / positive.sum(axis=-1)


def some(**changes):
    rng = np.random.default_rng(changes.pop("rng", 0))
    return simulated.scores(rng, **{"subjects": 60, **changes})


@pytest.mark.parametrize(
    ("world", "statistic", "test"),
    [
        (simulated.one_row_each(some()), intervals.auroc, "DeLong"),
        (some(), intervals.auroc, "DeLong, rows clustered by subject"),
        (
            simulated.one_row_each(simulated.decisions(some())),
            intervals.accuracy,
            "McNemar, mid-p",
        ),
        (simulated.decisions(some()), intervals.accuracy, "McNemar, rows clustered by subject"),
        (simulated.decisions(some()), recall, "approximate randomisation by subject"),
        (some(seeds=(2, 3)), intervals.auroc, "t over seeds and subjects (DeLong, rows clustered by subject)"),
        (
            simulated.decisions(some(seeds=(2, 3))),
            intervals.accuracy,
            "t over seeds and subjects (accuracy by subject)",
        ),
        (
            simulated.decisions(some(seeds=(1, 3))),
            recall,
            "t over seeds and subjects (bootstrap over subjects)",
        ),
    ],
)
def test_the_test_that_fits_is_used_and_named(world, statistic, test):
    pair = compare(*world, statistic)
    assert pair.test == test
    assert pair.reason is None
    points = [np.mean([float(statistic(world.truth, run, np.ones(len(run)))) for run in runs]) for runs in world[1:3]]
    assert pair.gap == pytest.approx(points[0] - points[1])
    assert pair.interval[0] <= pair.gap <= pair.interval[1]
    mirror = compare(world.truth, world.second, world.first, world.subjects, statistic)
    assert mirror.p == pytest.approx(pair.p)
    assert mirror.interval == pytest.approx((-pair.interval[1], -pair.interval[0]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    seeds=st.sampled_from([(1, 1), (1, 2), (3, 2)]),
    better=st.sampled_from([0, 0.3, 0.8]),
    statistic=st.sampled_from([intervals.auroc, intervals.accuracy, recall]),
)
def test_the_interval_holds_zero_exactly_where_p_is_large(seed, seeds, better, statistic):
    world = some(rng=seed, seeds=seeds, better=better, subjects=30)
    pair = compare(*(world if statistic is intervals.auroc else simulated.decisions(world)), statistic, draws=200)
    assert (pair.interval[0] <= 0 <= pair.interval[1]) == (pair.p > 0.05)


def test_delong_s_z():
    world = simulated.one_row_each(some())
    pair = compare(*world, intervals.auroc)
    result = paired_aurocs(world.truth, np.concatenate([world.first, world.second]), world.subjects)
    z = (result.points[0] - result.points[1]) / math.sqrt(np.array([1, -1]) @ result.covariance @ [1, -1])
    assert pair.p == pytest.approx(2 * norm.sf(abs(z)))


def test_seeds_alone_are_welch_s_t():
    """Where subjects leave no doubt, two groups of numbers remain."""
    first, second = np.array([0.81, 0.84, 0.80]), np.array([0.79, 0.80])
    pair = compare_values(first, second, np.zeros((5, 5)), 100, "none")
    reference = ttest_ind(first, second, equal_var=False)
    assert pair.p == pytest.approx(reference.pvalue)
    assert pair.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_noise_that_seeds_share_is_not_counted_as_theirs():
    """All seeds of a method err alike on the same subjects: the variance is that of one, however many there are."""
    covariance = np.kron(np.array([[4, 1], [1, 4]]), np.ones((3, 3))) * 1e-4
    pair = compare_values(np.full(3, 0.8), np.full(3, 0.7), covariance, 100, "shared")
    assert pair.spread.shared == pytest.approx(6e-4)
    assert pair.spread.own == pytest.approx((0, 0), abs=1e-12)
    assert pair.interval[1] - pair.gap == pytest.approx(norm.ppf(0.975) * math.sqrt(6e-4))


def test_one_row_s_subject_counts_once():
    """Every image four times is no more evidence."""
    world = simulated.one_row_each(some())
    four = simulated.PairedPredictions(*(np.repeat(part, 4, axis=-1) for part in world))
    for statistic, change in ((intervals.auroc, lambda w: w), (recall, simulated.decisions)):
        once, again = (compare(*change(w), statistic) for w in (world, four))
        assert again.gap == pytest.approx(once.gap)
        assert again.p == pytest.approx(once.p, rel=1e-6)


def test_more_labels_and_a_label_that_needs_the_bootstrap():
    world = some(seeds=(2, 2))
    truth = np.stack([world.truth, np.roll(world.truth, 1)], axis=-1)
    first, second = (np.stack([run, np.roll(run, 1, axis=1)], axis=-1) for run in (world.first, world.second))
    pair = compare(truth, first, second, world.subjects, intervals.macro_auroc)
    assert "DeLong" in pair.test
    truth[:, 1] = 0
    truth[0, 1] = 1
    rare = compare(truth, first, second, world.subjects, intervals.macro_auroc)
    assert rare.test == "t over seeds and subjects (bootstrap over subjects)"
    assert rare.p is not None


@pytest.mark.parametrize("statistic", [intervals.auroc, intervals.accuracy, recall])
def test_all_pairs_are_as_each_alone(statistic):
    world = some(seeds=(3, 5))
    if statistic is not intervals.auroc:
        world = simulated.decisions(world)
    variants = [world.first[:1], world.first[1:], world.second[:1], world.second[1:]]
    fixed = (True, False, False, False)
    together = compare_all(world.truth, variants, world.subjects, statistic, fixed=fixed, draws=300)
    assert sorted(together) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for (i, j), pair in together.items():
        alone = compare(
            world.truth, variants[i], variants[j], world.subjects, statistic, fixed=(fixed[i], fixed[j]), draws=300
        )
        assert (pair.test, pair.fixed, pair.subjects) == (alone.test, alone.fixed, alone.subjects)
        assert (pair.gap, pair.p, *pair.interval) == pytest.approx((alone.gap, alone.p, *alone.interval))


def test_a_run_that_is_undefined_spoils_its_own_pairs_alone():
    def never_for_twos(truth, answer, weights):
        return recall(truth, answer, weights) * (np.nan if (answer == 2).all() else 1)

    world = simulated.decisions(some(seeds=(2, 2)))
    spoilt = np.full_like(world.first, 2)
    variants = [world.first, world.second, spoilt]
    result = compare_all(world.truth, variants, world.subjects, never_for_twos, draws=200)
    assert result[0, 1].p is not None
    assert (result[0, 2].gap, result[1, 2].reason) == (None, "the metric is undefined in a run")


def test_the_interval_names_what_it_covers():
    world = some(seeds=(3, 1))
    assert compare(*world, intervals.auroc).covers == "subjects"
    assert compare(*world, intervals.auroc, fixed=(False, True)).covers == "subjects and seeds"
    assert compare(*some(seeds=(2, 2)), intervals.auroc).covers == "subjects and seeds"
    assert compare(*some(), intervals.auroc, fixed=(True, True)).covers == "subjects"


def test_equal_runs_are_tied_and_what_is_unknown_has_a_reason():
    world = some()
    same = compare(world.truth, world.first, world.first, world.subjects, intervals.auroc)
    assert (same.gap, same.interval, same.p) == (0, (0, 0), 1)
    lone = np.zeros(len(world.truth))
    lone[0] = 1
    few = compare(lone, world.first, world.second, world.subjects, intervals.auroc)
    assert few.gap is not None
    assert (few.interval, few.p) == (None, None)
    assert "one subject" in few.reason
    none = compare(np.ones(len(world.truth)), world.first, world.second, world.subjects, intervals.auroc)
    assert (none.gap, none.interval, none.p) == (None, None, None)
    assert "no label" in none.reason
    for statistic, seeds in (
        (intervals.accuracy, 1),
        (intervals.accuracy, 2),
        (recall, 1),
        (recall, 2),
        (intervals.auroc, 2),
    ):
        answers = np.zeros((seeds, 4))
        unknown = compare(np.full(4, np.nan), answers, answers, [1, 1, 2, 3], statistic, draws=50)
        assert unknown.gap is None
        assert unknown.reason
    perfect = compare([0, 0, 1, 1], [[0, 0.1, 0.8, 0.9]], [[0.9, 0.8, 0.1, 0]], [1, 2, 3, 4], intervals.auroc)
    assert perfect.gap == 1
    assert perfect.p is None
    assert "no spread" in perfect.reason


@pytest.mark.parametrize("broken", [{"first": np.zeros(9)}, {"second": np.zeros((0, 9))}, {"truth": np.zeros(8)}])
def test_shapes_that_do_not_fit_are_refused(broken):
    given_ = {"truth": np.zeros(9), "first": np.zeros((1, 9)), "second": np.zeros((1, 9)), "subjects": np.arange(9)}
    with pytest.raises(ValueError, match="rows"):
        compare(**(given_ | broken), statistic=intervals.auroc)


def pair_of(low, high):
    return Pair((low + high) / 2, (low, high), 0.5, "made up", 100, None)


def test_the_margin_is_read_off_the_interval():
    assert non_inferior(pair_of(-0.009, 0.02), 0.01)[:2] == ("within margin", -0.009)
    assert non_inferior(pair_of(-0.009, -0.001), 0.01).outcome == "within margin"  # lower, but by less than that
    assert non_inferior(pair_of(-0.02, 0.02), 0.01).outcome == "open"
    assert non_inferior(pair_of(-0.03, -0.011), 0.01).outcome == "worse by more than the margin"
    assert non_inferior(pair_of(-0.02, 0.02), 0.01).level == pytest.approx(0.975)
    unknown = Pair(0.1, None, None, "made up", 100, None, reason="so")
    assert non_inferior(unknown, 0.01)[:2] == ("open", None)
    for margin in (0, -0.01, math.nan, math.inf):
        with pytest.raises(UsageError, match="margin"):
            non_inferior(pair_of(0, 1), margin)


def test_pairing_finds_a_small_difference_on_the_same_subjects():
    rng = np.random.default_rng(2)
    subjects = np.repeat(np.arange(50), 4)
    right = (rng.random(200) < np.repeat(rng.choice([0.1, 0.9], 50), 4)).astype(float)
    better = np.maximum(right, rng.random(200) < 0.1)
    weights = intervals.cluster_bootstrap(subjects, 500, 0)
    alone = [intervals.interval(intervals.mean(row, weights)) for row in (better, right)]
    assert alone[0][0] < alone[1][1]  # unpaired, the two overlap
    pair = compare(np.ones(200), better[None], right[None], subjects, intervals.accuracy)
    assert pair.interval[0] > 0 and pair.p < 0.05
    mirror = compare(np.ones(200), right[None], better[None], subjects, intervals.accuracy)
    assert mirror.interval == pytest.approx((-pair.interval[1], -pair.interval[0]))
