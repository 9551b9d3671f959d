"""Open a table with the backend that its address names: a flat file, DuckDB or BigQuery.

Each backend is one file and is imported only when it is used, so that no command loads libraries it does not need.
"""

from cxr_ft.data.sources.address import Address, is_database, parse
from cxr_ft.data.sources.table_query import TableBackend


def open_table(source: str) -> TableBackend:
    """Open the table at an address.

    Raises:
        UsageError: if it cannot be opened, or the address names a database and no table.
    """
    if not is_database(source):
        from cxr_ft.data.sources import flat_files

        is_parquet = source.lower().endswith(".parquet")
        return flat_files.ParquetTable(source) if is_parquet else flat_files.CsvTable(source)
    address = parse(source)
    if address.scheme == "duckdb":
        from cxr_ft.data.sources import duckdb_file

        return duckdb_file.DuckdbTable(address)
    from cxr_ft.data.sources import bigquery_table

    return bigquery_table.BigQueryTable(address)


def list_tables(database: Address) -> list[str]:
    """Return the sorted names of a database's tables and views.

    Raises:
        UsageError: if it cannot be opened or listed.
    """
    if database.scheme == "duckdb":
        from cxr_ft.data.sources import duckdb_file

        return duckdb_file.list_tables(database)
    from cxr_ft.data.sources import bigquery_table

    return bigquery_table.list_tables(database)
