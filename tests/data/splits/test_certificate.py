"""The certificate of compiled splits: it refuses every kind of leak between every two splits, and passes clean ones."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.cli.split import main
from cxr_ft.data.audit import leak_audit, near_texts
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.records import Records
from cxr_ft.data.splits import compiler
from cxr_ft.data.splits.compiler import CompiledSplits
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import OFFICIAL_LEAKS, write_splits
from cxr_ft.errors import LeakError, UsageError

PAIRS = [*combinations(("train", "val", "test"), 2), ("train", "test_natural"), ("val", "test_natural")]
#: What is copied from a row of one split to a row of the other, and the kind of the refusal.
COPIED = {
    "subject": ["subject_id"],
    "study": ["study_id"],
    "image": ["dicom_id"],
    "path": ["path"],
}
LONG = "the heart is large and the aorta is tortuous and a small nodule of {} mm projects over the third rib"


def clean(unit="image"):
    """Four tables of compiled splits that share nothing; the natural test set repeats the rows of test."""
    tables = {}
    for name in ("train", "val", "test"):
        ids = [f"{name}{i}" for i in range(6)]
        table = pd.DataFrame({"subject_id": [f"p{one[:-1]}{i // 2}" for i, one in enumerate(ids)]})
        table = table.assign(study_id=[f"s{one}" for one in ids], dicom_id=[f"d{one}" for one in ids])
        table = table.assign(path=[f"{one}.png" if unit == "image" else "" for one in ids], view="PA", split=name)
        table = table.assign(weight=1.0, A=[float(i % 2) for i in range(6)])
        table = table.assign(text=[f"{name} words of text {one} and no other at all" for one in ids])
        tables[name] = table.astype(dict.fromkeys(("subject_id", "study_id", "dicom_id", "path", "text"), "string"))
    tables["test_natural"] = tables["test"].assign(split="test_natural")
    return tables


def write(tables, out, *, unit="image", official=False):
    """Write tables as if the compiler had made them."""
    card = DatasetCard(name="toy", labels=("A",), unit=unit, group="near-duplicate" if unit == "text" else "subject")
    table = pd.concat([clean(unit)[name] for name in ("train", "val", "test")], ignore_index=True)
    records = Records(table=table.assign(official="", report=""), card=card, root=".")
    selection = {"worst_overshoot": 0.0}
    row = dict.fromkeys(("requested", "available", "target", "achieved"), 9)
    compiled = CompiledSplits(
        tables=tables,
        rejected=[],
        labels={"A": row},
        selection=selection,
        weights={},
        counts={"records": 9, "eligible": 9, "rejected": 0},
        notes=[],
    )
    return write_splits(out, records, "toy", SplitRequest(per_label=9, official=official), compiled)


def refused(tables, out, **options):
    """The refusal; it leaves no file behind and no id of the tables in its one line."""
    with pytest.raises(LeakError) as caught:
        write(tables, out, **options)
    assert not out.exists()
    line = str(caught.value)
    assert "\n" not in line and str(out) in line and "no split file was written" in line
    ids = {one for t in tables.values() for c in ("subject_id", "study_id", "dicom_id") for one in t[c]}
    assert not [one for one in ids if one in line]
    return caught.value


@pytest.mark.parametrize("unit", ["image", "text"])
def test_clean_splits_are_written_and_certified(tmp_path, unit):
    leaks = write(clean(unit), tmp_path / "out", unit=unit)["leaks"]
    last = "path" if unit == "image" else "text"
    assert leaks == dict.fromkeys(("subject", "study", "image", last), 0)
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(("left", "right"), PAIRS)
@pytest.mark.parametrize("what", COPIED)
def test_one_shared_id_is_refused(tmp_path, what, left, right):
    """One subject, study (then under two subjects), image id or image file of one split is in one row of another."""
    tables = clean()
    for column in COPIED[what]:
        tables[right].loc[4, column] = tables[left].loc[1, column]
    error = refused(tables, tmp_path / "out")
    assert (error.kind, error.splits, error.count) == ("image" if what == "path" else what, (left, right), 1)
    assert f"1 {error.kind} would be in both {left} and {right}" in str(error)


@pytest.mark.parametrize(("left", "right"), PAIRS)
@pytest.mark.parametrize("nearly", [False, True])
def test_one_shared_text_is_refused(tmp_path, nearly, left, right):
    tables = clean("text")
    tables[left].loc[1, "text"] = LONG.format(7)
    tables[right].loc[4, "text"] = LONG.format(9 if nearly else 7).upper()
    error = refused(tables, tmp_path / "out", unit="text")
    assert (error.kind, error.splits, error.count) == ("text", (left, right), 1)
    assert f"1 text would be in both {left} and {right}" in str(error)
    assert "nodule" not in str(error)


def test_an_image_inside_a_joined_study_is_refused(tmp_path):
    """A row of a study lists its images with | between them; each of them counts."""
    tables = clean()
    tables["train"].loc[0, "dicom_id"] = "x|y"
    tables["val"].loc[3, "dicom_id"] = "z|y"
    error = refused(tables, tmp_path / "out")
    assert (error.kind, error.splits) == ("image", ("train", "val"))


def test_several_shared_subjects_are_counted(tmp_path):
    tables = clean()
    tables["test"].loc[:3, "subject_id"] = [*tables["val"]["subject_id"].unique()[:2]] * 2
    error = refused(tables, tmp_path / "out")
    assert error.count == 2 and "2 subjects would be in both val and test" in str(error)


def test_ids_that_differ_only_in_case_are_refused_and_explained(tmp_path):
    tables = clean()
    tables["test"].loc[0, "subject_id"] = tables["train"].loc[0, "subject_id"].upper()
    assert "differ only in upper and lower case" in str(refused(tables, tmp_path / "out"))


def test_test_and_its_natural_set_may_share(tmp_path):
    tables = clean()
    tables["test_natural"] = tables["test_natural"].iloc[:3]
    assert set(write(tables, tmp_path / "out")["leaks"].values()) == {0}


def test_an_official_split_is_counted_and_not_refused(tmp_path):
    """What the data's own authors did stays as it is, and the manifest tells of it."""
    tables = clean()
    tables["test"].loc[0, "subject_id"] = tables["train"].loc[0, "subject_id"]
    made = write(tables, tmp_path / "out", official=True)
    assert made["leaks"]["subject"] == 1 and OFFICIAL_LEAKS in made["notes"]


