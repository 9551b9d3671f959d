"""Choices near the natural mix and their weights: properties, then small cases by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.data.splits import balance, prevalence


def case(seed):
    """Patterns, rows of each, and a choice among them."""
    rng = np.random.default_rng(seed)
    patterns = np.unique(rng.random((12, 4)) < 0.4, axis=0)
    available = rng.integers(0, 200, len(patterns)) * patterns.any(axis=1)
    quotas = np.minimum(rng.integers(1, 150, 4), available @ patterns)
    return patterns, available, balance.select_rows(patterns, available, quotas).take


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_spreading_keeps_the_rows_of_every_label(seed):
    patterns, available, take = case(seed)
    near = prevalence.nearest_to_natural_mix(patterns, available, take)
    assert (near.take >= 0).all() and (near.take <= available).all()
    assert np.array_equal(near.take @ patterns, take @ patterns)
    wish = prevalence.neyman_rows(patterns, available, take)
    assert np.abs(near.take - wish).sum() <= np.abs(take - wish).sum() + 2 + 1e-3 * take.sum()
    assert near.distance * max(near.take.sum(), 1) == pytest.approx(np.abs(near.take - wish).sum())


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_spreading_does_not_depend_on_the_order_of_patterns_much(seed):
    """Where two choices are equally near, which one is taken may; how near it is may not."""
    patterns, available, take = case(seed)
    order = np.random.default_rng(seed).permutation(len(patterns))
    one = prevalence.nearest_to_natural_mix(patterns, available, take)
    other = prevalence.nearest_to_natural_mix(patterns[order], available[order], take[order])
    assert one.distance == pytest.approx(other.distance, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weights_give_back_what_they_can(seed):
    """Where every pattern has a chosen row the weights are exact; and they are positive wherever rows were chosen."""
    rng = np.random.default_rng(seed)
    patterns, available, take = case(seed)
    weight = prevalence.prevalence_weights(patterns, available, take)
    assert ((weight > 0) == (take > 0)).all()
    chosen = np.minimum(available, rng.integers(1, 20, len(available)))
    weight = prevalence.prevalence_weights(patterns, available, chosen)
    assert (weight * chosen) == pytest.approx(available)


def test_the_allocation_is_neymans():
    """Two labels alike: whoever holds both is 1 / sqrt(2) as likely to be taken as whoever holds one."""
    patterns = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    wish = prevalence.neyman_rows(patterns, np.array([1000, 1000, 1000]), np.array([300, 300, 0]))
    assert wish[0] + wish[2] == pytest.approx(300, abs=1e-3) == wish[1] + wish[2]
    share = wish / 1000
    assert 1 / share[2] ** 2 - 1 == pytest.approx(2 * (1 / share[0] ** 2 - 1), rel=1e-3)


def test_a_common_combination_is_taken():
    """Without it both labels' quotas can be met by single rows alone, and a program that likes both may drop it."""
    patterns = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    near = prevalence.nearest_to_natural_mix(patterns, np.array([500, 500, 400]), np.array([100, 100, 0]))
    assert near.take[2] > 20 and near.gap is not None


def test_no_program_no_other_choice(monkeypatch):
    """Where the program finds nothing, the first choice is used and the gap is not known."""
    no_solution = type("Found", (), {"x": None})()
    monkeypatch.setattr(prevalence, "solve_milp", lambda *args, **kwargs: no_solution)
    take = np.array([3, 4])
    near = prevalence.nearest_to_natural_mix(np.eye(2, dtype=bool), np.array([9, 9]), take)
    assert near.gap is None and near.take.tolist() == [3, 4]


def test_weights_by_raking():
    """The combination has no chosen row; the single rows' weights make its labels' prevalences up."""
    patterns = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=bool)
    there, chosen = np.array([500, 200, 200, 100]), np.array([50, 50, 50, 0])
    weight = prevalence.prevalence_weights(patterns, there, chosen) * chosen
    assert weight @ patterns == pytest.approx([300, 300]) and weight.sum() == pytest.approx(1000)


def test_a_label_that_all_chosen_rows_have_is_passed_over():
    """All chosen rows hold both labels, so no weights tell the labels apart: the rows' sum alone is met."""
    patterns = np.array([[1, 1], [1, 0], [0, 1]], dtype=bool)
    weight = prevalence.prevalence_weights(patterns, np.array([10, 500, 5]), np.array([5, 0, 0]))
    assert weight.tolist() == pytest.approx([515 / 5, 0, 0])


def test_labels_that_contradict_each_other_leave_bounded_weights():
    """Nobody who was chosen has the first label alone, as nearly all rows do: no weights give both labels' counts.

    The weights of the rows themselves are 10 / 5 = 2. The first label wants the pair's weight 10,001 times as large,
    the second the weight of rows without labels: neither goes beyond FACTOR times 2.
    """
    patterns = np.array([[0, 0], [1, 1], [1, 0]], dtype=bool)
    weight = prevalence.prevalence_weights(patterns, np.array([10, 10, 100_000]), np.array([5, 5, 0]))
    assert weight.tolist() == pytest.approx([2 * prevalence.FACTOR, 2, 0])
