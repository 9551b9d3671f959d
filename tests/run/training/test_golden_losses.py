"""Each method's losses in a short training are what they were: no change of the optimizer goes unseen."""

import json

import golden
import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("golden")
    golden.make(place)
    return place


@pytest.mark.parametrize("name", golden.METHODS)
def test_the_losses_are_what_they_were(place, tmp_path, name):
    expected = json.loads(golden.FILE.read_text())[name]
    measured = golden.losses(place, name, tmp_path / "run")
    for split in ("train", "val"):
        assert len(expected[split]) == 5
        assert measured[split] == pytest.approx(expected[split], rel=golden.TOLERANCE), split
