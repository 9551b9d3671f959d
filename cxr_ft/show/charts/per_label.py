"""Draw the AUROC on test by label, one bar a variant."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.show import variant_estimates
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import INK, STYLE, blank, legend, looks_of
from cxr_ft.show.recorded_runs import RecordedRun, names, number

#: At most so many variants have bars for each label.
_BARS = 6


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw the AUROC on test by label, bars from chance (0.5): the mean over seeds, with its 95 % interval.

    A label without an interval has the reason below its name; the seeds of several are points.
    """
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[RecordedRun]] = defaultdict(list)
        for name, run in zip(names(results), runs, strict=True):
            if _labels(run.result):
                grouped[name].append(run)
        # Predictions from files have no val.
        chosen = f"{_BARS} best on val" if any(run.result.primary("val") for run in runs) else f"first {_BARS}"
        title = f"AUROC by label: the {chosen}" if len(grouped) > _BARS else "AUROC by label"
        # By val, not by test: the choice of what is shown must not flatter what is shown.
        best = sorted(grouped, key=lambda name: -max(run.result.primary("val") or 0 for run in grouped[name]))[:_BARS]
        shown = [name for name in grouped if name in best]
        labels = list(dict.fromkeys(label for name in shown for run in grouped[name] for label in _labels(run.result)))
        figure, (axis,) = blank(title, 1.3 + len(labels) * (0.16 + 0.13 * len(shown)), labels)
        looks = looks_of(results)
        height = 0.8 / max(1, len(shown))
        reasons: dict[str, str] = {}
        for i, name in enumerate(shown):
            estimates = variant_estimates.of_labels(grouped[name])
            for row, label in enumerate(labels):
                at = row + height * (i - (len(shown) - 1) / 2)
                values = _areas(grouped[name], label)
                estimate = estimates.of_label(label, float(np.mean(values)) if values else None)
                _bar(axis, at, 0.9 * height, looks[name]["color"], values, estimate.interval)
                if estimate.note:
                    reasons.setdefault(label, estimate.note)
        if labels:
            axis.set_yticks(range(len(labels)), [_named(label, reasons) for label in labels])
            axis.set(
                xlabel="AUROC, test (0.5: chance)",
                ylim=(len(labels) - 0.4, -0.6),
                xlim=(min(axis.get_xlim()[0], 0.48), 1),
            )
            axis.axvline(0.5, color=INK, linewidth=1)
            axis.grid(visible=False, axis="y")
            legend(figure, shown, looks, bars=True)
        return figure


def _bar(  # noqa: PLR0917 (a bar is this many numbers)
    axis: Axes, at: float, height: float, colour: str, values: Sequence[float], interval: Interval | None
) -> None:
    if values:
        axis.barh(at, float(np.mean(values)) - 0.5, left=0.5, height=height, color=colour)
    if interval:
        axis.plot(interval, [at, at], color=INK, linewidth=1)
    if len(values) > 1:
        axis.plot(values, [at] * len(values), linestyle="", marker="|", markersize=4, color=INK)


def _named(label: str, reasons: Mapping[str, str]) -> str:
    """Return a label's name, with the reason below it where it has no interval."""
    return f"{label}\n{reasons[label]}" if label in reasons else label


def _areas(runs: Sequence[RecordedRun], label: str) -> list[float]:
    """Return the AUROC of a label in each run that has one."""
    areas = (number(run.result, "metrics", "test", "labels", label, "auroc") for run in runs)
    return [value for value in areas if value is not None]


def _labels(run: Result) -> list[str]:
    test = run.metrics.get("test")
    return list(test.get("labels", {})) if isinstance(test, dict) else []


CHART = Chart(draw=draw, order=60, outputs=("scores",))
