"""PhysioNet's tree, on a phantom archive of the same shape."""

import gzip

import pandas as pd
import pytest

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import mimic_cxr
from cxr_ft.errors import UsageError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    from pathlib import Path

    return Path(mimic_cxr.demo(tmp_path_factory.mktemp("archive")))


@pytest.fixture
def copy(archive, tmp_path):
    """The tables alone, to be spoilt."""
    for table in archive.glob("*.csv.gz"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    return tmp_path


def test_rows_follow_the_tables(archive):
    records = mimic_cxr.records(str(archive))
    metadata = pd.read_csv(archive / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    assert set(records.table["dicom_id"]) == set(metadata["dicom_id"])
    assert records.card.labels == CHEXPERT_14
    assert records.card.sensitivity == "synthetic"
    assert set(records.table["official"]) <= {"train", "val", "test"}
    labels = pd.read_csv(archive / "mimic-cxr-2.0.0-chexpert.csv.gz", dtype={"study_id": str}).set_index("study_id")
    for row in records.table.head(30).to_dict("records"):
        expected = labels.loc[row["study_id"], list(CHEXPERT_14)].astype(float)
        pd.testing.assert_series_equal(expected, pd.Series(row)[list(CHEXPERT_14)].astype(float), check_names=False)


def test_reports_lie_where_the_rows_say(archive):
    records = mimic_cxr.records(str(archive))
    assert all((archive / path).is_file() for path in records.table["report"])


def test_paths_are_derived_where_no_list_is(copy, archive):
    (copy / "cxr-record-list.csv.gz").unlink()
    records = mimic_cxr.records(str(copy))
    assert all((archive / path).is_file() for path in records.table["path"])
    assert any("no folder files/" in note for note in records.notes)


def test_real_ids_are_credentialed(copy):
    """MIMIC's own subjects are numbered below 20000000."""
    for name in ("metadata", "chexpert"):
        path = copy / f"mimic-cxr-2.0.0-{name}.csv.gz"
        table = pd.read_csv(path)
        table.assign(subject_id=table["subject_id"] - 80_000_000).to_csv(path, index=False)
    (copy / "cxr-record-list.csv.gz").unlink()
    records = mimic_cxr.records(str(copy))
    assert records.card.sensitivity == "credentialed" and records.card.name == "MIMIC-CXR"
    assert records.table["path"].str.match(r"files/p10/p100000\d\d/s\d{8}/.*\.dcm").all()


def test_negbio_stands_in_and_says_so(copy):
    (copy / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    assert any("NegBio" in note for note in mimic_cxr.records(str(copy)).notes)


def test_a_missing_table_is_named(copy):
    (copy / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(UsageError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv\.gz"):
        mimic_cxr.records(str(copy))


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"a,b\n1,2\n", mtime=0), gzip.compress(b"", mtime=0)])
def test_a_spoilt_table_is_one_line(copy, content):
    (copy / "mimic-cxr-2.0.0-chexpert.csv.gz").write_bytes(content)
    with pytest.raises(UsageError, match="chexpert") as caught:
        mimic_cxr.records(str(copy))
    assert "\n" not in str(caught.value)


def test_labels_of_another_release_are_noticed(copy):
    path = copy / "mimic-cxr-2.0.0-chexpert.csv.gz"
    table = pd.read_csv(path)
    table.assign(study_id=table["study_id"] + 10**8).to_csv(path, index=False)
    with pytest.raises(UsageError, match="of one release"):
        mimic_cxr.records(str(copy))
