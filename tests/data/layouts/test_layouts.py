"""Each layout on its data set's published format, and on what users do to it."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from real_data import REAL

from cxr_ft.data import records as rec
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import chexpert, dicom, folder, mimic_cxr, mimic_cxr_jpg, nih, openi, table
from cxr_ft.errors import UsageError


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in parts), text


# --- MIMIC-CXR-JPG


def test_jpg_is_the_same_data_under_another_name(tmp_path):
    jpg = mimic_cxr_jpg.records(mimic_cxr_jpg.demo(tmp_path)).table
    dcm = mimic_cxr.records(mimic_cxr.demo(tmp_path)).table
    assert jpg["path"].str.match(r"files/p\d\d/p\d{8}/s\d{8}/[^/]+\.jpg$").all()
    pd.testing.assert_frame_equal(jpg.drop(columns="path"), dcm.drop(columns="path"))
    assert (jpg["path"].str[:-4] == dcm["path"].str[:-4]).all()


# --- the patients' table


def with_patients(tmp_path, text):
    root = Path(mimic_cxr.demo(tmp_path))
    subjects = sorted(mimic_cxr.records(str(root)).table["subject_id"].unique())
    (root / "patients.csv.gz").write_bytes(gzip.compress(text(subjects).encode()))
    return root


def test_age_at_the_study_follows_the_anchor(tmp_path):
    head = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
    root = with_patients(tmp_path, lambda ids: head + "".join(f"{i},F,52,2180,2014 - 2016,\n" for i in ids[1:]))
    found = mimic_cxr.records(str(root))
    metadata = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str).set_index("dicom_id")
    known = found.table[found.table["subject_id"] != found.table["subject_id"].min()]
    years = known["dicom_id"].map(metadata["StudyDate"]).str[:4].astype(int) - 2180 + 52
    wanted = years.where(years.between(0, 120)).astype("Int64").astype("string")
    assert known["age"].fillna("").tolist() == wanted.fillna("").tolist() and set(known["sex"]) == {"F"}
    rest = found.table.drop(known.index)
    assert rest["sex"].isna().all() and rest["age"].isna().all()
    assert any(f"{len(rest)} of {len(found.table)} images show subjects" in note for note in found.notes)


def test_ones_own_patients_table(tmp_path):
    root = with_patients(tmp_path, lambda ids: "subject_id,sex,age\n" + "".join(f"{i},male,91.0\n" for i in ids))
    found = mimic_cxr.records(str(root)).table
    assert set(found["sex"]) == {"M"} and set(found["age"]) == {"91"}


def test_a_patients_table_that_says_nothing(tmp_path):
    root = with_patients(tmp_path, lambda ids: "subject_id,dod\n" + "".join(f"{i},\n" for i in ids))
    with pytest.raises(UsageError, match="says neither sex nor age"):
        mimic_cxr.records(str(root))


@settings(deadline=None)
@given(st.integers(0, 120))
def test_ages_in_every_spelling(age):
    said = pd.Series([f"{age}", f"{age:03}Y", f"{age}.0", f" {age}y "], dtype="string")
    assert set(rec.ages(said)) == {str(age)}
    band = rec.bands(said).iloc[0]
    low = int(re.match(r"\d+", band)[0])
    assert low <= age <= low + 9 or (band == "90+" and age >= 90)


def test_ages_that_are_none():
    said = pd.Series(["411Y", "", "old", None, "-3", "010M", "003W", "1e2"], dtype="string")
    assert rec.ages(said).fillna("").tolist() == ["", "", "", "", "", "0", "0", ""]
    assert rec.bands(said).fillna("").tolist() == ["", "", "", "", "", "0-9", "0-9", ""]


# --- CheXpert


@pytest.fixture
def chexpert_folder(tmp_path):
    return Path(chexpert.demo(tmp_path))


def test_chexpert_rows(chexpert_folder):
    found = chexpert.records(str(chexpert_folder))
    raw = pd.concat([pd.read_csv(chexpert_folder / f"{name}.csv") for name in ("train", "valid")], ignore_index=True)
    values = found.table[list(CHEXPERT_14)].to_numpy()
    np.testing.assert_array_equal(values, raw[list(CHEXPERT_14)].to_numpy(dtype=float))
    first = found.table.iloc[0]
    assert first["path"] == "train/patient00001/study1/view1_frontal.jpg"
    assert (first["subject_id"], first["study_id"]) == ("patient00001", "patient00001/study1")
    assert found.table["view"].value_counts().to_dict() == {"AP": 35, "LATERAL": 35}
    assert found.table["official"].value_counts().to_dict() == {"train": 60, "val": 10}
    assert first["sex"] == "M" and first["age"] == "1" and found.card.sensitivity == "credentialed"


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
    found = chexpert.records(str(source))
    assert all((Path(found.root) / path).is_file() for path in found.table["path"])


def test_chexpert_without_demographics_as_its_test_table_comes(chexpert_folder):
    raw = pd.read_csv(chexpert_folder / "valid.csv").drop(columns=["Sex", "Age", "Frontal/Lateral", "AP/PA"])
    raw["Path"] = raw["Path"].str.replace("CheXpert-v1.0-small/valid", "test")
    raw.to_csv(chexpert_folder / "test.csv", index=False)
    found = chexpert.records(str(chexpert_folder / "test.csv")).table
    assert set(found["view"]) == {"FRONTAL", "LATERAL"} and set(found["official"]) == {"test"} and "sex" not in found


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
    found = nih.records(str(nih_folder))
    raw = pd.read_csv(nih_folder / "Data_Entry_2017.csv", dtype=str)
    for row, said in zip(found.table.to_dict("records"), raw.to_dict("records"), strict=True):
        assert {label for label in found.card.labels if row[label]} == set(said["Finding Labels"].split("|"))
        assert row["subject_id"] == f"{int(said['Patient ID']):08}" and row["age"] == str(int(said["Patient Age"][:3]))
        assert (nih_folder / row["path"]).is_file()
    assert found.card.sensitivity == "public" and len(found.card.labels) == 15


def test_nih_in_one_folder_and_with_its_own_split(nih_folder):
    (nih_folder / "images").mkdir()
    for image in nih_folder.rglob("*.png"):
        image.rename(nih_folder / "images" / image.name)
    for part in nih_folder.glob("images_*"):
        shutil.rmtree(part)
    names = sorted(image.name for image in (nih_folder / "images").iterdir())
    (nih_folder / "train_val_list.txt").write_text("\n".join(names[:40]) + "\n")
    (nih_folder / "test_list.txt").write_text("\n".join(names[40:]))
    found = nih.records(str(nih_folder)).table
    assert all((nih_folder / path).is_file() for path in found["path"])
    assert found["official"].value_counts().to_dict() == {"train": 40, "test": 20}


def test_nih_unknown_label(nih_folder):
    file = nih_folder / "Data_Entry_2017.csv"
    file.write_text(file.read_text().replace("Hernia", "Hernias"))
    with pytest.raises(UsageError) as caught:
        nih.records(str(file))
    one_line(caught, "Hernias", "did you mean 'Hernia'")


def test_nih_label_that_is_blank_is_unknown(nih_folder):
    file = nih_folder / "Data_Entry_2017.csv"
    file.write_text(file.read_text().replace("_000.png,No Finding,", "_000.png,,"))
    found = nih.records(str(file)).table
    blank = found[list(nih.CARD.labels)].isna()
    assert blank.any(axis=None) and (blank.all(axis=1) == blank.any(axis=1)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_real_nih_table():
    """Counts as published: Wang et al., table 1 of the extended version."""
    found = nih.records(str(REAL / "nih_data_entry_2017.csv.gz")).table
    assert len(found) == 112_120 and found["subject_id"].nunique() == 30_805
    assert found["Hernia"].sum() == 227 and found["Infiltration"].sum() == 19_894
    assert found["No Finding"].sum() == 60_361 and set(found["view"]) == {"PA", "AP"}


# --- Open-I


def test_openi_rows(tmp_path):
    root = openi.demo(tmp_path)
    found = openi.records(root)
    assert len(found.table) == 60 and found.table["study_id"].nunique() == 30
    first = found.table.iloc[0]
    assert first["findings"] == "Film 1." and first["impression"] == "As above."
    assert (found.table[list(openi.HEADINGS)].any(axis=1) != (found.table["normal"] == 1)).all()
    assert any("names no patients" in note for note in found.notes) and any("views" in note for note in found.notes)


def test_openi_views_where_they_are_known(tmp_path):
    root = Path(openi.demo(tmp_path))
    images = openi.records(str(root)).table["dicom_id"]
    views = ["LL" if name.endswith("2001") else "PA" for name in images]
    pd.DataFrame({"imageid": images, "View Position": views}).to_csv(root / "nlmcxr_dicom_metadata.csv.gz", index=False)
    found = openi.records(str(root))
    assert found.table["view"].value_counts().to_dict() == {"PA": 30, "LATERAL": 30}
    assert not any("views" in note for note in found.notes)


def test_openi_reports_without_headings_images_or_text(tmp_path):
    root = Path(openi.demo(tmp_path))
    reports = root / "ecgen-radiology"
    text = (reports / "1.xml").read_text()
    (reports / "1.xml").write_text(re.sub("<MeSH>.*</MeSH>", "<MeSH><major>No Indexing</major></MeSH>", text))
    (reports / "2.xml").write_text(re.sub("<parentImage.*</parentImage>", "", (reports / "2.xml").read_text()))
    (reports / "3.xml").write_text(re.sub("<Abstract>.*</Abstract>", "", (reports / "3.xml").read_text()))
    found = openi.records(str(root))
    assert not set(found.table["subject_id"]) & {"CXR1", "CXR2"}
    assert (found.table.loc[found.table["subject_id"] == "CXR3", "findings"] == "").all()
    assert any("2 images of reports without MeSH" in note for note in found.notes)


@pytest.mark.parametrize(("text", "why"), [("<a", "no XML"), ("<a/>", "no report of Open-I"), ("", "no XML")])
def test_openi_spoilt_report(tmp_path, text, why):
    root = Path(openi.demo(tmp_path))
    (root / "ecgen-radiology" / "4.xml").write_text(text)
    with pytest.raises(UsageError) as caught:
        openi.records(str(root))
    one_line(caught, "4.xml", why)


# --- DICOM


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        return Path(dicom.demo(tmp_path_factory.mktemp("archive")))


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CXR_FT_KEY", raising=False)
    return tmp_path / "config"


def test_dicom_rows(archive, config):
    found = dicom.records(str(archive))
    headers = {str(f.relative_to(archive)): dcmread(f) for f in archive.rglob("*.dcm")}
    assert set(found.table["path"]) == set(headers)
    patients = found.table["path"].map(lambda path: headers[path].PatientID)
    assert (found.table.groupby(patients)["subject_id"].nunique() == 1).all()
    assert found.table["subject_id"].nunique() == patients.nunique()
    assert set(found.table["sex"]) == {"M", "F"} and set(found.table["age"]) == {"50-59"}
    assert found.card.labels == ("Edema", "Nodule") and set(found.table["view"]) <= {"PA", "AP", "LATERAL", ""}


def test_no_identifying_value_is_in_the_table(archive, config):
    found = dicom.records(str(archive))
    text = found.table.drop(columns="path").to_csv() + json.dumps(found.notes) + json.dumps(found.card.to_json())
    for file in archive.rglob("*.dcm"):
        header = dcmread(file)
        for tag in ("PatientID", "SOPInstanceUID", "StudyInstanceUID", "StudyDate", "StudyTime"):
            assert str(header[tag].value) not in text


def test_names_follow_the_key_alone(archive, config, monkeypatch):
    first, again = (dicom.records(str(archive)).table["subject_id"].tolist() for _ in range(2))
    assert first == again
    key = config / "cxr_ft" / "subject.key"
    assert key.stat().st_mode & 0o077 == 0 and len(key.read_text()) == 64
    key.unlink()
    other = dicom.records(str(archive)).table["subject_id"].tolist()
    assert not set(first) & set(other)
    monkeypatch.setenv("CXR_FT_KEY", "k" * 200)
    assert not {*first, *other} & set(dicom.records(str(archive)).table["subject_id"])


@pytest.fixture
def small(archive, tmp_path):
    """Six of the files under names of their own, to be spoilt."""
    root = tmp_path / "small"
    root.mkdir()
    for number, file in enumerate(sorted(archive.rglob("*.dcm"))[:6]):
        header = dcmread(file)
        header.PatientID, header.StudyInstanceUID = f"ANNA{number}", f"2.25.{number + 1}"
        header.save_as(root / f"film{number}")
    (root / "labels.csv").write_text("file,label\n" + "".join(f"film{i},{'ab'[i % 2]}\n" for i in range(6)))
    return root


def change(file, **values):
    header = dcmread(file)
    for tag, value in values.items():
        setattr(header, tag, value)
    header.save_as(file)


def test_dicom_by_file_name_and_by_path(small, config):
    by_file = dicom.records(str(small))
    assert by_file.card.labels == ("a", "b") and not by_file.card.multi_label and len(by_file.table) == 6
    (small / "labels.csv").write_text((small / "labels.csv").read_text().replace("file,", "path,"))
    assert dicom.records(str(small / "labels.csv")).table.equals(by_file.table)


def test_dicom_patients_who_are_not_named(small, config):
    change(small / "film0", PatientID="", StudyInstanceUID="2.25.9")
    change(small / "film1", PatientID="  ", StudyInstanceUID="2.25.9")
    change(small / "film2", PatientID="", StudyInstanceUID="2.25.4")
    change(small / "film3", PatientID="ANNA3 ", StudyInstanceUID="2.25.4")
    change(small / "film4", PatientID="ANNA3")
    found = dicom.records(str(small))
    subject = found.table.set_index("path")["subject_id"]
    assert subject["film0"] == subject["film1"] != subject["film2"]
    assert subject["film2"] == subject["film3"] == subject["film4"]
    assert any("2 files name no patient" in note for note in found.notes)


def test_dicom_one_study_of_two_patients(small, config):
    change(small / "film1", StudyInstanceUID="2.25.1")
    with pytest.raises(UsageError) as caught:
        dicom.records(str(small))
    one_line(caught, "film0", "two patients")
    assert "ANNA" not in str(caught.value)


def test_dicom_copies_and_other_files(small, config):
    shutil.copy(small / "film0", small / "zcopy")
    (small / "readme.txt").write_text("ANNA0")
    (small / "labels.csv").write_text("file,label\nfilm0,a\nfilm1,b\nfilm9,b\n")
    found = dicom.records(str(small))
    assert list(found.table["path"]) == ["film0", "film1"]
    for note in ("1 of 8 files are no DICOM", "1 files are copies", "1 of 3 rows", "4 of 6 DICOM files have no row"):
        assert any(note in said for said in found.notes), note


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,label\nfilm0,a\n", "no column path or file or SOPInstanceUID"),
        ("file,label\nfilm0,a\nfilm0,b\n", "1 rows have the file of another"),
        ("file,label\nx,a\ny,b\n", "none of its 2 rows"),
        ("file,why\nfilm0,a\n", "no column label"),
        ("SOPInstanceUID,label\nANNA0,a\n", "none of its 1 rows"),
    ],
)
def test_dicom_errors(small, config, text, why):
    (small / "labels.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        dicom.records(str(small))
    one_line(caught, "labels.csv", why)
    assert "ANNA" not in str(caught.value)


def test_dicom_refuses_urls(config):
    with pytest.raises(UsageError, match="reads no URL"):
        dicom.records("gs://bucket/archive")


# --- any table


@pytest.fixture
def mapped(tmp_path):
    return Path(table.demo(tmp_path))


def test_table_rows(mapped):
    found = table.records(str(mapped))
    raw = pd.read_csv(mapped, dtype=str).fillna("")
    words = {"present": 1.0, "absent": 0.0, "unsure": -1.0}
    for row, said in zip(found.table.to_dict("records"), raw.to_dict("records"), strict=True):
        assert row["path"] == f"{said['File']}.png" and row["subject_id"] == said["Patient"]
        for ours, theirs in (("Edema", "edema_flag"), ("Nodule", "nodule_flag")):
            assert row[ours] == words[said[theirs]] if said[theirs] else np.isnan(row[ours])
    assert found.card.name == "demo" and found.card.sensitivity == "synthetic" and found.card.group == "subject"
    assert table.records(str(mapped.with_suffix(".csv"))).table.equals(found.table)


def test_table_by_its_map_and_as_parquet(mapped):
    map_file = mapped.with_suffix(".yaml")
    raw = pd.read_csv(mapped, dtype=str)
    raw.to_parquet(mapped.with_name("rows.parquet"))
    map_file.write_text("table: rows.parquet\n" + map_file.read_text())
    found = table.records(str(map_file))
    assert found.table.equals(table.records(str(mapped)).table)


def test_table_of_one_class_an_image(mapped):
    mapped.with_suffix(".yaml").write_text('root: png\ncolumns: {path: "{File}.png", label: Projection}\n')
    found = table.records(str(mapped))
    assert found.card.labels == ("LL", "PA") and not found.card.multi_label
    assert found.card.group == "unknown" and found.card.sensitivity == "credentialed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no YAML"),
        ("columns: {subject_id: Patient}", "at least"),
        ("- 1", "at least"),
        ("columns: {path: File}", "either labels"),
        ("columns: {path: File, label: Projection}\nlabels: [edema_flag]", "either labels"),
        ("columns: {path: File, lable: Projection}", "did you mean 'label'"),
        ("column: {path: File}\ncolumns: {path: File}", "did you mean 'columns'"),
        ("columns: {path: Fill}\nlabels: [edema_flag]", "no column Fill; it has File, Patient, Projection"),
        ("columns: {path: File}\nlabels: [edema]", "no column edema"),
        ("columns: {path: File}\nlabels: [edema_flag]", "1, 0, -1 and nothing are known"),
        ("columns: {path: File}\nlabels: [edema_flag]\nvalues: {yes: 1}", "in quotes"),
        ("columns: {path: File}\nlabels: {age: edema_flag}", "rename it"),
        ("columns: {path: File, label: Projection}\ncard: {sensitivity: secret}", "unknown sensitivity"),
        ("columns: {path: File, label: Projection}\ncard: {licence: x}", "unknown key of card"),
        ("columns: {path: File, label: Projection}\ncard: mine", "must be a map"),
        ("columns: {path: Patient, label: Projection}", "stands in two rows"),
        ("columns: {path: File}\nlabels: [[edema_flag], nodule_flag]", "plain names"),
        ("columns: {path: File}\nlabels: [yes, nodule_flag]", "plain names"),
        ("columns: {path: File}\nlabels: {Edema: [edema_flag]}", "plain names"),
        ("columns: {path: File}\nlabels: 7", "write labels as"),
        ("columns: {path: File}\nlabels: [edema_flag, edema_flag]", "'edema_flag' twice"),
        ("columns: {path: File}\nlabels: {A: edema_flag, B: edema_flag}", "'edema_flag' twice"),
        ("columns: {path: File}\nlabels: {A: edema_flag, A: nodule_flag}", "'A' twice"),
        ("root:\ncolumns: {path: File}\nlabels: [edema_flag]", "root has no value"),
        ("columns: {path: File, subject_id: }\nlabels: [edema_flag]", "subject_id has no value"),
        ("columns: {path: File}\nlabels:", "labels has no value"),
        ("columns: {path: File, label: Projection}\ncard: {normal: healthy}", "unknown normal label 'healthy'"),
    ],
)
def test_table_errors(mapped, text, why):
    mapped.with_suffix(".yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        table.records(str(mapped))
    one_line(caught, why)


def test_a_table_without_its_map(mapped):
    mapped.with_suffix(".yaml").unlink()
    with pytest.raises(UsageError, match=r"no labels\.yaml or table\.yaml beside it"):
        table.records(str(mapped))
    with pytest.raises(UsageError, match="neither a map"):
        table.records(str(mapped.parent))


# --- folder


def test_folder_of_a_gzipped_table_with_patients(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((40, 36), i, np.uint8)).save(tmp_path / f"{i}.png")
    raw = pd.DataFrame({"path": [f"{i}.png" for i in range(4)], "label": list("abab"), "PatientID": list("wxyz")})
    raw.to_csv(tmp_path / "index.csv.gz", index=False)
    (tmp_path / "patients.csv").write_text("subject_id,sex,age\nw,F,40\nx,M,50-59\ny,,\nz,O,200\n")
    found = folder.records(str(tmp_path))
    assert found.table["sex"].fillna("").tolist() == ["F", "M", "", "O"]
    assert found.table["age"].fillna("").tolist() == ["40", "", "", ""]


# --- what all have in common


def test_labels_are_checked_whatever_the_layout():
    rows = pd.DataFrame({name: ["a", "b"] for name in rec.COLUMNS}).assign(Edema=[1.0, 0.5])
    with pytest.raises(UsageError, match=r"label 'Edema' is 0\.5 in 1 rows"):
        rec.Records(table=rows, card=DatasetCard(name="x", labels=("Edema",)), root="r")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_views_of_real_headers_are_known():
    real = pd.read_csv(REAL / "openi_dicom_headers.csv.gz", dtype="string", usecols=["View Position"])["View Position"]
    assert set(rec.views(real)) == {"PA", "AP", "LATERAL", "LARGE LATERAL", ""}
