"""Lock a run's folder for one process. The kernel releases the lock when its process ends, however: none is stale."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from cxr_ft.errors import UsageError
from cxr_ft.files import cannot_write, make_folder, open_for_appending

#: The file that is locked. It stays: removing it would let two processes lock two files of this name.
FILE = ".lock"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the run's folder, created if needed, for this process alone.

    Raises:
        UsageError: where another process holds it, or its file system cannot lock.
    """
    make_folder(folder, private=True)
    try:
        # For appending, which never empties a file that another process holds.
        file = open_for_appending(folder / FILE)
    except OSError as error:
        raise cannot_write(folder / FILE, error) from error
    with file:
        try:
            # Without waiting: a second process would otherwise hang for as long as the first one trains.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder} is in use: another process trains this run; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be locked ({error.strerror or error}); choose an --out on a file system that can lock"
            ) from error
        yield
