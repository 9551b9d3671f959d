"""Where BigQuery is asked: Google's own place, or another server that speaks its REST protocol."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from cxr_ft.errors import UsageError

_endpoint: ContextVar[str | None] = ContextVar("bigquery_endpoint", default=None)


@contextmanager
def at(url: str | None) -> Iterator[None]:
    """Ask `url` inside.

    Raises:
        UsageError: where it is no http URL.
    """
    if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc):
        raise UsageError(f"--bigquery-endpoint {url}: write it as http://localhost:9050")
    token = _endpoint.set(url)
    try:
        yield
    finally:
        _endpoint.reset(token)


def chosen() -> str | None:
    """The server that was named, here or by the variable that Google's client knows; None for Google's own."""
    return _endpoint.get() or os.environ.get("BIGQUERY_EMULATOR_HOST")


def is_google(url: str | None) -> bool:
    """Whether a server is Google's: the only one that is ever shown credentials."""
    host = urlsplit(url).hostname or "" if url else "bigquery.googleapis.com"
    return host == "googleapis.com" or host.endswith(".googleapis.com")
