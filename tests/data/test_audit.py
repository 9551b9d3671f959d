"""Leaks in ours and in others' splits."""

import pandas as pd
import pytest

from cxr_ft.data.audit import audit
from cxr_ft.errors import UsageError


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
    sides, compared, leaks = audit(files)
    assert sides == {"train.csv": 3, "test.csv": 3}
    assert compared == ["subject", "image", "text"]
    assert {(leak.what, leak.count, leak.rows) for leak in leaks} == {
        ("subject", 1, 2),
        ("image", 1, 1),
        ("text", 1, 1),
    }


def test_one_csv_with_a_split_column(tmp_path):
    (file,) = write(tmp_path, all={"patient_id": [1, 2, 2], "split": ["train", "train", "test"]})
    _, _, leaks = audit([file])
    assert [(leak.what, leak.left, leak.right) for leak in leaks] == [("subject", "test", "train")]


def test_clean_is_clean_and_blanks_are_no_leak(tmp_path):
    files = write(tmp_path, a={"subject_id": [1, None]}, b={"subject_id": [2, None]})
    assert audit(files)[2] == []


def test_the_natural_test_set_may_share_with_test(tmp_path):
    files = write(
        tmp_path,
        test={"subject_id": [1], "split": ["test"]},
        natural={"subject_id": [1], "split": ["test_natural"]},
        train={"subject_id": [2], "split": ["train"]},
    )
    assert audit(files)[2] == []


@pytest.mark.parametrize(
    ("tables", "words"),
    [({"a": {"x": [1]}, "b": {"x": [1]}}, "nothing to compare"), ({"a": {"subject_id": [1]}}, "only one side")],
)
def test_what_cannot_be_audited_is_said(tmp_path, tables, words):
    with pytest.raises(UsageError, match=words):
        audit(write(tmp_path, **tables))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv"):
        audit([tmp_path / "none.csv"])
