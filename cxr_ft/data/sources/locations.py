"""Find, list and fetch the files of an archive: a folder, a URL, or a database as a folder of tables.

Nothing is fetched until it is needed. Remote images and reports are then copied, as they are, to a folder of the user's
cache folder that only the user can read (`remote/gs/bucket/...`); delete it when done. A remote file is assumed never
to change. `cxr_ft.data.sources.remote_files` says what URLs need.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cxr_ft.data.sources import address, backends, remote_files
from cxr_ft.data.sources.address import is_url, is_web
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder

#: Remote files to look for before a root counts as without images; each look-up is one request.
_PROBES = 4


def normalized(source: str) -> str:
    """Return a source in normal form: a URL without a slash at its end, or an expanded path."""
    if address.is_database(source):
        return str(address.parse(source))
    if is_url(source):
        # Else folder and name of a URL with a slash at its end would be the folder and "".
        return source.rstrip("/")
    if source.lower().startswith("file://"):
        source = unquote(urlsplit(source).path)
    return str(Path(source).expanduser())


def join(folder: str, name: str) -> str:
    """Return the address of file `name` in a folder, or of table `name` in a database."""
    if address.is_database(folder):
        return str(address.parse(folder).table(name))
    return f"{folder}/{name}" if is_url(folder) else str(Path(folder, name))


def split(where: str) -> tuple[str, str]:
    """Return an address's folder and name; for a database, the database and the table's name ("" for a query)."""
    if address.is_database(where):
        whole = address.parse(where)
        return str(whole.database()), whole.options.get("table", "")
    if not is_url(where):
        return str(Path(where).parent), Path(where).name
    folder, _, name = where.rpartition("/")
    return folder, name


def exists(where: str) -> bool:
    """Return True where there is such a file, folder, or table of a database.

    Raises:
        UsageError: if the remote server cannot be reached.
    """
    if address.is_database(where):
        folder, name = split(where)
        return name in list_names(folder)
    if not is_url(where):
        return Path(where).exists()
    with remote_files.usage_errors(where):
        system, path = remote_files.file_system(where)
        return bool(system.exists(path))


def list_names(folder: str) -> list[str]:
    """Return the sorted names in a folder, or of a database's tables.

    The list is empty for a file, and for a web server, which cannot list folders.

    Raises:
        UsageError: if a local folder does not exist, or a remote one cannot be listed.
    """
    if address.is_database(folder):
        return backends.list_tables(address.parse(folder))
    if is_web(folder):
        return []
    if not is_url(folder):
        if not Path(folder).exists():
            raise UsageError(f"{folder} does not exist: give a folder, a table, or a URL")
        return sorted(entry.name for entry in os.scandir(folder)) if Path(folder).is_dir() else []
    with remote_files.usage_errors(folder):
        system, path = remote_files.file_system(folder)
        paths = system.ls(path, detail=False) if system.isdir(path) else []
        # Object stores list folders with a slash at the end, and full paths.
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in paths)


def list_files(folder: str) -> list[str]:
    """Return the sorted relative paths of all files below a folder, without hidden files and folders."""
    if address.is_database(folder):
        return []
    if is_url(folder):
        with remote_files.usage_errors(folder):
            system, path = remote_files.file_system(folder)
            relative = [str(name).removeprefix(path).lstrip("/") for name in system.find(path)]
    else:
        relative = [str(Path(at, name).relative_to(folder)) for at, _, inside in os.walk(folder) for name in inside]
    slashed = (name.replace(os.sep, "/") for name in relative)
    return sorted(name for name in slashed if not name.startswith(".") and "/." not in name)


def read_text(where: str) -> str:
    """Return the text of a small UTF-8 file.

    Raises:
        UsageError: if it cannot be read.
    """
    with remote_files.usage_errors(where):
        if not is_url(where):
            return Path(where).read_text(encoding="utf-8-sig")
        system, path = remote_files.file_system(where)
        return str(system.cat_file(path).decode("utf-8-sig"))


def mirror_folder(root: str) -> Path:
    """Return the local folder that holds the fetched files of a remote root."""
    scheme, _, rest = (address.parse(root).bare if address.is_database(root) else root).partition("://")
    # The URL becomes a path below the cache folder, which `..` would leave.
    if ".." in rest.split("/"):
        raise UsageError(f"{root}: write the URL without ..")
    return cache_folder() / "remote" / scheme.lower() / rest.strip("/")


def local_copy(root: Path, path: str) -> Path:
    """Return the file `path` below `root`; if `root` is a URL's mirror folder, fetch it on first use.

    A remote file that does not exist gives a path that does not exist, as a local one does.

    Raises:
        UsageError: if the remote server cannot be reached, or the path leads out of the root.
    """
    file = root / path
    url = mirrored_url(root)
    if url is None:
        return file
    if address.is_database(url):
        raise UsageError(
            f"{url} holds tables, no images or reports: give their folder with --root, or data.root in training"
        )
    # A table from elsewhere may name ../../etc/passwd; nothing outside the root is ever read or written.
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise UsageError(f"{url}: {path} leads out of it")
    if file.exists():
        return file
    source = f"{url}/{path}"
    with remote_files.usage_errors(source):
        system, remote_path = remote_files.file_system(source)
        if system.isfile(remote_path):
            # A fetch that is cut off must not leave half an image, which would count as fetched for ever.
            with (
                atomic(file, private=True) as temporary,
                system.open(remote_path, "rb") as stream,
                temporary.open("wb") as out,
            ):
                shutil.copyfileobj(stream, out, 2**20)
    return file


def has_images(root: Path, paths: Sequence[str]) -> bool:
    """Return True if images are below a root, by looking for some of them."""
    url = mirrored_url(root)
    if url is None:
        return root.is_dir() and any((root / path).exists() for path in paths[:1000])
    if address.is_database(url):
        return False
    # A few are enough to tell an archive without images from one with some missing.
    return any(exists(f"{url}/{path}") for path in paths[:_PROBES])


def mirrored_url(root: Path) -> str | None:
    """Return the URL that `root` is the mirror folder of, or None."""
    base = cache_folder() / "remote"
    if not root.is_relative_to(base) or root == base:
        return None
    scheme, *rest = root.relative_to(base).parts
    start = "/" if scheme == "duckdb" else ""  # a file's path begins at the root
    return f"{scheme}://{start}{'/'.join(rest)}"
