"""The layouts of CheXpert, ChestX-ray14 and Open-I on their published formats, and on what users do to them."""

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout_checks import one_line
from real_data import REAL

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import chexpert, nih, openi
from cxr_ft.data.splits import request
from cxr_ft.errors import UsageError

# --- CheXpert


@pytest.fixture
def chexpert_folder(tmp_path):
    return Path(chexpert.demo(tmp_path))


def test_chexpert_rows(chexpert_folder):
    records = chexpert.records(str(chexpert_folder))
    raw = pd.concat([pd.read_csv(chexpert_folder / f"{name}.csv") for name in ("train", "valid")], ignore_index=True)
    values = records.table[list(CHEXPERT_14)].to_numpy()
    np.testing.assert_array_equal(values, raw[list(CHEXPERT_14)].to_numpy(dtype=float))
    first = records.table.iloc[0]
    assert first["path"] == "train/patient00001/study1/view1_frontal.jpg"
    assert (first["subject_id"], first["study_id"]) == ("patient00001", "patient00001/study1")
    assert records.table["view"].value_counts().to_dict() == {"AP": 35, "LATERAL": 35}
    assert records.table["official"].value_counts().to_dict() == {"train": 60, "val": 10}
    assert first["sex"] == "M" and first["age"] == "1" and records.card.sensitivity == "credentialed"


@pytest.mark.parametrize("how", ["renamed", "table", "parent", "gzipped"])
def test_chexpert_wherever_it_lies(chexpert_folder, how):
    source = chexpert_folder
    if how == "renamed":
        source = chexpert_folder.rename(chexpert_folder.parent / "mine")
    elif how == "table":
        source = chexpert_folder / "train.csv"
    elif how == "parent":
        shutil.move(chexpert_folder / "train.csv", source := chexpert_folder.parent / "train.csv")
    else:
        raw = (source / "train.csv").read_bytes()
        (source / "train.csv").unlink()
        (source / "train.csv.gz").write_bytes(gzip.compress(raw))
    records = chexpert.records(str(source))
    assert all((Path(records.root) / path).is_file() for path in records.table["path"])


def test_chexpert_without_demographics_as_its_test_table_comes(chexpert_folder):
    raw = pd.read_csv(chexpert_folder / "valid.csv").drop(columns=["Sex", "Age", "Frontal/Lateral", "AP/PA"])
    raw["Path"] = raw["Path"].str.replace("CheXpert-v1.0-small/valid", "test")
    raw.to_csv(chexpert_folder / "test.csv", index=False)
    table = chexpert.records(str(chexpert_folder / "test.csv")).table
    assert set(table["view"]) == {"FRONTAL", "LATERAL"} and set(table["official"]) == {"test"} and "sex" not in table


def test_frontal_images_of_unknown_projection_are_frontal(chexpert_folder):
    """Some rows without AP/PA lose neither their image nor its place before the lateral one of its study."""
    raw = pd.read_csv(chexpert_folder / "train.csv")
    raw.loc[::4, "AP/PA"] = None
    raw.to_csv(chexpert_folder / "train.csv", index=False)
    records = chexpert.records(str(chexpert_folder / "train.csv"))
    assert set(records.table["view"]) == {"AP", "FRONTAL", "LATERAL"}
    rows = request.eligible(records.table, records, request.SplitRequest(per_label=1), [])
    assert set(rows["view"]) == {"AP", "FRONTAL"} and len(rows) == (raw["Frontal/Lateral"] == "Frontal").sum()
    assert set(request.join_studies(records.table)["view"]) == {"AP|LATERAL", "FRONTAL|LATERAL"}


def test_chexpert_errors(chexpert_folder, tmp_path):
    with pytest.raises(UsageError) as caught:
        chexpert.records(str(tmp_path))
    one_line(caught, "no train.csv")
    text = (chexpert_folder / "train.csv").read_text()
    (chexpert_folder / "train.csv").write_text(text.replace("/patient00003/", "/p3/"))
    with pytest.raises(UsageError) as caught:
        chexpert.records(str(chexpert_folder))
    one_line(caught, "/p3/", "not of the form")
    (chexpert_folder / "train.csv").write_text(text.replace(",1.0,", ",2.0,", 1))
    with pytest.raises(UsageError) as caught:
        chexpert.records(str(chexpert_folder))
    one_line(caught, "is 2 in 1 rows")


# --- NIH


@pytest.fixture
def nih_folder(tmp_path):
    return Path(nih.demo(tmp_path))


