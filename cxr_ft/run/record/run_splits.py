"""Find the splits that a run was trained on, wherever run and splits are now."""

from pathlib import Path

from cxr_ft.data import manifest
from cxr_ft.run.record.results import Result


def splits_folder(run: Path, result: Result) -> Path:
    """Return the folder of the run's splits: the recorded one, or where it is after both were moved together.

    Args:
        run: the run's folder.
        result: what its result.json says.

    Raises:
        UsageError: where no folder holds the very files that the run was trained on.
    """
    return manifest.locate(result.data.splits or "", run, result.data.sha256)
