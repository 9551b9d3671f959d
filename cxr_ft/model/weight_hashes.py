"""Hash large files once: the SHA-256 of a file stays in the user's cache folder until the file changes.

A file is known again by device, inode, size, mtime and ctime, both in nanoseconds. Any program can set the mtime of a
file back; the ctime is set by the kernel alone, at each change of content or of mtime.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder
from cxr_ft.progress import Bar, bar

FILE = "weight_hashes.json"
#: Files that are remembered; the oldest entries beyond them are dropped.
MOST = 1000
#: Seconds of hashing after which a progress bar appears.
QUIET = 2.0
_CHUNK = 2**22
#: The kernel's clock for file times advances in steps of at most 10 ms: a file that changes twice within one step has
#: the same ctime twice. File systems that store whole seconds (FAT, old NFS) are told by a ctime without a fraction.
_STEP, _COARSE_STEP = 20_000_000, 2_000_000_000
#: Hashes by the state of the file, so that one process hashes no file twice; module state, as a cache of functions is.
_known: dict[str, str] = {}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, computed only where the file is not known from before.

    Raises:
        UsageError: where the file cannot be read, or changes while it is read.
    """
    try:
        with path.open("rb") as file:
            state = _state(file)
            digest, lasting = _known.get(state) or _read().get(state), True
            if digest is None:
                lasting = _settled(file)
                digest = _hashed(file, path.name)
                if _state(file) != state:
                    raise UsageError(f"{path} changed while it was read; wait until it is written, then run again")
                if lasting:
                    _write(state, digest)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if lasting:
        _known[state] = digest
    return digest


def _state(file: BinaryIO) -> str:
    """Return the numbers that a file is known by, as text."""
    # Of the open file, so that state and content are those of one file even if the path is replaced meanwhile.
    stat = os.fstat(file.fileno())
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _settled(file: BinaryIO) -> bool:
    """Return whether any later change of the file must show in its ctime; wait for that where it takes a moment."""
    changed = os.fstat(file.fileno()).st_ctime_ns
    step = _STEP if changed % 1_000_000_000 else _COARSE_STEP
    left = changed + step - time.time_ns()
    if left > _STEP:
        return False
    time.sleep(max(left, 0) / 1e9)
    return True


def _hashed(file: BinaryIO, name: str) -> str:
    digest, began, shown = hashlib.sha256(), time.monotonic(), None
    chunks = -(-os.fstat(file.fileno()).st_size // _CHUNK)
    with contextlib.ExitStack() as stack:
        done = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += 1
            shown = _advance(shown, stack, f"SHA-256 of {name}", (done, chunks), time.monotonic() - began)
    return digest.hexdigest()


def _advance(
    shown: Bar | None, stack: contextlib.ExitStack, title: str, progress: tuple[int, int], seconds: float
) -> Bar | None:
    """Advance the bar, which appears once the work has taken QUIET seconds."""
    done, total = progress
    if shown is not None:
        shown.advance()
    elif seconds > QUIET:
        shown = stack.enter_context(bar(title, total))
        shown.advance(done)
    return shown


def _read() -> Mapping[str, str]:
    """Return the hashes in the cache folder; none where the file is broken, or anybody else could have written it."""
    try:
        with (cache_folder() / FILE).open(encoding="utf-8") as file:
            stat = os.fstat(file.fileno())
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
                return {}
            raw = json.load(file)
    except (OSError, ValueError):
        return {}
    entries = raw.items() if isinstance(raw, dict) else ()
    return {state: digest for state, digest in entries if isinstance(digest, str) and len(digest) == 64}


def _write(state: str, digest: str) -> None:
    """Keep a hash in a file that its owner alone can read; a cache that cannot be written costs time alone."""
    entries = {**_read(), state: digest}
    content = json.dumps(dict(list(entries.items())[-MOST:]), indent=1)
    with contextlib.suppress(UsageError), atomic(cache_folder() / FILE, private=True) as temporary:
        temporary.write_text(content, encoding="utf-8")
