"""Connect to BigQuery with Google's client: which server, which credentials, and its errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from cxr_ft.data.sources.address import Address
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.api_core.retry import Retry
    from google.auth.credentials import Credentials
    from google.cloud import bigquery

#: Seconds for which a busy or failing server is retried.
RETRY_SECONDS = 120.0
_NO_CREDENTIALS = (
    "no Google credentials were found: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a key file"
)


#: The server that `use_endpoint` names. It is hidden state, not an argument, because a table's address is one string,
#: which passes through layouts and manifests that know nothing of BigQuery, and because an emulator's URL must not be
#: recorded in a manifest as if it were part of the data. As a context variable it has its own value in each thread.
_endpoint: ContextVar[str | None] = ContextVar("bigquery_endpoint", default=None)


class RetryArguments(TypedDict):
    """The keyword argument by which a call of the client is retried."""

    retry: "Retry"


@contextmanager
def use_endpoint(url: str | None) -> Iterator[None]:
    """Send BigQuery requests to `url`, an emulator say, without credentials; None means Google's own server.

    Raises:
        UsageError: if it is no http URL.
    """
    if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc):
        raise UsageError(f"--bigquery-endpoint {url}: write it as http://localhost:9050")
    token = _endpoint.set(url)
    try:
        yield
    finally:
        # Back to the value before, which may be an outer `use_endpoint`.
        _endpoint.reset(token)


def endpoint() -> str | None:
    """Return the server in use: that of `use_endpoint`, else of BIGQUERY_EMULATOR_HOST; None for Google's own."""
    return _endpoint.get() or os.environ.get("BIGQUERY_EMULATOR_HOST")


def is_google(url: str | None) -> bool:
    """Return True for a server of Google: the only one that is ever sent credentials."""
    # By the end of the host's name, with its dot: notgoogleapis.com is not Google's.
    host = urlsplit(url).hostname or "" if url else "bigquery.googleapis.com"
    return host == "googleapis.com" or host.endswith(".googleapis.com")


@contextmanager
def connected(address: Address) -> Iterator["bigquery.Client"]:
    """Open a client for the project that is billed.

    Raises:
        UsageError: if the package or the credentials are missing.
    """
    try:
        from google.api_core.client_options import ClientOptions
        from google.cloud import bigquery
    except ImportError:
        raise UsageError(
            f"{address.bare} needs the package google-cloud-bigquery: pip install cxr_ft[bigquery]"
        ) from None
    server = endpoint()
    credentials, project = _credentials(server, address)
    client = bigquery.Client(
        project=address.options.get("billing") or project or project_of(address),
        credentials=credentials,
        client_options=ClientOptions(api_endpoint=server) if server else None,
    )
    with client:
        yield client


def project_of(address: Address) -> str:
    """Return the project that holds the data."""
    return address.at.partition("/")[0]


def retries() -> RetryArguments:
    """Return the keyword arguments by which the client's calls retry a busy server."""
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    return {"retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)}


@contextmanager
def usage_errors(address: Address, *, running: bool = False) -> Iterator[None]:
    """Turn what the client raises into a UsageError.

    Args:
        running: the query reads rows, so that an error may quote a patient's value: the message is then left out.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except GoogleAPICallError as error:
        raise UsageError(f"{address.shown} cannot be read: {_reason(error, running=running)}") from None
    except GoogleAuthError as error:
        raise UsageError(f"{address.shown}: Google refuses the credentials: {str(error).splitlines()[0]}") from None
    except (RetryError, RequestException, ConnectionError) as error:
        server = endpoint() or "Google"
        why = type(getattr(error, "cause", None) or error).__name__
        raise UsageError(f"{address.shown} cannot be read: {server} does not answer ({why})") from None


def _credentials(server: str | None, address: Address) -> "tuple[Credentials, str | None]":
    """Return credentials and their project. A server that is not Google's is never sent any."""
    # An emulator needs no credentials, and any other server must never see the user's.
    if not is_google(server):
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials(), None
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/bigquery"])
    except DefaultCredentialsError:
        raise UsageError(f"{address.bare}: {_NO_CREDENTIALS}") from None
    return credentials, project


def _reason(error: "GoogleAPICallError", *, running: bool) -> str:
    first = (error.errors or [{}])[0]
    reason = str(first.get("reason") or type(error).__name__)
    # This message quotes the value that could not be converted.
    if running and reason == "invalidQuery":
        return "a value does not fit what the query makes of it"
    words = " ".join(str(first.get("message") or error.message).split())
    hint = "; see billing= in the URL, the project that pays" if reason == "accessDenied" else ""
    return f"{reason}: {words}{hint}" if not running else reason
