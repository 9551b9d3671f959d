"""Tables by URL, and what `cxr_ft.data.sources.locations` knows of files and folders: the one door to both.

    labels.csv, .csv.gz, .tsv, .tsv.gz, .parquet     a path, or a URL (gs://, s3://, https://)
    duckdb:///archive.db?table=labels                DuckDB's file, or ?sql=SELECT ...; no server
    bigquery://project/dataset.table                 Google BigQuery, or bigquery://project?sql=SELECT ...

A database without a table is a folder of tables (`names`, `join`); the images of its rows lie where `root=DIR` behind
its question mark says. The wanted columns alone are read, and the wanted rows alone are sent; all the way in Arrow.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cxr_ft.data.sources import address
from cxr_ft.data.sources.address import is_database
from cxr_ft.data.sources.kinds import kind_of
from cxr_ft.data.sources.locations import (
    at_hand,
    exists,
    files,
    is_url,
    join,
    local,
    mirror,
    names,
    one_line,
    place,
    read_text,
    split,
    url_of,
)
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TABLES",
    "at_hand",
    "bigquery_endpoint",
    "exists",
    "files",
    "images",
    "is_database",
    "is_table",
    "is_url",
    "join",
    "local",
    "mirror",
    "names",
    "place",
    "read_table",
    "read_text",
    "split",
    "table",
    "tables",
    "url_of",
    "with_images",
]
#: How the name of a table may end.
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def is_table(name: str) -> bool:
    """Whether a name, or a place, is that of a table."""
    return address.parse(name).is_table if is_database(name) else name.lower().endswith(TABLES)


def tables(folder: str) -> list[str]:
    """The names of the tables in a folder or a database, sorted.

    Raises:
        UsageError: where it does not exist or cannot be asked.
    """
    there = names(folder)
    return there if is_database(folder) else [name for name in there if is_table(name)]


def images(where: str) -> str:
    """What the paths in a table, or in a folder's tables, are relative to: that folder, or a database's `root`.

    Where that says nothing it is the database itself, which holds no images.
    """
    if not is_database(where):
        return split(where)[0] if is_table(where) else where
    whole = address.parse(where)
    return place(whole.options["root"]) if "root" in whole.options else whole.bare


def with_images(where: str, root: str) -> str:
    """A database, or a table in one, whose images lie below `root`.

    Raises:
        UsageError: for a source that is no database, whose images lie beside its tables.
    """
    if not is_database(where):
        raise UsageError("--root goes with --audit, or with a database; the images of SOURCE are found by its layout")
    return str(address.parse(where).with_options(root=root))


def bigquery_endpoint(url: str | None) -> AbstractContextManager[None]:
    """Inside, BigQuery is asked at `url` (an emulator's, say) without credentials; None: at Google's own."""
    from cxr_ft.data.sources import endpoint

    return endpoint.at(url)


def table(
    source: str,
    columns: Sequence[str] | None = None,
    where: Mapping[str, object] = _NOTHING,
    optional: Sequence[str] = (),
) -> Any:
    """A table as pyarrow.Table, each column of the type that its source has.

    Args:
        columns: those that must be there; None reads all. A name is also found as databases write it ("No Finding" as
            no_finding), and comes back as it was asked. The table's own order is kept.
        where: rows wanted, by column: a value, or several of which the row has one; None is a missing value.
        optional: columns that are read where they are.

    Raises:
        UsageError: where it cannot be read, or lacks a column.
    """
    if not is_table(source):
        raise UsageError(
            f"{source} is no table: its name must end with {', '.join(TABLES)}, or be like "
            f"{' or '.join(address.FORMS.values())}"
        )
    shown = address.parse(source).shown if is_database(source) else source
    with one_line(shown):
        return _table(source, shown, columns, where, optional)


def _table(
    source: str, shown: str, columns: Sequence[str] | None, where: Mapping[str, object], optional: Sequence[str]
) -> Any:
    from cxr_ft.data.sources import select

    kind = kind_of(source)
    there = kind.fields()
    asked = list(there) if columns is None else [*columns, *optional]
    ours: dict[str, str] = {}
    for name in asked:
        if (own := select.find(there, name)) is not None and ours.get(own) != own:
            ours[own] = name
    if missing := [name for name in columns or () if name not in ours.values()]:
        raise UsageError(f"{shown} has no column {', '.join(missing)}; it has {', '.join(list(there)[:20])}")
    wanted = [name for name in there if name in ours]
    return kind.read(wanted, select.filters(where, there, shown)).rename_columns([ours[name] for name in wanted])


def read_table(
    source: str,
    columns: Sequence[str] | None = None,
    optional: Iterable[str] = (),
    dtypes: Mapping[str, str] = _NOTHING,
    where: Mapping[str, object] = _NOTHING,
) -> "pd.DataFrame":
    """A table as text, the same whatever its source: `table` in the form of `cxr_ft.data.sources.cell_text`.

    Args:
        dtypes: of columns that are numbers: "float64".

    Raises:
        UsageError: as `table`; for a column that no CSV could hold; for a number that is none.
    """
    import pandas as pd

    from cxr_ft.data.sources import cell_text

    found = cell_text.as_text(table(source, columns, where, tuple(optional)), source)
    frame: pd.DataFrame = found.to_pandas(
        types_mapper=lambda kind: pd.StringDtype() if kind == found.schema.types[0] else None
    )
    for name in frame.columns.intersection(list(dtypes)):
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(pd.api.types.pandas_dtype(dtypes[name]))
        except ValueError:
            raise UsageError(f"{source} cannot be read: column {name} holds what is no number") from None
    return frame
