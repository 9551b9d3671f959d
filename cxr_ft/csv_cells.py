"""Write cells of CSV files that no spreadsheet takes for a formula, and read them back.

A spreadsheet computes a cell that begins with `=`, `+`, `-` or `@`, also in their full-width forms, and some drop a
leading tab or line end first. Such a cell is written with an apostrophe before it, which a spreadsheet shows as text;
a number stays as it is. A cell that begins with apostrophes before such a character gets one more, so that `unescape`
gives every text back.

Source: OWASP, "CSV Injection".
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
#: A text that begins with none of these is its own cell: a quick look that settles nearly all.
_STARTS = tuple("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def escape(text: str) -> str:
    """Return the cell that stands for `text`: itself, or with an apostrophe where it would be a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape(cell: str) -> str:
    """Return the text that `escape` made `cell` of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def escape_row(cells: Iterable[object]) -> list[object]:
    """Return a row with its texts escaped; numbers are as they were."""
    return [escape(cell) if isinstance(cell, str) else cell for cell in cells]


def escape_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose texts and column names are escaped; numbers and missing values are as they were."""
    return _mapped(table, escape)


def unescape_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table of which `escape_table` made this one."""
    return _mapped(table, unescape)


def _mapped(table: "pd.DataFrame", change: Callable[[str], str]) -> "pd.DataFrame":
    from pandas.api.types import is_object_dtype, is_string_dtype

    table = table.rename(columns=lambda name: change(name) if isinstance(name, str) else name).copy(deep=False)
    for place in range(table.shape[1]):
        values = table.iloc[:, place]
        if is_object_dtype(values) or is_string_dtype(values):
            changed = {
                text: change(text)
                for text in values.dropna().unique()
                if isinstance(text, str) and text.startswith(_STARTS)
            }
            if differing := {text: cell for text, cell in changed.items() if text != cell}:
                table.isetitem(place, values.replace(differing).array)
    return table
