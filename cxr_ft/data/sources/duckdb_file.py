"""Read tables of a DuckDB file in this process, without a server.

The file is opened read-only, and SQL from a configuration can reach nothing outside it: no files, network, extensions.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.sources.address import FORMS, Address, query_of
from cxr_ft.data.sources.table_query import Filters, statement
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder, make_folder

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_CONFIG = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


class DuckdbTable:
    """A table, a view or the answer to one SELECT."""

    def __init__(self, address: Address) -> None:
        self.address = address
        if not address.is_table:
            raise UsageError(f"{address.bare} is a database: name a table, {FORMS['duckdb']}, or give sql=SELECT ...")
        self.source = _source(address)

    def fields(self) -> "Mapping[str, pa.DataType]":
        """Return the columns and their types."""
        name = self.address.options.get("table", "").removeprefix("main.")
        # Looked up first, so that the message can name the tables that the file has.
        known_tables = list_tables(self.address) if name else []
        if name and name.casefold() not in {known.casefold() for known in known_tables}:
            raise UsageError(
                f"{self.address.bare} has no table {name}; it has {', '.join(known_tables[:20]) or 'none'}"
            )
        with _connected(self.address) as connection:
            # No row: only the types are wanted, and a query may be large.
            empty = connection.sql(f"SELECT * FROM {self.source} LIMIT 0").to_arrow_table()
        return {field.name: field.type for field in empty.schema}

    def read(self, columns: Sequence[str], filters: Filters) -> "pa.Table":
        """Return these columns of the rows that pass the filters."""
        sql, named = statement(self.source, columns, filters, quoted, lambda name: f"${name}")
        # As parameters and never as SQL text: a value may hold quotes.
        values = {name: list(among.values) for name, among in named.items() if among.values}
        with _connected(self.address) as connection:
            return connection.sql(sql, params=values).to_arrow_table()


def list_tables(database: Address) -> list[str]:
    """Return the tables and views of the file, those of other schemas as schema.table."""
    sql = (
        "SELECT CASE schema_name WHEN 'main' THEN name ELSE schema_name || '.' || name END AS name FROM ("
        "SELECT database_name, schema_name, table_name AS name FROM duckdb_tables() UNION ALL "
        "SELECT database_name, schema_name, view_name FROM duckdb_views() WHERE NOT internal) "
        "WHERE database_name = 'file' ORDER BY name"
    )
    with _connected(database) as connection:
        return [str(name) for (name,) in connection.sql(sql).fetchall()]


def quoted(name: str) -> str:
    """Return an identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def _source(address: Address) -> str:
    """Return the FROM clause: a quoted table, or the SQL in brackets.

    Raises:
        UsageError: where the SQL is not one SELECT.
    """
    if "table" in address.options:
        return ".".join(quoted(part) for part in address.options["table"].split("."))
    import duckdb

    sql = query_of(address)
    try:
        kinds = [one.type for one in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise UsageError(f"{address.shown}: {str(error).splitlines()[0]}") from None
    # Parsed by DuckDB itself, not by its first word: `SELECT 1; DROP TABLE t` is two statements.
    if kinds != [duckdb.StatementType.SELECT]:
        raise UsageError(f"{address.shown}: give one SELECT statement, and nothing else")
    return f"(\n{sql}\n)"


@contextmanager
def _connected(address: Address) -> "Iterator[duckdb.DuckDBPyConnection]":
    try:
        import duckdb
    except ImportError:
        raise UsageError(f"{address.shown} needs the package duckdb: pip install duckdb") from None
    if not Path(address.at).is_file():
        raise UsageError(f"{address.at} does not exist: write {FORMS['duckdb']} with a file that is there")
    try:
        # Attached to a database of our own, so that a notebook may hold the file open with other settings.
        # What does not fit into memory is spilled to files, which would lie in the working folder, open to others.
        spilled = cache_folder() / "duckdb"
        make_folder(spilled, private=True)
        with duckdb.connect(":memory:", config={**_CONFIG, "temp_directory": str(spilled)}) as connection:
            # ATTACH takes no parameter, so the path's quotes are doubled. Access is closed after it, and no statement
            # reopens it.
            path = address.at.replace("'", "''")
            connection.execute(f"ATTACH '{path}' AS file (READ_ONLY); USE file; SET enable_external_access = false")
            yield connection
    except duckdb.Error as error:
        raise UsageError(f"{address.shown} cannot be read: {_without_values(error)}") from None


def _without_values(error: Exception) -> str:
    """Return DuckDB's message in one line, but none that quotes a value, which may be a patient's."""
    import duckdb

    if isinstance(error, duckdb.DataError):
        return f"{type(error).__name__}: a value does not fit what the query makes of it"
    return re.sub(r"\s+", " ", str(error)).strip().partition(" LINE ")[0]
