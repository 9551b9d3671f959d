"""Names for patients that cannot be turned back: keyed hashes of what a header calls them.

The key is $CXR_FT_KEY, or else a random one made on first use and kept in the user's configuration folder
(`~/.config/cxr_ft/subject.key`, or below $XDG_CONFIG_HOME), readable by the user alone and never among the outputs.
With the same key a patient has the same name in every table; whoever lacks the key cannot try ids until one fits.
"""

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from cxr_ft.files import cannot_write


def namer() -> Callable[[str, str], str]:
    """A function of a kind ("subject") and a header's value that gives its name, 20 hexadecimal digits.

    Raises:
        UsageError: where no key was given and none can be kept.
    """
    key = hashlib.blake2b(_key()).digest()

    def name(kind: str, value: str) -> str:
        return hashlib.blake2b(value.encode(), key=key, person=kind.encode(), digest_size=10).hexdigest()

    return name


def key_file() -> Path:
    """Where the key is kept."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cxr_ft" / "subject.key"


def _key() -> bytes:
    if given := os.environ.get("CXR_FT_KEY"):
        return given.encode()
    file = key_file()
    try:
        if not file.exists():
            _make(file)
        return file.read_bytes()
    except OSError as error:
        raise cannot_write(file, error) from error


def _make(file: Path) -> None:
    """Write a new key, whole and private from the first moment; the first of two processes wins."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)  # unlike a rename, this never takes the place of a key that is in use
    finally:
        Path(temporary).unlink()
