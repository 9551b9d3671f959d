"""What all layouts have in common: views, ages, the patients' table, and the check of labels."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from real_data import REAL

from cxr_ft.data import records as rec
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import mimic_cxr, mimic_cxr_jpg
from cxr_ft.errors import UsageError

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
    records = mimic_cxr.records(str(root))
    metadata = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str).set_index("dicom_id")
    known = records.table[records.table["subject_id"] != records.table["subject_id"].min()]
    years = known["dicom_id"].map(metadata["StudyDate"]).str[:4].astype(int) - 2180 + 52
    wanted = years.where(years.between(0, 120)).astype("Int64").astype("string")
    assert known["age"].fillna("").tolist() == wanted.fillna("").tolist() and set(known["sex"]) == {"F"}
    rest = records.table.drop(known.index)
    assert rest["sex"].isna().all() and rest["age"].isna().all()
    assert any(f"{len(rest)} of {len(records.table)} images show subjects" in note for note in records.notes)


def test_ones_own_patients_table(tmp_path):
    root = with_patients(tmp_path, lambda ids: "subject_id,sex,age\n" + "".join(f"{i},male,91.0\n" for i in ids))
    table = mimic_cxr.records(str(root)).table
    assert set(table["sex"]) == {"M"} and set(table["age"]) == {"91"}


def test_a_patients_table_that_says_nothing(tmp_path):
    root = with_patients(tmp_path, lambda ids: "subject_id,dod\n" + "".join(f"{i},\n" for i in ids))
    with pytest.raises(UsageError, match="says neither sex nor age"):
        mimic_cxr.records(str(root))


# --- what all have in common


def test_labels_are_checked_whatever_the_layout():
    rows = pd.DataFrame({name: ["a", "b"] for name in rec.COLUMNS}).assign(Edema=[1.0, 0.5])
    with pytest.raises(UsageError, match=r"label 'Edema' is 0\.5 in 1 rows"):
        rec.Records(table=rows, card=DatasetCard(name="x", labels=("Edema",)), root="r")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_views_of_real_headers_are_known():
    real = pd.read_csv(REAL / "openi_dicom_headers.csv.gz", dtype="string", usecols=["View Position"])["View Position"]
    assert set(rec.views(real)) == {"PA", "AP", "LATERAL", "LARGE LATERAL", ""}
