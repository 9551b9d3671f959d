"""Numbers that others have published, with their protocol: to be shown next to ours, never in an order with them.

A CSV in UTF-8 with a header and these columns, in any order:

| column | what it holds | may be empty |
|---|---|---|
| source | who, and when or where | no |
| method | full, lora, ... | no |
| targets | the modules that were adapted | yes |
| base | the pretrained model | yes |
| data | what it was trained and tested on | no |
| metric | with its unit: accuracy %, BLEU-4 | no |
| value | a number, as printed | no |
| n | rows it was measured on | yes |
| protocol | what one must know to read it: split, seeds, labels | no |
| url | http or https | yes |
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cxr_ft.errors import UsageError

COLUMNS = ("source", "method", "targets", "base", "data", "metric", "value", "n", "protocol", "url")
NEEDED = ("source", "method", "data", "metric", "value", "protocol")

#: What the page calls the columns; an address becomes the link of its source.
HEAD = ("Source", "Method", "Targets", "Base", "Data", "Metric", "Value", "n", "Protocol")


class Published(NamedTuple):
    """One published number. `printed` is `value` as its source prints it; `n` is None where it is not stated."""

    source: str
    method: str
    targets: str
    base: str
    data: str
    metric: str
    value: float
    printed: str
    n: int | None
    protocol: str
    url: str


def read(path: Path | str) -> list[Published]:
    """Return the published numbers in a CSV, in its order.

    Raises:
        UsageError: for a file that cannot be read, a column that is missing or unknown, a cell that must not be empty,
            a value that is no number, an address that is none.
    """
    path = Path(path)
    try:
        # utf-8-sig: spreadsheets begin a CSV in UTF-8 with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Without strict, csv takes the rest of a cell with a broken quote as part of its text.
            reader = csv.DictReader(file, strict=True)
            _check_head(path, reader.fieldnames or ())
            # A line of empty cells, which spreadsheets leave at the end, is no number.
            return [_row(f"{path}, line {reader.line_num}", row) for row in reader if any(row.values())]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save the table as a CSV in UTF-8") from None
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV: {error}") from None


def cells(rows: Sequence[Published]) -> list[tuple[str, ...]]:
    """Return the rows as text under `HEAD`, by data and metric, so that numbers that might be compared are neighbours.

    Within these they keep the file's order: an order by value would read as a ranking.
    """
    order: dict[tuple[str, str], int] = {}
    for row in rows:
        order.setdefault((row.data, row.metric), len(order))
    return [
        (
            *(row.source, row.method, row.targets, row.base, row.data, row.metric, row.printed),
            "" if row.n is None else f"{row.n:,}",
            row.protocol,
        )
        for row in sorted(rows, key=lambda row: order[row.data, row.metric])
    ]


def _check_head(path: Path, head: Sequence[str]) -> None:
    known = ", ".join(COLUMNS)
    if missing := [name for name in COLUMNS if name not in head]:
        raise UsageError(f"{path} lacks the column {missing[0]!r}; its first line must name: {known}")
    if unexpected := [name for name in head if name not in COLUMNS]:
        raise UsageError(f"{path} has an unknown column {unexpected[0]!r}; known: {known}")
    if len(set(head)) != len(head):
        raise UsageError(f"{path} names a column twice; each of these once: {known}")


def _row(where: str, raw: dict[str, str]) -> Published:
    # csv puts what is beyond the head under None, and None where a line is too short.
    if None in raw or None in raw.values():
        raise UsageError(f"{where}: not {len(COLUMNS)} cells; quote a cell that holds a comma")
    row = {key: value.strip() for key, value in raw.items()}
    if empty := [name for name in NEEDED if not row[name]]:
        raise UsageError(f"{where}: {empty[0]} is empty; a number without it cannot be read rightly")
    value = _number(row["value"])
    if value is None:
        raise UsageError(f"{where}: value {row['value']!r} is no number; write 94.48, and its unit in metric")
    # isdigit alone accepts superscripts, which int() refuses.
    if row["n"] and not (row["n"].isascii() and row["n"].isdigit() and int(row["n"]) > 0):
        raise UsageError(f"{where}: n {row['n']!r} is no whole number above 0; leave it empty where it is not stated")
    if row["url"] and not _is_address(row["url"]):
        raise UsageError(f"{where}: url {row['url']!r} is no http or https address; leave it empty where there is none")
    # The digits as printed are kept: 94.40 says more than 94.4.
    printed = row.pop("value")
    many = row.pop("n")
    return Published(**row, value=value, printed=printed, n=int(many) if many else None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_address(text: str) -> bool:
    try:
        # urlsplit raises for some addresses, such as one with an unclosed bracket.
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not any(c.isspace() for c in text)
