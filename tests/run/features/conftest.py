"""One tiny data set and model for all tests of stored features, and a cache folder for each test."""

import pytest
from accelerate.state import AcceleratorState

from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model.bases import git


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Write `splits` of a tiny folder and a `tiny` pretrained model, and return their folder."""
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    tiny = git.tiny()
    tiny.save(place / "tiny", tiny.lm)
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
