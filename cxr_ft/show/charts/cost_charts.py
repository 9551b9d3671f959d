"""Charts of what runs cost: memory by kind, and the machine's load while they were trained."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.run.record import results
from cxr_ft.run.record.results import Result
from cxr_ft.show import phrasing
from cxr_ft.show.charts.style import PALETTE, STYLE, blank, legend, looks_of
from cxr_ft.show.runs import MEMORY, Run, names, number

#: What of a line of system.jsonl is drawn: its name there, the axis' label, and what it is divided by.
LOADS = (
    ("cpu_percent", "CPU, %", 1),
    ("memory_bytes", "Process, GB", 1e9),
    ("gpu_percent", "GPU, %", 1),
    ("gpu_memory_bytes", "GPU memory, GB", 1e9),
)
#: At most so many points a line.
_POINTS = 200


def memory_by_kind(runs: Sequence[Result]) -> Figure:
    """Peak memory in training by what it held, one bar a variant: the mean over seeds."""
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[Result]] = defaultdict(list)
        for name, run in zip(names(runs), runs, strict=True):
            if any(number(run, "cost", "memory", kind) is not None for kind in MEMORY):
                grouped[name].append(run)
        figure, (axis,) = blank("Peak memory by kind", 1.3 + 0.34 * len(grouped), grouped)
        for place, found in enumerate(grouped.values()):
            start = 0.0
            for kind, colour in zip(MEMORY, PALETTE, strict=False):
                size = float(np.mean([number(run, "cost", "memory", kind) or 0.0 for run in found]))
                axis.barh(place, size, left=start, height=0.6, color=colour, label=kind if place == 0 else None)
                start += size
            axis.annotate(f" {phrasing.size(start)}", (start, place), va="center", fontsize=9)
        if grouped:
            axis.set_yticks(range(len(grouped)), list(grouped))
            axis.set(xlabel="Bytes", ylim=(len(grouped) - 0.4, -0.6))
            axis.margins(x=0.22)
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axis.xaxis.set_major_formatter(lambda value, _: phrasing.size(value))
            axis.grid(visible=False, axis="y")
            figure.legend(loc="outside lower center", ncols=3, handlelength=1.2)
        return figure


def system(runs: Sequence[Run]) -> Figure:
    """What the machine did while each run was trained, by seconds of training; one line a run."""
    with mpl.rc_context(STYLE):
        looks = looks_of([run.result for run in runs])
        titles = names([run.result for run in runs])
        found = [(name, lines) for name, run in zip(titles, runs, strict=True) if (lines := _load(run.folder))]
        shown = [load for load in LOADS if any(load[0] in line for _, lines in found for line in lines)]
        drawn = found if shown else []
        figure, axes = blank("The machine while training", 0.6 + 1.5 * len(shown), drawn, rows=max(1, len(shown)))
        for axis, (key, label, unit) in zip(axes, shown, strict=False):
            for name, lines in drawn:
                points = [(line["seconds"], line[key] / unit) for line in lines if key in line]
                look = {**looks[name], "markersize": 2 if len(points) > 1 else 5, "linewidth": 1}
                axis.plot(*zip(*points, strict=True), alpha=0.8, **look) if points else None
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        if drawn:
            axes[-1].set_xlabel("Seconds of training")
            legend(figure, [name for name, _ in drawn], looks)
        return figure


def _load(folder: Path) -> list[dict[str, float]]:
    """The lines of system.jsonl, thinned."""
    found = results.read_system(folder)
    return found[:: max(1, -(-len(found) // _POINTS))]