def test_nih_rows(nih_folder):
    records = nih.records(str(nih_folder))
    raw = pd.read_csv(nih_folder / "Data_Entry_2017.csv", dtype=str)
    for row, raw_row in zip(records.table.to_dict("records"), raw.to_dict("records"), strict=True):
        assert {label for label in records.card.labels if row[label]} == set(raw_row["Finding Labels"].split("|"))
        assert row["subject_id"] == f"{int(raw_row['Patient ID']):08}"
        assert row["age"] == str(int(raw_row["Patient Age"][:3]))
        assert (nih_folder / row["path"]).is_file()
    assert records.card.sensitivity == "public" and len(records.card.labels) == 15


def test_nih_in_one_folder_and_with_its_own_split(nih_folder):
    (nih_folder / "images").mkdir()
    for image in nih_folder.rglob("*.png"):
        image.rename(nih_folder / "images" / image.name)
    for part in nih_folder.glob("images_*"):
        shutil.rmtree(part)
    names = sorted(image.name for image in (nih_folder / "images").iterdir())
    (nih_folder / "train_val_list.txt").write_text("\n".join(names[:40]) + "\n")
    (nih_folder / "test_list.txt").write_text("\n".join(names[40:]))
    table = nih.records(str(nih_folder)).table
    assert all((nih_folder / path).is_file() for path in table["path"])
    assert table["official"].value_counts().to_dict() == {"train": 40, "test": 20}


def test_nih_unknown_label(nih_folder):
    file = nih_folder / "Data_Entry_2017.csv"
    file.write_text(file.read_text().replace("Hernia", "Hernias"))
    with pytest.raises(UsageError) as caught:
        nih.records(str(file))
    one_line(caught, "Hernias", "did you mean 'Hernia'")


def test_nih_label_that_is_blank_is_unknown(nih_folder):
    file = nih_folder / "Data_Entry_2017.csv"
    file.write_text(file.read_text().replace("_000.png,No Finding,", "_000.png,,"))
    table = nih.records(str(file)).table
    blank = table[list(nih.CARD.labels)].isna()
    assert blank.any(axis=None) and (blank.all(axis=1) == blank.any(axis=1)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_real_nih_table():
    """Counts as published: Wang et al., table 1 of the extended version."""
    table = nih.records(str(REAL / "nih_data_entry_2017.csv.gz")).table
    assert len(table) == 112_120 and table["subject_id"].nunique() == 30_805
    assert table["Hernia"].sum() == 227 and table["Infiltration"].sum() == 19_894
    assert table["No Finding"].sum() == 60_361 and set(table["view"]) == {"PA", "AP"}


# --- Open-I


def test_openi_rows(tmp_path):
    root = openi.demo(tmp_path)
    records = openi.records(root)
    assert len(records.table) == 60 and records.table["study_id"].nunique() == 30
    first = records.table.iloc[0]
    assert first["findings"] == "Film 1." and first["impression"] == "As above."
    assert (records.table[list(openi.HEADINGS)].any(axis=1) != (records.table["normal"] == 1)).all()
    assert any("names no patients" in note for note in records.notes) and any("views" in note for note in records.notes)


def test_openi_views_where_they_are_known(tmp_path):
    root = Path(openi.demo(tmp_path))
    images = openi.records(str(root)).table["dicom_id"]
    views = ["LL" if name.endswith("2001") else "PA" for name in images]
    pd.DataFrame({"imageid": images, "View Position": views}).to_csv(root / "nlmcxr_dicom_metadata.csv.gz", index=False)
    records = openi.records(str(root))
    assert records.table["view"].value_counts().to_dict() == {"PA": 30, "LATERAL": 30}
    assert not any("views" in note for note in records.notes)


def test_openi_reports_without_headings_images_or_text(tmp_path):
    root = Path(openi.demo(tmp_path))
    reports = root / "ecgen-radiology"
    text = (reports / "1.xml").read_text()
    (reports / "1.xml").write_text(re.sub("<MeSH>.*</MeSH>", "<MeSH><major>No Indexing</major></MeSH>", text))
    (reports / "2.xml").write_text(re.sub("<parentImage.*</parentImage>", "", (reports / "2.xml").read_text()))
    (reports / "3.xml").write_text(re.sub("<Abstract>.*</Abstract>", "", (reports / "3.xml").read_text()))
    records = openi.records(str(root))
    assert not set(records.table["subject_id"]) & {"CXR1", "CXR2"}
    assert (records.table.loc[records.table["subject_id"] == "CXR3", "findings"] == "").all()
    assert any("2 images of reports without MeSH" in note for note in records.notes)


@pytest.mark.parametrize(("text", "why"), [("<a", "no XML"), ("<a/>", "no report of Open-I"), ("", "no XML")])
def test_openi_spoilt_report(tmp_path, text, why):
    root = Path(openi.demo(tmp_path))
    (root / "ecgen-radiology" / "4.xml").write_text(text)
    with pytest.raises(UsageError) as caught:
        openi.records(str(root))
    one_line(caught, "4.xml", why)
