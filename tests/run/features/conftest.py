"""One tiny data set and model for all tests of stored features, and a cache folder for each test."""

import pytest
import toy
from accelerate.state import AcceleratorState


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Write `splits` of a tiny folder and a `tiny` pretrained model, and return their folder."""
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    return place


@pytest.fixture(autouse=True)
def any_precision():
    """Forget the precision after each test: accelerate keeps the first one of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own, and return the folder of the features in it."""
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"
