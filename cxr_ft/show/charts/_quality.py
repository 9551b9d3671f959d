"""Draw quality against cost, for the charts of parameters, time and memory."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.show.charts._style import INK, STYLE, blank, legend, log_axis, looks_of
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.recorded_runs import RecordedRun, names


@dataclass(frozen=True)
class CostAxis:
    """The axis of a cost: its label, its number in a result, and how that is written."""

    label: str
    of: Callable[[Result], float | None]
    write: Callable[[float | None], str]


def draw(cost: CostAxis, runs: Sequence[RecordedRun]) -> Figure:
    """Draw the primary metric on test against what it cost, on a log axis; one point a run.

    The line is the front of the variants' means over seeds: nothing as cheap is better.

    Args:
        cost: what is paid. A cost of 0, which no log axis shows, is a dashed line across.
        runs: those without the metric or the cost are left out.
    """
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        known = [(name, cost.of(one), one.primary("test")) for name, one in zip(names(results), results, strict=True)]
        # None, not 0: a cost that was not recorded is no cost of nothing.
        drawn = [(name, x, y) for name, x, y in known if x is not None and y is not None]
        figure, (axis,) = blank(f"Quality against {cost.label[0].lower()}{cost.label[1:]}", 3.4, drawn)
        looks = looks_of(results)
        _front(axis, drawn)
        for name, x, y in drawn:
            if x > 0:
                axis.plot([x], [y], linestyle="", markersize=8, alpha=0.85, **looks[name])
            else:
                axis.axhline(y, linestyle="--", linewidth=1.2, color=looks[name]["color"])
        if drawn:
            none = " (dashed line: none)" if any(x == 0 for _, x, _ in drawn) else ""
            axis.set(xlabel=cost.label + none, ylabel=f"{primary_title(results[0].output)}, test")
            axis.margins(0.12)
            log_axis(axis, [x for _, x, _ in drawn if x > 0], cost.write)
            legend(figure, [name for name, _, _ in drawn], looks)
        return figure


def _front(axis: Axes, drawn: Sequence[tuple[str, float, float]]) -> None:
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, x, y in drawn:
        points[name].append((x, y))
    # Of means, since the best of several seeds is higher by chance alone.
    means = [np.mean(seeds, axis=0).tolist() for seeds in points.values()]
    front = [(x, y) for x, y in pareto(means) if x > 0]
    axis.step([x for x, _ in front], [y for _, y in front], where="post", color=INK, linewidth=1, label="front")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, quality) points that no other point of at most that cost equals or beats, by cost."""
    front: list[tuple[float, float]] = []
    # Of equal cost the better comes first, so that the worse is never on the front.
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front
