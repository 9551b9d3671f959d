"""Cells that hold several labels: read by a map's separator, and pointed out where a table has no map."""

import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.data.layouts import _label_lists, folder, table
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

CELLS = {
    ";": ["Edema; Effusion", "Edema", " Effusion ;Mass", "Mass"],
    "|": ["Edema|Effusion", "Edema", "Effusion|Mass", "Mass"],
    ",": ["Edema, Effusion", "Edema", "Effusion,Mass,", "Mass"],
    "list": ["['Edema', 'Effusion']", "['Edema']", "['Effusion' 'Mass']", '["Mass"]'],
}
WANTED = pd.DataFrame({"Edema": [1, 1, 0, 0], "Effusion": [1, 0, 1, 0], "Mass": [0, 0, 1, 1]}, dtype=float)


@pytest.mark.parametrize("separator", CELLS)
def test_each_label_becomes_a_column(separator):
    cells = pd.Series(CELLS[separator], dtype="string")
    pd.testing.assert_frame_equal(_label_lists.columns_of(cells, separator, "t.csv"), WANTED)
    assert _label_lists.separator_in(cells) == separator


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("['normal', 'COPD signs']", ["normal", "COPD signs"]),
        ("[]", []),
        ("[Edema, Pleural effusion]", ["Edema", "Pleural effusion"]),
        ('["Kerley\'s lines", \'a "b"\']', ["Kerley's lines", 'a "b"']),
        (" ['Edema' , 'Edema ', ''] ", ["Edema"]),
    ],
)
def test_lists_as_programs_print_them(cell, labels):
    assert _label_lists.labels_of(cell, "list") == labels


def test_any_labels_come_back_from_a_list():
    rng = random.Random(0)
    for _ in range(500):
        labels = ["".join(rng.choices("aÄ 1-/(", k=rng.randint(1, 8))).strip() for _ in range(rng.randint(0, 4))]
        labels = list(dict.fromkeys(filter(None, labels)))
        assert _label_lists.labels_of(repr(labels), "list") == labels


def test_a_cell_without_a_value_has_no_labels_and_an_empty_list_has_none_of_them():
    cells = pd.Series(["['Edema']", None, "[]"], dtype="string")
    assert _label_lists.columns_of(cells, "list", "t.csv")["Edema"].fillna(-9).tolist() == [1, -9, 0]


@pytest.mark.parametrize(
    ("cells", "words"), [(["[Edema]", "Mass"], "row 1: the label is no list"), (["[]"], "no row has a label")]
)
def test_what_is_no_list_is_refused_by_its_row(cells, words):
    with pytest.raises(UsageError, match=words):
        _label_lists.columns_of(pd.Series(cells, dtype="string"), "list", "t.csv")


@pytest.mark.parametrize(
    "cells", [["Edema", "Mass"], ["Mass, left", "Nodule"], ["a;b", "c;d"], ["[x]", "Mass"], ["1.0", "0.0"]]
)
def test_classes_that_hold_one_label_get_no_hint(cells):
    assert _label_lists.separator_in(pd.Series(cells, dtype="string")) == ""
    assert _label_lists.hint(pd.Series(cells, dtype="string")) == ""


def archive(place, cells, **columns):
    for row in range(len(cells)):
        Image.fromarray(np.full((8, 8), row, np.uint8)).save(place / f"{row}.png")
    frame = pd.DataFrame({"path": [f"{row}.png" for row in range(len(cells))], "label": cells, **columns})
    frame.to_csv(place / "films.csv", index=False)
    return place / "films.csv"


def test_a_map_reads_them_and_a_folder_without_one_gives_a_hint(tmp_path):
    file = archive(tmp_path, CELLS[";"] * 5)
    assert any("`separator: ';'`" in note for note in folder.records(str(file)).notes)
    (tmp_path / "films.yaml").write_text("columns: {path: path, label: label}\nseparator: ';'\n")
    records = table.records(str(file))
    assert records.card.labels == ("Edema", "Effusion", "Mass") and records.card.multi_label
    np.testing.assert_array_equal(records.table[list(WANTED)].to_numpy(float), np.tile(WANTED, (5, 1)))
    manifest = make_splits(str(file), "table", SplitRequest(per_label=4, blank="negative"), tmp_path / "out")
    assert manifest["labels"].keys() >= {"Edema", "Effusion", "Mass"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("columns: {path: path}\nlabels: [label]\nseparator: ';'\n", "separator goes with columns"),
        ("columns: {path: path, label: label}\nseparator: 5\n", "write separator as"),
    ],
)
def test_a_separator_that_cannot_be_is_one_line(tmp_path, text, words):
    file = archive(tmp_path, CELLS[";"])
    (tmp_path / "films.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        table.records(str(file))


def test_labels_lose_the_spaces_at_their_ends_and_nothing_else(tmp_path):
    file = archive(tmp_path, ["Normal", "Normal ", "\u00a0Normal", "normal", "Mass", " "] * 4)
    records = folder.records(str(file))
    assert records.card.labels == ("Mass", "Normal", "normal")
    assert any("4 images without a label" in note for note in records.notes)
    manifest = make_splits(str(file), "folder", SplitRequest(per_label=3), tmp_path / "out")
    (note,) = [note for note in manifest["notes"] if "case or spacing" in note]
    assert note.endswith("'Normal' and 'normal'")


def test_two_columns_of_one_label_are_refused(tmp_path):
    file = archive(tmp_path, ["x", "y"])
    frame = pd.read_csv(file).drop(columns="label").assign(**{"Edema": [1, 0], "Edema ": [0, 1]})
    frame.to_csv(file, index=False)
    with pytest.raises(UsageError, match="two columns are the label 'Edema', but for spaces"):
        folder.records(str(file))


def test_columns_that_nobody_asks_for_are_not_read(tmp_path):
    """Bytes that are no text, and two columns of one name, beside a label."""
    archive(tmp_path, ["x", "y"] * 3)
    lines = ["path,label,note,note"] + [f"{row}.png,{'xy'[row % 2]},\udcff,2" for row in range(6)]
    (tmp_path / "films.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    assert len(folder.records(str(tmp_path / "films.csv")).table) == 6


def test_a_column_of_lists_beside_the_labels_is_not_read(tmp_path):
    archive(tmp_path, ["x", "y"] * 3)
    frame = pd.read_csv(tmp_path / "films.csv").drop(columns="label").assign(Edema=[0, 1] * 3)
    frame["boxes"] = [[1, 2]] * 6
    frame["origin"] = [{"site": "a"}] * 6
    (tmp_path / "films.csv").unlink()
    frame.to_parquet(tmp_path / "films.parquet")
    records = folder.records(str(tmp_path / "films.parquet"))
    assert records.card.labels == ("Edema",)
    # Who names it is told why it cannot be had.
    (tmp_path / "films.yaml").write_text("columns: {path: path, label: boxes}\n")
    with pytest.raises(UsageError, match="boxes is of type list"):
        table.records(str(tmp_path / "films.parquet"))
