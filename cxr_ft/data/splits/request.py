"""What the user asks of the splits, and the rows that come into question."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import targets
from cxr_ft.data.phantom import is_spec
from cxr_ft.data.records import FRONTAL, Records, raw_labels
from cxr_ft.data.reports.text_columns import TEXTS
from cxr_ft.data.sources.address import is_url
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

VIEWS = ("frontal", "all", "PA", "AP", "LATERAL")
UNITS = ("image", "study")
#: The quota of rows without any positive label, in data that has no label for normal films.
NONE = "(none)"


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """What the user asked of the splits.

    Args:
        per_label: images (or studies) wanted of each label over the three sides together.
        seed: decides which images are taken among equals.
        ratios: train, val, test in percent.
        views: frontal (PA and AP), all, or one view. Images without a view pass where the data has none at all.
        uncertain, blank: policies of `cxr_ft.data.labels`.
        unit: what a row is; "study" joins the images of a study.
        official: keep the data's own split; quotas hold for train only.
        text: the text columns, one of `cxr_ft.data.reports.text_columns.TEXTS`; for texts about a report the section
        that is read.
    """

    per_label: int
    seed: int = 0
    ratios: tuple[float, float, float] = (70.0, 15.0, 15.0)
    views: str = "frontal"
    uncertain: str = "ignore"
    blank: str = "negative"
    unit: str = "image"
    official: bool = False
    text: str = "mini_report"

    def __post_init__(self) -> None:
        if self.per_label < 1:
            raise UsageError(f"--per-label {self.per_label}: at least 1 image a label is needed")
        if len(self.ratios) != 3 or not all(r > 0 for r in self.ratios) or abs(sum(self.ratios) - 100) > 1e-6:
            raise UsageError(
                f"--ratios {'/'.join(f'{r:g}' for r in self.ratios)}: "
                "give three positive numbers with sum 100, as 70/15/15"
            )
        for kind, value, known in (
            ("--views", self.views, VIEWS),
            ("--unit", self.unit, UNITS),
            ("--text", self.text, TEXTS),
        ):
            if value not in known:
                raise unknown(f"{kind} value", value, known)


def refuse_outside(records: Records) -> None:
    """Raise UsageError where a path of an image or report leads out of the root."""
    remote = is_url(records.root) or is_spec(records.root)
    root = None if remote else Path(os.path.normpath(Path(records.root).absolute()))
    for column in ("path", "report"):
        paths = records.table[column].tolist()
        # One look at all of them: nearly every archive's paths are plain.
        plain = not {os.sep, "/"} & {path[:1] for path in paths} and ".." not in "\n".join(paths)
        for path in () if plain else paths:
            if (path.startswith(os.sep) or ".." in path) and _outside(root, path):
                raise UsageError(f"{records.root}: {column} {path} leads out of it; give paths below that folder")


def _outside(root: Path | None, path: str) -> bool:
    if root is None:
        return path.startswith("/") or ".." in path.split("/")
    return not Path(os.path.normpath(root / path)).is_relative_to(root)


def eligible(records: Records, asked: SplitRequest, notes: list[str]) -> "pd.DataFrame":
    """The rows of the views asked for; data without any view is taken whole, and says so."""
    table = records.table
    if asked.views == "all" or records.card.unit == "text":
        return table
    if (table["view"] == "").all():
        if asked.views != "frontal":
            raise UsageError(f"--views {asked.views}: {records.root} says no view of any image; use --views all")
        notes.append("the data says no views: all images are taken for frontal ones")
        return table
    kept = table[table["view"].isin(FRONTAL if asked.views == "frontal" else [asked.views])]
    there = ", ".join(sorted(str(view) or "none said" for view in table["view"].unique()))
    if kept.empty:
        raise UsageError(f"--views {asked.views}: {records.root} has none; its views are {there}; use --views all")
    notes.append(
        f"{len(table) - len(kept)} of {len(table)} images are left out by --views {asked.views} (views: {there})"
    )
    return kept


def join_studies(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a study: dicom_id, path and view joined by `|`, PA, AP, LATERAL first in this order."""
    order = {"PA": 0, "AP": 1, "LATERAL": 2}
    table = table.assign(_order=table["view"].map(order).fillna(3)).sort_values(["study_id", "_order", "dicom_id"])
    joined = table.groupby("study_id", sort=True)[["dicom_id", "path", "view"]].agg("|".join)
    first = table.drop_duplicates("study_id").drop(columns="_order").set_index("study_id", drop=False)
    first[["dicom_id", "path", "view"]] = joined.loc[first.index]
    return first.reset_index(drop=True)


def positives(
    table: "pd.DataFrame", card: DatasetCard, asked: SplitRequest
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which row counts for which quota [N, L'], and the quotas' names: the labels, and NONE where none is normal."""
    values = targets(raw_labels(table, card), asked.uncertain, asked.blank) == 1
    if card.multi_label and card.normal is None:
        return np.column_stack([values, ~values.any(axis=1)]), (*card.labels, NONE)
    return values, card.labels
