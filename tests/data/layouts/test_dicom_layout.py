"""The layout of DICOM files: ids and views from headers, and nothing of a patient in the table."""

import json
import shutil
from pathlib import Path

import pytest
from layout_checks import one_line
from pydicom import dcmread

from cxr_ft.data.layouts import dicom
from cxr_ft.errors import UsageError


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
    records = dicom.records(str(archive))
    headers = {str(f.relative_to(archive)): dcmread(f) for f in archive.rglob("*.dcm")}
    assert set(records.table["path"]) == set(headers)
    patients = records.table["path"].map(lambda path: headers[path].PatientID)
    assert (records.table.groupby(patients)["subject_id"].nunique() == 1).all()
    assert records.table["subject_id"].nunique() == patients.nunique()
    assert set(records.table["sex"]) == {"M", "F"} and set(records.table["age"]) == {"50-59"}
    assert records.card.labels == ("Edema", "Nodule") and set(records.table["view"]) <= {"PA", "AP", "LATERAL", ""}


def test_no_identifying_value_is_in_the_table(archive, config):
    records = dicom.records(str(archive))
    text = records.table.drop(columns="path").to_csv() + json.dumps(records.notes) + json.dumps(records.card.to_json())
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
    records = dicom.records(str(small))
    subject = records.table.set_index("path")["subject_id"]
    assert subject["film0"] == subject["film1"] != subject["film2"]
    assert subject["film2"] == subject["film3"] == subject["film4"]
    assert any("2 files name no patient" in note for note in records.notes)


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
    records = dicom.records(str(small))
    assert list(records.table["path"]) == ["film0", "film1"]
    for note in ("1 of 8 files are no DICOM", "1 files are copies", "1 of 3 rows", "4 of 6 DICOM files have no row"):
        assert any(note in line for line in records.notes), note


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
