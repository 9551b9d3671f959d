"""Draw reliability diagrams: the share of positives against the score."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.score.metrics.calibration import Bin
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import INK, STYLE, blank, legend, looks_of
from cxr_ft.show.recorded_runs import RecordedRun, names

#: At most so many variants are drawn; bins with fewer cells are left out, since chance rules them.
_LINES, _FEW = 8, 10


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw the share of positives against the score, on test; one line a variant, bins of all seeds together."""
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        grouped: dict[str, dict[float, list[tuple[float, float, float]]]] = {}
        for name, run in zip(names(results), results, strict=True):
            for bin_ in _bins(run):
                # By the bin's lower end, which is equal in all runs; a run leaves out the bins that are empty.
                place = grouped.setdefault(name, {}).setdefault(float(bin_["from"]), [])
                place.append((bin_["n"], bin_["score"], bin_["positive"]))
        shown = list(grouped)[:_LINES]
        title = "Calibration" if len(grouped) <= _LINES else f"Calibration: the first {_LINES}"
        figure, (axis,) = blank(title, 3.6, shown)
        looks = looks_of(results)
        if shown:
            axis.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
        for name in shown:
            points = [np.array(cells) for _, cells in sorted(grouped[name].items())]
            # Weighted by rows: the mean over seeds of a bin is that of all their rows together.
            means = [p[:, 1:].T @ p[:, 0] / p[:, 0].sum() for p in points if p[:, 0].sum() >= _FEW]
            if means:
                axis.plot(*zip(*means, strict=True), markersize=4, **looks[name])
        if shown:
            axis.set(xlabel="Score", ylabel="Share of positives, test", xlim=(0, 1), ylim=(0, 1))
            legend(figure, shown, looks)
        return figure


def _bins(run: Result) -> list[Bin]:
    value: object = run.metrics.get("test")
    for key in ("calibration", "raw", "reliability"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, list) else []


CHART = Chart(draw=draw, order=70, outputs=("scores",), optional=True)
