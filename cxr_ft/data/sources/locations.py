"""Files and folders, local or by URL: gs://, s3://, https:// and whatever else fsspec knows; and databases as folders
of tables (`cxr_ft.data.sources.address`), which hold no files.

Nothing is fetched, and no socket opened, unless a URL was given. Images and reports are fetched when they are first
needed, to a folder of the user's cache folder that only the user can read (`remote/gs/bucket/...`), as they are; delete
it when done. A remote file is taken never to change.

Buckets whose reader pays: set CXR_FT_REQUESTER_PAYS to the Google Cloud project to bill (gs://) or to 1 (s3://). gs://
needs the package gcsfs, s3:// s3fs; who you are is told to them in their own ways (`gcloud auth application-default
login`, `aws configure`).
"""

import logging
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from cxr_ft.data.sources import address
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder

#: What fsspec needs for a protocol, beside itself.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "abfs": "adlfs"}
#: Errors of the packages behind fsspec that are no OSError: looked up only where the package is loaded.
_THEIRS = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
)
#: Remote files looked for before images are said to be absent.
_PROBES = 4


def is_url(source: str) -> bool:
    """Whether a source lies elsewhere; file:// does not."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source)) and not source.lower().startswith("file://")


def place(source: str) -> str:
    """A source in the one way in which it is written from here on: an URL, or a path, without a slash at the end."""
    if address.is_database(source):
        return str(address.parse(source))
    if is_url(source):
        return source.rstrip("/")
    if source.lower().startswith("file://"):
        source = unquote(urlsplit(source).path)
    return str(Path(source).expanduser())


def join(folder: str, name: str) -> str:
    """The place of `name` in a folder: of a file, or of a database's table."""
    if address.is_database(folder):
        return str(address.parse(folder).table(name))
    return f"{folder}/{name}" if is_url(folder) else str(Path(folder, name))


def split(where: str) -> tuple[str, str]:
    """A place's folder and name: a table's database and its name, "" for a query."""
    if address.is_database(where):
        whole = address.parse(where)
        return str(whole.database()), whole.options.get("table", "")
    if not is_url(where):
        return str(Path(where).parent), Path(where).name
    folder, _, name = where.rpartition("/")
    return folder, name


def exists(where: str) -> bool:
    """Whether there is a file or a folder, or a database's table.

    Raises:
        UsageError: where the remote place cannot be asked.
    """
    if address.is_database(where):
        folder, name = split(where)
        return name in names(folder)
    if not is_url(where):
        return Path(where).exists()
    with one_line(where):
        system, path = remote(where)
        return bool(system.exists(path))


def names(folder: str) -> list[str]:
    """The names in a folder, or of a database's tables, sorted. A file has none, nor has a web server, which knows no
    folders.

    Raises:
        UsageError: where a local folder does not exist, or a remote one cannot be listed.
    """
    if address.is_database(folder):
        from cxr_ft.data.sources.kinds import tables_of

        return tables_of(address.parse(folder))
    if is_web(folder):
        return []
    if not is_url(folder):
        if not Path(folder).exists():
            raise UsageError(f"{folder} does not exist: give a folder, a table, or a URL")
        return sorted(entry.name for entry in os.scandir(folder)) if Path(folder).is_dir() else []
    with one_line(folder):
        system, path = remote(folder)
        found = system.ls(path, detail=False) if system.isdir(path) else []
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)


def files(folder: str) -> list[str]:
    """All files below a folder, relative to it, sorted; hidden ones and those in hidden folders are passed over."""
    if address.is_database(folder):
        return []
    if is_url(folder):
        with one_line(folder):
            system, path = remote(folder)
            found = [str(name).removeprefix(path).lstrip("/") for name in system.find(path)]
    else:
        found = [str(Path(at, name).relative_to(folder)) for at, _, inside in os.walk(folder) for name in inside]
    slashed = (name.replace(os.sep, "/") for name in found)
    return sorted(name for name in slashed if not name.startswith(".") and "/." not in name)


def read_text(where: str) -> str:
    """A small UTF-8 file.

    Raises:
        UsageError: where it cannot be read.
    """
    with one_line(where):
        if not is_url(where):
            return Path(where).read_text(encoding="utf-8-sig")
        system, path = remote(where)
        return str(system.cat_file(path).decode("utf-8-sig"))


