"""Writing splits: the files of the contract, certified, the same to the byte each time; bad tables are one line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr_ft.data import manifest
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import DEFAULT_REQUEST, DEFAULT_SOURCE, make_splits
from cxr_ft.errors import UsageError


@pytest.fixture
def made(tmp_path):
    source = folder.demo(tmp_path)
    out = tmp_path / "splits"
    make_splits(source, "folder", SplitRequest(per_label=10), out)
    return source, out


def test_files_of_the_contract(made):
    _, out = made
    names = {"train_split.csv", "val_split.csv", "test_split.csv", "test_natural_split.csv", "sampled_10_per_label.csv"}
    assert {p.name for p in out.iterdir()} == names | {"manifest.json", "rejected.csv"}
    train = pd.read_csv(out / "train_split.csv")
    first = ["subject_id", "study_id", "dicom_id", "path", "view", "split", "weight", "label", "mini_report"]
    assert list(train.columns) == first
    whole = pd.read_csv(out / "sampled_10_per_label.csv")
    assert len(whole) == 20 and set(whole["split"]) == {"train", "val", "test"}
    assert (out / "rejected.csv").read_text() == "path,reason,detail\n"


def test_made_again_it_is_the_same_to_the_byte(made, tmp_path):
    source, out = made
    make_splits(source, "folder", SplitRequest(per_label=10), tmp_path / "again")
    for file in out.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_the_certificate(made):
    _, out = made
    content = json.loads((out / "manifest.json").read_text())
    assert content["leaks"] == {"subject": 0, "study": 0, "image": 0, "path": 0, "pixels": 0}
    assert any("subjects unknown" in note for note in content["notes"])
    assert content["card"]["labels"] == ["clear", "opaque"] and content["card"]["group"] == "unknown"
    splits = manifest.read(out)
    assert {splits.tables[side]["split"].iloc[0] for side in splits.tables} == set(splits.tables)


def test_numbers_are_whole_and_blanks_empty(tmp_path):
    (tmp_path / "a").mkdir()
    from PIL import Image

    rows = []
    for i in range(48):
        Image.new("L", (20, 20), 5 * i + 1).save(tmp_path / "a" / f"{i}.png")
        rows.append(
            {"path": f"a/{i}.png", "patient_id": i // 2, "Edema": [1, 0, -1, None][i % 4], "Fracture": int(i % 3 == 0)}
        )
    pd.DataFrame(rows).astype({"Edema": "Int64"}).to_csv(tmp_path / "labels.csv", index=False)
    make_splits(str(tmp_path), "folder", SplitRequest(per_label=10), tmp_path / "out")
    train = pd.read_csv(tmp_path / "out" / "train_split.csv", dtype=str, keep_default_na=False)
    assert set(train["Edema"]) == {"1", "0", "-1", ""} and set(train["Fracture"]) == {"0", "1"}
    card = manifest.read(tmp_path / "out").card
    assert card.labels == ("Edema", "Fracture") and card.multi_label and card.group == "subject"
    assert card.normal is None


def test_a_bad_image_is_rejected_with_its_reason(tmp_path):
    source = folder.demo(tmp_path)
    bad = tmp_path / "classes" / "clear" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    (tmp_path / "classes" / "opaque" / "zz.dcm").write_text("no image")
    make_splits(source, "folder", SplitRequest(per_label=40), tmp_path / "out")
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert set(rejected["path"]) == {"clear/3.png", "opaque/zz.dcm"}
    assert rejected["reason"].notna().all() and rejected["detail"].notna().all()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["rejected"] == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a,b\n1,2\n", "has no column path"),
        ("path,b\nx.png,hello\n", "no column label"),
        ("path,label\nx.png,a\ny.png,b\n", "none of its 2 paths is a file"),
        ("path,label\nclasses/clear/0.png,a\n", "one class"),
        ("", "cannot be read: No columns"),
        ("path,label\n", "0 of 0 rows"),
        ("path,label\n,a\nclasses/clear/0.png,b\n", "1 of 2 rows have a path missing"),
        ("path,weight\nclasses/clear/0.png,1\nclasses/clear/1.png,0\n", "label 'weight' has the name of a column"),
        (
            "path,findings\nclasses/clear/0.png,1\nclasses/clear/1.png,0\n",
            "no column label, and no column of",
        ),
        ("path,label\nclasses/clear/0.png,a\nclasses/clear/0.png,b\n", "is in two rows"),
        ("path,label,dicom_id\nclasses/clear/0.png,a,\nclasses/clear/1.png,b,x\n", "1 rows have no dicom_id"),
        (
            "path,label,patient_id,study_id\nclasses/clear/0.png,a,1,s\nclasses/clear/1.png,b,2,s\n",
            "study s belongs to two subjects",
        ),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tmp_path, table, words):
    folder.demo(tmp_path)
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UsageError, match=words) as caught:
        folder.records(str(tmp_path / "t.csv"))
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_none_and_a_subject_na(tmp_path):
    folder.demo(tmp_path)
    rows = [f"classes/clear/{i}.png,{['None', 'Mass', ''][i % 3]},{'NA' if i < 4 else i}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    records = folder.records(str(tmp_path / "t.csv"))
    assert records.card.labels == ("Mass", "None")
    assert "NA" in set(records.table["subject_id"])
    assert any("4 images without a label" in note for note in records.notes)


def test_folders_of_splits_are_no_classes(tmp_path):
    folder.demo(tmp_path)
    for name, new in (("clear", "train"), ("opaque", "test")):
        (tmp_path / "classes" / name).rename(tmp_path / "classes" / new)
    with pytest.raises(UsageError, match="are splits, not classes"):
        folder.records(str(tmp_path / "classes"))


def test_a_bar_in_a_file_name_is_refused(tmp_path):
    folder.demo(tmp_path)
    (tmp_path / "classes" / "clear" / "0.png").rename(tmp_path / "classes" / "clear" / "a|b.png")
    with pytest.raises(UsageError, match="a path must not hold"):
        folder.records(str(tmp_path / "classes"))


def test_new_splits_in_the_same_folder_replace_the_old(made):
    source, out = made
    make_splits(source, "folder", SplitRequest(per_label=9), out)
    assert [p.name for p in out.glob("sampled_*")] == ["sampled_9_per_label.csv"]
    manifest.read(out)


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no sub-folders with images"):
        folder.records(str(tmp_path))
    with pytest.raises(UsageError, match="does not exist"):
        folder.records(str(tmp_path / "nothing"))


@pytest.mark.slow
def test_the_tracked_splits_are_those_of_the_default(tmp_path):
    """data_splits/phantom, made again: the same CSVs to the byte (the chart's pixels depend on fonts)."""
    tracked = Path(__file__).parents[3] / "data_splits" / "phantom"
    make_splits(DEFAULT_SOURCE, "mimic_cxr", DEFAULT_REQUEST, tmp_path / "again")
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (tracked / file.name).read_bytes(), file.name
