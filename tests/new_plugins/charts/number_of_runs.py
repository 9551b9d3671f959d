"""Draw how many runs each method has."""

from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import blank
from cxr_ft.show.recorded_runs import RecordedRun


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw one bar a method."""
    counts = Counter(run.result.method for run in runs)
    figure, (axis,) = blank("Number of runs", 3.2, runs)
    axis.barh(list(counts), list(counts.values()))
    return figure


CHART = Chart(draw=draw, order=15)
