"""Report text: its sections, and a mini-report written from labels.

MIMIC-CXR's reports carry their sections as headers in capitals at the start of a line ("FINDINGS:"). The wording of the
mini-report is ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_ft.data.records import Records, raw_labels, root_folder
from cxr_ft.errors import UsageError
from cxr_ft.progress import track

if TYPE_CHECKING:
    import pandas as pd

#: What `--text` may be, and the text columns it makes.
TEXTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "mini_report": ("mini_report",),
    "findings": ("findings",),
    "impression": ("impression",),
    "all": ("mini_report", "findings", "impression"),
}

_HEADER = re.compile(r"^[ \t]*([A-Z][A-Z /,()&-]{2,60}):", re.MULTILINE)
_NAMES = {"FINDING": "findings", "FINDINGS": "findings", "IMPRESSION": "impression", "IMPRESSIONS": "impression"}
_BOTH = {"FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS"}


def sections(report: str) -> dict[str, str]:
    """The findings and the impression of a report, white space collapsed; a section that is missing or empty is absent.

    The last occurrence of a header wins; a combined header fills both.
    """
    found: dict[str, str] = {}
    headers = list(_HEADER.finditer(report))
    ends = [*(header.start() for header in headers[1:]), len(report)]
    for header, end in zip(headers, ends, strict=False):
        name = header.group(1).strip()
        text = " ".join(report[header.end() : end].split())
        names = ("findings", "impression") if name in _BOTH else (_NAMES.get(name),)
        found.update({key: text for key in names if key and text})
    return found


def mini_report(values: Mapping[str, float], normal: str | None) -> str:
    """One sentence a label that is stated (1 present, 0 absent, -1 suspected; NaN is not stated), in the labels' order.

    A film whose `normal` label is 1 begins with one sentence that says so.
    """
    words = {1.0: "There is {}.", 0.0: "No {}.", -1.0: "Possible {}."}
    sentences = ["No acute finding."] if normal and values.get(normal) == 1 else []
    sentences += [words[v].format(name.lower()) for name, v in values.items() if v in words and name != normal]
    return " ".join(sentences)


def mini_report_of_class(label: str) -> str:
    """The mini-report of single-label data."""
    return f"The film shows {label.lower()}."


def add_texts(table: "pd.DataFrame", records: Records, text: str, notes: list[str]) -> "pd.DataFrame":
    """`table` with the text columns of `text`. Rows whose report lacks a section asked for by name are left out.

    Raises:
        UsageError: where a section is asked for and the data has no reports.
    """
    wanted = TEXTS[text]
    if "mini_report" in wanted:
        table = table.assign(mini_report=_mini_reports(table, records))
    parts = [name for name in wanted if name != "mini_report"]
    if not parts:
        return table
    root = root_folder(records.root)
    if not (table["report"] != "").any() or not root.is_dir():
        raise UsageError(f"--text {text}: {records.root} has no reports; use --text mini_report or none")
    files = sorted(set(table["report"]) - {""})
    found = {file: _sections_of(root / file) for file in track(files, "reading reports", len(files))}
    for name in parts:
        table = table.assign(**{name: [found.get(file, {}).get(name, "") for file in table["report"]]})
    there = (table[parts] != "").any(axis=1)
    if not there.any():
        raise UsageError(
            f"--text {text}: none of {len(files)} reports of {records.root} could be read or has that section"
        )
    if dropped := int((~there).sum()):
        notes.append(f"{dropped} images whose report has no {' or '.join(parts)} are left out")
    return table[there]


def _sections_of(file: Path) -> dict[str, str]:
    try:
        return sections(file.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return {}


def _mini_reports(table: "pd.DataFrame", records: Records) -> list[str]:
    if not records.card.multi_label:
        return [mini_report_of_class(label) for label in table["label"]]
    values = raw_labels(table, records.card)
    unique, where = np.unique(np.nan_to_num(values, nan=9), axis=0, return_inverse=True)
    texts = [mini_report(dict(zip(records.card.labels, row, strict=True)), records.card.normal) for row in unique]
    return [texts[i] for i in where]
