"""Which test is used when, that intervals and p-values say the same, what cannot be known, and the margin."""

import math

import numpy as np
import pytest
import simulated_predictions as simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind
from scipy.stats import t as student

from cxr_ft.errors import UsageError
from cxr_ft.score.statistics import intervals, variance_components
from cxr_ft.score.statistics.delong import paired_aurocs
from cxr_ft.score.statistics.pairs import Pair, compare, compare_all, compare_values, non_inferior
from cxr_ft.score.statistics.variance_components import VarianceComponents


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
        (simulated.one_row_each(some()), intervals.auroc, "ranks exchanged by subject"),
        (some(), intervals.auroc, "ranks exchanged by subject"),
        (simulated.one_row_each(some(subjects=500)), intervals.auroc, "DeLong"),
        (some(subjects=300), intervals.auroc, "DeLong, rows clustered by subject"),
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
            "bootstrap over subjects",
        ),
        (
            simulated.decisions(some(seeds=(2, 3))),
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
    world = simulated.one_row_each(some(subjects=500))
    pair = compare(*world, intervals.auroc)
    result = paired_aurocs(world.truth, np.concatenate([world.first, world.second]), world.subjects)
    z = (result.points[0] - result.points[1]) / math.sqrt(np.array([1, -1]) @ result.covariance @ [1, -1])
    assert pair.p == pytest.approx(2 * norm.sf(abs(z)))


def test_seeds_alone_are_student_s_t_of_all_methods():
    """Where subjects leave no doubt and methods vary alike, the page's mean square remains, as in an F test."""
    rng = np.random.default_rng(0)
    points = [rng.normal(0.8, 0.02, 4) for _ in range(3)]
    result = compare_values(points, np.zeros((12, 12)), 100, "none", prior=math.inf)
    mean_square = np.mean([values.var(ddof=1) for values in points])
    for (i, j), pair in result.items():
        t = (points[i].mean() - points[j].mean()) / math.sqrt(mean_square * 2 / 4)
        assert pair.p == pytest.approx(2 * student.sf(abs(t), 9))
    assert ttest_ind(points[0], points[1]).pvalue == pytest.approx(
        compare_values(points[:2], np.zeros((8, 8)), 100, "none", prior=math.inf)[0, 1].p
    )


def test_obuchowski_and_rockette_s_analysis_of_van_dyke_s_readers():
    """Five readers, two treatments, as the R package MRMCaov prints it: SE .0207486, df 15.25967, p .0516657.

    Its readers are crossed with treatments, so that its mean square of readers by treatments takes the place of the
    seeds' variance; the rest is the same arithmetic.
    """
    seeds = (0.0005510306, 0.0005510306)
    parts = VarianceComponents(2 * (0.0003440748 - 0.0002390284), (0.0, 0.0), seeds, (5, 5), freedom=4)
    variance, freedom = parts.total
    assert math.sqrt(variance) == pytest.approx(0.02074862, rel=1e-5)
    assert freedom == pytest.approx(15.25967, rel=1e-5)
    assert variance_components.p_value(0.04380032, variance, freedom) == pytest.approx(0.05166569, rel=1e-4)
    ends = variance_components.interval(0.04380032, variance, freedom, 0.95)
    assert ends == pytest.approx((-0.0003588544, 0.08795949), abs=1e-7)


def test_the_nested_analysis_by_hand():
    """Three methods of two seeds: MS(seeds) + S max(Cov2 - Cov3, 0), and Hillis' freedom, from their definitions."""
    points = [np.array([0.80, 0.84]), np.array([0.78, 0.80]), np.array([0.70, 0.76])]
    variance, within, between = 5e-4, 3e-4, 1e-4
    covariance = np.full((6, 6), between)
    for start in (0, 2, 4):
        covariance[start : start + 2, start : start + 2] = within
    np.fill_diagonal(covariance, variance)
    mean_square = np.mean([values.var(ddof=1) for values in points])
    whole = mean_square + 2 * (within - between)
    freedom = whole**2 / (mean_square**2 / 3)
    parts = variance_components.estimate_spread(points, covariance, [False] * 3, prior=math.inf).pair(0, 1)
    assert parts.shared + parts.averaged == pytest.approx(2 / 2 * whole)
    assert parts.freedom == pytest.approx(3)
    # With three degrees the exponent is 1.4 in the place of Satterthwaite's 2.
    assert parts.total[1] == pytest.approx(3 / (mean_square / whole) ** 1.4)
    four = parts._replace(freedom=4.0)
    assert four.total[1] == pytest.approx(freedom * 4 / 3)


def test_a_method_s_variance_is_drawn_towards_the_mean_of_all():
    points = [np.array([0.8, 0.8, 0.8]), np.array([0.7, 0.8, 0.9]), np.array([0.5])]
    spread = variance_components.estimate_spread(points, np.zeros((7, 7)), [False, False, True], prior=2)
    assert spread.seeds == (pytest.approx(0.0025), pytest.approx(0.0075), None)


def test_noise_that_seeds_share_is_not_counted_as_theirs():
    """All seeds of a method err alike on the same subjects: the variance is that of one, however many there are."""
    covariance = np.kron(np.array([[4, 1], [1, 4]]), np.ones((3, 3))) * 1e-4
    pair = compare_values([np.full(3, 0.8), np.full(3, 0.7)], covariance, 100, "shared")[0, 1]
    assert pair.spread.shared == pytest.approx(6e-4)
    assert pair.spread.own == pytest.approx((0, 0), abs=1e-12)
    assert pair.interval[1] - pair.gap == pytest.approx(norm.ppf(0.975) * math.sqrt(6e-4))


def test_a_single_training_is_compared_as_it_is_whatever_others_vary():
    """One seed against three: the models alone are compared, by the covariance over subjects."""
    world = some(seeds=(3, 1), subjects=300)
    pair = compare(*world, intervals.auroc)
    assert pair.of_trainings and pair.test == "DeLong, rows clustered by subject"
    covariance = paired_aurocs(world.truth, np.concatenate([world.first, world.second]), world.subjects).covariance
    weights = np.array([1 / 3, 1 / 3, 1 / 3, -1])
    assert pair.p == pytest.approx(2 * norm.sf(abs(pair.gap) / math.sqrt(weights @ covariance @ weights)))


def test_few_subjects_of_a_class_have_no_test_and_a_reason():
    world = simulated.one_row_each(some(subjects=200))
    few = np.zeros(200)
    few[:9] = 1
    for seeds in (1, 2):
        first, second = (np.repeat(part, seeds, axis=0) for part in (world.first, world.second))
        pair = compare(few, first, second, world.subjects, intervals.auroc)
        assert (pair.p, pair.interval, pair.spread) == (None, None, None)
        assert "too few test subjects" in pair.reason and pair.gap is not None
    few[9] = 1
    assert compare(few, world.first, world.second, world.subjects, intervals.auroc).p is not None


@pytest.mark.parametrize("statistic", [intervals.auroc, intervals.accuracy, recall])
@pytest.mark.parametrize("seeds", [(1, 1), (2, 3)])
def test_the_tail_is_that_of_the_interval(statistic, seeds):
    world = some(seeds=seeds)
    world = world if statistic is intervals.auroc else simulated.decisions(world)
    pair = compare(*world, statistic, level=0.9, draws=999)
    for one in (pair, pair.reversed):
        assert one.tail(one.interval[0]) == pytest.approx(0.05, abs=0.015)
        assert one.tail(one.interval[1]) == pytest.approx(0.95, abs=0.015)


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
    many = [0, *range(14)]
    truth, first, second = np.tile(truth, 7)[:, many], np.tile(first, 7)[..., many], np.tile(second, 7)[..., many]
    truth[:, 0] = 0
    truth[0, 0] = 1
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
        assert pair.gap == pytest.approx(alone.gap)
        # How much seeds vary is known from all variants together, which the pair alone does not have.
        if pair.covers == "subjects":
            assert (pair.p, *pair.interval) == pytest.approx((alone.p, *alone.interval))


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
    assert (same.gap, same.p) == (0, 1)
    assert same.interval == pytest.approx((0, 0), abs=1e-9)
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


def test_the_margin_is_a_shifted_null():
    pair = compare_values([np.array([0.8, 0.81]), np.array([0.8, 0.82])], np.eye(4) * 1e-4, 100, "made up")[0, 1]
    both = non_inferior(pair, 0.01)
    assert both.not_worse == pair.tail(-0.01)
    assert both.worse == pytest.approx(1 - both.not_worse)
    assert non_inferior(pair, 0.1).not_worse < both.not_worse
    assert non_inferior(Pair(0.1, None, None, "made up", 100, None, reason="so"), 0.01) is None
    for margin in (0, -0.01, math.nan, math.inf):
        with pytest.raises(UsageError, match="margin"):
            non_inferior(pair, margin)


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
