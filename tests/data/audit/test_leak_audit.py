"""Leaks in our and in others' splits, and labels that are predicted without the image."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ft.cli.split import main
from cxr_ft.data.audit.leak_audit import audit
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

FILMS = Path(os.environ.get("CXR_FT_REAL_DATA", "no real data here")) / "real_cxr"
LONG = (
    "Heart size is at the upper limit of normal with a tortuous aorta. A {} mm nodule projects over the third rib on "
    "the right. No pleural effusion."
)


def write(folder, **tables):
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        pd.DataFrame(table).to_csv(paths[-1], index=False)
    return paths


def test_planted_leaks_are_counted(tmp_path):
    files = write(
        tmp_path,
        train={"subject_id": [1, 1, 2], "dicom_id": ["a", "b", "c"], "text": ["One two", "x", "y"]},
        test={"subject_id": [2, 3, 2], "dicom_id": ["d", "a", "e"], "text": [" one  TWO", "z", ""]},
    )
    result = audit(files)
    assert result.splits == {"train.csv": 3, "test.csv": 3}
    assert result.compared == ["subject", "image", "text"]
    assert {(leak.kind, leak.count, leak.rows) for leak in result.leaks} == {
        ("subject", 1, 2),
        ("image", 1, 1),
        ("text", 1, 1),
    }
    assert not result.clean


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_subjects_in_two_splits_are_counted_exactly(tmp_path_factory, left, right):
    result = audit(write(tmp_path_factory.mktemp("a"), a={"subject_id": left}, b={"subject_id": right}))
    both = set(left) & set(right)
    assert [(leak.count, leak.rows) for leak in result.leaks] == (
        [(len(both), sum(one in both for one in right))] if both else []
    )


def test_one_csv_with_a_split_column(tmp_path):
    (file,) = write(tmp_path, all={"patient_id": [1, 2, 2], "split": ["train", "train", "test"]})
    assert [(leak.kind, leak.left, leak.right) for leak in audit([file]).leaks] == [("subject", "test", "train")]


def test_clean_is_clean_and_blanks_are_no_leak(tmp_path):
    result = audit(write(tmp_path, a={"subject_id": [1, None]}, b={"subject_id": [2, None]}))
    assert result.leaks == [] and result.clean


def test_the_natural_test_set_may_share_with_test(tmp_path):
    files = write(
        tmp_path,
        test={"subject_id": [1], "split": ["test"]},
        natural={"subject_id": [1], "split": ["test_natural"]},
        train={"subject_id": [2], "split": ["train"]},
    )
    assert audit(files).leaks == []


def test_an_image_within_a_study_is_found(tmp_path):
    files = write(tmp_path, a={"dicom_id": ["x|y", "z"]}, b={"dicom_id": ["y", "w|v"]})
    assert [(leak.kind, leak.count, leak.rows) for leak in audit(files).leaks] == [("image", 1, 1)]


def test_nearly_the_same_text_is_found(tmp_path):
    files = write(
        tmp_path,
        train={"subject_id": [1, 2], "findings": [LONG.format(7), "Lungs are clear."]},
        test={"subject_id": [3, 4], "findings": [LONG.format(9).upper(), "Something else is here, and not there."]},
    )
    assert [(leak.kind, leak.count) for leak in audit(files).leaks] == [("near-identical text", 1)]


def test_stock_sentences_of_several_subjects_are_no_leak(tmp_path):
    stock = "Lungs are clear. No effusion."
    tables = {
        "train": {"subject_id": [1, 2], "findings": [stock, "No effusion. Lungs are clear."]},
        "test": {"subject_id": [3], "findings": [stock]},
    }
    assert audit(write(tmp_path, **tables)).leaks == []
    for table in tables.values():  # where nobody knows who they are about, the same text is the same text
        table["id"] = table.pop("subject_id")
    assert [leak.kind for leak in audit(write(tmp_path, **tables)).leaks] == ["text"]


def films(folder, count, seed=0, size=(40, 36)):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{seed}_{i}.png")
    return [f"{folder.name}/{seed}_{i}.png" for i in range(count)]


def test_the_same_pixels_in_another_file_are_found(tmp_path):
    left, right = films(tmp_path / "a", 6), films(tmp_path / "b", 6, seed=1)
    Image.open(tmp_path / left[0]).save(tmp_path / right[3], compress_level=0)
    files = write(tmp_path, train={"path": left}, test={"path": right})
    assert (tmp_path / left[0]).read_bytes() != (tmp_path / right[3]).read_bytes()
    result = audit(files)
    assert [(leak.kind, leak.count) for leak in result.leaks] == [("pixels", 1)] and "pixels" in result.compared
    (tmp_path / "else").mkdir()
    moved = write(tmp_path / "else", train={"path": left}, test={"path": right})
    assert audit(moved).clean and "no image is available" in audit(moved).notes[0]
    assert not audit(moved, root=str(tmp_path)).clean


def test_an_image_that_cannot_be_read_is_noted(tmp_path):
    left, right = films(tmp_path / "a", 3), films(tmp_path / "b", 3, seed=1)
    for path in (left[0], right[0]):
        (tmp_path / path).write_bytes(b"no image")
    result = audit(write(tmp_path, train={"path": left}, test={"path": right}))
    assert "2 of 6 images could not be read" in result.notes and result.leaks == []


def confounded(folder, strength, seed=0):
    """Random films of two classes; the share `strength` of the ill ones are larger."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(120):
        ill = i % 2
        size = (48, 40) if ill and rng.random() < strength else (40, 36)
        (path,) = films(folder / f"c{i}", 1, seed=i, size=size)
        rows.append({"path": f"{path}", "label": ("well", "ill")[ill], "split": ("train", "test")[i % 3 == 0]})
    (file,) = write(folder, all=pd.DataFrame(rows))
    return file


