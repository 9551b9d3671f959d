"""Define the split request: the options of cxr-split, and which rows are eligible under them."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.audit import near_texts
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.labels import targets
from cxr_ft.data.records import FRONTAL, OWNER, REPORT_TEXTS, Records, first_outside, is_phantom, raw_labels, shown_view
from cxr_ft.data.reports.text_columns import TEXTS
from cxr_ft.data.sources.address import is_url
from cxr_ft.data.splits.grouping import COMPARISONS
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd

#: Above the images of all archives together, and within what solver and tables count with.
MOST = 1_000_000_000
VIEWS = ("frontal", "all", "PA", "AP", "LATERAL")
UNITS = ("image", "study")
#: The quota of rows without any positive label, in data that has no label for normal images.
NONE = "(none)"


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """The options of cxr-split.

    Args:
        per_label: images (or studies) requested of each label, over the three splits together.
        seed: decides which images are selected among equals.
        ratios: train, val, test in percent.
        views: frontal (PA, AP, and FRONTAL where the data does not say which), all, or one view. Images without a view
            pass where the data has none at all.
        uncertain, blank: policies of `cxr_ft.data.labels`.
        unit: what a row is; "study" joins the images of a study.
        official: keep the data's own split; quotas hold for train only.
        text: the text columns, one of `cxr_ft.data.reports.text_columns.TEXTS`; where a row is a text about a report,
            the section that is read.
        ids: which ids are one patient's: "normal", those equal by `cxr_ft.data.sameness.id_key`, or "exact".

    Raises:
        UsageError: for a value out of range or unknown.
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
    ids: str = "normal"

    def __post_init__(self) -> None:
        if self.per_label < 1:
            raise UsageError(f"--per-label {self.per_label}: at least 1 image a label is needed")
        if self.per_label > MOST:
            raise UsageError(f"--per-label {self.per_label}: no archive has so many images; give at most {MOST:,}")
        # `not all(r > 0)` and not `any(r <= 0)`: NaN is neither.
        if len(self.ratios) != 3 or not all(r > 0 for r in self.ratios) or abs(sum(self.ratios) - 100) > 1e-6:
            raise UsageError(
                f"--ratios {'/'.join(f'{r:g}' for r in self.ratios)}: "
                "give three positive numbers with sum 100, as 70/15/15"
            )
        for option, value, known in (
            ("--views", self.views, VIEWS),
            ("--unit", self.unit, UNITS),
            ("--text", self.text, TEXTS),
            ("--ids", self.ids, COMPARISONS),
        ):
            if value not in known:
                raise unknown(f"{option} value", value, known)


def relative_paths(records: Records) -> Records:
    """Return records of which every path of an image or report is relative to the root and below it.

    Raises:
        UsageError: where one leads out of the root.
    """
    remote = is_url(records.root) or is_phantom(records.root)
    # Not resolved: an archive's folder may itself be a link, and its tables name it as the user does.
    root = None if remote else Path(os.path.normpath(Path(records.root).absolute()))
    for column in ("path", "report"):
        paths = records.table[column].tolist()
        if first_outside(paths) is None:
            continue
        # An absolute path below the root is one of its files.
        paths = [path if root is None else _below(root, path) for path in paths]
        if (path := first_outside(paths)) is not None:
            raise UsageError(f"{records.root}: {column} {path} leads out of it; give paths below that folder")
        table = records.table.assign(**{column: paths}).astype({column: "string"})
        records = dataclasses.replace(records, table=table)
    return records


def _below(root: Path, path: str) -> str:
    """Return an absolute path below the root relative to it, and any other as it is."""
    normal = Path(os.path.normpath(path))
    return normal.relative_to(root).as_posix() if path.startswith("/") and normal.is_relative_to(root) else path


