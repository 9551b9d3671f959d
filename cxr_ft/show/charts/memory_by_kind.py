"""Draw peak memory in training by what it held."""

from collections import defaultdict
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.show import number_format
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import PALETTE, STYLE, blank
from cxr_ft.show.recorded_runs import MEMORY, RecordedRun, names, number


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw peak memory in training by what it held, one bar a variant: the mean over seeds."""
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[Result]] = defaultdict(list)
        for name, run in zip(names(results), results, strict=True):
            if any(number(run, "cost", "memory", kind) is not None for kind in MEMORY):
                grouped[name].append(run)
        figure, (axis,) = blank("Peak memory by kind", 1.3 + 0.34 * len(grouped), grouped)
        for place, seeds in enumerate(grouped.values()):
            start = 0.0
            for kind, colour in zip(MEMORY, PALETTE, strict=False):
                # A kind that a record lacks is 0 bytes, since other kinds of the same peak are there.
                size = float(np.mean([number(run, "cost", "memory", kind) or 0.0 for run in seeds]))
                axis.barh(place, size, left=start, height=0.6, color=colour, label=kind if place == 0 else None)
                start += size
            axis.annotate(f" {number_format.size(start)}", (start, place), va="center", fontsize=9)
        if grouped:
            axis.set_yticks(range(len(grouped)), list(grouped))
            axis.set(xlabel="Bytes", ylim=(len(grouped) - 0.4, -0.6))
            axis.margins(x=0.22)
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axis.xaxis.set_major_formatter(lambda value, _: number_format.size(value))
            axis.grid(visible=False, axis="y")
            figure.legend(loc="outside lower center", ncols=3, handlelength=1.2)
        return figure


CHART = Chart(draw=draw, order=40)
