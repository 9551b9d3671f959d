"""Holm against statsmodels, and letters that say exactly what is not told apart."""

import gc
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats import multitest

from cxr_ft.errors import UsageError
from cxr_ft.score.statistics.multiple_comparisons import holm, significance_groups


@pytest.mark.parametrize("many", [1, 2, 7, 20])
def test_holm_agrees_with_statsmodels(many, monkeypatch):
    # multipletests (statsmodels 0.15) collects garbage in each call, which takes half a second beside torch.
    monkeypatch.setattr(gc, "collect", lambda: 0)
    rng = np.random.default_rng(many)
    for values in (rng.random(many), rng.random(many) ** 4, rng.integers(0, 3, many) / 40):
        assert holm(list(values)) == pytest.approx(list(multitest.multipletests(values, method="holm")[1]))


def test_holm_has_the_values_of_statsmodels():
    """multipletests(..., method="holm") of statsmodels 0.15.0, with ties and with p-values whose products fall."""
    adjusted = holm([0.01, 0.04, 0.03, 0.005, 0.04, 0.6, 0.02])
    assert adjusted == pytest.approx([0.06, 0.12, 0.12, 0.035, 0.12, 0.6, 0.1])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_never_lowers_a_p(values):
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted, float)[order]) >= 0).all()


def test_holm_of_a_closed_case_with_a_pair_that_has_no_p():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([]) == []
    assert holm([None]) == [None]
    with pytest.raises(UsageError, match="between 0 and 1"):
        holm([0.1, 1.2])


@st.composite
def graphs(draw):
    many = draw(st.integers(1, 9))
    pairs = list(itertools.combinations(range(many), 2))
    return many, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@given(graphs())
def test_two_share_a_letter_exactly_when_they_do_not_differ(graph):
    many, apart = graph
    shown = significance_groups(many, apart)
    assert all(shown)
    for i, j in itertools.combinations(range(many), 2):
        assert bool(set(shown[i]) & set(shown[j])) == ((i, j) not in apart)


@given(graphs())
def test_no_letter_is_idle(graph):
    many, apart = graph
    shown = significance_groups(many, apart)
    for letter in set("".join(shown)):
        rest = [set(own) - {letter} for own in shown]
        lost = [(i, j) for i in range(many) for j in range(i, many) if (i, j) not in apart and not rest[i] & rest[j]]
        assert lost


def test_letters_of_means_in_a_row_are_the_usual_ones():
    assert significance_groups(3, [(0, 2)]) == ["a", "ab", "b"]
    assert significance_groups(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]
    assert significance_groups(3, []) == ["a", "a", "a"]
    assert significance_groups(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]
    assert significance_groups(2, [(1, 0)]) == ["a", "b"]
    assert significance_groups(0, []) == []
    with pytest.raises(ValueError, match="itself"):
        significance_groups(2, [(1, 1)])


def test_many_variants_do_not_take_forever():
    """Pairs that are told apart and share no variant: insert-and-absorb would make 2^30 letters here."""
    shown = significance_groups(60, [(i, i + 1) for i in range(0, 60, 2)])
    assert len(set("".join(shown))) < 100
    rng = np.random.default_rng(0)
    dense = [pair for pair in itertools.combinations(range(60), 2) if rng.random() < 0.5]
    assert all(significance_groups(60, dense))


def test_after_z_and_capitals_letters_are_primed():
    shown = significance_groups(60, list(itertools.combinations(range(60), 2)))
    assert shown[25:27] == ["z", "A"]
    assert shown[51:53] == ["Z", "a′"]
    assert len(set(shown)) == 60
