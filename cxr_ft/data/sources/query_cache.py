"""Answers of BigQuery, kept as Parquet in the user's cache folder (`bigquery/`), which only the user can read.

An answer is found again by its query, its parameters and the state of every table it read; so it is never stale. What
cannot be told from those is not kept: views, whose definition may change; tables outside BigQuery or being streamed
into; functions of the clock, of chance and of the user.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft.data.sources import endpoint
from cxr_ft.data.sources.select import Among
from cxr_ft.files import atomic, cache_folder

if TYPE_CHECKING:
    from google.cloud import bigquery

_FORMAT = 1
_CHANGING = r"\b(CURRENT_\w+|RAND|GENERATE_UUID|SESSION_USER|TABLESAMPLE|EXTERNAL_QUERY|SYSTEM_TIME|ML)\b"
#: BigQuery lists no more tables of a query than so many.
_LISTED = 50


def key(client: "bigquery.Client", tried: "bigquery.QueryJob", sql: str, named: Mapping[str, Among]) -> str | None:
    """The name of a query's answer, of its dry run; None for an answer that must not be kept."""
    references = tried.referenced_tables
    if not 0 < len(references) < _LISTED or re.search(_CHANGING, sql, re.IGNORECASE):
        return None
    states = []
    for reference in references:
        # A table that the SQL does not name is read through a view.
        state = _state(client, reference) if reference.table_id in sql else None
        if state is None:
            return None
        states.append(state)
    values = {name: [repr(value) for value in among.values] for name, among in named.items()}
    whole = json.dumps([_FORMAT, endpoint.chosen(), sql, values, sorted(states)])
    return hashlib.sha256(whole.encode()).hexdigest()


def find(name: str) -> Any:
    """The answer of that name as pyarrow.Table, or None."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(_file(name))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowInvalid):
        _file(name).unlink(missing_ok=True)  # spoilt: the query is asked again
        return None


def keep(name: str, answer: Any) -> None:
    """Keep an answer.

    Raises:
        UsageError: where the cache folder cannot be written.
    """
    from pyarrow import parquet

    file = _file(name)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.parent.chmod(0o700)
    with atomic(file) as temporary:
        parquet.write_table(answer, temporary, compression="zstd", use_compliant_nested_type=False)


def _state(client: "bigquery.Client", reference: "bigquery.TableReference") -> list[str] | None:
    """What changes whenever a table does, or None where nothing says so."""
    from google.api_core.exceptions import Forbidden, NotFound

    try:
        table = client.get_table(reference, timeout=60)
    except (Forbidden, NotFound):
        return None
    if table.table_type != "TABLE" or table.streaming_buffer is not None or table.modified is None:
        return None
    path = f"{reference.project}.{reference.dataset_id}.{reference.table_id}"
    return [path, table.modified.isoformat(), str(table.etag), str(table.num_rows), str(table.num_bytes)]


def _file(name: str) -> Path:
    return cache_folder() / "bigquery" / f"{name}.parquet"
