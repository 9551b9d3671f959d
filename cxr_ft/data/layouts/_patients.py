"""The optional patients' table beside an archive: sex and age of its subjects.

`patients.csv.gz` as MIMIC-IV's hosp/patients (subject_id, gender, anchor_age, anchor_year), or one's own with the
columns subject_id and sex or gender, age or anchor_age; .csv, .tsv and .parquet will do as well, and a database's table
`patients`.
"""

from typing import TYPE_CHECKING

from cxr_ft.data import demographics, sameness
from cxr_ft.data.demographics import ages, sexes
from cxr_ft.data.records import OPTIONAL
from cxr_ft.data.sources import locations, table_reader
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

SEX, AGE, YEAR = ("sex", "gender"), ("age", "anchor_age"), "anchor_year"


def add(table: "pd.DataFrame", folder: str, notes: list[str], years: "pd.Series[str] | None" = None) -> "pd.DataFrame":
    """Return `table` with its subjects' sex and age, if `folder` holds a patients' table and `table` has neither.

    Args:
        years: the year of each row's study, in the calendar of anchor_year; with it the age is that at the study.

    Raises:
        UsageError: where the patients' table cannot be read, or says neither sex nor age.
    """
    known = {f"patients{end}" for end in ("", *table_reader.TABLES)}
    name = next((name for name in table_reader.list_tables(folder) if name in known), None)
    # What the archive says itself is of the day of the film, and wins.
    if name is None or any(column in table for column in OPTIONAL):
        return table
    where = locations.join(folder, name)
    people = table_reader.read_table(where, ["subject_id"], optional=[*SEX, *AGE, YEAR])
    # Of rows that differ the same one is taken, in whatever order a database gives them.
    people = people.assign(subject_id=sameness.id_keys(people["subject_id"]))
    people = people.sort_values(people.columns.tolist()).drop_duplicates("subject_id").set_index("subject_id")
    sex, age = (next((column for column in known if column in people), None) for known in (SEX, AGE))
    if sex is None and age is None:
        raise UsageError(f"{where} has no column {', '.join((*SEX, *AGE))}: it says neither sex nor age")
    subjects = sameness.id_keys(table["subject_id"])
    if sex:
        table = table.assign(sex=sexes(subjects.map(people[sex]).astype("string"), notes))
    if age:
        at = ages(subjects.map(people[age]).astype("string"), notes)
        # MIMIC-IV gives the age in one anchor year; studies lie years before or after it.
        if age == "anchor_age" and years is not None and YEAR in people:
            # MIMIC-IV writes 91 for everybody above 89: an age counted from it is only about right.
            at = _later(at, subjects.map(people[YEAR]), years)
        table = table.assign(age=at)
    if unknown := int((~subjects.isin(people.index)).sum()):
        notes.append(f"{unknown} of {len(table)} images show subjects who are not in {name}")
    return table


def _later(age: "pd.Series[str]", anchor: "pd.Series[str]", year: "pd.Series[str]") -> "pd.Series[str]":
    """Return the age in `year`, of the age in the year `anchor`."""
    import pandas as pd

    # Int64 keeps missing values missing through the sum.
    then, now, born = (pd.to_numeric(column, errors="coerce").astype("Int64") for column in (anchor, year, age))
    return demographics.years((born + now - then).astype("string"))
