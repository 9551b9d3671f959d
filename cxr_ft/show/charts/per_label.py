"""Draw the AUROC on test by label, one bar a variant."""

from collections import defaultdict
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import INK, STYLE, blank, legend, looks_of
from cxr_ft.show.runs import Run, names, number

#: At most so many variants have bars for each label.
_BARS = 6


def draw(runs: Sequence[Run]) -> Figure:
    """Draw the AUROC on test by label, bars from chance (0.5): the mean over seeds, with a whisker over their range."""
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[Result]] = defaultdict(list)
        for name, run in zip(names(results), results, strict=True):
            if _labels(run):
                grouped[name].append(run)
        title = f"AUROC by label: the {_BARS} best on val" if len(grouped) > _BARS else "AUROC by label"
        # By val, not by test: the choice of what is shown must not flatter what is shown.
        best = sorted(grouped, key=lambda name: -max(run.primary("val") or 0 for run in grouped[name]))[:_BARS]
        shown = [name for name in grouped if name in best]
        labels = list(dict.fromkeys(label for name in shown for run in grouped[name] for label in _labels(run)))
        figure, (axis,) = blank(title, 1.3 + len(labels) * (0.16 + 0.13 * len(shown)), labels)
        looks = looks_of(results)
        height = 0.8 / max(1, len(shown))
        for i, name in enumerate(shown):
            for row, label in enumerate(labels):
                at = row + height * (i - (len(shown) - 1) / 2)
                _bar(axis, at, 0.9 * height, looks[name]["color"], _areas(grouped[name], label))
        if labels:
            axis.set_yticks(range(len(labels)), labels)
            axis.set(
                xlabel="AUROC, test (0.5: chance)",
                ylim=(len(labels) - 0.4, -0.6),
                xlim=(min(axis.get_xlim()[0], 0.48), 1),
            )
            axis.axvline(0.5, color=INK, linewidth=1)
            axis.grid(visible=False, axis="y")
            legend(figure, shown, looks, bars=True)
        return figure


def _bar(axis: Axes, at: float, height: float, colour: str, values: Sequence[float]) -> None:
    if values:
        axis.barh(at, float(np.mean(values)) - 0.5, left=0.5, height=height, color=colour)
    if len(values) > 1:
        # The range of the seeds: two or three are too few for a deviation.
        axis.plot([min(values), max(values)], [at, at], color=INK, linewidth=1)


def _areas(runs: Sequence[Result], label: str) -> list[float]:
    """Return the AUROC of a label in each run that has one."""
    areas = (number(run, "metrics", "test", "labels", label, "auroc") for run in runs)
    return [value for value in areas if value is not None]


def _labels(run: Result) -> list[str]:
    test = run.metrics.get("test")
    return list(test.get("labels", {})) if isinstance(test, dict) else []


CHART = Chart(draw=draw, order=60, outputs=("scores",))