def test_a_refusal_is_bad_input_for_commands():
    assert issubclass(LeakError, UsageError)
    assert "2 studies would" in str(LeakError("study", ("a", "b"), 2, "out"))


# End to end: a fault inside the compiler, seen by who types the command.


def films(folder):
    """Films of 12 patients, two each; each patient has both classes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "patient_id": f"secret{i // 2}", "label": "ab"[i % 2]})
    pd.DataFrame(rows).to_csv(folder / "index.csv", index=False)
    return folder


def split(source, out, *flags):
    return main([str(source), "--per-label", "10", "--text", "none", "--out", str(out), *flags])


@pytest.fixture
def rows_not_subjects(monkeypatch):
    """A compiler that gives each image a split of its own, whoever it shows."""

    def planted():
        monkeypatch.setattr(compiler._Problem, "_assigned", lambda self, selected: np.arange(len(selected)) % 3)

    return planted


def test_a_leaking_compiler_ends_in_one_line_and_no_file(tmp_path, capsys, rows_not_subjects):
    source, out = films(tmp_path / "films"), tmp_path / "out"
    assert split(source, tmp_path / "fine", "--layout", "folder") == 0
    rows_not_subjects()
    capsys.readouterr()
    assert split(source, out, "--layout", "folder") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("cxr-split: error: ")
    assert "subjects would be in both" in printed.err and "secret" not in printed.err
    assert not out.exists() and not [*tmp_path.glob(".*")]


def test_a_leaking_compiler_leaves_the_splits_that_were_there(tmp_path, rows_not_subjects):
    source, out = films(tmp_path / "films"), tmp_path / "out"
    assert split(source, out, "--layout", "folder") == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    rows_not_subjects()
    assert split(source, out, "--layout", "folder", "--seed", "1") == 2
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_texts_grouped_wrongly_end_in_one_line_and_no_file(tmp_path, capsys, monkeypatch):
    """Every text a group of its own, although each is there twice."""
    source, out = tmp_path / "texts.csv", tmp_path / "out"
    rows = [{"text": f"{LONG.format(i % 12)} {i % 12} " * 3, "label": "ab"[i % 2]} for i in range(24)]
    pd.DataFrame(rows).to_csv(source, index=False)
    monkeypatch.setattr(near_texts, "group_names", lambda texts, *_: [f"g{i}" for i in range(len(texts))])
    assert split(source, out, "--layout", "text_table") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and " in both " in printed and "text" in printed and "nodule" not in printed
    assert not out.exists()


# The same pixels in two files are nothing the compiler looks at: the audit of the written files does.


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_the_audit_finds_the_same_pixels_in_two_files(tmp_path, left, right):
    tables = clean()
    rng = np.random.default_rng(0)
    for path in sorted({path for table in tables.values() for path in table["path"]}):
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(tmp_path / path)
    with Image.open(tmp_path / tables[left].loc[1, "path"]) as image:
        image.save(tmp_path / tables[right].loc[4, "path"], compress_level=0)
    files = []
    for name in (left, right):
        files.append(tmp_path / f"{name}.csv")
        tables[name].drop(columns="A").to_csv(files[-1], index=False)
    result = leak_audit.audit(files)
    assert [(leak.kind, leak.left, leak.right, leak.count) for leak in result.leaks] == [("pixels", left, right, 1)]