def is_web(source: str) -> bool:
    """Whether a source is on a web server."""
    return source.lower().startswith(("http://", "https://"))


def web(source: str) -> BinaryIO:
    """A file from a web server, whole: not every server gives a part of one. Needs no package but Python's own."""
    with urlopen(source) as answer:
        return BytesIO(answer.read())


@contextmanager
def opened(where: str) -> Iterator[BinaryIO]:
    """A file for reading, local or remote."""
    if is_web(where):
        yield web(where)
    elif is_url(where):
        system, path = remote(where)
        with system.open(path, "rb") as stream:
            yield stream
    else:
        with Path(where).open("rb") as stream:
            yield stream


def mirror(root: str) -> Path:
    """The local folder in which a remote root's files are kept once they were fetched."""
    scheme, _, rest = (address.parse(root).bare if address.is_database(root) else root).partition("://")
    if ".." in rest.split("/"):
        raise UsageError(f"{root}: write the URL without ..")
    return cache_folder() / "remote" / scheme.lower() / rest.strip("/")


def local(root: Path, path: str) -> Path:
    """The file `path` below `root`; where `root` is a URL's mirror, it is fetched on first use.

    A remote file that is not there gives a path that does not exist, as a local one does.

    Raises:
        UsageError: where the remote place cannot be reached, or the path leads out of the root.
    """
    file = root / path
    url = url_of(root)
    if url is None:
        return file
    if address.is_database(url):
        raise UsageError(
            f"{url} holds tables, no images or reports: say where they lie by --root, or data.root in training"
        )
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise UsageError(f"{url}: {path} leads out of it")
    if file.exists():
        return file
    source = f"{url}/{path}"
    with one_line(source):
        system, there = remote(source)
        if system.isfile(there):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            (cache_folder() / "remote").chmod(0o700)
            with atomic(file) as temporary, system.open(there, "rb") as stream, temporary.open("wb") as out:
                shutil.copyfileobj(stream, out, 2**20)
    return file


def at_hand(root: Path, paths: Sequence[str]) -> bool:
    """Whether images lie below a root, by looking for some of them."""
    url = url_of(root)
    if url is None:
        return root.is_dir() and any((root / path).exists() for path in paths[:1000])
    if address.is_database(url):
        return False
    return any(exists(f"{url}/{path}") for path in paths[:_PROBES])


def url_of(root: Path) -> str | None:
    """The URL whose mirror `root` is, or None."""
    base = cache_folder() / "remote"
    if not root.is_relative_to(base) or root == base:
        return None
    scheme, *rest = root.relative_to(base).parts
    start = "/" if scheme == "duckdb" else ""  # a file's path begins at the root
    return f"{scheme}://{start}{'/'.join(rest)}"


def _options(where: str) -> dict[str, Any]:
    payer = os.environ.get("CXR_FT_REQUESTER_PAYS", "")
    scheme = where.partition("://")[0].lower()
    if not payer or scheme not in {"gs", "gcs", "s3"}:
        return {}
    return {"requester_pays": True if scheme == "s3" else payer}


def remote(where: str) -> tuple[Any, str]:
    """fsspec's file system and the path on it."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(where, **_options(where))
    return system, str(path)


def _failures() -> tuple[type[Exception], ...]:
    """What reading from afar may raise, beside a missing package."""
    loaded = [getattr(sys.modules[module], name) for module, name in _THEIRS if module in sys.modules]
    return (OSError, ValueError, EOFError, NotImplementedError, zlib.error, *loaded)


@contextmanager
def _quiet() -> Iterator[None]:
    """The packages behind fsspec log their failures with traceback; what went wrong is said once, by us."""
    loggers = [logging.getLogger(name) for name in ("gcsfs", "s3fs", "fsspec")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def one_line(where: str) -> Iterator[None]:
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
        payer = (
            "; is it a bucket whose reader pays? Then set CXR_FT_REQUESTER_PAYS" if "requester" in why.lower() else ""
        )
        raise UsageError(f"{where} cannot be read: {why}{payer}") from error
