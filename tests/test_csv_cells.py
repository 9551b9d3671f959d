"""No cell of our CSVs is a formula to a spreadsheet, numbers stay numbers, and every text comes back."""

import csv
import io
import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft import csv_cells
from cxr_ft.data import manifest
from cxr_ft.data.audit import leak_audit
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "- clear",
    "-",
    "＝1",
    "＠x",
    "'=1",
]
PLAIN = ["", "1", "-1", "+2.5", "-.5", "-1e-5", "1.", "clear", "a=b", " =1", "P-1", "'quoted'", "it's", "'"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text_and_comes_back(text):
    cell = csv_cells.escape(text)
    assert cell == f"'{text}" and csv_cells.unescape(cell) == text


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_plain_texts_stay_as_they_are(text):
    assert csv_cells.escape(text) == text == csv_cells.unescape(text)


def test_any_text_comes_back():
    rng = random.Random(0)
    for _ in range(5000):
        text = "".join(rng.choices("'=+-@\t1.e ａ＝", k=rng.randint(0, 6)))
        cell = csv_cells.escape(text)
        assert csv_cells.unescape(cell) == text
        assert cell[:1] not in {*"=+-@\t\r\n＝＋－＠"} or float(cell) is not None, repr(text)


def test_a_table_comes_back_through_a_file_with_its_numbers_and_names():
    table = pd.DataFrame({"=name": ["-1", "- no edema", None], "x": [-1.5, 2.0, None], "n": [-1, 0, 1]})
    text = csv_cells.escape_table(table).to_csv(index=False)
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["'=name", "x", "n"] and [row[0] for row in rows] == ["-1", "'- no edema", ""]
    assert [row[1:] for row in rows] == [["-1.5", "-1"], ["2.0", "0"], ["", "1"]]
    back = csv_cells.unescape_table(pd.read_csv(io.StringIO(text), dtype={"'=name": "string"}))
    pd.testing.assert_frame_equal(back, table.astype({"=name": "string"}))
    assert list(table["=name"][:2]) == ["-1", "- no edema"]  # the caller's own table is left alone


def test_a_row_keeps_its_numbers():
    assert csv_cells.escape_row(["=a", -0.5, None, "b"]) == ["'=a", -0.5, None, "b"]


def cells(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return [cell for row in csv.reader(lines) for cell in row]


def dangerous(file):
    """The cells of a file that a spreadsheet would compute."""
    return [cell for cell in cells(file) if csv_cells.escape(cell) != cell and not cell.startswith("'")]


def test_splits_hold_no_formula_and_read_back(tmp_path):
    names = [f"{sign}{i}.png" for i in range(8) for sign in ("=a", "-b", "@c", "d")]
    for place, name in enumerate(names):
        pixels = np.full((8, 8), place, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    table = pd.DataFrame({"path": names, "subject_id": [f"+{name}" for name in names]})
    table["label"] = ["=clear" if place % 2 else "-opaque" for place in range(len(names))]
    table["findings"] = [f"- no finding {place}" for place in range(len(names))]
    table.to_csv(tmp_path / "table.csv", index=False)
    request = SplitRequest(per_label=8, text="findings", ratios=(50.0, 25.0, 25.0))
    make_splits(str(tmp_path), "folder", request, tmp_path / "splits")
    files = sorted((tmp_path / "splits").glob("*.csv"))
    assert len(files) == 6 and not [cell for file in files for cell in dangerous(file)]
    tables = manifest.read(tmp_path / "splits").tables.values()
    for column, wanted in (
        ("path", set(names)),
        ("label", {"=clear", "-opaque"}),
        ("findings", set(table["findings"])),
    ):
        read = {value for part in tables for value in part[column]}
        assert read <= wanted and (column != "label" or read == wanted), column
    assert not leak_audit.audit([tmp_path / "splits" / f"{split}_split.csv" for split in ("train", "val")]).leaks
