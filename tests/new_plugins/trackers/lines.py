"""Track in a text file: one line a logged number, in `tracking/lines.txt` below the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Lines:
    """See `cxr_ft.run.trackers.Tracker`."""

    id = "lines"

    def __init__(self, file: Path) -> None:
        self._file = file

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line a value."""
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(f"{step} {name} {value}\n" for name, value in values.items())

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Append the summary."""
        self.log(0, {f"summary/{name}": value for name, value in summary.items()})


def begin(place: Path, name: str, group: str, config: Mapping[str, Any], run_id: str | None) -> Lines:
    """Return a tracker that appends to `place/lines.txt`."""
    return Lines(place / "lines.txt")
