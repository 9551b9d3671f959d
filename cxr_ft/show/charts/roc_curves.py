"""Draw ROC curves on test."""

from collections import defaultdict
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.score.arrays import Floats
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import INK, STYLE, blank, legend, looks_of
from cxr_ft.show.recorded_runs import RecordedRun, names

#: At most so many variants are drawn.
_LINES = 8
#: Points at which curves of several seeds are averaged.
_GRID = np.linspace(0, 1, 101)


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw sensitivity against 1 minus specificity on test: the mean over labels, and over seeds."""
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[Floats]] = defaultdict(list)
        for name, run in zip(names([run.result for run in runs]), runs, strict=True):
            grouped[name] += _curves(run)
        shown = [name for name, curves in grouped.items() if curves][:_LINES]
        figure, (axis,) = blank("ROC curves, mean over labels", 3.6, shown)
        looks = looks_of([run.result for run in runs])
        if shown:
            axis.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
        for name in shown:
            axis.plot(_GRID, np.mean(grouped[name], axis=0), color=looks[name]["color"])
        if shown:
            axis.set(xlabel="1 minus specificity, test", ylabel="Sensitivity", xlim=(0, 1), ylim=(0, 1.01))
            legend(figure, shown, {name: {**look, "marker": ""} for name, look in looks.items()})
        return figure


def _curves(run: RecordedRun) -> list[Floats]:
    """Return the sensitivity [101] of each label that has both classes, at equal steps of 1 minus specificity."""
    from sklearn.metrics import roc_curve

    # A run without predictions still has its numbers; it only has no curve.
    table = run.predictions() if run.result.output == "scores" else None
    if table is None:
        return []
    table = table[(table["split"] == "test") & table["truth"].notna()]
    out = []
    for _, rows in table.groupby("label"):
        if rows["truth"].nunique() == 2:
            wrong, right, _ = roc_curve(rows["truth"] > 0.5, rows["score"])
            # At common points: curves have their steps at the scores of their own model.
            out.append(np.interp(_GRID, wrong, right))
    return out


CHART = Chart(draw=draw, order=120, outputs=("scores",), optional=True)
