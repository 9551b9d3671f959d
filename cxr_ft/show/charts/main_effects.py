"""Draw the effect of each factor of a designed grid of runs."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cxr_ft import csv_cells
from cxr_ft.errors import UsageError
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import INK, PALETTE, STYLE, blank
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.recorded_runs import RecordedRun

_COLUMNS = ("factor", "level", "effect", "low", "high")
#: At most so many rows of a chart.
_ROWS = 24


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw each factor's effect on the test metric with its 95 % interval, from `effects.csv` beside the runs."""
    with mpl.rc_context(STYLE):
        # Predictions from a file are no runs of the grid.
        folders = [run.folder for run in runs if not run.result.imported]
        rows = [row for row in effects(folders) if _number(row["effect"]) is not None][:_ROWS]
        figure, (axis,) = blank("What each factor does", 1.2 + 0.3 * len(rows), rows)
        for place, row in enumerate(rows):
            ends = [end for key in ("low", "high") if (end := _number(row[key])) is not None]
            axis.plot(ends, [place] * len(ends), color=PALETTE[0], linewidth=1.6)
            axis.plot([float(row["effect"])], [place], "o", color=PALETTE[0], markersize=6)
        if rows:
            axis.axvline(0, color=INK, linewidth=1)
            axis.set_yticks(range(len(rows)), [f"{row['factor']} ({row['level']})" for row in rows])
            axis.set(xlabel=f"Change of {primary_title(runs[0].result.output)}, test", ylim=(len(rows) - 0.4, -0.6))
            axis.grid(visible=False, axis="y")
        return figure


def effects(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Return the rows of `effects.csv` in the one folder that holds all these runs; none where there is no such file.

    Raises:
        UsageError: where the file is another one.
    """
    # Effects are of one grid: runs of several folders have no file in common.
    places = {folder.resolve().parent for folder in folders}
    file = next(iter(places)) / "effects.csv" if len(places) == 1 else None
    if file is None or not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        # A file of this name may be the user's own.
        if missing := sorted(set(_COLUMNS) - set(reader.fieldnames or ())):
            raise UsageError(f"{file} is not what cxr-ablate writes: it lacks {', '.join(missing)}; move it away")
        return [{key: csv_cells.unescape(cell) for key, cell in row.items()} for row in reader]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


CHART = Chart(draw=draw, order=110, optional=True)
