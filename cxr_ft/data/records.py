"""Define the records table, the one row type of the package, and normal forms of its columns.

A layout gives a table with the columns below, one row an image, or one row a text. Whatever the archive looks like,
everything after the layout (splits, batches, pages) sees only this.
"""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.sources import address, locations
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: Columns every layout gives, all strings. `path` is relative to the root; `view` is PA, AP, LATERAL, another word in
#: capitals, or empty; `official` is the data's own split (train, val, test) or empty; `report` is the report's path
#: relative to the root, or empty.
IDS = ("subject_id", "study_id", "dicom_id")
COLUMNS = (*IDS, "path", "view", "official", "report")
#: Columns a layout may give. `sex`: M, F, O or missing. `age`: whole years, a band ("50-59", "90+"), or missing.
OPTIONAL = ("sex", "age")
#: Text columns a layout may give where its reports are not files: used in place of `report`, "" where there is none.
REPORT_TEXTS = ("findings", "impression", "indication", "history")
#: The columns that a model reads where the unit is a text: `text`, and `text_pair` where a second text goes with it.
#: path, view and report are empty then, and subject_id is what must not be split: a subject, or a group of texts that
#: are nearly the same.
INPUT_TEXTS = ("text", "text_pair")
#: A column that a layout of texts may give: the row's own subject, where subject_id is the name of a group of several.
OWNER = "owner"
#: The frontal views; FRONTAL where the data does not tell PA from AP, as the table of CheXpert's test set.
FRONTAL = ("PA", "AP", "FRONTAL")
LATERALS = {"LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL"}
#: The views that tables and headers name, beyond those above. A cell's word that is none of them may be anything, a
#: name too, and is shown as OTHER_VIEW.
VIEW_NAMES = frozenset((
    *(*FRONTAL, *LATERALS),
    *("RLD", "LLD", "RLO", "LLO", "LAO", "RAO", "LPO", "RPO", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD"),
    *("XTABLE LATERAL", "SWIMMERS", "LATERAL DECUBITUS", "LORDOTIC"),
))  # fmt: skip
OTHER_VIEW = "other"
SPLITS = ("train", "val", "test")
#: The name of a synthetic archive begins with this.
PHANTOM = "phantom:"


@dataclass(frozen=True, kw_only=True)
class Records:
    """The rows of an archive, as a layout returns them.

    Args:
        table: COLUMNS, some of OPTIONAL and REPORT_TEXTS, for texts INPUT_TEXTS, then the labels: float columns under
            the card's names (1, 0, -1, NaN) for multi-label data, one string column `label` else.
        card: the layout's card, with the label vocabulary filled in.
        root: the folder or URL that paths are relative to, or a phantom's specification ("phantom:subjects=200").
        notes: one sentence each, for the user.
    """

    table: "pd.DataFrame"
    card: DatasetCard
    root: str
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        # A layout that lacks a column is a programming error, hence ValueError; what the user can mend is UsageError.
        wanted = [*COLUMNS, *(self.card.labels if self.card.multi_label else ("label",))]
        if self.card.unit == "text":
            wanted.append("text")
        if missing := [column for column in wanted if column not in self.table]:
            raise ValueError(f"layout {self.card.name} gave no column {', '.join(missing)}")
        taken = {*COLUMNS, *OPTIONAL, *REPORT_TEXTS, *INPUT_TEXTS, "split", "weight", "label", "mini_report"}
        if clash := sorted(taken.intersection(self.card.labels)) if self.card.multi_label else []:
            raise UsageError(f"{self.root}: label {clash[0]!r} has the name of a column of the split files; rename it")
        self._check_ids()
        self._check_labels()

    def _check_ids(self) -> None:
        """Raise UsageError where an id or path is missing, an image is listed twice, or a study has two subjects."""
        table, is_text = self.table, self.card.unit == "text"
        if table.empty:
            raise UsageError(f"{self.root}: no rows")
        for column in (*IDS, "text" if is_text else "path"):
            if missing := int((table[column].isna() | (table[column] == "")).sum()):
                raise UsageError(f"{self.root}: {missing} rows have no {column}; fill it or take them out")
        for column in IDS:
            self._check_characters(column)
        for column, what in (("dicom_id", "text id"),) if is_text else (("dicom_id", "image id"), ("path", "file")):
            if (twice := table[column].duplicated()).any():
                one = table.loc[twice, column].iloc[0]
                raise UsageError(f"{self.root}: {what} {one} is in two rows; each must be listed once")
        # The audit splits paths at |: a file with it in its name would be compared as two.
        if (joined := table["path"].str.contains("|", regex=False)).any():
            one = table.loc[joined, "path"].iloc[0]
            raise UsageError(
                f"{self.root}: {one}: a path must not hold a |, which joins a study's images; rename the file"
            )
        # Most archives end here: the look at spellings is made only for studies that seem to have two subjects.
        owners = table.drop_duplicates(["study_id", "subject_id"])["study_id"]
        shared = owners.duplicated(keep=False)
        # One subject in two spellings is one subject; the compiler writes it one way.
        if shared.any() and sameness.several_subjects(table[table["study_id"].isin(owners[shared])]):
            raise UsageError(f"{self.root}: study {owners[shared].iloc[0]} belongs to two subjects; ids must be unique")

    def _check_characters(self, column: str) -> None:
        """Raise UsageError where an id has a control character, which no two tools read alike."""
        values = self.table[column].tolist()
        # One look at all ids together, since nearly every archive's are printable.
        if "".join(values).isprintable():
            return
        wrong = [
            (row, character) for row, value in enumerate(values, 1) if (character := sameness.control_character(value))
        ]
        if wrong:
            row, character = wrong[0]
            raise UsageError(
                f"{self.root}: row {row}: {column} has the control character {character} ({len(wrong)} rows have one); "
                "take it out"
            )

    def _check_labels(self) -> None:
        """Raise UsageError where a label has another value than 1, 0, -1 or NaN."""
        for name in self.card.labels if self.card.multi_label else ():
            values = self.table[name]
            if len(bad := values[values.notna() & ~values.isin((1, 0, -1))]):
                raise UsageError(
                    f"{self.root}: label {name!r} is {bad.iloc[0]:g} in {len(bad)} rows; 1, 0, -1 and nothing are known"
                )


def is_phantom(source: str) -> bool:
    """Return whether a source names a synthetic archive ("phantom:subjects=240,size=192"), well-formed or not."""
    return source == PHANTOM.removesuffix(":") or source.startswith(PHANTOM)


def root_folder(source: str) -> Path:
    """Return the folder behind a source: a path, a URL's mirror, or a phantom, which is made in the cache on first use.

    Raises:
        UsageError: where it does not exist; a URL is not looked up here.
    """
    if is_phantom(source):
        # Loaded here alone: whose images are in a folder needs no generator.
        from cxr_ft.data import phantom

        return phantom.ensure(source)
    if address.is_url(source):
        return locations.mirror_folder(source)
    path = Path(locations.normalized(source))
    if not path.exists():
        raise UsageError(f"{source} does not exist: give the archive's folder, a table, or phantom:subjects=200")
    return path


def first_outside(paths: Sequence[str]) -> str | None:
    """Return the first of the paths that is absolute or leads out of the folder it is relative to; None: none does.

    A cell may join several paths by |. Links are followed by no one here: an archive may be made of links.
    """
    joined = "\n".join(paths)
    # One look at all of them: nearly every archive's paths are plain.
    if not ("\n/" in joined or "|/" in joined or joined.startswith("/") or ".." in joined):
        return None
    for path in (path for cell in paths for path in cell.split("|")):
        if path.startswith("/") or posixpath.normpath(path).split("/")[0] == "..":
            return path
    return None


def views(raw: "pd.Series[str]") -> "pd.Series[str]":
    """Return views as the package writes them: capitals, both laterals as LATERAL (PS3.3 C.8.7.1), "" where unknown."""
    # PS3.3 has left (LL) and right (RL) laterals, which tables and models do not distinguish.
    named = raw.fillna("").str.strip().str.upper()
    return named.map(lambda view: LATERALS.get(view, view)).astype("string")


def shown_view(view: str) -> str:
    """Return a row's view as messages and records show it; "" where it is unknown. A study's views are joined by |."""
    parts = [part if part in VIEW_NAMES or not part else OTHER_VIEW for part in view.split("|")]
    return "|".join(parts)


def raw_labels(table: "pd.DataFrame", card: DatasetCard) -> NDArray[np.float64]:
    """Return the raw label values [N, L]: 1, 0, -1, NaN; one-hot for single-label data."""
    if card.multi_label:
        return table[list(card.labels)].to_numpy(dtype=np.float64)
    # One-hot, so that everything after it has one form of labels [N, L].
    values = table["label"].astype(str).to_numpy()
    return np.stack([values == label for label in card.labels], axis=1).astype(np.float64)


def order_key(seed: int, name: str) -> bytes:
    """Return a hash of 8 bytes that orders ids at random: the same on every machine, whatever other rows there are."""
    return hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()
