"""Read any table of texts and their labels: CSV, TSV, Parquet, DuckDB, BigQuery, or a data set of the hub.

SOURCE is the table, with columns of known names, whatever their case, or a map of its columns in YAML (see `table`):

    table: reviews.csv             # beside the map, or a URL
    columns:                       # our name: the table's. Only text is needed
      text: "{Title}: {Body}"      # a column, or a pattern of columns
      text_pair: Answer            # also: subject_id, study_id, dicom_id (the row's own id), split, sex, age
      label: Stars                 # one class a text; or leave it out and list
    labels: [Rude, Funny]          # columns of 1, 0, -1 or nothing
    card: {name: my texts, sensitivity: public}

Without a map: `text` (or sentence, review, ...), `text_pair`, `subject_id`, `split` and either `label` (or sentiment,
category, ...) or columns that hold only 1, 0, -1 or nothing, each a label.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _label_lists, _rows, _texts, table
from cxr_ft.data.layouts.folder import SUBJECT_NAMES, label_columns
from cxr_ft.data.records import IDS, OPTIONAL, Records
from cxr_ft.data.sources import locations
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="texts",
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="credentialed",
    source="the user's own table",
    terms="unknown, so treated as credentialed: texts stay out of pages and trackers unless asked",
)
COLUMNS = {
    "text": ("text", "sentence", "review", "tweet", "report", "resume", "content", "premise", "sentence1"),
    "text_pair": ("text_pair", "sentence2", "hypothesis"),
    "label": ("label", "sentiment", "category", "class", "target"),
    "subject_id": SUBJECT_NAMES,
    "study_id": ("study_id",),
    "dicom_id": ("dicom_id", "text_id"),
    "split": ("split",),
    "sex": ("sex", "gender"),
    "age": ("age",),
}
#: What a map may name.
MAPPED = (*IDS, "text", "text_pair", "split", *OPTIONAL, "label")


def records(source: str) -> Records:
    """Return the records of a table of texts.

    Raises:
        UsageError: where it cannot be read, or has no column of texts or of labels.
    """
    where = locations.normalized(source)
    if where.lower().endswith((".yaml", ".yml")):
        rows, labels, card, where, _ = table.mapped(where, "", "text", MAPPED, CARD)
    else:
        rows, labels, card = (*_known(_texts.anything(where), where), CARD)
    notes = [hint] if "label" in rows and (hint := _label_lists.hint(rows["label"])) else []
    # An empty cell is no class; ids that are 12.0 in one source and 12 in another are one.
    for name in (name for name in (*IDS, "label") if name in rows):
        rows[name] = _rows.classes(rows[name].replace("", None)) if name == "label" else _rows.whole(rows[name])
    if labels:
        card = dataclasses.replace(card, multi_label=True, labels=labels)
        rows = rows.assign(**{name: _numbers(rows[name], name, where) for name in labels})
    return _texts.assemble(rows, where, card, notes)


def demo(folder: Path) -> str:
    """Return a tiny table for tests; the source to give to `records`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'"Ticket {i}: the {word}, again",{topic}' for i in range(24) for topic, word in WORDS]
    (folder / "tickets.csv").write_text("\n".join(["Text,Category", *rows]) + "\n")
    return str(folder / "tickets.csv")


WORDS = (("printer", "paper is stuck"), ("network", "line is dead"))


def _numbers(column: "pd.Series[str]", name: str, where: str) -> "pd.Series[float]":
    numbers = _rows.numbers(column)
    if len(words := column[numbers.isna() & column.notna()]):
        raise UsageError(f"{where}: label {name!r} is {words.iloc[0]!r} in a row; 1, 0, -1 and nothing are known")
    return numbers


def _known(raw: "pd.DataFrame", where: str) -> "tuple[pd.DataFrame, tuple[str, ...]]":
    """Return the table's columns by our names, and those that are labels where it has not one class a text."""
    # Reversed, so that of two columns that differ in case alone the first one is taken.
    plain = {str(name).lower(): name for name in reversed(raw.columns)}
    own = {
        plain[column.lower()]: ours
        for ours, known in COLUMNS.items()
        if (column := next((name for name in known if name.lower() in plain), None)) is not None
    }
    rows = raw.rename(columns=own)
    if "text" not in rows:
        present = ", ".join(map(str, raw.columns[:20]))
        raise UsageError(f"{where} has no column text (or {', '.join(COLUMNS['text'][1:])}); it has {present}")
    # One class a text wins; the rest of the table may hold anything.
    if "label" in rows:
        return rows[[name for name in COLUMNS if name in rows]], ()
    labels = tuple(name for name in label_columns(rows) if name not in COLUMNS)
    if not labels:
        raise UsageError(f"{where} has no column label, and none of only 1, 0, -1 or nothing to take for a label")
    return rows, labels
