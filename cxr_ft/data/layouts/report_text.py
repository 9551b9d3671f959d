"""Radiology reports and what they say: MIMIC-CXR's with the CheXpert labels, Open-I's with its MeSH headings.

    a MIMIC-CXR tree (see mimic_cxr), a database of its tables, or phantom:subjects=200
    ecgen-radiology/1.xml, ...                   Open-I's reports (see openi)
    any table, or duckdb, bigquery, with
        findings, impression (either will do), or text, or report (the whole one, cut into its sections), and
        mesh (or MeSH: headings joined by | or ;) or the 14 CheXpert labels; also subject_id, study_id, uid, split

`text` is findings and impression together; --text findings or impression takes that one alone. Open-I's `normal` is 1
for a normal film and 0 for an abnormal one.

MIMIC's and CheXpert's labels were read off these very texts by rules: a rule-based labeler is the baseline beside every
model. Open-I's headings were given by hand. Open-I names no patients, so its reports that are nearly the same are one
group. Where subjects are known they are the groups, joined where two have reports that are alike in what no third
subject has; by mere likeness the stock reports of normal films would tie thousands of subjects together. The manifest
counts the test texts that are in train word for word.
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data import phantom
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import _mimic, _releases, _rows, _texts, openi
from cxr_ft.data.records import OPTIONAL, Records
from cxr_ft.data.reports import text_columns
from cxr_ft.data.reports.sections import clean, sections
from cxr_ft.data.sources import locations, table_reader
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

CARD = DatasetCard(
    name="reports with CheXpert labels",
    labels=CHEXPERT_14,
    normal="No Finding",
    unit="text",
    sensitivity="credentialed",
    source="the user's own table",
    terms="unknown, so treated as credentialed: texts stay out of pages and trackers unless asked",
)
READ_OFF = "the labels were read off these very texts by rules: compare every model with the rule labeler baseline"
PARTS = ("findings", "impression")
TEXTS = (*PARTS, "text", "report")
MESH = ("mesh", "MeSH")


def records(source: str) -> Records:
    """Return the records of reports, one a study.

    Raises:
        UsageError: where no reports are found, or nothing that labels them.
    """
    where = source if phantom.is_spec(source) else locations.normalized(source)
    if phantom.is_spec(source) or _is_mimic(where):
        return _of_mimic(source)
    if where.startswith(_releases.HUB):
        return _of_table(_releases.hub(where), where)
    if not table_reader.is_table(where) and _is_openi(where):
        return _of_openi(where)
    if not table_reader.is_table(where):
        raise UsageError(f"{where} is no MIMIC-CXR tree, no Open-I folder (ecgen-radiology/*.xml) and no table")
    wanted = [*TEXTS, *MESH, *CHEXPERT_14, "subject_id", "study_id", "uid", "split", *OPTIONAL]
    return _of_table(table_reader.read_table(where, [], wanted), where)


def demo(folder: Path) -> str:
    """Return a tiny Open-I for tests; the source to give to `records`."""
    return openi.demo(folder)


def _is_mimic(where: str) -> bool:
    if table_reader.is_table(where) or where.startswith(_releases.HUB):
        return False
    # Files are called mimic-cxr-2.0.0-chexpert.csv.gz, tables of a database chexpert or mimic_cxr_2_0_0_chexpert.
    return any(re.search(r"(^|[-_])(chexpert|negbio)\b", name) for name in locations.list_names(where))


def _is_openi(where: str) -> bool:
    return any(name == "ecgen-radiology" or name.endswith(".xml") for name in locations.list_names(where))


def _of_mimic(source: str) -> Records:
    base = _mimic.read(source, _mimic.CARD, ".dcm")
    # A study has several images but one report, so its first row stands for it.
    studies = base.table.drop_duplicates("study_id").reset_index(drop=True)
    notes = [READ_OFF]
    table = text_columns.add_texts(studies, dataclasses.replace(base, table=studies), "all", notes)
    table = table.assign(dicom_id=table["study_id"], split=table["official"], text=_joined(table))
    return _texts.assemble(table, base.root, base.card, notes)


def _of_openi(where: str) -> Records:
    base = openi.records(where)
    # Open-I names no patients: its subject is the report. Without the column, near-duplicate reports form the groups.
    table = base.table.drop_duplicates("study_id").drop(columns="subject_id").reset_index(drop=True)
    table = table.assign(dicom_id=table["study_id"], text=_joined(table))
    return _texts.assemble(table, where, base.card, [])


def _of_table(raw: "pd.DataFrame", where: str) -> Records:
    # uid and MeSH are the names in Kaggle's table of Open-I, indiana_reports.csv.
    table = raw.rename(columns={"uid": "study_id"}) if "study_id" not in raw else raw
    table = _read(table, where)
    if "study_id" in table:
        table = table.assign(study_id=_rows.whole(table["study_id"]))
        table = table.assign(dicom_id=table["study_id"])
    if "subject_id" in table:
        table = table.assign(subject_id=_rows.whole(table["subject_id"]))
    mesh = next((name for name in MESH if name in table), None)
    if mesh is not None:
        return _texts.assemble(_headed(table, mesh), where, openi.CARD, [])
    if missing := [name for name in CHEXPERT_14 if name not in table]:
        raise UsageError(f"{where} has neither a column mesh nor all 14 CheXpert labels: {missing[0]!r} is missing")
    numbers = {name: _rows.numbers(table[name]) for name in CHEXPERT_14}
    return _texts.assemble(table.assign(**numbers), where, CARD, [READ_OFF])


def _read(table: "pd.DataFrame", where: str) -> "pd.DataFrame":
    """Return the table with `text`, and with the two sections where it has them."""
    # A whole report is cut only where nobody has cut it before.
    if "report" in table and not {*PARTS, "text"} & {*table.columns}:
        parsed = [sections(report) for report in table["report"].fillna("")]
        table = table.assign(**{name: [one[name] or "" for one in parsed] for name in PARTS})
    if {*PARTS} & {*table.columns}:
        table = table.assign(**{n: [clean(t) for t in table[n].fillna("")] for n in PARTS if n in table})
        return table.assign(text=_joined(table))
    if "text" not in table:
        raise UsageError(f"{where} has no column of the reports: {', '.join(TEXTS)}; rename it, or use SQL")
    return table


def _joined(table: "pd.DataFrame") -> list[str]:
    """Return findings and impression as one text, of whichever there is."""
    parts = [table[name].fillna("").tolist() for name in PARTS if name in table]
    return [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]


def _headed(table: "pd.DataFrame", column: str) -> "pd.DataFrame":
    """Return the table with Open-I's labels, missing where a report was not indexed."""
    import numpy as np

    headings_of_rows = [
        {h.partition("/")[0].strip() for h in re.split(r"[|;]", headings)} - {""}
        for headings in table[column].fillna("")
    ]
    # A report that nobody indexed has no headings, which is not the same as a normal film: its labels are missing.
    indexed = np.array([bool(headings) and openi.UNINDEXED not in headings for headings in headings_of_rows])
    labels = {
        name: np.where(indexed, [float(name in headings) for headings in headings_of_rows], np.nan)
        for name in openi.CARD.labels
    }
    return table.drop(columns=column).assign(**labels)
