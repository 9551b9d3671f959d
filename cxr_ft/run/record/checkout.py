"""Tell the commit of the package's own checkout. It needs no torch, so that a page can name its version, too."""

import subprocess
from pathlib import Path

import cxr_ft


def commit() -> str:
    """Return the checkout's commit, with "+changes" where the tree is not clean; empty outside a checkout."""
    folder = Path(cxr_ft.__file__).parents[1]
    if not (folder / ".git").exists():
        return ""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        # Untracked files are left out: data and runs may lie in a checkout, and change no line of its code.
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()
