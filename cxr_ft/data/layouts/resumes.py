"""The "Updated Resume Dataset": one table of resumes and their job category.

    UpdatedResumeDataSet.csv    columns Category, Resume; or the same in any table, duckdb or bigquery

Of its 962 rows 166 are distinct texts. A split by rows trains on what it tests on: in scikit-learn's stratified
70/15/15 with seed 42, 137 of 145 test texts are in train word for word.
"""

from pathlib import Path

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _texts
from cxr_ft.data.records import Records
from cxr_ft.data.sources import locations

CARD = DatasetCard(
    name="Updated Resume Dataset",
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="credentialed",
    source="Kaggle, UpdatedResumeDataSet.csv",
    terms="unknown, and about persons, so treated as credentialed: texts stay out of pages and trackers unless asked",
)
COLUMNS = {"text": ("Resume", "text"), "label": ("Category", "label")}


def records(source: str) -> Records:
    """Return the records of the resumes.

    Raises:
        UsageError: where the table cannot be read, or lacks a column.
    """
    where = locations.normalized(source)
    table = _texts.read(where, COLUMNS)
    table["label"] = table["label"].str.strip().replace("", None)
    return _texts.assemble(table, where, CARD, [])


def demo(folder: Path) -> str:
    """Return a tiny table for tests, with rows that come again; the source to give to `records`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["Category,Resume"]
    for i in range(24):
        job = ("Testing", "Java Developer", "HR")[i % 3]
        lines += [f'{job},"Skills * {job}, {i} years\r\nCompany Details: number {i}"'] * (1 + i % 4)
    (folder / "UpdatedResumeDataSet.csv").write_text("\n".join(lines) + "\n", newline="")
    return str(folder / "UpdatedResumeDataSet.csv")
