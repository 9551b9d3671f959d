"""The layouts of a user's own table and folder: the map of columns, and its faults."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout_checks import one_line
from PIL import Image

from cxr_ft.data.layouts import folder, table
from cxr_ft.errors import UsageError


@pytest.fixture
def mapped(tmp_path):
    return Path(table.demo(tmp_path))


def test_table_rows(mapped):
    records = table.records(str(mapped))
    raw = pd.read_csv(mapped, dtype=str).fillna("")
    words = {"present": 1.0, "absent": 0.0, "unsure": -1.0}
    for row, raw_row in zip(records.table.to_dict("records"), raw.to_dict("records"), strict=True):
        assert row["path"] == f"{raw_row['File']}.png" and row["subject_id"] == raw_row["Patient"]
        for label, column in (("Edema", "edema_flag"), ("Nodule", "nodule_flag")):
            assert row[label] == words[raw_row[column]] if raw_row[column] else np.isnan(row[label])
    assert records.card.name == "demo" and records.card.sensitivity == "synthetic" and records.card.group == "subject"
    assert table.records(str(mapped.with_suffix(".csv"))).table.equals(records.table)


def test_table_by_its_map_and_as_parquet(mapped):
    map_file = mapped.with_suffix(".yaml")
    raw = pd.read_csv(mapped, dtype=str)
    raw.to_parquet(mapped.with_name("rows.parquet"))
    map_file.write_text("table: rows.parquet\n" + map_file.read_text())
    records = table.records(str(map_file))
    assert records.table.equals(table.records(str(mapped)).table)


def test_table_of_one_class_an_image(mapped):
    mapped.with_suffix(".yaml").write_text('root: png\ncolumns: {path: "{File}.png", label: Projection}\n')
    records = table.records(str(mapped))
    assert records.card.labels == ("LL", "PA") and not records.card.multi_label
    assert records.card.group == "unknown" and records.card.sensitivity == "credentialed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not valid YAML"),
        ("columns: {subject_id: Patient}", "at least"),
        ("- 1", "at least"),
        ("columns: {path: File}", "either labels"),
        ("columns: {path: File, label: Projection}\nlabels: [edema_flag]", "either labels"),
        ("columns: {path: File, lable: Projection}", "did you mean 'label'"),
        ("column: {path: File}\ncolumns: {path: File}", "did you mean 'columns'"),
        ("columns: {path: Fill}\nlabels: [edema_flag]", "no column Fill; it has File, Patient, Projection"),
        ("columns: {path: File}\nlabels: [edema]", "no column edema"),
        ("columns: {path: File}\nlabels: [edema_flag]", "1, 0, -1 and nothing are known"),
        ("columns: {path: File}\nlabels: [edema_flag]\nvalues: {true: 1}", "in quotes"),
        ("columns: {path: File}\nlabels: {age: edema_flag}", "rename it"),
        ("columns: {path: File, label: Projection}\ncard: {sensitivity: secret}", "unknown sensitivity"),
        ("columns: {path: File, label: Projection}\ncard: {licence: x}", "unknown key of card"),
        ("columns: {path: File, label: Projection}\ncard: mine", "must be a map"),
        ("columns: {path: Patient, label: Projection}", "is in two rows"),
        ("columns: {path: File}\nlabels: [[edema_flag], nodule_flag]", "plain names"),
        ("columns: {path: File}\nlabels: [true, nodule_flag]", "plain names"),
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
    records = folder.records(str(tmp_path))
    assert records.table["sex"].fillna("").tolist() == ["F", "M", "", "O"]
    assert records.table["age"].fillna("").tolist() == ["40", "50-59", "", ""]
