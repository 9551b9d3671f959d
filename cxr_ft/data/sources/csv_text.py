"""Convert columns of any type to the text a CSV would hold, so that results do not depend on a table's source.

Whole numbers bear no point (1, also where a 1.0 or a NUMERIC is stored), true and false are 1 and 0, dates and times
are ISO 8601 with a space and no zeros behind the seconds, times with a zone are in UTC. NaN and the empty text
are missing: a CSV knows no difference.
"""

from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from decimal import Decimal

    import pyarrow as pa

#: Whole numbers up to here are exact in float64.
_EXACT = 2.0**53


def as_text(table: "pa.Table", where: str) -> "pa.Table":
    """Return a table with every column as text.

    Raises:
        UsageError: for a column of lists, records, bytes or intervals, which no CSV holds.
    """
    import pyarrow as pa

    columns = [column(table.column(i), f"{where}: column {name}") for i, name in enumerate(table.column_names)]
    return pa.table(columns, names=table.column_names)


def column(values: "pa.ChunkedArray", what: str) -> "pa.ChunkedArray":
    """Return one column as text, missing where it is empty; `what` names it in errors."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        # A dictionary's values may be of any type, which decides the text.
        values = values.cast(values.type.value_type)
    text = _text(values, what)
    return pc.if_else(pc.equal(text, ""), None, text)


def cell(value: object) -> str | None:
    """Return one Python value as text, by the same rules."""
    import pyarrow as pa

    # bool is an int in Python, but its text is 1 or 0 here.
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value) or None
    text = column(pa.chunked_array([pa.array([value])]), "a filter")[0].as_py()
    return None if text is None else str(text)


def _text(values: "pa.ChunkedArray", what: str) -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = values.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return values.cast(pa.string())
    if types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.string())
    if types.is_integer(kind) or types.is_date(kind):
        return values.cast(pa.date32() if types.is_date(kind) else kind).cast(pa.string())
    if types.is_floating(kind):
        return _floats(values)
    if types.is_decimal(kind):
        return pa.chunked_array([pa.array([_decimal(v) for v in values.to_pylist()], pa.string())])
    if types.is_timestamp(kind) or types.is_time(kind):
        zoned = types.is_timestamp(kind) and kind.tz is not None
        text = (values.cast(pa.timestamp(kind.unit, "UTC")) if zoned else values).cast(pa.string())
        # Arrow prints as many decimals as the unit has, so the same time would differ by the unit it is stored in.
        short = pc.replace_substring_regex(text, r"\.(\d*?)0+(Z?)$", r".\1\2")
        return pc.replace_substring_regex(pc.replace_substring_regex(short, r"\.(Z?)$", r"\1"), "Z$", "+00:00")
    raise UsageError(f"{what} is of type {kind}, which is no text: leave it out, or write it as text in the SQL")


def _floats(values: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    exact = values.cast(pa.float64())
    whole = pc.and_(pc.equal(pc.floor(exact), exact), pc.less(pc.abs(exact), _EXACT))
    # The 0.0 is never used; it keeps the cast from failing on values that are no whole numbers.
    digits = pc.if_else(whole, exact, 0.0).cast(pa.int64()).cast(pa.string())
    # The column's own type, for float32 has the fewest digits that tell its values apart.
    text = pc.if_else(whole, digits, values.cast(pa.string()))
    return pc.if_else(pc.is_nan(exact), None, text)


def _decimal(value: "Decimal | None") -> str | None:
    if value is None:
        return None
    # Not str(): a NUMERIC may print as 1E+3.
    digits = f"{value:f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    # Negative zero would be another class than zero.
    return "0" if digits == "-0" else digits
