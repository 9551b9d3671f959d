"""From a folder of splits to what training is shown, by the configuration's own words."""

import numpy as np
import pytest

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.batches import Draw
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits import Asked
from cxr_ft.errors import UsageError
from cxr_ft.run.evaluate import data_of


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    manifest.make(folder.demo(place), "folder", Asked(per_label=12), place / "splits")
    return manifest.read(place / "splits")


def configured(head="classify", options=None, **data):
    return config.resolve({"data": data, "head": {"name": head, **(options or {})}})


def test_weights_and_changed_images_are_for_training_alone(splits):
    data = data_of(configured(options={"weights": "balanced"}, augment="mild", flip=True), splits, 32)
    train = data["train"]
    shown = [train[Draw(i, 0)] for i in range(len(train))]
    assert sum(not np.array_equal(one.image, train.images[i]) for i, one in enumerate(shown)) > len(train) // 2
    per_class = sum(one.weights * one.targets for one in shown)
    np.testing.assert_allclose(per_class, len(train) / len(per_class))
    assert all(train[i].weights is None for i in range(len(train)))
    for side in ("val", "test", "test_natural"):
        assert data[side].learnt is None
        example = data[side][0]
        np.testing.assert_array_equal(example.image, data[side].images[0])


def test_without_options_training_is_shown_what_is_judged(splits):
    train = data_of(configured(), splits, 32)["train"]
    shown, judged = train[Draw(1, 3)], train[1]
    np.testing.assert_array_equal(shown.image, judged.image)
    np.testing.assert_array_equal(shown.targets, judged.targets)
    assert shown.weights is None


def test_what_the_splits_do_not_have_is_one_line(splits):
    with pytest.raises(UsageError, match=r"data\.uncertain"):
        data_of(configured(uncertain=0.5), splits, 32)
    with pytest.raises(UsageError, match=r"data\.curriculum"):
        data_of(configured(curriculum=1), splits, 32)


def test_what_changes_the_numbers_changes_the_fingerprint():
    hashes = {"train_split.csv": "0"}
    plain = configured().fingerprint(hashes)
    assert configured(splits="elsewhere", root="moved").fingerprint(hashes) == plain
    options = ({"augment": "mild"}, {"flip": True}, {"uncertain": 0.5}, {"curriculum": 1}, {"image_size": 64})
    others = {configured(**one).fingerprint(hashes) for one in options}
    assert len(others) == len(options) and plain not in others
