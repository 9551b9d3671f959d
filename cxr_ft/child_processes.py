"""Start Python processes that import nothing from the working folder, where a user's `pandas.py` may lie."""

import contextlib
import os
import sys
from collections.abc import Iterator

#: Python's own switch (3.11): neither the working folder nor a script's folder is searched for modules.
SWITCH = "PYTHONSAFEPATH"


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of the package in a new process."""
    # -P is the same switch as a flag, which reaches this process alone and not its own children.
    return [sys.executable, "-P", "-m", module, *arguments]


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Let processes that a library starts in this block search no working folder.

    joblib's workers begin with `python -m joblib...`, which imports numpy before they get the path of their parent.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
