"""Make records of texts, one row for each: find the tables, name the labels.

Ids follow from what a row says, so a folder, a CSV and a database that say the same give the same records. subject_id
is the group that must not be split: (nearly) the same texts (`cxr_ft.data.audit.near_texts`), or a known subject.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING

from cxr_ft.data.audit import near_texts
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.demographics import ages, sexes
from cxr_ft.data.layouts import _releases
from cxr_ft.data.records import COLUMNS, IDS, INPUT_TEXTS, OPTIONAL, OWNER, REPORT_TEXTS, Records
from cxr_ft.data.sources import address, locations, table_reader
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

#: How releases call their splits. What is evaluated on comes last: a second validation set is a test set.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "validation_matched", "dev_matched"), "val"),
    **dict.fromkeys(("test", "testing", "validation_mismatched", "dev_mismatched"), "test"),
}
#: Values that mean that a row has no label, as in test sets whose labels are kept back.
#: The hub writes -1 in GLUE's test sets; MultiNLI writes - where its annotators did not agree.
NO_LABEL = ("", "-1", "-")
#: Our columns, and the names that a table's may have, the likeliest first.
Names = Mapping[str, tuple[str, ...]]


def read(where: str, names: Names, release: "Callable[[str], pd.DataFrame | None] | None" = None) -> "pd.DataFrame":
    """Return the rows of a release in its own format, a table, database, folder of tables by split, or hub data set.

    Args:
        where: a place as `sources.place` gives it.
        names: the columns wanted; `text` and `label` are required.
        release: reads the release's own format, in our columns; None where the place does not hold it.

    Returns:
        `text`, `label`, whichever else of `names` there is, and `split` where it is known.

    Raises:
        UsageError: where nothing can be read, or text or label is missing.
    """
    own_format = (
        release(where) if release and not (where.startswith(_releases.HUB) or table_reader.is_table(where)) else None
    )
    if own_format is not None:
        return own_format
    return _renamed(anything(where, [name for known in names.values() for name in known]), names, where)


def anything(where: str, wanted: Sequence[str] | None = None) -> "pd.DataFrame":
    """Return a table, several by split, or a hub data set, as it is, with a column `split` where that is known.

    Args:
        wanted: columns that are read where they are; None: all.
    """
    if where.startswith(_releases.HUB):
        return _releases.hub(where)
    return _table(where, wanted) if table_reader.is_table(where) else _by_split(where, wanted)


def _by_split(where: str, wanted: Sequence[str] | None) -> "pd.DataFrame":
    """Return the tables in a folder or database: one, or those whose names begin with their split's."""
    import pandas as pd

    inside = (
        table_reader.list_tables(where)
        if address.is_database(where)
        else filter(table_reader.is_table, locations.list_files(where))
    )
    tables = {name: _split_of(name) for name in inside}
    if len(tables) > 1 and not all(tables.values()):
        shown = ", ".join(list(tables)[:5])
        raise UsageError(
            f"{where} holds {len(tables)} tables, not named by their splits ({shown}): give the one to read"
        )
    if not tables:
        raise UsageError(f"{where} holds no table and no file of this data set: give its folder, archive or table")
    parts = [
        part
        # A table's own column knows the split row by row, and wins over the table's name.
        if "split" in (part := _table(locations.join(where, name), wanted)) or not split
        else part.assign(split=split)
        for name, split in tables.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _split_of(name: str) -> str:
    """Return the split that a table's name begins with, or ""."""
    stem = name.rpartition("/")[2].lower()
    # MNLI has two validation sets, matched and mismatched, which mean two splits here.
    words = re.match(r"[a-z]+(_(mis)?matched)?", stem)
    return words[0] if words and words[0] in SPLIT_NAMES else ""


def _table(where: str, wanted: Sequence[str] | None) -> "pd.DataFrame":
    return table_reader.read_table(where) if wanted is None else table_reader.read_table(where, [], [*wanted, "split"])


def _renamed(raw: "pd.DataFrame", names: Names, where: str) -> "pd.DataFrame":
    own = {ours: next((name for name in known if name in raw), None) for ours, known in names.items()}
    for ours in ("text", "label"):
        if ours in own and own[ours] is None:
            raise UsageError(
                f"{shown(where)} has no column of the {ours}: {' or '.join(names[ours])}; rename it, or use SQL"
            )
    table = raw[[]].assign(**{ours: raw[name] for ours, name in own.items() if name is not None})
    return table.assign(split=raw["split"]) if "split" in raw else table


def named(raw: "pd.Series[str]", names: Mapping[str, str], where: str) -> "pd.Series[str]":
    """Return labels by the names the data set gives them, whatever their case; missing where there is none.

    Raises:
        UsageError: for a label that is none of them.
    """
    # A data frame with one missing label turns 0 and 1 into 0.0 and 1.0.
    plain = raw.fillna("").str.strip().str.lower().str.removesuffix(".0")
    known = {**names, **{name.lower(): name for name in names.values()}}
    if len(other := plain[~plain.isin([*known, *NO_LABEL])]):
        raise unknown("label", other.iloc[0], known, shown(where))
    return plain.map(known).astype("string")


def assemble(
    table: "pd.DataFrame",
    root: str,
    card: DatasetCard,
    notes: list[str],
    together: Callable[[list[str]], near_texts.RowPairs] = lambda _: (),
) -> Records:
    """Return the records of one row a text.

    Args:
        table: `text`, `label` or the card's labels, and any of text_pair, split, IDS, OPTIONAL, REPORT_TEXTS.
        root: where it was read, for messages and the manifest.
        together: the rows of some texts that must stay together besides those that are alike.

    Raises:
        UsageError: where no row has text and label, or all have one class.
    """
    root = shown(root)
    for name in (name for name in IDS if name in table):
        if missing := int((table[name].isna() | (table[name] == "")).sum()):
            raise UsageError(f"{root}: {missing} of {len(table)} rows have no {name}; fill it or take them out")
    table = table.assign(**{name: table[name].fillna("").map(_clean) for name in INPUT_TEXTS if name in table})
    labels = list(card.labels) if card.multi_label else ["label"]
    table = _rows_with(table, table["text"].str.strip() != "", "have no text", notes)
    table = _rows_with(
        table, table[labels].notna().any(axis=1), "have no label, as in test sets that keep theirs", notes
    )
    if table.empty:
        raise UsageError(f"{root}: no row has both a text and a label")
    if not card.multi_label:
        # Classes that no row has are left out: nothing could be learnt or measured of them.
        classes = set(table["label"].tolist())
        card = dataclasses.replace(card, labels=tuple(n for n in card.labels if n in classes) or tuple(sorted(classes)))
        if len(classes) < 2:
            raise UsageError(f"{root}: all texts have one class ({', '.join(classes)}); two or more are needed")
    card = dataclasses.replace(card, unit="text", group="subject" if "subject_id" in table else "near-duplicate")
    out = _identified(table, labels, together).assign(path="", view="", report="", official=_official(table, notes))
    for name, kind in (("sex", sexes), ("age", ages)):
        if name in table:
            table = table.assign(**{name: kind(table[name].astype("string"), notes)})
    extra = [name for name in (*OPTIONAL, *REPORT_TEXTS, *INPUT_TEXTS, *labels) if name in table]
    out = out[[*COLUMNS, *({OWNER} & {*out.columns})]].assign(**{name: table[name] for name in extra})
    strings = {name: "string" for name in (*COLUMNS, OWNER, *INPUT_TEXTS, *REPORT_TEXTS) if name in out}
    return Records(table=out.astype(strings).reset_index(drop=True), card=card, root=root, notes=tuple(notes))


def shown(where: str) -> str:
    """Return a place for messages and the manifest: SQL may name a patient, so it is not repeated."""
    return address.parse(where).shown if address.is_database(where) else where


def _clean(text: str) -> str:
    """Return a text as every CSV can hold it: a line feed ends its lines, and it has no NUL and no half character."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Half a surrogate pair cannot be written as UTF-8; it becomes a question mark.
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _rows_with(table: "pd.DataFrame", keep: "pd.Series[bool]", why: str, notes: list[str]) -> "pd.DataFrame":
    if dropped := int((~keep).sum()):
        notes.append(f"{dropped} of {len(table)} rows {why}; they are left out")
    return table[keep].reset_index(drop=True)


def _identified(
    table: "pd.DataFrame", labels: list[str], together: Callable[[list[str]], near_texts.RowPairs]
) -> "pd.DataFrame":
    """Return the table with its ids: those it lacks are hashes of a row's content, numbered where rows are equal."""
    content = [name for name in (*INPUT_TEXTS, *labels, "split") if name in table]
    rows = zip(*(table[name].astype("string").fillna("").tolist() for name in content), strict=True)
    # A NUL between the cells, which no text has after `_clean`: cells cannot run into each other.
    digests = (blake2b("\0".join(row).encode(), digest_size=8).hexdigest() for row in rows)
    # Ids from content and not from row numbers: the same texts in another order get the same splits.
    hashed = table[[]].assign(id=[f"t{digest}" for digest in digests])
    # Equal rows get a number each, since an id must be unique.
    again = hashed.groupby("id").cumcount()
    own = hashed["id"].where(again == 0, hashed["id"] + "-" + (again + 1).astype(str))
    owners = table["subject_id"].tolist() if "subject_id" in table else None
    texts = table["text"].tolist()
    tied = [*together(texts)]
    # Without subjects the study is the least that must stay together.
    if "study_id" in table and owners is None:
        rows_of = table.groupby("study_id").indices.values()
        tied += [pair for rows in rows_of for pair in pairwise(int(row) for row in rows)]
    groups = near_texts.group_names(texts, owners, tied)
    one = table.get("dicom_id", own)
    if owners is not None:
        # Kept, since the name of a group of several subjects does not say whose text a row is.
        table = table.assign(**{OWNER: table["subject_id"]})
    return table.assign(subject_id=groups, study_id=table.get("study_id", one), dicom_id=one)


def _official(table: "pd.DataFrame", notes: list[str]) -> "pd.Series[str]":
    """Return the release's own split; where no test set has labels, its validation set serves as test."""
    if "split" not in table:
        return table["text"].map(lambda _: "").astype("string")
    split = table["split"].fillna("").str.strip().str.lower().map(SPLIT_NAMES).fillna("").astype("string")
    # Without a labelled test set --official would have nothing to evaluate on.
    if not (split == "test").any() and (split == "val").any():
        notes.append("the release's test set has no labels: its validation set is the test set of --official")
        split = split.replace("val", "test")
    return split