def test_a_confound_is_found_and_named(tmp_path):
    (label,) = audit([confounded(tmp_path, 1.0)]).confounds
    assert label.above_chance and label.label == "well (not ill)" and label.by["size"] > 0.95
    assert label.low <= label.auroc <= label.high and label.shuffled < 0.7
    assert (label.rows, label.positives) == (120, 60)


def test_without_a_confound_none_is_found(tmp_path):
    result = audit([confounded(tmp_path, 0.0)])
    assert result.clean and all(label.low < 0.7 for label in result.confounds)


def test_a_source_column_is_enough(tmp_path):
    rng = np.random.default_rng(0)
    ill = rng.random(200) < 0.5
    table = {
        "subject_id": range(200),
        "Edema": np.where(ill, "1", np.where(rng.random(200) < 0.5, "0", "")),
        "Fracture": np.where(rng.random(200) < 0.4, 1, 0),
        "site": np.where(ill ^ (rng.random(200) < 0.05), "east", "west"),
        "split": np.where(np.arange(200) % 3 == 0, "test", "train"),
    }
    result = audit(write(tmp_path, all=table))
    assert [label.label for label in result.confounds if label.above_chance] == ["Edema"]
    assert [label.label for label in result.confounds] == ["Edema", "Fracture"]


def test_classes_in_folders_of_their_own_are_no_confound(tmp_path):
    rows = [{"path": f"{'ab'[i % 2]}/{i}.png", "label": "ab"[i % 2], "split": "xy"[i % 3 == 0]} for i in range(90)]
    result = audit(write(tmp_path, all=pd.DataFrame(rows)))
    assert result.clean and result.confounds == []


def test_the_command_says_what_it_found_and_leaves_with_1(tmp_path, capsys):
    file = confounded(tmp_path, 1.0)
    assert main(["--audit", str(file)]) == 1
    printed = capsys.readouterr().out
    assert "CONFOUND well (not ill): AUROC" in printed and "no leaks found, 1 label confounded" in printed
    leaky = write(tmp_path, a={"subject_id": [1]}, b={"subject_id": [1]})
    assert main(["--audit", *map(str, leaky)]) == 1
    assert "LEAK subject: 1 in both a.csv and b.csv (1 of 1 rows of b.csv, 100.0 %)" in capsys.readouterr().out
    clean = write(tmp_path, a={"subject_id": [1]}, b={"subject_id": [2]})
    assert main(["--audit", *map(str, clean)]) == 0
    assert main([str(tmp_path), "--out", "x", "--root", "y"]) == 2


