"""Make every file and folder of the package: whole or not at all, and private or by the user's umask.

Two kinds, and `create` makes both (docs/files.md says which file is of which kind, and what it holds):

private    what can hold patients' data. A file is 0600, a folder 0700, whatever the umask is.
open       weights, records, configuration, pages. A file is 0666 and a folder 0777, less the umask.

A folder that was there before keeps its mode, since it may be the user's own; one whose name is this package's
(below the cache folder, or made with `own`) is made private again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from cxr_ft.errors import UsageError

#: Modes of private files and folders, and of open ones before the umask.
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_OPEN_FILE, _OPEN_FOLDER = 0o666, 0o777
#: The folders that the package makes in its cache folder.
CACHE_PARTS = (
    "pixels",
    "features",
    "baselines",
    "remote",
    "bigquery",
    "duckdb",
    "texts",
    "phantom",
    "data_splits",
    "pretraining",
)


def create(path: Path, *, private: bool, folder: bool = False) -> None:
    """Create a file or a folder that is not there yet, of one of the two kinds.

    The kind holds from the first moment: nobody can open a private file between its creation and a later chmod.

    Raises:
        FileExistsError: where something of that name is there. OSError: where it cannot be created.
    """
    mode = (PRIVATE_FOLDER if private else _OPEN_FOLDER) if folder else (PRIVATE_FILE if private else _OPEN_FILE)
    if folder:
        path.mkdir(mode)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    # A umask such as 0277 would take the owner's own rights away.
    if private and stat.S_IMODE(path.stat().st_mode) & 0o777 != mode:
        path.chmod(mode)


def make_folder(path: Path, *, private: bool = False, own: bool = False) -> None:
    """Make a folder and its parents, or say in one line why it cannot be.

    Args:
        private: of that kind; its parents are open. Folders in the cache are private in any case.
        own: the name is this package's, so a folder that is there already is made private too.

    Raises:
        UsageError: where it cannot be made.
    """
    try:
        _make_folder(Path(path), private=private, own=own)
    except OSError as error:
        raise cannot_write(path, error) from error


def _make_folder(path: Path, *, private: bool, own: bool) -> None:
    part = _cache_part(path)
    # The cache folder itself may be the user's own, by $CXR_FT_CACHE: it is made private where it is new.
    private = private or part is not None or path.absolute() == cache_folder().absolute()
    if path.is_dir():
        if private and own:
            _tighten(path)
        if part is not None:
            for folder in (path, *path.parents):
                if folder.resolve().is_relative_to(part):
                    _tighten(folder)
        return
    if path.parent != path:
        _make_folder(path.parent, private=False, own=False)
    with contextlib.suppress(FileExistsError):
        create(path, private=private, folder=True)
    if not path.is_dir():
        raise NotADirectoryError(20, os.strerror(20))


def _tighten(path: Path) -> None:
    """Make a folder private; another user's stays as it is."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        with contextlib.suppress(PermissionError):
            path.chmod(PRIVATE_FOLDER)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str, *, private: bool = True) -> Iterator[Path]:
    """Yield a new folder below `parent`, whose name begins with `prefix`; it is removed at the end, if still there."""
    path = parent / f"{prefix}{secrets.token_hex(4)}"
    create(path, private=private, folder=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def atomic(path: Path | str, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success fsync it and rename it to `path`, else remove it.

    The folder is made, of the same kind, where it is missing.

    Raises:
        UsageError: where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    # In the same folder, since a rename is atomic within one file system alone. With the suffix, since some writers
    # choose their format by it.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{path.suffix}"
    try:
        _make_folder(path.parent, private=private, own=False)
        create(temporary, private=private)
        mode = stat.S_IMODE(temporary.stat().st_mode)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        # Before the rename: after a power cut the new name could otherwise hold an empty file.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # again, since a library may have put a file of its own in its place
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(folder: Path, last: str, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; on success its files move to `folder`, `last` at the end, else none of them does.

    Raises:
        UsageError: where the folder cannot be written or the disk is full.
    """
    try:
        _make_folder(folder, private=private, own=False)
        with temporary_folder(folder, ".") as temporary:
            yield temporary
            set_kind(temporary, private=private)
            # The file that says the folder is complete comes last, so that whoever sees it sees the others, too.
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty: made here, and nothing came of it


def set_kind(folder: Path, *, private: bool) -> None:
    """Give every file and folder below `folder`, but not the folder itself, the modes of a kind.

    For what a library has written: safetensors, for one, makes its files 0600 whatever the umask is.
    """
    modes = {False: PRIVATE_FILE, True: PRIVATE_FOLDER}
    if not private:
        # The umask can only be read by setting it, which other threads would notice: new files show it instead.
        with temporary_folder(folder, ".modes.", private=False) as probe:
            create(probe / "file", private=False)
            modes = {False: probe.joinpath("file").stat().st_mode, True: probe.stat().st_mode}
    for path in folder.rglob("*"):
        if not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile: another process works there too
                path.chmod(stat.S_IMODE(modes[path.is_dir()]))


def write_text(path: Path | str, text: str, *, private: bool = False) -> None:
    """Write UTF-8 text with Unix line ends, atomically."""
    with atomic(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: object, *, private: bool = False) -> None:
    """Write JSON, atomically; a NaN is refused, since no reader agrees on it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", private=private)


def open_for_appending(path: Path, *, private: bool = False) -> TextIO:
    """Return a UTF-8 text file that is open at its end; it is created where it is missing.

    Raises:
        OSError: where it cannot be opened.
    """
    with contextlib.suppress(FileExistsError):
        create(path, private=private)
    return path.open("a", encoding="utf-8", newline="\n")


def write_once(path: Path, text: str) -> None:
    """Write a small private file, whole, unless it is there already; of two processes the first one wins.

    Raises:
        OSError: where it cannot be written.
    """
    _make_folder(path.parent, private=True, own=False)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    create(temporary, private=True)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            # Flushed and synced before it gets its name: after a power cut it is whole or absent, and never empty.
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, this never takes the place of a file that is in use
    finally:
        temporary.unlink()


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to one that is not there yet, with the modes of all it holds; nobody else can look in meanwhile."""
    make_folder(target.parent)
    create(target, private=True, folder=True)
    shutil.copytree(source, target, dirs_exist_ok=True)


def sha256(path: Path | str) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Say before long work, and without making anything, that `folder` could not be made or written to."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        # By writing, not by the folder's mode, which does not show a read-only mount or a quota.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def cache_folder() -> Path:
    """Return the folder of decoded pixels and the phantom archive: `$CXR_FT_CACHE`, else the user's cache folder."""
    if custom := os.environ.get("CXR_FT_CACHE"):
        return Path(custom)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr_ft"


def in_cache(path: Path) -> bool:
    """Return whether a path is in one of the cache folder's parts, where everything is private."""
    return _cache_part(path) is not None


def _cache_part(path: Path) -> Path | None:
    """Return the part of the cache folder that a path is in, None for any other path."""
    cache, there = cache_folder().resolve(), path.resolve()
    # By their names, since $CXR_FT_CACHE may be a folder in which the user keeps other things.
    return next((cache / name for name in CACHE_PARTS if there.is_relative_to(cache / name)), None)


def cannot_write(path: Path, error: OSError) -> UsageError:
    """Return the one-line UsageError for a failed write."""
    return UsageError(f"cannot write {path}: {error.strerror or error}; choose another place or free some space")
