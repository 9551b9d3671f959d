"""One overlapping toy for all tests of runs."""

import pytest
import toy


@pytest.fixture(scope="session")
def overlapping(tmp_path_factory):
    """A folder with `splits` whose classes overlap and a `tiny` model, as `toy.make` writes them."""
    place = tmp_path_factory.mktemp("overlapping")
    toy.make(place)
    return place
