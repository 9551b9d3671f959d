"""Read tables of Google BigQuery with Google's own client, and cache the results.

Never run against Google itself yet: only against a local server that speaks its REST protocol.

Each query is first run dry, which costs nothing: the bytes it would read are printed, and more than
`maximum_bytes_billed` are refused, by us and by the server. The Storage API sends the rows if the package
google-cloud-bigquery-storage is installed.

Results are cached as Parquet in the user's cache folder (`bigquery/`), which only the user can read. The key is the
query, its parameters and the state of every table it reads, so a cached result is never stale. What those cannot
identify is not cached: views, whose definition may change; tables outside BigQuery or being streamed into; functions of
time, of chance and of the user.
"""

import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.sources.address import FORMS, Address, query_of
from cxr_ft.data.sources.bigquery_client import connected, endpoint, is_google, retries, usage_errors
from cxr_ft.data.sources.table_query import Among, Filters, is_text, statement
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud import bigquery

#: Bytes that one query may read where the URL does not say.
MAXIMUM_BYTES = 10_000_000_000
#: Part of each cache key: raise it when the cached files change.
_CACHE_FORMAT = 1
#: Functions whose result is not determined by the tables.
_CHANGING = r"\b(CURRENT_\w+|RAND|GENERATE_UUID|SESSION_USER|TABLESAMPLE|EXTERNAL_QUERY|SYSTEM_TIME|ML)\b"
#: BigQuery lists at most this many tables of a query, so a full list may be incomplete.
_LISTED = 50


class BigQueryTable:
    """A table, a view or the answer to one SELECT."""

    def __init__(self, address: Address) -> None:
        self.address = address
        if not address.is_table:
            raise UsageError(f"{address.bare} is no table: write {FORMS['bigquery']}, or give sql=SELECT ...")
        self.most = _most(address)
        self.sql = query_of(address)
        self.source = f"(\n{self.sql}\n)" if self.sql else quoted(_path(address))

    def fields(self) -> "Mapping[str, pa.DataType]":
        """Return the columns and their types; pyarrow's null for a type that is text once it is read."""
        with connected(self.address) as client:
            with usage_errors(self.address):
                if not self.sql:
                    schema = client.get_table(_path(self.address), **retries()).schema
                else:
                    schema = self._dry_run(client, self.sql, {}).schema
            # Not every server tells a query's columns before it has run.
            schema = schema or self._run(client, f"SELECT * FROM {self.source} LIMIT 0", {}).schema
        return {column.name: _kind(column) for column in schema}

    def read(self, columns: Sequence[str], filters: Filters) -> "pa.Table":
        """Return these columns of the rows that pass the filters, from the cache if no table has changed.

        Raises:
            UsageError: where the query would read more than `maximum_bytes_billed`.
        """
        sql, named = statement(self.source, columns, filters, quoted, lambda name: f"UNNEST(@{name})")
        with connected(self.address) as client:
            with usage_errors(self.address):
                dry_run = self._dry_run(client, sql, named)
                key = _cache_key(client, dry_run, sql, named)
            if key and (cached := _cached(key)) is not None:
                _say(f"{self.address.shown}: read from the cache, as no table has changed")
                return cached
            # Before the run: a query that reads too much must cost nothing.
            self._check(dry_run.total_bytes_processed)
            result = self._run(client, sql, named)
        if key:
            _store(key, result)
        return result

    def _check(self, size: int | None) -> None:
        if size is None:
            _say(f"{self.address.shown}: the server does not say how much the query reads")
        elif size > self.most:
            raise UsageError(
                f"{self.address.shown}: the query would read {_bytes(size)}, more than {_bytes(self.most)}; choose "
                f"fewer columns, or allow it by maximum_bytes_billed={size} in the URL"
            )
        else:
            _say(f"{self.address.shown}: the query reads {_bytes(size)}")

    def _dry_run(self, client: "bigquery.Client", sql: str, named: Mapping[str, Among]) -> "bigquery.QueryJob":
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, query_parameters=_parameters(named))
        job = client.query(sql, config, job_retry=None, **retries())
        # Where the server does not name the kind of statement, its first word decides: only a SELECT is ever run.
        if self.sql and (job.statement_type or _first_word(self.sql)) not in {"SELECT", "WITH"}:
            raise UsageError(f"{self.address.shown}: give one SELECT statement, and nothing else")
        return job

    def _run(self, client: "bigquery.Client", sql: str, named: Mapping[str, Among]) -> "pa.Table":
        from google.cloud import bigquery

        # The server refuses too, in case a table grew since the dry run.
        config = bigquery.QueryJobConfig(maximum_bytes_billed=self.most, query_parameters=_parameters(named))
        with usage_errors(self.address, running=True):
            rows = client.query(sql, config, **retries()).result(**retries())
            if odd := next((column.name for column in rows.schema if column.field_type == "INTERVAL"), None):
                raise UsageError(f"{self.address.shown}: column {odd} is an INTERVAL, for which there is no type here")
            result = rows.to_arrow(create_bqstorage_client=_has_storage())
        # A page that is lost on the way would otherwise be a smaller data set.
        if rows.total_rows is not None and result.num_rows != rows.total_rows:
            raise UsageError(
                f"{self.address.shown}: the server sent {result.num_rows} of {rows.total_rows} rows; try again"
            )
        return result


