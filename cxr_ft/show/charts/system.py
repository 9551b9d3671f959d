"""Draw the load of the machine while runs were trained."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cxr_ft.run.record import results
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import STYLE, blank, legend, looks_of
from cxr_ft.show.recorded_runs import RecordedRun, names

#: What of a line of system.jsonl is drawn: its name there, the axis' label, and what it is divided by.
LOADS = (
    ("cpu_percent", "CPU, %", 1),
    ("memory_bytes", "Process, GB", 1e9),
    ("gpu_percent", "GPU, %", 1),
    ("gpu_memory_bytes", "GPU memory, GB", 1e9),
)
#: At most so many points a line.
_POINTS = 200


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw what the machine did while each run was trained, by seconds of training; one line a run."""
    with mpl.rc_context(STYLE):
        looks = looks_of([run.result for run in runs])
        titles = names([run.result for run in runs])
        measured = [(name, lines) for name, run in zip(titles, runs, strict=True) if (lines := _load(run.folder))]
        shown = [load for load in LOADS if any(load[0] in line for _, lines in measured for line in lines)]
        drawn = measured if shown else []
        figure, axes = blank("The machine while training", 0.6 + 1.5 * len(shown), drawn, rows=max(1, len(shown)))
        for axis, (key, label, unit) in zip(axes, shown, strict=False):
            for name, lines in drawn:
                points = [(line["seconds"], line[key] / unit) for line in lines if key in line]
                # A single point is no line: it is only seen as a larger marker.
                size = 2 if len(points) > 1 else 5
                if points:
                    axis.plot(*zip(*points, strict=True), alpha=0.8, markersize=size, linewidth=1, **looks[name])
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        if drawn:
            axes[-1].set_xlabel("Seconds of training")
            legend(figure, [name for name, _ in drawn], looks)
        return figure


def _load(folder: Path) -> list[dict[str, float]]:
    """Return the lines of system.jsonl, thinned to at most `_POINTS`."""
    lines = results.read_system(folder)
    # Thinned by a whole step, so that the distances in time stay equal.
    return lines[:: max(1, -(-len(lines) // _POINTS))]


CHART = Chart(draw=draw, order=100, optional=True)
