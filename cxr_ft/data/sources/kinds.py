"""Where tables come from, one file a kind: what is there (`fields`), and the wanted part of it (`read`), as Arrow."""

from typing import TYPE_CHECKING

from cxr_ft.data.sources.address import Address, is_database, parse

if TYPE_CHECKING:
    from cxr_ft.data.sources.select import Kind


def kind_of(source: str) -> "Kind":
    """The table that a source names, opened; only its kind's libraries are loaded.

    Raises:
        UsageError: where it cannot be opened, or names a database and no table.
    """
    if is_database(source):
        return _in_database(parse(source))
    from cxr_ft.data.sources import flat_files

    return flat_files.Parquet(source) if source.lower().endswith(".parquet") else flat_files.Csv(source)


def tables_of(database: Address) -> list[str]:
    """The names of a database's tables and views, sorted.

    Raises:
        UsageError: where it cannot be opened or asked.
    """
    if database.scheme == "duckdb":
        from cxr_ft.data.sources import duckdb_file

        return duckdb_file.tables(database)
    from cxr_ft.data.sources import bigquery_table

    return bigquery_table.tables(database)


def _in_database(address: Address) -> "Kind":
    if address.scheme == "duckdb":
        from cxr_ft.data.sources import duckdb_file

        return duckdb_file.DuckdbTable(address)
    from cxr_ft.data.sources import bigquery_table

    return bigquery_table.BigQueryTable(address)
