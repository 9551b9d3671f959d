"""Records from a table whose columns bear the package's own names: what `folder`, `table` and `dicom` share."""

import dataclasses
from typing import TYPE_CHECKING

from cxr_ft.data import sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.demographics import ages, sexes
from cxr_ft.data.layouts import _label_lists, _patients
from cxr_ft.data.records import IDS, OPTIONAL, REPORT_TEXTS, Records, views
from cxr_ft.data.sameness import label_key
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

SPLIT_NAMES = {"train": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val", "test": "test"}
UNKNOWN = "subjects unknown: each file is taken for its own subject; two films of one patient may be in two splits"
#: How tables write truth, in small letters.
BOOLEANS = {"true": "1", "false": "0"}
#: What a table may say of an image beside its labels.
KNOWN = (*IDS, "path", "view", "split", "report", *OPTIONAL, *REPORT_TEXTS)


def assemble(
    table: "pd.DataFrame",
    root: str,
    card: DatasetCard,
    labels: tuple[str, ...],
    notes: list[str],
    *,
    patients_folder: str | None = None,
) -> Records:
    """Return the records of a table with `path`, any of KNOWN, and either the columns `labels` or one column `label`.

    Without subject_id each file is its own subject, and a note says so. Ids, and labels of one class, that are whole
    numbers are written without a point, and labels that are true or false as 1 and 0, so that they do not depend on the
    type that a database or a data frame gave them.

    Args:
        root: what paths are relative to.
        patients_folder: the folder or database that may hold a patients' table; by default the root.

    Raises:
        UsageError: for labels that are no labels, and for what `Records` refuses.
    """
    out = _identified(table)
    if not (known := "subject_id" in table):
        notes.append(UNKNOWN)
    out["path"] = table["path"]
    out["view"] = views(table["view"]) if "view" in table else ""
    out["official"] = table["split"].str.strip().str.lower().map(SPLIT_NAMES).fillna("") if "split" in table else ""
    out["report"] = table["report"].fillna("") if "report" in table else ""
    for name in REPORT_TEXTS:
        if name in table:
            out[name] = table[name].fillna("")
    if "sex" in table:
        out["sex"] = sexes(table["sex"], notes)
    if "age" in table:
        out["age"] = ages(table["age"], notes)
    # Without subjects nothing can be promised of patients, and the card says so.
    card = dataclasses.replace(card, group="subject" if known else "unknown", multi_label=bool(labels))
    if labels:
        out, card = _multi(out, table, card, labels, root)
    else:
        out, card = _single(out, table["label"], card, root, notes)
    if card.normal and card.normal not in card.labels:
        raise unknown("normal label", card.normal, card.labels, root)
    out = _patients.add(out.reset_index(drop=True), root if patients_folder is None else patients_folder, notes)
    return Records(table=out, card=card, root=root, notes=tuple(notes))


def _identified(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the ids; those the table does not give are the files' names."""
    import pandas as pd

    stem = table["path"].str.replace(r"\.[^./]+$", "", regex=True)
    # a.png and a.dcm have one stem; then the whole path is the id.
    unique = stem if not stem.duplicated().any() else table["path"]
    # An image keeps its id as it is: two files whose ids differ in spaces are two.
    same = {"dicom_id": whole}
    ids = {name: same.get(name, sameness.tidy_ids)(table[name]) if name in table else unique for name in IDS}
    return pd.DataFrame(ids, dtype="string")


def whole(column: "pd.Series[str]") -> "pd.Series[str]":
    """Return a column of whole numbers without their point and zeros; any other as it is."""
    # A data frame with one missing id turns all ids into floats; "12.0" and "12" must be one subject.
    if column.dropna().str.fullmatch(r"-?\d+\.0+").any() and column.dropna().str.fullmatch(r"-?\d+(\.0+)?").all():
        return column.str.partition(".")[0]
    return column


def numbers(column: "pd.Series[str]") -> "pd.Series[float]":
    """Return a column as numbers, true and false as 1 and 0; missing where it is neither."""
    import pandas as pd

    plain = column.str.strip()
    # Missing also where it is a word, which the callers then refuse by name.
    return pd.to_numeric(plain.str.lower().map(BOOLEANS).fillna(plain), errors="coerce").astype("float64")


def classes(column: "pd.Series[str]") -> "pd.Series[str]":
    """Return a column of classes, without spaces at their ends.

    Whole numbers lose their point; where all are true or false they are 1 and 0.
    """
    keys = {value: label_key(value) or None for value in column.dropna().unique()}
    column = column.map(keys).astype("string")
    # Only where all are: a class "true" beside others is a word.
    present = column.dropna().str.lower()
    return column.str.lower().map(BOOLEANS).astype("string") if present.isin(BOOLEANS).all() else whole(column)


def _multi(
    out: "pd.DataFrame", table: "pd.DataFrame", card: DatasetCard, labels: tuple[str, ...], root: str
) -> "tuple[pd.DataFrame, DatasetCard]":
    # A label of that name would overwrite the column, or be overwritten, in the split's CSV.
    plain = [label_key(name) for name in labels]
    if twice := sorted({name for name in plain if plain.count(name) > 1}):
        raise UsageError(f"{root}: two columns are the label {twice[0]!r}, but for spaces; rename one")
    table = table.rename(columns=dict(zip(labels, plain, strict=True)))
    labels = tuple(plain)
    if clash := sorted({*out.columns, "label", "split", "weight"}.intersection(labels)):
        raise UsageError(f"{root}: label {clash[0]!r} has the name of a column of the split files; rename it")
    for name in labels:
        values = numbers(table[name])
        if len(words := table[name][values.isna() & table[name].notna()]):
            raise UsageError(f"{root}: label {name!r} is {words.iloc[0]!r} in a row; 1, 0, -1 and nothing are known")
        out[name] = values
    # CheXpert's name for a normal study means the same wherever it is used.
    normal = card.normal or ("No Finding" if "No Finding" in labels else None)
    return out, dataclasses.replace(card, labels=labels, normal=normal)


def _single(
    out: "pd.DataFrame", label: "pd.Series[str]", card: DatasetCard, root: str, notes: list[str]
) -> "tuple[pd.DataFrame, DatasetCard]":
    label = classes(label)
    if blank := int(label.isna().sum()):
        notes.append(f"{blank} images without a label are left out")
    if hint := _label_lists.hint(label):
        notes.append(hint)
    out = out[label.notna()].assign(label=label)
    card = dataclasses.replace(card, labels=tuple(sorted(set(out["label"]))))
    if len(card.labels) < 2:
        raise UsageError(f"{root}: all images have one class ({', '.join(card.labels)}); two or more are needed")
    return out, card
