"""The files of a text data set's release: a folder, a .zip or .tar(.gz) of one, here or by URL; or a hub data set.

An archive is read from its beginning to its end, once, and not unpacked.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.records import root_folder
from cxr_ft.data.sources import address, locations
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

ZIPS, TARS = (".zip",), (".tar.gz", ".tgz", ".tar")
HUB = "hub://"


def is_archive(where: str) -> bool:
    """Return True if a name is that of an archive file."""
    return where.lower().endswith((*ZIPS, *TARS))


def members(where: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the names, relative to the release, and contents of the files of it that are `wanted`.

    Raises:
        UsageError: where the place does not exist or the archive is spoilt.
    """
    if not is_archive(where):
        root = root_folder(where)
        if address.is_url(where) or root.is_dir():
            for name in filter(wanted, locations.list_files(where)):
                yield name, locations.local_copy(root, name).read_bytes()
        return
    folder, name = locations.split(where)
    file = locations.local_copy(root_folder(folder), name)
    if not file.is_file():
        raise UsageError(f"{where} does not exist: give the release's folder, or its archive")
    try:
        yield from _zipped(file, wanted) if where.lower().endswith(ZIPS) else _tarred(file, wanted)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UsageError(f"{where} cannot be read: {error}; fetch it again") from None


def _zipped(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        # Sorted, so that the order of rows does not depend on how the archive was packed.
        for name in filter(wanted, sorted(archive.namelist())):
            yield name, archive.read(name)


def _tarred(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    # A stream: seeking back in a compressed archive would decompress it again from its start.
    with tarfile.open(file, "r|*") as archive:
        for member in archive:
            if member.isfile() and wanted(member.name):
                content = archive.extractfile(member)
                yield member.name, content.read() if content else b""


def text(name: str, content: bytes, encoding: str = "utf-8-sig") -> str:
    """Return a file's text.

    Raises:
        UsageError: where it is not of that encoding.
    """
    try:
        # utf-8-sig: the byte order mark that Windows writes is no part of the first word.
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is no {encoding.removesuffix('-sig')} text: {error.reason}; fetch it again") from None


def lines(name: str, content: bytes) -> list[str]:
    """Return the lines of a text file; nothing but a line feed ends one."""
    # Not splitlines, which also ends lines at form feeds and other characters that occur inside texts.
    return [line.removesuffix("\r") for line in text(name, content).removesuffix("\n").split("\n")]


def tsv(name: str, content: bytes) -> list[dict[str, str]]:
    """Return the rows of a table whose cells are separated by tabs and where a quote is a quote, as GLUE writes them.

    Raises:
        UsageError: where a row has another number of cells than the header.
    """
    # Not the csv module: in these files a quote is an ordinary character, and often a single one.
    header, *rows = [line.split("\t") for line in lines(name, content)]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UsageError(f"{name}: line {number} has {len(row)} cells, its header {len(header)}; fetch it again")
    return [dict(zip(header, row, strict=True)) for row in rows]


def hub(where: str) -> "pd.DataFrame":
    """Return the rows of a hub data set as text, by `hub://owner/name` or `hub://owner/name/config`.

    The column `split` says which split a row is of. Needs the package datasets and a network.

    Raises:
        UsageError: where the package, the network or the data set is missing.
    """
    import pandas as pd

    try:
        import datasets
    except ImportError:
        raise UsageError(f"{where} needs the package datasets: pip install datasets") from None
    owner, _, rest = where.removeprefix(HUB).partition("/")
    name, _, config = rest.partition("/")
    if not owner or not name:
        raise UsageError(f"{where}: write hub://owner/name, or hub://owner/name/config")
    try:
        by_split = datasets.load_dataset(f"{owner}/{name}", config or None)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{where} cannot be had from the hub: {why}; without a network give the release's folder or a table"
        ) from None
    # As text, like every other source: the same rows must give the same ids.
    parts: list[pd.DataFrame] = [
        part.to_pandas().astype("string").assign(split=split) for split, part in by_split.items()
    ]
    return pd.concat(parts, ignore_index=True)


def tarred(file: Path, contents: dict[str, bytes]) -> None:
    """Write a small .tar.gz, for demos."""
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