def eligible(table: "pd.DataFrame", records: Records, request: SplitRequest, notes: list[str]) -> "pd.DataFrame":
    """Return the rows of the requested views; of data without any view, all rows, with a line in `notes`.

    Args:
        table: the rows of `records`.
        records: the card and the root, for messages.
        request: the views.
        notes: gets a line on what is left out.

    Raises:
        UsageError: where no row has the requested view.
    """
    if request.views == "all" or records.card.unit == "text":
        return table
    if (table["view"] == "").all():
        if request.views != "frontal":
            raise UsageError(f"--views {request.views}: {records.root} says no view of any image; use --views all")
        notes.append("the data says no views: all images are taken as frontal")
        return table
    in_view = table[table["view"].isin(FRONTAL if request.views == "frontal" else [request.views])]
    present = ", ".join(sorted({shown_view(str(view)) or "unknown" for view in table["view"].unique()}))
    if in_view.empty:
        raise UsageError(f"--views {request.views}: {records.root} has none; its views are {present}; use --views all")
    notes.append(
        f"{len(table) - len(in_view)} of {len(table)} images are left out by --views {request.views} (views: {present})"
    )
    return in_view


def join_studies(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return one row a study: dicom_id, path and view joined by `|`, frontal views first, then LATERAL."""
    # Models that read one view take the first, so the frontal ones come first; the id decides among equals.
    order = {view: i for i, view in enumerate((*FRONTAL, "LATERAL"))}
    table = table.assign(_order=table["view"].map(order).fillna(len(order)))
    table = table.sort_values(["study_id", "_order", "dicom_id"])
    joined = table.groupby("study_id", sort=True)[["dicom_id", "path", "view"]].agg("|".join)
    first = table.drop_duplicates("study_id").drop(columns="_order").set_index("study_id", drop=False)
    first[["dicom_id", "path", "view"]] = joined.loc[first.index]
    return first.reset_index(drop=True)


def positives(
    table: "pd.DataFrame", card: DatasetCard, request: SplitRequest
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return which row counts for which quota, bool [N, Q], and the names of the quotas [Q].

    The quotas are the labels, and NONE in multi-label data without a label for normal images.
    """
    values = targets(raw_labels(table, card), request.uncertain, request.blank) == 1
    if card.multi_label and card.normal is None:
        # Without a quota of their own, images without any label would never be selected: they serve no other quota.
        return np.column_stack([values, ~values.any(axis=1)]), (*card.labels, NONE)
    return values, card.labels


def for_texts(records: Records, request: SplitRequest) -> tuple[Records, SplitRequest]:
    """Return records and request as they hold for rows that are texts, which have no views and no studies.

    With --text findings (or another section) the text of each row is that section of its report.

    Raises:
        UsageError: where an option does not apply to texts.
    """
    for flag, value, plain in (("--views", request.views, ("frontal", "all")), ("--unit", request.unit, ("image",))):
        if value not in plain:
            raise UsageError(f"{flag} {value}: {records.root} holds texts, one a row; leave it out")
    if request.text not in REPORT_TEXTS:
        return records, dataclasses.replace(request, text="none")
    if request.text not in records.table:
        raise UsageError(f"--text {request.text}: the texts of {records.root} have no such sections; leave it out")
    return _section(records, request.text), request


def _section(records: Records, name: str) -> Records:
    """Return the records with one section as the text, and groups made anew from what is the same in it."""
    table = records.table.assign(text=records.table[name])
    with_section = table[table["text"] != ""].reset_index(drop=True)
    if with_section.empty:
        raise UsageError(f"--text {name}: no report of {records.root} has that section; leave it out")
    dropped = len(table) - len(with_section)
    notes = [f"{dropped} of {len(table)} reports have no {name} and are left out"] if dropped else []
    own = OWNER if OWNER in with_section else "subject_id"
    owners = with_section[own].tolist() if records.card.group == "subject" else None
    # A section is another text than the report: what was nearly the same as a whole may differ in it, and the other way
    # round.
    with_section = with_section.assign(subject_id=near_texts.group_names(with_section["text"].tolist(), owners))
    with_section["subject_id"] = with_section["subject_id"].astype("string")
    return dataclasses.replace(records, table=with_section, notes=(*records.notes, *notes))
