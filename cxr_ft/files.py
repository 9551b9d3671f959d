"""Write files so that no half-written one is ever seen, and hash them."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxr_ft.errors import UsageError


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, else remove it.

    Raises:
        UsageError: where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename is atomic within one file system alone. With the suffix, since some writers
        # choose their format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        # Before the rename: after a power cut the new name could otherwise hold an empty file.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone, which a shared folder of runs must not have.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """Yield a temporary folder; on success its files move to `folder`, `last` at the end, else none of them does.

    Raises:
        UsageError: where the folder cannot be written or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as name:
            yield Path(name)
            # The file that says the folder is complete comes last, so that whoever sees it sees the others, too.
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty: made here, and nothing came of it


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text with Unix line ends, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: object) -> None:
    """Write JSON, atomically; a NaN is refused, since no reader agrees on it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path | str) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder and its parents, or say in one line why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


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


def cannot_write(path: Path, error: OSError) -> UsageError:
    """Return the one-line UsageError for a failed write."""
    return UsageError(f"cannot write {path}: {error.strerror or error}; choose another place or free some space")


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
