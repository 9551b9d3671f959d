"""Draw learning curves: losses and the primary metric by epoch."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import STYLE, blank, legend, looks_of
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.recorded_runs import RecordedRun, names


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw the primary metric on val, where it was measured, and the losses of train (dashed) and val, by epoch."""
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        drawn = [(name, run) for name, run in zip(names(results), results, strict=True) if run.history]
        # Generating texts each epoch is slow, so that runs of reports may have no metric on val but at the end.
        measured = any(step.get("val") is not None for _, run in drawn for step in run.history)
        figure, axes = blank("Learning curves", 5.2 if measured else 3.2, drawn, rows=2 if measured else 1)
        looks, losses = looks_of(results), axes[-1]
        for name, run in drawn:
            lines = ((losses, "val_loss", "-"), (losses, "train_loss", "--"))
            for axis, key, line in (*lines, (axes[0], "val", "-")) if measured else lines:
                points = [(step["epoch"], step[key]) for step in run.history if step.get(key) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), linestyle=line, markersize=4, alpha=0.85, **looks[name])
        if drawn:
            if measured:
                axes[0].set_ylabel(f"{primary_title(drawn[0][1].output)}, val")
            losses.set(xlabel="Epoch", ylabel="Loss (dashed: train)")
            # Half an epoch is no epoch: without this a run of three has ticks at 0.5.
            losses.xaxis.set_major_locator(MaxNLocator(integer=True))
            legend(figure, [name for name, _ in drawn], looks)
        return figure


CHART = Chart(draw=draw, order=50)
