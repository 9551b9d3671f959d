"""One function a chart: it takes results and returns a figure; none, one or many, and those without some value, do."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_ft.run.record.results import Result
from cxr_ft.show import phrasing
from cxr_ft.show.charts import cost_charts, design_charts, score_charts
from cxr_ft.show.charts.style import INK, PALETTE, STYLE, blank, legend, log_axis, looks_of, svg, write
from cxr_ft.show.runs import Run, names, number, peak_bytes

__all__ = ["CHARTS", "FOLDERS", "INK", "PALETTE", "STYLE", "distribution", "svg", "write"]

#: What quality is set against: axis label, number of a result, how it is written.
COSTS: dict[str, tuple[str, Callable[[Result], float | None], Callable[[float | None], str]]] = {
    "parameters": ("Trainable parameters", lambda run: number(run, "cost", "parameters", "trainable"), phrasing.brief),
    "time": ("Time to train", lambda run: number(run, "cost", "train_seconds"), phrasing.seconds),
    "memory": ("Peak memory in training", peak_bytes, phrasing.size),
}

#: At most so many variants stand side by side as bars.
_BARS = 6


def learning_curves(runs: Sequence[Result]) -> Figure:
    """The primary metric on val, where it was measured, and the losses of train (dashed) and val, by epoch."""
    with mpl.rc_context(STYLE):
        drawn = [(name, run) for name, run in zip(names(runs), runs, strict=True) if run.history]
        measured = any(step.get("val") is not None for _, run in drawn for step in run.history)
        figure, axes = blank("Learning curves", 5.2 if measured else 3.2, drawn, rows=2 if measured else 1)
        looks, losses = looks_of(runs), axes[-1]
        for name, run in drawn:
            look = {**looks[name], "markersize": 4, "alpha": 0.85}
            lines = ((losses, "val_loss", "-"), (losses, "train_loss", "--"))
            for axis, key, line in (*lines, (axes[0], "val", "-")) if measured else lines:
                points = [(step["epoch"], step[key]) for step in run.history if step.get(key) is not None]
                axis.plot(*zip(*points, strict=True), linestyle=line, **look) if points else None
        if drawn:
            if measured:
                axes[0].set_ylabel(f"{phrasing.metric(drawn[0][1].output)}, val")
            losses.set(xlabel="Epoch", ylabel="Loss (dashed: train)")
            losses.xaxis.set_major_locator(MaxNLocator(integer=True))
            legend(figure, [name for name, _ in drawn], looks)
        return figure


def quality_vs(cost: str, runs: Sequence[Result]) -> Figure:
    """The primary metric on test against what it cost, on a log axis; one point a run. The line is the front of the
    variants' means over seeds: nothing as cheap is better.

    Args:
        cost: a key of `COSTS`. A cost of 0, which no log axis shows, is a dashed line across.
        runs: those without the metric or the cost are left out.
    """
    label, measure, written = COSTS[cost]
    with mpl.rc_context(STYLE):
        known = [(name, measure(run), run.primary("test")) for name, run in zip(names(runs), runs, strict=True)]
        drawn = [(name, x, y) for name, x, y in known if x is not None and y is not None]
        figure, (axis,) = blank(f"Quality against {label[0].lower()}{label[1:]}", 3.4, drawn)
        looks = looks_of(runs)
        _front(axis, drawn)
        for name, x, y in drawn:
            if x > 0:
                axis.plot([x], [y], linestyle="", markersize=8, alpha=0.85, **looks[name])
            else:
                axis.axhline(y, linestyle="--", linewidth=1.2, color=looks[name]["color"])
        if drawn:
            none = " (dashed line: none)" if any(x == 0 for _, x, _ in drawn) else ""
            axis.set(xlabel=label + none, ylabel=f"{phrasing.metric(runs[0].output)}, test")
            axis.margins(0.12)
            log_axis(axis, [x for _, x, _ in drawn if x > 0], written)
            legend(figure, [name for name, _, _ in drawn], looks)
        return figure


def _front(axis: Axes, drawn: Sequence[tuple[str, float, float]]) -> None:
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, x, y in drawn:
        points[name].append((x, y))
    means = [np.mean(seeds, axis=0).tolist() for seeds in points.values()]
    front = [(x, y) for x, y in pareto(means) if x > 0]
    axis.step([x for x, _ in front], [y for _, y in front], where="post", color=INK, linewidth=1, label="front")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality) those that nothing cheaper, or as cheap, beats or equals; from cheap to dear."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def per_label_bars(runs: Sequence[Result]) -> Figure:
    """AUROC on test by label, bars from chance (0.5): the mean over seeds, with a whisker over their range."""
    with mpl.rc_context(STYLE):
        grouped: dict[str, list[Result]] = defaultdict(list)
        for name, run in zip(names(runs), runs, strict=True):
            if _labels(run):
                grouped[name].append(run)
        title = f"AUROC by label: the {_BARS} best on val" if len(grouped) > _BARS else "AUROC by label"
        best = sorted(grouped, key=lambda name: -max(run.primary("val") or 0 for run in grouped[name]))[:_BARS]
        shown = [name for name in grouped if name in best]
        labels = list(dict.fromkeys(label for name in shown for run in grouped[name] for label in _labels(run)))
        figure, (axis,) = blank(title, 1.3 + len(labels) * (0.16 + 0.13 * len(shown)), labels)
        looks = looks_of(runs)
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


def distribution(manifest: Mapping[str, Any]) -> Figure:
    """What a manifest says of each label: rows available (pale), those chosen for train, val and test, and the target.

    Args:
        manifest: of cxr-split: "labels" by name with "available", "train", "val", "test"; "request" with "per_label".
    """
    labels = manifest.get("labels", {})
    target = manifest.get("request", {}).get("per_label")
    with mpl.rc_context(STYLE):
        figure, (axis,) = blank("Positive rows by label", 1.4 + 0.3 * len(labels), labels)
        if not labels:
            return figure
        chosen = [sum(row[side] for side in ("train", "val", "test")) for row in labels.values()]
        limit = 1.25 * max(*chosen, target or 0, 1)
        for at, row in enumerate(labels.values()):
            axis.barh(at, min(row["available"], limit), height=0.8, color=INK, alpha=0.2)
            start = 0
            for side, colour in zip(("train", "val", "test"), PALETTE, strict=False):
                axis.barh(at, row[side], left=start, height=0.5, color=colour, label=side if at == 0 else None)
                start += row[side]
            note = f" {phrasing.count(row['available'])}"
            axis.annotate(note, (1, at), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_yticks(range(len(labels)), list(labels))
        axis.set(xlabel="Rows; at the right: available", ylim=(len(labels) - 0.4, -0.6), xlim=(0, limit))
        axis.grid(visible=False, axis="y")
        if target:
            axis.axvline(target, color=INK, linestyle="--", linewidth=1.2, label=f"target {phrasing.count(target)}")
        figure.legend(loc="outside lower center", ncols=4, handlelength=1.2)
        return figure


#: The charts of a comparison, by the name of their file.
CHARTS: dict[str, Callable[[Sequence[Result]], Figure]] = {
    "quality_vs_parameters": partial(quality_vs, "parameters"),
    "quality_vs_time": partial(quality_vs, "time"),
    "quality_vs_memory": partial(quality_vs, "memory"),
    "memory_by_kind": cost_charts.memory_by_kind,
    "learning_curves": learning_curves,
    "per_label": per_label_bars,
    "calibration": score_charts.calibration,
    "modules": design_charts.modules,
}

#: Those that need more of a run's folder than its result, or of the folder around it.
FOLDERS: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "system": cost_charts.system,
    "main_effects": design_charts.main_effects,
    "roc_curves": score_charts.roc,
}

#: Those that are left out where they have nothing to show.
OPTIONAL = ("calibration", "modules")

#: Charts that only some kinds of output have.
SCORES = ("per_label", "calibration", "roc_curves")


def _bar(axis: Axes, at: float, height: float, colour: str, values: Sequence[float]) -> None:
    if values:
        axis.barh(at, float(np.mean(values)) - 0.5, left=0.5, height=height, color=colour)
    if len(values) > 1:
        axis.plot([min(values), max(values)], [at, at], color=INK, linewidth=1)


def _areas(runs: Sequence[Result], label: str) -> list[float]:
    """The AUROC of a label in each run that has one."""
    found = (number(run, "metrics", "test", "labels", label, "auroc") for run in runs)
    return [value for value in found if value is not None]


def _labels(run: Result) -> dict[str, Any]:
    test = run.metrics.get("test")
    return test.get("labels", {}) if isinstance(test, dict) else {}
