"""Data of one row a text: what may be asked of its splits, and what their manifest counts."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.audit import near_texts
from cxr_ft.data.records import REPORT_TEXTS, Records
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Pixels = NDArray[np.uint8]


class NoImages:
    """The images of rows that are texts: uint8 [N, 0, 0], indexed like an array.

    Args:
        read: what is read of each row [N] instead; it decides the digest.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Sequence[tuple[str, str]]) -> None:
        self._read = tuple(read)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, 0, 0)."""
        return len(self._read), 0, 0

    @property
    def digest(self) -> str:
        """A hash of what is read, in its order."""
        return hashlib.sha256(json.dumps(self._read).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: "int | slice | Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]") -> Pixels:
        return np.zeros(self.shape, dtype=np.uint8)[index]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        """All of them as one array."""
        return np.zeros(self.shape, dtype=dtype or self.dtype)


def about(records: Records, asked: SplitRequest) -> tuple[Records, SplitRequest]:
    """What is asked of texts, which have no views and no studies; and with --text findings the texts of that section.

    Raises:
        UsageError: where something is asked that texts do not have.
    """
    for flag, value, plain in (("--views", asked.views, ("frontal", "all")), ("--unit", asked.unit, ("image",))):
        if value not in plain:
            raise UsageError(f"{flag} {value}: {records.root} holds texts, one a row; leave it out")
    if asked.text not in REPORT_TEXTS:
        return records, dataclasses.replace(asked, text="none")
    if asked.text not in records.table:
        raise UsageError(f"--text {asked.text}: the texts of {records.root} have no such sections; leave it out")
    return _section(records, asked.text), asked


def _section(records: Records, name: str) -> Records:
    """The same with that section alone as the text; those alike in it are grouped anew."""
    table = records.table.assign(text=records.table[name])
    kept = table[table["text"] != ""].reset_index(drop=True)
    if kept.empty:
        raise UsageError(f"--text {name}: no report of {records.root} has that section; leave it out")
    dropped = len(table) - len(kept)
    notes = [f"{dropped} of {len(table)} reports have no {name} and are left out"] if dropped else []
    owners = kept["subject_id"].tolist() if records.card.group == "subject" else None
    kept = kept.assign(subject_id=near_texts.group_names(kept["text"].tolist(), owners))
    kept["subject_id"] = kept["subject_id"].astype("string")
    return dataclasses.replace(records, table=kept, notes=(*records.notes, *notes))


def counted(records: Records, tables: "dict[str, pd.DataFrame]") -> dict[str, Any]:
    """How many texts are the same, how many groups stay together, and which rows' texts stand word for word in train.

    The last is not 0 where subjects are known: a stock report of one subject is no copy of another's.
    """
    own = {name: table["text"].map(near_texts.normal) for name, table in tables.items()}
    train = set(own.pop("train"))
    groups = records.table["subject_id"].value_counts()
    return {
        "rows": len(records.table),
        "distinct": int(records.table["text"].map(near_texts.normal).nunique()),
        "groups": len(groups),
        "largest_group": int(groups.iloc[0]),
        "verbatim_in_train": {name: int(texts.isin(train).sum()) for name, texts in own.items()},
    }


def in_words(counts: dict[str, Any], card_group: str) -> str:
    """`counted` in one sentence."""
    told = (
        f"{counts['rows']} texts, {counts['distinct']} of them distinct, are {counts['groups']} groups that stay "
        f"together, the largest of {counts['largest_group']}"
    )
    if card_group == "near-duplicate":
        return told
    rows = counts["verbatim_in_train"]["test"]
    return f"{told}; {rows} texts of test stand word for word in train, since other subjects have them too"
