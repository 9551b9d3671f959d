"""The pointing game: what a hit is, what needs no model, and intervals over subjects."""

import numpy as np
import pytest

from cxr_ft.score.metrics import pointing_game


def one_cell(row, column, cells=4):
    table = np.zeros((cells, cells))
    table[row, column] = 1.0
    return table


# The second box passes the middle of the line to the cell at its right: no centre lies in it, but half a cell away.
@pytest.mark.parametrize(
    ("box", "reach"),
    [((0.51, 0.01, 0.74, 0.24), [(0, 2)]), ((0.51, 0.01, 0.76, 0.24), [(0, 2), (0, 3)])],
)
def test_a_map_that_is_highest_in_the_box_hits_and_one_that_is_not_misses(box, reach):
    for row in range(4):
        for column in range(4):
            game = pointing_game.play([one_cell(row, column)], [[box]], ["a"])
            assert game.model.value == ((row, column) in reach)
            assert game.random.value == len(reach) / 16
    assert game.centre.value == 0


def test_a_flat_map_is_the_random_one():
    boxes = [[(0.1, 0.2, 0.3, 0.4)], [(0.6, 0.1, 0.9, 0.9), (0.0, 0.0, 0.1, 0.1)]]
    game = pointing_game.play(np.zeros((2, 7, 7)), boxes, ["a", "b"])
    assert game.model.value == pytest.approx(game.random.value)
    assert game.above_random.value == pytest.approx(0)


def test_the_interval_holds_whole_subjects():
    rng = np.random.default_rng(0)
    hits = rng.random(40) < 0.5
    box, maps = (0.0, 0.0, 0.1, 0.1), [one_cell(0, 0) if hit else one_cell(3, 3) for hit in hits]
    alone = pointing_game.play(maps, [[box]] * 40, range(40))
    tenfold = pointing_game.play([m for m in maps for _ in range(10)], [[box]] * 400, np.repeat(np.arange(40), 10))
    assert tenfold.model == alone.model
    low, high = alone.model.interval
    assert low < hits.mean() == alone.model.value < high
    assert alone.above_random.value == pytest.approx(alone.model.value - alone.random.value)


def test_few_subjects_have_no_interval_and_none_no_game():
    game = pointing_game.play([one_cell(0, 0)] * 20, [[(0, 0, 0.1, 0.1)]] * 20, ["a", "b"] * 10)
    assert (game.subjects, game.model.value, game.model.interval) == (2, 1.0, None)
    assert pointing_game.play(np.zeros((0, 7, 7)), [], []) is None
    with pytest.raises(ValueError, match="1 maps, 2 lists"):
        pointing_game.play([one_cell(0, 0)], [[], []], ["a"])
