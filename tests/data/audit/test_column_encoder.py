"""Properties of a table as numbers: learnt from some rows alone, and what others may hold that these did not."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.data.audit import acquisition
from cxr_ft.data.audit.column_encoder import ColumnEncoder


def test_a_number_is_itself_and_its_tenth_and_beyond_the_known_ones_the_last():
    values = pd.Series([str(i) for i in range(100)] + [""])
    encoder = ColumnEncoder.fit(values)
    columns = encoder.encode(values)
    assert columns.shape == (101, 11)
    np.testing.assert_array_equal(columns[:, 1:].sum(axis=1), 1)
    # A missing number counts as the median.
    filled = np.append(np.arange(100.0), 49.5)
    np.testing.assert_allclose(columns[:, 0], (filled - filled.mean()) / filled.std(ddof=1))
    np.testing.assert_array_equal(encoder.encode(pd.Series(["-7", "1e6", "no"])), columns[[0, 99, 100]])


def test_a_category_is_its_frequent_values_and_an_unknown_one_is_none_of_them():
    encoder = ColumnEncoder.fit(pd.Series(["PA"] * 8 + [" ap"] * 6 + ["LAO"] * 4))
    np.testing.assert_array_equal(
        encoder.encode(pd.Series(["AP ", "pa", "LAO", "new", None])).T, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    )


@pytest.mark.parametrize("values", [["x"] * 30, [""] * 30, ["7"] * 30])
def test_a_property_of_one_value_says_nothing(values):
    encoder = ColumnEncoder.fit(pd.Series(values))
    assert encoder.encode(pd.Series(["x", "y", "7"])).shape == (3, 0)


def test_what_is_stored_is_what_decoding_measures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(tmp_path / name)
    seen = acquisition.Acquisitions(tmp_path)
    seen.check(["a.png", "b.jpg"])
    measured = seen.measured().drop(columns=["pixels", "intensity"])
    stored = acquisition.stored(tmp_path, ["a.png", "b.jpg", "gone.png"])
    pd.testing.assert_frame_equal(
        stored.iloc[:2][list(measured)], measured.reset_index(drop=True), check_dtype=False, check_names=False
    )
    assert set(stored) == set(measured) and stored.iloc[2].isna().all()
