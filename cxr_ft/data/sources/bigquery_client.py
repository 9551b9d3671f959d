"""Google's client of BigQuery, with the credentials that fit the server, and what it raises in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cxr_ft.data.sources import endpoint
from cxr_ft.data.sources.address import Address
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from google.cloud import bigquery

#: Seconds in which a busy or failing server is asked again.
PATIENCE = 120.0
_NO_CREDENTIALS = (
    "no Google credentials were found: run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a key file"
)


@contextmanager
def connected(address: Address) -> Iterator["bigquery.Client"]:
    """A client for the project that pays.

    Raises:
        UsageError: where the package or credentials are missing.
    """
    try:
        from google.api_core.client_options import ClientOptions
        from google.cloud import bigquery
    except ImportError:
        raise UsageError(
            f"{address.bare} needs the package google-cloud-bigquery: pip install cxr_ft[bigquery]"
        ) from None
    server = endpoint.chosen()
    credentials, project = _credentials(server, address)
    client = bigquery.Client(
        project=address.options.get("billing") or project or project_of(address),
        credentials=credentials,
        client_options=ClientOptions(api_endpoint=server) if server else None,
    )
    with client:
        yield client


def project_of(address: Address) -> str:
    """The project that holds the data."""
    return address.at.partition("/")[0]


def retries() -> dict[str, Any]:
    """For the client's calls: how long a busy server is asked again."""
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    return {"retry": DEFAULT_RETRY.with_timeout(PATIENCE)}


@contextmanager
def one_line(address: Address, *, running: bool = False) -> Iterator[None]:
    """Turn what the client raises into a UsageError.

    Args:
        running: rows are read, so that an error may quote one: what the server says is then left out.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except GoogleAPICallError as error:
        raise UsageError(f"{address.shown} cannot be read: {_said(error, running)}") from None
    except GoogleAuthError as error:
        raise UsageError(f"{address.shown}: Google refuses the credentials: {str(error).splitlines()[0]}") from None
    except (RetryError, RequestException, ConnectionError) as error:
        server = endpoint.chosen() or "Google"
        why = type(getattr(error, "cause", None) or error).__name__
        raise UsageError(f"{address.shown} cannot be read: {server} does not answer ({why})") from None


def _credentials(server: str | None, address: Address) -> tuple[Any, str | None]:
    """Credentials and their project. A server that is not Google's is never shown any."""
    if not endpoint.is_google(server):
        from google.auth import credentials

        nobody: Any = credentials.AnonymousCredentials
        return nobody(), None
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        found: tuple[Any, str | None] = google.auth.default(scopes=["https://www.googleapis.com/auth/bigquery"])
    except DefaultCredentialsError:
        raise UsageError(f"{address.bare}: {_NO_CREDENTIALS}") from None
    return found


def _said(error: Any, running: bool) -> str:
    first = (error.errors or [{}])[0]
    reason = str(first.get("reason") or type(error).__name__)
    if running and reason == "invalidQuery":
        return "a value does not fit what the query makes of it"
    words = " ".join(str(first.get("message") or error.message).split())
    hint = "; see billing= in the URL, the project that pays" if reason == "accessDenied" else ""
    return f"{reason}: {words}{hint}" if not running else reason