def list_tables(database: Address) -> list[str]:
    """Return the sorted tables and views of a data set.

    Raises:
        UsageError: where it cannot be listed.
    """
    if "/" not in database.at:
        raise UsageError(f"{database.bare} is a project: name a data set in it, {FORMS['bigquery']}")
    with connected(database) as client, usage_errors(database):
        return sorted(str(table.table_id) for table in client.list_tables(_dotted(database.at), **retries()))


def quoted(name: str) -> str:
    """Return an identifier in backquotes.

    Raises:
        UsageError: for a name that BigQuery cannot hold.
    """
    # Quoting cannot be undone from inside a name: these characters would end it, and the rest would be SQL.
    if set(name) & set("`\\\n"):
        raise UsageError(f"{name!r} is no name in BigQuery")
    return f"`{name}`"


def _path(address: Address) -> str:
    """Return project.dataset.table."""
    if "/" not in address.at:
        raise UsageError(f"{address.bare} names no data set: write {FORMS['bigquery']}")
    return f"{_dotted(address.at)}.{address.options['table']}"


def _dotted(at: str) -> str:
    return at.replace("/", ".")


def _kind(column: "bigquery.SchemaField") -> "pa.DataType":
    import pyarrow as pa

    kinds = {
        "STRING": pa.string(),
        **dict.fromkeys(("INTEGER", "INT64"), pa.int64()),
        **dict.fromkeys(("FLOAT", "FLOAT64"), pa.float64()),
        **dict.fromkeys(("BOOLEAN", "BOOL"), pa.bool_()),
        "DATE": pa.date32(),
        **dict.fromkeys(("RECORD", "STRUCT", "RANGE"), pa.struct([])),
        "BYTES": pa.binary(),
        "INTERVAL": pa.month_day_nano_interval(),
    }
    if column.mode == "REPEATED":
        return pa.list_(pa.null())
    return kinds.get(column.field_type.upper(), pa.null())


def _parameters(named: Mapping[str, Among]) -> "list[bigquery.ArrayQueryParameter]":
    from google.cloud import bigquery
    from pyarrow import types

    def kind(among: Among) -> str:
        if is_text(among.kind):
            return "STRING"
        if types.is_date(among.kind):
            return "DATE"
        return "BOOL" if types.is_boolean(among.kind) else "INT64" if types.is_integer(among.kind) else "FLOAT64"

    used = {name: among for name, among in named.items() if among.values}
    return [bigquery.ArrayQueryParameter(name, kind(among), list(among.values)) for name, among in used.items()]


def _most(address: Address) -> int:
    text = address.options.get("maximum_bytes_billed", str(MAXIMUM_BYTES))
    if not text.isascii() or not text.isdigit() or not int(text):
        raise UsageError(f"{address.bare}: maximum_bytes_billed={text} is no number of bytes")
    return int(text)


def _first_word(sql: str) -> str:
    words = sql.split()
    return words[0].upper() if words and ";" not in sql else ""


def _has_storage() -> bool:
    """Return True if rows can come through the Storage API, whose protocol emulators do not speak."""
    google = is_google(endpoint())
    return google and importlib.util.find_spec("google.cloud.bigquery_storage") is not None


def _bytes(size: float) -> str:
    """Return a size in decimal units, such as 1.2 GB, as cloud providers bill it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _cache_key(
    client: "bigquery.Client", dry_run: "bigquery.QueryJob", sql: str, named: Mapping[str, Among]
) -> str | None:
    """Return the cache key of a query from its dry run; None if its result must not be cached."""
    # Without any table, or with a full list, it is not known what the result depends on.
    references = dry_run.referenced_tables
    if not 0 < len(references) < _LISTED or re.search(_CHANGING, sql, re.IGNORECASE):
        return None
    states = []
    for reference in references:
        # A table that the SQL does not name is read through a view.
        state = _state(client, reference) if reference.table_id in sql else None
        if state is None:
            return None
        states.append(state)
    # repr and not str: 1 and "1" are different parameters and need different keys.
    values = {name: [repr(value) for value in among.values] for name, among in named.items()}
    whole = json.dumps([_CACHE_FORMAT, endpoint(), sql, values, sorted(states)])
    return hashlib.sha256(whole.encode()).hexdigest()


def _cached(name: str) -> "pa.Table | None":
    """Return the cached result of that key, or None."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(_cache_file(name))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowInvalid):
        _cache_file(name).unlink(missing_ok=True)  # damaged: the query runs again
        return None


def _store(name: str, result: "pa.Table") -> None:
    """Cache a result.

    Raises:
        UsageError: if the cache folder cannot be written.
    """
    from pyarrow import parquet

    # Results may hold patients' rows.
    with atomic(_cache_file(name), private=True) as temporary:
        parquet.write_table(result, temporary, compression="zstd", use_compliant_nested_type=False)


def _state(client: "bigquery.Client", reference: "bigquery.TableReference") -> list[str] | None:
    """Return values that change whenever the table does; None if BigQuery has no such values for it."""
    from google.api_core.exceptions import Forbidden, NotFound

    try:
        table = client.get_table(reference, timeout=60)
    except (Forbidden, NotFound):
        return None
    if table.table_type != "TABLE" or table.streaming_buffer is not None or table.modified is None:
        return None
    path = f"{reference.project}.{reference.dataset_id}.{reference.table_id}"
    return [path, table.modified.isoformat(), str(table.etag), str(table.num_rows), str(table.num_bytes)]


def _cache_file(name: str) -> Path:
    return cache_folder() / "bigquery" / f"{name}.parquet"
