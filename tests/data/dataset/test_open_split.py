"""From a folder of splits to what training is shown, by the configuration's own words."""

import numpy as np
import pytest

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import column_of
from cxr_ft.data.dataset.split_dataset import TrainIndex
from cxr_ft.data.layouts import folder
from cxr_ft.data.pixels import cache
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.run.evaluation.run_datasets import build_datasets


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    make_splits(folder.demo(place), "folder", SplitRequest(per_label=12), place / "splits")
    return manifest.read(place / "splits")


def configured(head="classify", options=None, **data):
    return config.resolve({"data": data, "head": {"name": head, **(options or {})}})


def test_weights_and_changed_images_are_for_training_alone(splits):
    data = build_datasets(configured(options={"weights": "balanced"}, augment="mild", flip=True), splits, 32)
    train = data["train"]
    shown = [train[TrainIndex(i, 0)] for i in range(len(train))]
    assert sum(not np.array_equal(one.image, train.images[i]) for i, one in enumerate(shown)) > len(train) // 2
    per_class = sum(one.weights * one.targets for one in shown)
    np.testing.assert_allclose(per_class, len(train) / len(per_class))
    assert all(train[i].weights is None for i in range(len(train)))
    for name in ("val", "test", "test_natural"):
        assert data[name].train_targets is None
        example = data[name][0]
        np.testing.assert_array_equal(example.image, data[name].images[0])


def test_without_options_training_sees_what_metrics_see(splits):
    train = build_datasets(configured(), splits, 32)["train"]
    shown, for_metrics = train[TrainIndex(1, 3)], train[1]
    np.testing.assert_array_equal(shown.image, for_metrics.image)
    np.testing.assert_array_equal(shown.targets, for_metrics.targets)
    assert shown.weights is None


def test_what_the_splits_do_not_have_is_one_line(splits):
    with pytest.raises(UsageError, match=r"data\.uncertain"):
        build_datasets(configured(uncertain=0.5), splits, 32)
    with pytest.raises(UsageError, match=r"data\.curriculum"):
        build_datasets(configured(curriculum=1), splits, 32)


def test_what_changes_the_numbers_changes_the_fingerprint():
    hashes = {"train_split.csv": "0"}
    plain = configured().fingerprint(hashes)
    assert configured(splits="elsewhere", root="moved").fingerprint(hashes) == plain
    options = (
        {"augment": "mild"},
        {"flip": True},
        {"uncertain": 0.5},
        {"curriculum": 1},
        {"image_size": 64},
        {"views": 2},
        {"context": "indication"},
    )
    others = {configured(**one).fingerprint(hashes) for one in options}
    assert len(others) == len(options) and plain not in others


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Studies of the phantom, with all their texts."""
    place = tmp_path_factory.mktemp("studies")
    request = SplitRequest(per_label=4, views="all", unit="study", text="all")
    make_splits("phantom:subjects=24,seed=1,size=32", "mimic_cxr", request, place / "splits")
    return manifest.read(place / "splits")


def test_a_studys_images_come_in_their_order_frontal_and_lateral_first():
    import pandas as pd

    table = pd.DataFrame(
        {
            "path": ["pa|ap|lat", "a1|a2", "one", "p|l1|l2", "x|y|z"],
            "view": ["PA|AP|LATERAL", "AP|AP", "PA", "PA|LATERAL|LATERAL", "lost"],
        }
    )
    two = [["pa", "lat"], ["a1", "a2"], ["one"], ["p", "l1"], ["x", "y"]]
    assert cache.several(table, 2) == two
    assert cache.several(table, 9) == [["pa", "lat", "ap"], *two[1:3], ["p", "l1", "l2"], ["x", "y", "z"]]
    assert [row[0] for row in cache.several(table, 1)] == cache.first(table)


def test_a_row_shows_as_many_images_as_requested_and_as_it_has(studies):
    one, two = (build_datasets(configured(views=views), studies, 32)["train"] for views in (1, 2))
    listed = [str(path).split("|") for path in two.table["path"]]
    assert {len(paths) for paths in listed} == {1, 2}
    alone = cache.cached(cache.source_folder(studies), [path for paths in listed for path in paths], 32)
    pixels = dict(zip((path for paths in listed for path in paths), alone[:], strict=True))
    for i, paths in enumerate(listed):
        assert one[i].further == ()
        assert len(two[i].further) == len(paths) - 1
        for image, path in zip((two[i].image, *two[i].further), paths, strict=True):
            np.testing.assert_array_equal(image, pixels[path])


def test_every_image_of_a_study_is_changed_in_training_each_in_its_own_way(studies):
    train = build_datasets(configured(views=2, augment="mild"), studies, 32)["train"]
    pairs = [i for i in range(len(train)) if train[i].further]
    shown = {i: train[TrainIndex(i, 0)] for i in pairs}
    assert sum(not np.array_equal(shown[i].further[0], train[i].further[0]) for i in pairs) > len(pairs) // 3
    again = train[TrainIndex(pairs[0], 0)]
    np.testing.assert_array_equal(again.further[0], shown[pairs[0]].further[0])
    # Where both were the same film, they would still be changed independently.
    train.side_inputs = type(train.side_inputs)(images=train.images, starts=np.arange(len(train) + 1))
    twice = [train[TrainIndex(i, 0)] for i in range(len(train))]
    assert any(not np.array_equal(one.image, one.further[0]) for one in twice)


def test_rows_of_one_image_stay_so(splits):
    train = build_datasets(configured(views=2), splits, 32)["train"]
    assert all(train[i].further == () for i in range(len(train)))


def test_the_context_is_a_column_and_is_given(studies):
    data = build_datasets(configured("report", context="indication"), studies, 32)
    train = data["train"]
    assert [train[i].given for i in range(len(train))] == train.table["indication"].tolist()
    assert all(" // " in train[i].given and train[i].given not in train[i].text for i in range(len(train)))
    assert train[TrainIndex(0, 0)].given == train[0].given
    both = build_datasets(configured("report", context="indication,findings"), studies, 32)["val"]
    assert both[0].given == f"{both.table['indication'][0]} {both.table['findings'][0]}".strip()
    assert build_datasets(configured("report"), studies, 32)["train"][0].given == ""


@pytest.mark.parametrize(
    ("context", "line"),
    [
        ("history", r"unknown data\.context 'history'.*choose from:.*indication"),
        ("mini_report", r"data\.context: mini_report is what .* learns to write"),
        ("subject_id", r"unknown data\.context 'subject_id'"),
    ],
)
def test_a_context_that_is_none_is_one_line(studies, context, line):
    with pytest.raises(UsageError, match=line) as refused:
        build_datasets(configured("report", context=context), studies, 32)
    assert len(str(refused.value).splitlines()) == 1


def test_splits_without_a_context_say_how_to_get_one(splits):
    with pytest.raises(UsageError, match="--text all"):
        column_of(splits, "indication", None)


def test_only_text_all_keeps_what_stands_beside_a_report(tmp_path):
    for text, there in (("all", True), ("mini_report", False)):
        request = SplitRequest(per_label=3, text=text)
        make_splits("phantom:subjects=24,seed=1,size=32", "mimic_cxr", request, tmp_path / text)
        assert ("indication" in manifest.read(tmp_path / text).tables["train"]) == there
