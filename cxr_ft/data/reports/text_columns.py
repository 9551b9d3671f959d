"""Make the text columns of the split tables: sections of reports, and mini-reports written from labels.

The wording of the mini-report is ours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import distinct_rows
from cxr_ft.data.records import Records, raw_labels, root_folder
from cxr_ft.data.reports.sections import clean, decoded, mimic_sections, parse, sections
from cxr_ft.data.sources import locations
from cxr_ft.errors import UsageError
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEXTS", "add_texts", "mini_report", "mini_report_of_class", "mini_reports", "sections"]

#: What `--text` may be, and the text columns it makes.
TEXTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "mini_report": ("mini_report",),
    "findings": ("findings",),
    "impression": ("impression",),
    "all": ("mini_report", "findings", "impression"),
}
#: Sections that are known before a report is written, so a model may read them; `--text all` keeps those a table has.
CONTEXTS = ("indication", "history")
#: The mini-report's sentences: one a label that is stated, by its value; one for a normal film; one for a single class.
SENTENCES = {1.0: "There is {}.", 0.0: "No {}.", -1.0: "Possible {}."}
NORMAL, ONE_CLASS = "No acute finding.", "The film shows {}."


def columns(text: str, table: "pd.DataFrame") -> list[str]:
    """Return the text columns that `--text` gives: those requested, and the further sections that `table` has."""
    return [*TEXTS[text], *(name for name in CONTEXTS if text == "all" and name in table)]


def mini_report(values: Mapping[str, float], normal: str | None) -> str:
    """Return a sentence for each stated label (1 present, 0 absent, -1 suspected; NaN is not stated), in their order.

    A film whose `normal` label is 1 begins with one sentence that says so.
    """
    sentences = [NORMAL] if normal and values.get(normal) == 1 else []
    sentences += [SENTENCES[v].format(_words(name)) for name, v in values.items() if v in SENTENCES and name != normal]
    return " ".join(sentences)


def mini_report_of_class(label: str) -> str:
    """Return the mini-report of single-label data."""
    return ONE_CLASS.format(_words(label))


def _words(label: str) -> str:
    """Return a label as words of a sentence: "Pleural_Thickening" is pleural thickening."""
    return " ".join(label.replace("_", " ").lower().split())


def add_texts(table: "pd.DataFrame", records: Records, text: str, notes: list[str]) -> "pd.DataFrame":
    """Return `table` with the sections that `text` requests. Rows whose report has none of them are left out.

    A section that the table has as a column is taken from there; else the reports' files are read.

    Raises:
        UsageError: where a section is requested and the data has no reports.
    """
    parts = [name for name in TEXTS[text] if name != "mini_report"]
    if not parts:
        return table
    wanted = [*parts, *(CONTEXTS if text == "all" else ())]
    # Columns win over files: a database's reports are in its tables, and there are no files to read.
    if all(name in table for name in parts):
        columns = {name: [clean(value) for value in table[name].fillna("")] for name in wanted if name in table}
    else:
        columns = _from_files(table, records, text, wanted)
    table = table.assign(**{name: texts for name, texts in columns.items() if name in parts or any(texts)})
    # One of the sections is enough: many reports have an impression alone.
    has_text = (table[parts] != "").any(axis=1)
    if not has_text.any():
        raise UsageError(
            f"--text {text}: no report of {records.root} could be read and has that section; "
            "use --text mini_report or none"
        )
    if dropped := int((~has_text).sum()):
        notes.append(f"{dropped} images whose report has no {' or '.join(parts)} are left out")
    return table[has_text]


def _from_files(table: "pd.DataFrame", records: Records, text: str, parts: list[str]) -> dict[str, list[str]]:
    root = root_folder(records.root)
    if not (table["report"] != "").any():
        raise UsageError(f"--text {text}: {records.root} has no reports; use --text mini_report or none")
    mimic = records.card.name.startswith("MIMIC-CXR")
    # A report is read once, however many images its study has.
    files = table[["report", "study_id"]].drop_duplicates("report")
    texts_of_file = {
        file: _sections_of(locations.local_copy(root, file), study if mimic else "")
        for file, study in track(zip(*(files[c].tolist() for c in files), strict=True), "reading reports", len(files))
        if file
    }
    return {name: [texts_of_file.get(file, {}).get(name) or "" for file in table["report"].tolist()] for name in parts}


def _sections_of(file: Path, mimic_study: str) -> dict[str, str | None]:
    try:
        report = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        report = file.read_text(encoding="latin-1")  # older archives; every byte is a character in it
    except FileNotFoundError:
        return {}
    return {**(mimic_sections(mimic_study, report) if mimic_study else sections(report)), **contexts(report)}


def contexts(report: str) -> dict[str, str]:
    """Return a report's text for each of CONTEXTS, white space collapsed; the last of a name wins, "" if none."""
    report = decoded(report)
    texts = dict.fromkeys(CONTEXTS, "")
    for section in parse(report):
        if section.name in texts and not section.aside:
            texts[section.name] = clean(report[section.body : section.end]) or texts[section.name]
    return texts


def mini_reports(table: "pd.DataFrame", card: DatasetCard) -> list[str]:
    """Return the mini-report of each row [N] of a table with the card's labels."""
    if not card.multi_label:
        return [mini_report_of_class(label) for label in table["label"].tolist()]
    values = raw_labels(table, card)
    # A row of labels repeats thousands of times: each sentence is made once.
    first, kind = distinct_rows(np.nan_to_num(values, nan=9).astype(np.int64))
    texts = [mini_report(dict(zip(card.labels, row, strict=True)), card.normal) for row in values[first].tolist()]
    return [texts[i] for i in kind.tolist()]