@pytest.mark.skipif(not FILMS.exists(), reason="the real films are not here")
def test_the_confound_of_the_real_films_is_found(tmp_path):
    make_splits(str(FILMS), "folder", SplitRequest(per_label=130), tmp_path / "out")
    result = audit([tmp_path / "out" / f"{split}_split.csv" for split in ("train", "val", "test")])
    assert [leak for leak in result.leaks if leak.kind != "pixels"] == []
    (label,) = result.confounds
    assert label.above_chance and label.low > 0.9


def test_a_naive_split_of_the_phantom_leaks(tmp_path):
    tracked = Path(__file__).parents[3] / "data_splits" / "phantom"
    rows = pd.concat(
        [pd.read_csv(tracked / f"{side}_split.csv", dtype="string", nrows=100) for side in ("train", "val", "test")]
    )
    rows["split"] = np.where(np.random.default_rng(0).random(len(rows)) < 0.8, "train", "test")
    (file,) = write(tmp_path, naive=rows)
    assert {leak.kind for leak in audit([file]).leaks} >= {"subject", "study"}


@pytest.mark.parametrize(
    ("tables", "words"),
    [({"a": {"x": [1]}, "b": {"x": [1]}}, "nothing to compare"), ({"a": {"subject_id": [1]}}, "only one split")],
)
def test_what_cannot_be_audited_is_said(tmp_path, tables, words):
    with pytest.raises(UsageError, match=words):
        audit(write(tmp_path, **tables))


def test_a_root_without_the_images_is_said(tmp_path):
    files = write(tmp_path, a={"path": ["x.png"]}, b={"path": ["y.png"]})
    with pytest.raises(UsageError, match="none of the images is there"):
        audit(files, root=str(tmp_path))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv"):
        audit([tmp_path / "none.csv"])


@pytest.mark.parametrize(
    ("left", "right", "shared_subjects"),
    [
        (["10000000", "2"], ["10000000.0", "3.0"], 1),
        (["1"], ["00000001"], 1),
        (["0", "10"], ["000", "100"], 1),
        (["1", "x"], ["01", "y"], 1),
        (["1", ""], ["01", ""], 1),
        (["1.5"], ["1.50"], 0),
    ],
)
def test_whole_numbers_are_the_same_however_written(tmp_path, left, right, shared_subjects):
    files = write(tmp_path, a={"subject_id": left}, b={"subject_id": right})
    assert sum(leak.count for leak in audit(files).leaks) == shared_subjects


def test_each_file_is_compared_by_its_own_column(tmp_path):
    files = write(
        tmp_path,
        a={"patient_id": ["7", "8"], "path": ["a.png", "b.png"]},
        b={"subject_id": ["8", "9"], "path": ["c.png", "d.png"], "study_id": ["s", "t"]},
    )
    result = audit(files)
    assert [(leak.kind, leak.count) for leak in result.leaks] == [("subject", 1)]
    assert any("a.csv: patient_id, b.csv: subject_id" in note for note in result.notes)
    assert any("study is not compared: a.csv has no column" in note for note in result.notes)


@pytest.mark.parametrize("bad", [0, 1])
def test_the_file_that_has_nothing_to_compare_is_named(tmp_path, bad):
    files = write(tmp_path, a={"subject_id": [1]}, b={"subject_id": [2]})
    files[bad].write_text("subject_id;path\n1;a.png\n")
    with pytest.raises(UsageError, match=rf"{files[bad].name}: nothing to compare \(.*separated by ;") as caught:
        audit(files)
    assert "\n" not in str(caught.value)


def test_files_with_nothing_in_common_are_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"nothing to compare; subject is not compared: b\.csv"):
        audit(write(tmp_path, a={"subject_id": [1]}, b={"study_id": [2]}))


@pytest.mark.parametrize("index", [False, True])
def test_parquet_is_read_too(tmp_path, index):
    left, right = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for file, ids in ((left, [1, 2]), (right, [2.0, np.nan])):
        table = pd.DataFrame({"subject_id": ids, "x": "y"})
        (table.set_index("subject_id") if index else table).to_parquet(file)
    assert [(leak.kind, leak.count) for leak in audit([left, right]).leaks] == [("subject", 1)]
