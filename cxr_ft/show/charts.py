"""One function a chart: it takes results and returns a figure; none, one or many, and those without some value, do.

The colours are Okabe and Ito's (2008), which colour-blind eyes tell apart. Text is mid-grey on nothing, so that a
figure can stand on a light or a dark page. No text is ever read as mathematics: names come from data.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cxr_ft.files import atomic, write_text
from cxr_ft.run.results import Result
from cxr_ft.show import words
from cxr_ft.show.runs import names, number, peak_bytes

INK = "#767676"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
MARKERS = "osD^vP*X"
STYLE: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr_ft",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}
WIDTH = 4.8  # inches: on a phone's page its letters are still of reading size

#: What quality is set against: axis label, number of a result, how it is written.
COSTS: dict[str, tuple[str, Callable[[Result], float | None], Callable[[float | None], str]]] = {
    "parameters": ("Trainable parameters", lambda run: number(run, "cost", "parameters", "trainable"), words.brief),
    "time": ("Time to train", lambda run: number(run, "cost", "train_seconds"), words.seconds),
    "memory": ("Peak memory in training", peak_bytes, words.size),
}

#: At most so many variants stand side by side as bars.
_BARS = 6


def learning_curves(runs: Sequence[Result]) -> Figure:
    """The primary metric on val, and the losses of train (dashed) and val, by epoch; one line a run."""
    with mpl.rc_context(STYLE):
        drawn = [(name, run) for name, run in zip(names(runs), runs, strict=True) if run.history]
        figure, axes = _figure("Learning curves", 5.2, drawn, rows=2)
        looks = _looks(runs)
        for name, run in drawn:
            look = {**looks[name], "markersize": 4, "alpha": 0.85}
            for axis, key, line in ((axes[0], "val", "-"), (axes[1], "val_loss", "-"), (axes[1], "train_loss", "--")):
                points = [(step["epoch"], step[key]) for step in run.history if step.get(key) is not None]
                axis.plot(*zip(*points, strict=True), linestyle=line, **look) if points else None
        if drawn:
            axes[0].set_ylabel(f"{words.metric(drawn[0][1].output)}, val")
            axes[1].set(xlabel="Epoch", ylabel="Loss (dashed: train)")
            axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
            _legend(figure, [name for name, _ in drawn], looks)
        return figure


def quality_vs(cost: str, runs: Sequence[Result]) -> Figure:
    """The primary metric on test against what it cost, on a log axis; one point a run.

    Args:
        cost: a key of `COSTS`. A cost of 0, which no log axis shows, is a dashed line across.
        runs: those without the metric or the cost are left out.
    """
    label, measure, written = COSTS[cost]
    with mpl.rc_context(STYLE):
        known = [(name, measure(run), run.primary("test")) for name, run in zip(names(runs), runs, strict=True)]
        drawn = [(name, x, y) for name, x, y in known if x is not None and y is not None]
        figure, (axis,) = _figure(f"Quality against {label[0].lower()}{label[1:]}", 3.4, drawn)
        looks = _looks(runs)
        for name, x, y in drawn:
            if x > 0:
                axis.plot([x], [y], linestyle="", markersize=8, alpha=0.85, **looks[name])
            else:
                axis.axhline(y, linestyle="--", linewidth=1.2, color=looks[name]["color"])
        if drawn:
            none = " (dashed line: none)" if any(x == 0 for _, x, _ in drawn) else ""
            axis.set(xlabel=label + none, ylabel=f"{words.metric(runs[0].output)}, test")
            axis.margins(0.12)
            _log(axis, [x for _, x, _ in drawn if x > 0], written)
            _legend(figure, [name for name, _, _ in drawn], looks)
        return figure


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
        figure, (axis,) = _figure(title, 1.3 + len(labels) * (0.16 + 0.13 * len(shown)), labels)
        looks = _looks(runs)
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
            _legend(figure, shown, looks, bars=True)
        return figure


def distribution(manifest: Mapping[str, Any]) -> Figure:
    """What a manifest says of each label: rows available (pale), those chosen for train, val and test, and the target.

    Args:
        manifest: of cxr-split: "labels" by name with "available", "train", "val", "test"; "asked" with "per_label".
    """
    labels = manifest.get("labels", {})
    target = manifest.get("asked", {}).get("per_label")
    with mpl.rc_context(STYLE):
        figure, (axis,) = _figure("Positive rows by label", 1.4 + 0.3 * len(labels), labels)
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
            note = f" {words.count(row['available'])}"
            axis.annotate(note, (1, at), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_yticks(range(len(labels)), list(labels))
        axis.set(xlabel="Rows; at the right: available", ylim=(len(labels) - 0.4, -0.6), xlim=(0, limit))
        axis.grid(visible=False, axis="y")
        if target:
            axis.axvline(target, color=INK, linestyle="--", linewidth=1.2, label=f"target {words.count(target)}")
        figure.legend(loc="outside lower center", ncols=4, handlelength=1.2)
        return figure


#: The charts of a comparison, by the name of their file.
CHARTS: dict[str, Callable[[Sequence[Result]], Figure]] = {
    "quality_vs_parameters": partial(quality_vs, "parameters"),
    "quality_vs_time": partial(quality_vs, "time"),
    "quality_vs_memory": partial(quality_vs, "memory"),
    "learning_curves": learning_curves,
    "per_label": per_label_bars,
}


def svg(figure: Figure, salt: str) -> str:
    """The figure as an `<svg>` element, to stand inside a page; `salt` keeps its ids apart from those of others."""
    text = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write(figure: Figure, folder: Path, name: str) -> str:
    """Write `name.svg` and `name.png` (150 dots an inch) into `folder`; returns the `<svg>` element."""
    element = svg(figure, salt=name)
    write_text(folder / f"{name}.svg", f'<?xml version="1.0" encoding="utf-8"?>\n{element}')
    with atomic(folder / f"{name}.png") as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, dpi=150)
    return element


def _figure(title: str, height: float, content: object, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height if content else 1.6), layout="constrained")
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False).ravel())
    axes[0].set_title(title)
    if not content:
        for axis in axes:
            axis.set_axis_off()
        axes[-1].text(0.5, 0.4, "There are no values to show.", ha="center", transform=axes[-1].transAxes)
    return figure, axes


def _looks(runs: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each variant; the same in every chart of the same runs."""
    order = dict.fromkeys(names(runs))
    return {
        name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(order)
    }


def _legend(figure: Figure, shown: Sequence[str], looks: Mapping[str, dict[str, Any]], bars: bool = False) -> None:
    order = [name for name in looks if name in shown]
    size = {"linewidth": 6} if bars else {"linewidth": 1.6, "markersize": 6}
    handles = [Line2D([], [], **({**looks[name], "marker": ""} if bars else looks[name]), **size) for name in order]
    columns = 2 if max(map(len, order)) < 28 else 1
    figure.legend(handles, order, loc="outside lower center", ncols=columns, handlelength=1.4, fontsize=9)
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(order) // columns))


def _log(axis: Axes, values: Sequence[float], written: Callable[[float | None], str]) -> None:
    """A log axis whose ticks are written in plain words; at least a decade wide, so that a tick or two stand on it."""
    if not values:
        axis.xaxis.set_ticks([])
        return
    axis.set_xscale("log")
    middle, half = np.sqrt(min(values) * max(values)), max(np.sqrt(max(values) / min(values)) * 1.5, 3.5)
    axis.set_xlim(middle / half, middle * half)
    decades = np.log10(half) * 2
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if decades < 2.5 else (1,), numticks=6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())


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
