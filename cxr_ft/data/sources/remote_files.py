"""Reach files by URL through fsspec (gs://, s3://, https:// and whatever else it knows), and open any file.

No socket is opened unless a URL is read. Errors of the packages behind fsspec become a UsageError of one line.

Requester-pays buckets: set CXR_FT_REQUESTER_PAYS to the Google Cloud project to bill (gs://) or to 1 (s3://). gs://
needs the package gcsfs, s3:// s3fs; both find credentials in their own ways (`gcloud auth application-default login`,
`aws configure`).
"""

import logging
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.request import urlopen

from cxr_ft.data.sources.address import is_url, is_web
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: The package that fsspec needs for a protocol.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "abfs": "adlfs"}
#: Errors of the packages behind fsspec that are no OSError: looked up only where the package is loaded.
_ERRORS = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
)


def download(source: str) -> BinaryIO:
    """Return a file from a web server, read whole, since not every server answers range requests."""
    with urlopen(source) as response:
        return BytesIO(response.read())


@contextmanager
def open_file(where: str) -> Iterator[BinaryIO]:
    """Open a file for reading, local or remote."""
    if is_web(where):
        yield download(where)
    elif is_url(where):
        system, path = file_system(where)
        with system.open(path, "rb") as stream:
            yield stream
    else:
        with Path(where).open("rb") as stream:
            yield stream


def _options(where: str) -> dict[str, bool | str]:
    payer = os.environ.get("CXR_FT_REQUESTER_PAYS", "")
    scheme = where.partition("://")[0].lower()
    if not payer or scheme not in {"gs", "gcs", "s3"}:
        return {}
    # s3fs wants a flag, since AWS bills the caller's own account; gcsfs wants the project to bill.
    return {"requester_pays": True if scheme == "s3" else payer}


def file_system(where: str) -> "tuple[AbstractFileSystem, str]":
    """Return fsspec's file system for a URL, and the path on it."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(where, **_options(where))
    return system, str(path)


def _failures() -> tuple[type[Exception], ...]:
    """Return the exception types that remote reading may raise, besides ImportError."""
    # Naming the classes would import packages of seconds' weight for a user who reads local files.
    loaded = [getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules]
    return (OSError, ValueError, EOFError, NotImplementedError, zlib.error, *loaded)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loggers of the packages behind fsspec: they log a traceback for what we report in one line."""
    loggers = [logging.getLogger(name) for name in ("gcsfs", "s3fs", "fsspec")]
    # The user's own levels are put back: the loggers are global.
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def usage_errors(where: str) -> Iterator[None]:
    """Turn what reading `where` may raise into a UsageError of one line."""
    try:
        with _quiet():
            yield
    except ImportError as error:
        package = _PACKAGES.get(where.partition("://")[0].lower(), "")
        need = f"needs the package {package}: pip install {package}" if package else str(error).splitlines()[0]
        raise UsageError(f"{where} {need}") from error
    except FileNotFoundError as error:
        raise UsageError(f"{where} does not exist") from error
    except _failures() as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        payer = "; for a requester-pays bucket set CXR_FT_REQUESTER_PAYS" if "requester" in why.lower() else ""
        # The first line alone: cloud libraries add pages of XML.
        raise UsageError(f"{where} cannot be read: {why}{payer}") from error
