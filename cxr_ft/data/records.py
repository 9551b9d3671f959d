"""Record and the records table: the one row type of the package.

A layout gives a table with the columns below, one row an image. Whatever the archive looks like, everything after the
layout (splits, batches, pages) sees only this.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import phantom
from cxr_ft.data.card import DatasetCard
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: Columns every layout gives, all strings. `path` is relative to the root; `view` is PA, AP, LATERAL, another word in
#: capitals, or empty; `official` is the data's own split (train, val, test) or empty; `report` is the report's path
#: relative to the root, or empty.
IDS = ("subject_id", "study_id", "dicom_id")
COLUMNS = (*IDS, "path", "view", "official", "report")
#: Columns a layout may give.
OPTIONAL = ("sex", "age")
FRONTAL = ("PA", "AP")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a layout found.

    Args:
        table: COLUMNS, some of OPTIONAL, then the labels: float columns under the card's names (1, 0, -1, NaN) for
            multi-label data, one string column `label` else.
        card: the layout's card, with the label vocabulary filled in.
        root: the folder that paths are relative to, or a phantom's specification ("phantom:subjects=200").
        notes: what a user should know: one sentence each.
    """

    table: "pd.DataFrame"
    card: DatasetCard
    root: str
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        wanted = [*COLUMNS, *(self.card.labels if self.card.multi_label else ("label",))]
        if missing := [column for column in wanted if column not in self.table]:
            raise ValueError(f"layout {self.card.name} gave no column {', '.join(missing)}")
        if self.table["dicom_id"].duplicated().any():
            twice = self.table.loc[self.table["dicom_id"].duplicated(), "dicom_id"].iloc[0]
            raise UsageError(f"{self.root}: image id {twice} stands in two rows; each image must be listed once")


def root_folder(source: str) -> Path:
    """The folder behind a source: a path, or a phantom's specification, which is made in the cache on first use.

    Raises:
        UsageError: where it does not exist.
    """
    if phantom.is_spec(source):
        return phantom.ensure(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"{source} does not exist: give the archive's folder, a table, or phantom:subjects=200")
    return path


def raw_labels(table: "pd.DataFrame", card: DatasetCard) -> NDArray[np.float64]:
    """The raw label values [N, L]: 1, 0, -1, NaN; one-hot for single-label data."""
    if card.multi_label:
        return table[list(card.labels)].to_numpy(dtype=np.float64)
    values = table["label"].astype(str).to_numpy()
    return np.stack([values == label for label in card.labels], axis=1).astype(np.float64)


def order_key(seed: int, name: str) -> bytes:
    """A hash that orders ids by chance, the same on every machine and whatever other rows there are."""
    return hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()
