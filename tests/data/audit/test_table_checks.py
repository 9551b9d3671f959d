"""Labels, copies, an official split, and numbers of subjects: what tables of splits say of themselves."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.cli.split import main
from cxr_ft.data.audit import table_checks
from cxr_ft.data.audit.leak_audit import audit
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

SECRETS = ("pat_", "img_", "Mrs. Valdivieso")


def write(folder, **tables):
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        pd.DataFrame(table).to_csv(paths[-1], index=False)
    return paths


def found(files, kind):
    return [finding for finding in audit(files).findings if finding.kind == kind]


def rows(start, many, **columns):
    """Return a table of as many rows, each of a subject and an image of its own."""
    ids = range(start, start + many)
    return {"subject_id": [f"pat_{i}" for i in ids], "dicom_id": [f"img_{i}" for i in ids], **columns}


def flags(many, positive):
    return [1.0] * positive + [""] * (many - positive)


def mimic(folder):
    """Two tables as the study of GIT on MIMIC-CXR has them: a column split of the release, subjects in both."""
    val = rows(0, 120, Edema=flags(120, 15), Support_Devices=flags(120, 110), split=["train"] * 118 + ["test"] * 2)
    test = rows(80, 120, Edema=flags(120, 3), Support_Devices=flags(120, 112), split=["train"] * 117 + ["validate"] * 3)
    test["dicom_id"] = [f"img_test_{i}" for i in range(120)]
    return write(folder, val_split=val, test_split=test)


def resumes(folder):
    """Three tables as the study of resumes has them: texts in several splits and rows, a class that test lacks."""
    texts = [f"Mrs. Valdivieso wrote the resume of number {i} about quite another trade than others" for i in range(30)]
    classes = ["Arts", "HR", "PMO"]
    train = {"text": texts + texts[:9], "label": [classes[i % 3] for i in [*range(30), *range(9)]]}
    test = {
        "text": [texts[i] for i in range(30) if i % 3 < 2],
        "label": [classes[i % 3] for i in range(30) if i % 3 < 2],
    }
    return write(folder, train=train, test=test)


def test_the_release_split_that_disagrees_is_found(tmp_path):
    files = mimic(tmp_path)
    val, test = found(files, "SPLIT")
    assert (val.count, test.count) == (120, 120) and val.example == "row 1 of val_split.csv"
    assert "120 of 120 rows of test_split.csv are of another split by its column split (train 117, val 3)" in str(test)


def test_an_own_split_that_agrees_is_no_finding(tmp_path):
    parts = {f"{name}_split": rows(100 * i, 5, split=[name] * 5) for i, name in enumerate(("train", "val", "test"))}
    assert found(write(tmp_path, **parts), "SPLIT") == []
    del parts["train_split"]
    parts["test_split"]["split"] = ["train"] * 5
    (finding,) = found(write(tmp_path, **parts), "SPLIT")
    assert finding.count == 5


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("train.csv", "train"), ("val_split.csv", "val"), ("validate", "val"), ("dev", "val")),
        *(("Test-2.csv", "test"), ("trainval.csv", "train"), ("latest.csv", None), ("train_test.csv", None)),
    ],
)
def test_the_split_that_a_name_says(name, role):
    assert table_checks.role(name) == role


def test_unbalanced_and_rare_labels_are_found(tmp_path):
    files = mimic(tmp_path)
    (balance,) = found(files, "BALANCE")
    assert "from 18 (Edema) to 222 (Support_Devices) positive rows, 12.3 to 1" in str(balance)
    (few,) = found(files, "FEW")
    assert "fewer than 10 positive subjects of a label in test_split.csv: Edema 3" in str(few)
    assert audit(files).counts["Edema"] == {"val_split.csv": 15, "test_split.csv": 3}


def test_subjects_and_not_rows_are_counted(tmp_path):
    table = rows(100, 30, Edema=flags(30, 20))
    table["subject_id"] = [f"pat_{100 + i % 7}" for i in range(30)]
    files = write(tmp_path, train=rows(0, 30, Edema=flags(30, 12)), test=table)
    (few,) = found(files, "FEW")
    assert "Edema 7" in str(few)


def test_a_study_of_texts_is_seen_through(tmp_path):
    files = resumes(tmp_path)
    report = audit(files)
    assert [(leak.kind, leak.count, leak.rows) for leak in report.leaks][:1] == [("text", 20, 20)]
    assert report.leaks[0].example == "row 1 of train.csv and row 1 of test.csv"
    (absent,) = found(files, "BALANCE")
    assert "test.csv has no positive row of PMO" in str(absent)
    (copies,) = found(files, "COPIES")
    assert copies.count == 29 and "30 texts are distinct" in str(copies) and copies.example.startswith("row 1 of train")


def test_one_text_or_image_with_two_labels_is_found(tmp_path):
    texts = write(
        tmp_path, train={"text": ["a b", "c d"], "label": ["x", "y"]}, test={"text": ["A  b"], "label": ["y"]}
    )
    (finding,) = found(texts, "LABELS")
    assert finding.count == 1 and finding.example == "row 1 of train.csv and row 1 of test.csv"
    images = {"train": rows(0, 3, Edema=[1, 0, -1]), "test": rows(2, 2, Edema=[0, 1])}
    (finding,) = found(write(tmp_path, **images), "LABELS")
    assert finding.count == 1 and finding.example == "row 3 of train.csv and row 1 of test.csv"
    # A stock sentence of a report is not what the model reads.
    reports = {"train": rows(0, 2, findings=["clear"] * 2, Edema=[1, 0]), "test": rows(5, 1, findings=["x"], Edema=[0])}
    assert found(write(tmp_path, **reports), "LABELS") == []


def test_the_same_pixels_under_two_names_of_one_split_are_found(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(tmp_path / f"img_{i}.png")
    Image.open(tmp_path / "img_0.png").save(tmp_path / "img_2.png", compress_level=0)
    paths = [f"img_{i}.png" for i in range(6)]
    (copies,) = found(write(tmp_path, train={"path": paths[:3]}, test={"path": ["./img_3.png", *paths[3:]]}), "COPIES")
    # A file listed twice is one file.
    assert copies.count == 1 and copies.example == "row 1 of train.csv and row 3 of train.csv"


def test_splits_of_our_own_are_held_against_their_manifest(tmp_path):
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    table = {"path": [f"films/{i}.png" for i in range(60)], "subject_id": range(60)}
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (20, 18), dtype=np.uint8)).save(tmp_path / "films" / f"{i}.png")
    table |= {"Edema": [i % 2 for i in range(60)], "Fracture": [(i // 2) % 2 for i in range(60)]}
    write(tmp_path, index=table)
    make_splits(str(tmp_path), "folder", SplitRequest(per_label=30, ratios=(50, 25, 25)), tmp_path / "out")
    files = [tmp_path / "out" / f"{name}_split.csv" for name in ("train", "val", "test")]
    assert [finding.kind for finding in audit(files).findings if finding.kind != "FEW"] == []
    changed = pd.read_csv(files[0])
    changed[changed["Edema"] == 0].to_csv(files[0], index=False)
    said = " ".join(map(str, audit(files).findings))
    assert "CHANGED not the files that their manifest certifies: train_split.csv" in said
    assert "BALANCE fewer positive rows than the manifest says: Edema 0 of" in said and "train has no positive" in said


@pytest.mark.parametrize("make", [mimic, resumes])
def test_one_command_finds_it_and_writes_a_page_without_any_row(tmp_path, capsys, make):
    page = tmp_path / "page" / "audit.html"
    page.parent.mkdir()
    assert main(["--audit", *map(str, make(tmp_path)), "--html", str(page)]) == 1
    printed, html = capsys.readouterr().out, page.read_text()
    for kind in re.findall(r"^(LEAK|[A-Z]+(?= [a-z0-9]))", printed, re.MULTILINE):
        assert f'<td class="kind">{kind}</td>' in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "<script" not in html and "http:" not in html and "https:" not in html
    for secret in SECRETS:
        assert secret not in html and secret not in printed


def test_what_comes_from_a_table_stays_text(tmp_path):
    label = "<script>alert(1)</script>"
    table = {label: flags(30, 3), "Edema": flags(30, 25)}
    files = write(tmp_path, train=rows(0, 30, **table), test=rows(50, 30, **table))
    assert main(["--audit", *map(str, files), "--html", str(tmp_path / "a.html")]) == 1
    html = (tmp_path / "a.html").read_text()
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html


def test_free_text_in_the_column_label_is_no_label(tmp_path):
    texts = [f"Mrs. Valdivieso, number {i}, fell from a ladder on the way home and was brought in" for i in range(4)]
    files = write(tmp_path, train=rows(0, 2, label=texts[:2]), test=rows(2, 2, label=texts[2:]))
    assert audit(files).counts == {}
    many = [f"room {i}" for i in range(table_checks.confound_probe.CLASSES + 1)]
    files = write(tmp_path, train=rows(0, len(many), label=many), test=rows(500, 2, label=many[:2]))
    assert audit(files).counts == {}


def test_a_page_without_an_audit_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--out", "x", "--html", "y"]) == 2
    assert "--html needs --audit" in capsys.readouterr().err
