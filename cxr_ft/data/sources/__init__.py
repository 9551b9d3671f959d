"""Read tables and files of an archive: from folders, URLs, DuckDB and BigQuery."""
