"""Match column names, type the filters of a query, and write its SELECT: the part that all table backends share."""

import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cxr_ft.data.sources import csv_text
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows wanted: a column's value, or several of which it is one. None is "missing".
Where = Mapping[str, object]
#: A value of a column that rows can be filtered by.
Cell = str | bool | int | float | datetime.date


@dataclass(frozen=True)
class Among:
    """The values a column may have, of the column's own type `kind`; `missing`: or none at all."""

    kind: "pa.DataType"
    values: tuple[Cell, ...]
    missing: bool

    @property
    def blank(self) -> tuple[str, ...]:
        """Return the values that become missing once written as text (`cxr_ft.data.sources.csv_text`)."""
        from pyarrow import types

        return ("nan", "NaN") if types.is_floating(self.kind) else ("",) if is_text(self.kind) else ()


#: By column, in its own name.
Filters = Mapping[str, Among]


class TableBackend(Protocol):
    """An open table: its columns, and the wanted part of it."""

    def fields(self) -> "Mapping[str, pa.DataType]":
        """Return the columns and their pyarrow types."""

    def read(self, columns: Sequence[str], filters: Filters) -> "pa.Table":
        """Return these columns of the rows that pass every filter, in any order of rows."""


def find_column(columns: Iterable[str], name: str) -> str | None:
    """Return the column called `name`, exactly or as databases without spaces and capitals write it; else None."""
    names = list(columns)
    if name in names:
        return name
    # Only where one column matches: of two that differ in case alone neither is guessed.
    alike = [other for other in names if _plain(other) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name).casefold()


def filters(where: Where, fields: "Mapping[str, pa.DataType]", source: str) -> Filters:
    """Return the filters of `where`, each value converted to its column's type.

    Raises:
        UsageError: for an unknown column, or a value that its column cannot have.
    """
    out = {}
    for name, wanted in where.items():
        if (own := find_column(fields, name)) is None:
            raise UsageError(f"{source} has no column {name}; it has {', '.join(list(fields)[:20])}")
        several = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        if not several:
            raise UsageError(f"{source}: the filter of column {name} has no value; give one or more, or leave it out")
        # By way of text, so that a filter 1 meets 1, 1.0 and "1", whatever type the source has.
        cells = [csv_text.cell(value) for value in several]
        typed = [_typed(cell, fields[own], f"{source}: column {name}") for cell in cells if cell is not None]
        out[own] = Among(fields[own], tuple(typed), None in cells)
    return out


def is_text(kind: "pa.DataType") -> bool:
    """Return True if a pyarrow type is text."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _typed(cell: str, kind: "pa.DataType", what: str) -> Cell:
    import pyarrow as pa
    from pyarrow import types

    # Categories of pandas are dictionaries in Arrow.
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if is_text(kind):
        return cell
    # Types whose text has one meaning; a time stamp's, say, depends on a zone.
    simple = (types.is_boolean, types.is_integer, types.is_floating, types.is_date)
    if not any(test(kind) for test in simple):
        raise UsageError(f"{what} is of type {kind}: rows cannot be chosen by it; use SQL")
    try:
        # Converted here and not by the database: each dialect casts in its own way.
        value: Cell = pa.scalar(cell).cast(kind).as_py()
        return value
    except pa.ArrowInvalid:
        raise UsageError(f"{what} is of type {kind}, and a value of its filter is not") from None


def statement(
    source: str,
    columns: Sequence[str],
    filters: Filters,
    quote: Callable[[str], str],
    parameter: Callable[[str], str],
) -> tuple[str, dict[str, Among]]:
    """Return a SELECT of `columns` from `source`, already quoted, and the filters by the names of their parameters.

    Args:
        quote: quotes a column's name in the SQL dialect.
        parameter: writes a list parameter behind IN in the SQL dialect.
    """
    chosen = ", ".join(quote(name) for name in columns)
    named = {f"p{i}": (column, among) for i, (column, among) in enumerate(filters.items())}
    clauses = [_clause(quote(column), among, parameter(name)) for name, (column, among) in named.items()]
    rows = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    return f"SELECT {chosen} FROM {source}{rows}", {name: among for name, (_, among) in named.items()}


def _clause(column: str, among: Among, parameter: str) -> str:
    inside = f"{column} IN {parameter}"
    if not among.missing:
        return inside
    blank = ", ".join(f"'{word}'" for word in among.blank)
    # Missing is what becomes an empty cell as text: NULL, "" and NaN.
    absent = f"{column} IS NULL" + (f" OR CAST({column} AS STRING) IN ({blank})" if blank else "")
    return f"({absent} OR {inside})" if among.values else f"({absent})"
