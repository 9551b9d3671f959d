"""The phantom is known by what it signs, and other data by what its owner declares."""

import json

import pandas as pd
import pytest

from cxr_ft.cli import split as cli
from cxr_ft.data import phantom
from cxr_ft.data.layouts import folder, mimic_cxr
from cxr_ft.data.phantom import signature
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

NAMES = ("subject_id", "study_id", "dicom_id")


def rows(archive):
    table = pd.read_csv(archive / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    return list(zip(*(table[name].tolist() for name in NAMES), strict=True))


def change(archive, **columns):
    """Change columns of both tables that the layout needs; the record list, which is optional, goes."""
    for name in ("metadata", "chexpert"):
        path = archive / f"mimic-cxr-2.0.0-{name}.csv.gz"
        table = pd.read_csv(path, dtype=str)
        table.assign(**{c: change for c, change in columns.items() if c in table}).to_csv(path, index=False)
    (archive / "cxr-record-list.csv.gz").unlink()


@pytest.mark.parametrize("seed", [0, 7, 2_000_000_000])
def test_an_archive_is_known_by_its_rows(tmp_path, seed):
    phantom.make_archive(tmp_path / "a", subjects=5, seed=seed, size=32)
    assert signature.is_signed(rows(tmp_path / "a"), phantom.recorded_seed(str(tmp_path / "a")))
    found = mimic_cxr.records(str(tmp_path / "a")).card
    assert (found.name, found.sensitivity) == ("phantom", "synthetic")
    # Copied tables are enough where the seed is a small one.
    assert signature.is_signed(rows(tmp_path / "a")) == (seed < signature.SEEDS)


def test_one_row_that_is_not_signed_makes_the_whole_another_archive(tmp_path):
    phantom.make_archive(tmp_path / "a", subjects=5, seed=1, size=32)
    signed = rows(tmp_path / "a")
    subject, study, image = signed[-1]
    wrong = (
        (subject, study, image[:-1] + ("0" if image[-1] != "0" else "1")),
        (str(int(subject) + 1), study, image),
        (subject, str(int(study) + 1), image),
        ("P" + subject, study, image),
        ("10000032", "50414267", image),
    )
    assert all(not signature.is_signed([*signed[:-1], row], seed=1) for row in wrong)
    other = signature.dicom_id(2, int(study), 0)
    assert not signature.is_signed([*signed[:-1], (subject, study, other)], seed=1)
    assert not signature.is_signed([])


def test_high_ids_make_no_archive_synthetic(tmp_path):
    """Ids at or above 90000000 once did."""
    phantom.make_archive(tmp_path / "a", subjects=5, seed=1, size=32)
    change(tmp_path / "a", dicom_id=lambda t: [f"hospital-{i}" for i in range(len(t))])
    found = mimic_cxr.records(str(tmp_path / "a"))
    assert (found.table["subject_id"].astype(int) >= 90_000_000).all()
    assert (found.card.name, found.card.sensitivity) == ("MIMIC-CXR", "credentialed")


@pytest.mark.parametrize("declared", [None, "public", "synthetic", "credentialed"])
def test_the_owner_declares_the_sensitivity(tmp_path, declared):
    source = folder.demo(tmp_path)
    made = make_splits(source, "folder", SplitRequest(per_label=6), tmp_path / "out", sensitivity=declared)
    assert made["card"]["sensitivity"] == declared or (
        declared is None and made["card"]["sensitivity"] == "credentialed"
    )
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["card"] == json.loads(json.dumps(made["card"]))


def test_an_unknown_sensitivity_writes_nothing(tmp_path, capsys):
    source, out = folder.demo(tmp_path), tmp_path / "out"
    with pytest.raises(UsageError, match="unknown sensitivity 'secret'"):
        make_splits(source, "folder", SplitRequest(per_label=6), out, sensitivity="secret")
    assert cli.main([source, "--layout", "folder", "--out", str(out), "--sensitivity", "open"]) == 2
    assert "choose from: credentialed, public, synthetic" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "ids", [("9" * 5000, "9" * 5000), ("90000000", "9" * 5000), ("", ""), ("٩٠٠٠٠٠٠٠", "90000000")]
)
def test_ids_that_no_phantom_has_are_not_signed(ids):
    assert not signature.is_signed([(*ids, "0" * 8)])
