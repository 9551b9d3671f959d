"""Read the wanted columns and rows of a table, whatever its source.

    labels.csv, .csv.gz, .tsv, .tsv.gz, .parquet     a path, or a URL (gs://, s3://, https://)
    duckdb:///archive.db?table=labels                a DuckDB file, or ?sql=SELECT ...; no server
    bigquery://project/dataset.table                 Google BigQuery, or bigquery://project?sql=SELECT ...

A database without a table is treated as a folder of tables; `root=DIR` after its question mark names the folder of its
images. Only the wanted columns are read and only the wanted rows are sent, in Arrow all the way.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from cxr_ft.data.sources import address
from cxr_ft.data.sources.address import is_database
from cxr_ft.data.sources.backends import open_table
from cxr_ft.data.sources.locations import list_names, normalized, split
from cxr_ft.data.sources.remote_files import usage_errors
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: File name endings of tables.
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
_NO_FILTERS: Mapping[str, object] = MappingProxyType({})
_NO_TYPES: Mapping[str, str] = MappingProxyType({})


def is_table(name: str) -> bool:
    """Return True if a file name or an address is that of a table."""
    return address.parse(name).is_table if is_database(name) else name.lower().endswith(TABLES)


def list_tables(folder: str) -> list[str]:
    """Return the sorted names of the tables in a folder or a database.

    Raises:
        UsageError: if it does not exist or cannot be listed.
    """
    names = list_names(folder)
    return names if is_database(folder) else [name for name in names if is_table(name)]


def image_root(source: str) -> str:
    """Return what the image paths in a source's tables are relative to: its folder, or a database's `root`.

    A database without `root` is its own root, which holds no images.
    """
    if not is_database(source):
        return split(source)[0] if is_table(source) else source
    parsed = address.parse(source)
    return normalized(parsed.options["root"]) if "root" in parsed.options else parsed.bare


def with_image_root(source: str, root: str) -> str:
    """Return the address of a database, or of a table in one, whose images are below `root`.

    Raises:
        UsageError: for a source that is no database: its images are beside its tables.
    """
    if not is_database(source):
        raise UsageError("--root goes with --audit, or with a database; the images of SOURCE are found by its layout")
    return str(address.parse(source).with_options(root=root))


def read_arrow(
    source: str,
    columns: Sequence[str] | None = None,
    where: Mapping[str, object] = _NO_FILTERS,
    optional: Sequence[str] = (),
) -> "pa.Table":
    """Read a table, each column in the type that its source has.

    Args:
        columns: the required columns; None reads all. A name also matches as databases write it ("No Finding" as
            no_finding), and is returned as requested. The table's own order is kept.
        where: the wanted rows, by column: one value, or several of which a row must have one; None is a missing value.
        optional: columns to read if the table has them.

    Raises:
        UsageError: if the table cannot be read, or lacks a column.
    """
    if not is_table(source):
        raise UsageError(
            f"{source} is no table: its name must end with {', '.join(TABLES)}, or be like "
            f"{' or '.join(address.FORMS.values())}"
        )
    shown = address.parse(source).shown if is_database(source) else source
    with usage_errors(shown):
        return _read_arrow(source, shown, columns, where, optional)


def _read_arrow(
    source: str, shown: str, columns: Sequence[str] | None, where: Mapping[str, object], optional: Sequence[str]
) -> "pa.Table":
    from cxr_ft.data.sources import table_query

    backend = open_table(source)
    fields = backend.fields()
    requested = list(fields) if columns is None else [*columns, *optional]
    # The requested name by the table's own; of two requests that match one column the last wins.
    renamed: dict[str, str] = {}
    for name in requested:
        if (own := table_query.find_column(fields, name)) is not None and renamed.get(own) != own:
            renamed[own] = name
    if missing := [name for name in columns or () if name not in renamed.values()]:
        raise UsageError(f"{shown} has no column {', '.join(missing)}; it has {', '.join(list(fields)[:20])}")
    # The table's own order, so that a result does not depend on how a caller lists its columns.
    wanted = [name for name in fields if name in renamed]
    table = backend.read(wanted, table_query.filters(where, fields, shown))
    return table.rename_columns([renamed[name] for name in wanted])


def read_table(
    source: str,
    columns: Sequence[str] | None = None,
    optional: Iterable[str] = (),
    dtypes: Mapping[str, str] = _NO_TYPES,
    where: Mapping[str, object] = _NO_FILTERS,
) -> "pd.DataFrame":
    """Read a table as text, the same whatever its source: `read_arrow` in the form of `cxr_ft.data.sources.csv_text`.

    Args:
        dtypes: the types of numeric columns, such as "float64".

    Raises:
        UsageError: as `read_arrow`; for a column that no CSV can hold; for a value that is no number.
    """
    import pandas as pd

    from cxr_ft.data.sources import csv_text

    text = csv_text.as_text(read_arrow(source, columns, where, tuple(optional)), source)
    frame: pd.DataFrame = text.to_pandas(
        # pandas would otherwise take missing text for the float NaN in a column of objects.
        types_mapper=lambda kind: pd.StringDtype() if kind == text.schema.types[0] else None
    )
    for name in frame.columns.intersection(list(dtypes)):
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(pd.api.types.pandas_dtype(dtypes[name]))
        except ValueError:
            raise UsageError(f"{source} cannot be read: column {name} holds values that are no numbers") from None
    return frame
