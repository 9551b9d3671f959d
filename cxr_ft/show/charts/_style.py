"""Share among charts their style, the frame of a figure, its legend, and its files.

The colours are Okabe and Ito's (2008), which colour-blind eyes can distinguish. Text is mid-grey without a background,
so that a figure is readable on a light or a dark page. No text is ever read as mathematics: names come from data.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cxr_ft.files import atomic, write_text
from cxr_ft.run.record.results import Result
from cxr_ft.show.recorded_runs import names

#: The label of a figure that has nothing to show.
EMPTY = "empty"

INK = "#767676"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
MARKERS = "osD^vP*X"
# matplotlib names the keys of its settings in a type that a plain dict of them does not satisfy.
STYLE: Any = {
    # A name with two dollar signs would be set as a formula, or fail to parse.
    "text.parse_math": False,
    # Text stays text: it can be searched and copied, and files are smaller than with outlines.
    "svg.fonttype": "none",
    # matplotlib salts its ids with a random number: without this, equal runs give unequal files.
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


class Look(TypedDict):
    """Hold the arguments of matplotlib's `plot` that draw one variant."""

    color: str
    marker: str


WIDTH = 4.8  # inches: on a phone's page its text is still of reading size


def svg(figure: Figure, salt: str) -> str:
    """Return the figure as an `<svg>` element for a page; `salt` makes its ids differ from those of other figures."""
    text = io.StringIO()
    # Ids are shared by all SVG elements of a page: equal ones would point into another chart.
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        # Without date and version the same runs write the same bytes.
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write(figure: Figure, folder: Path, name: str) -> str:
    """Write `name.svg` and `name.png` (150 dots an inch) into `folder`; return the `<svg>` element."""
    element = svg(figure, salt=name)
    write_text(folder / f"{name}.svg", f'<?xml version="1.0" encoding="utf-8"?>\n{element}')
    with atomic(folder / f"{name}.png") as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, dpi=150)
    return element


def blank(title: str, height: float, content: object, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of `height` inches with its title and axes one above another; without content it says so."""
    figure = Figure(figsize=(WIDTH, height if content else 1.6), layout="constrained")
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False).ravel())
    axes[0].set_title(title)
    if not content:
        figure.set_label(EMPTY)
        for axis in axes:
            axis.set_axis_off()
        axes[-1].text(0.5, 0.4, "There are no values to show.", ha="center", transform=axes[-1].transAxes)
    return figure, axes


def looks_of(runs: Sequence[Result]) -> dict[str, Look]:
    """Return colour and marker of each variant, the same in every chart of the same runs."""
    order = dict.fromkeys(names(runs))
    return {
        name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(order)
    }


def legend(figure: Figure, shown: Sequence[str], looks: Mapping[str, Look], bars: bool = False) -> None:
    """Add a legend of the names shown below the figure, which grows by its height."""
    order = [name for name in looks if name in shown]
    size = {"linewidth": 6} if bars else {"linewidth": 1.6, "markersize": 6}
    handles = [Line2D([], [], **({**looks[name], "marker": ""} if bars else looks[name]), **size) for name in order]
    columns = 2 if max(map(len, order)) < 28 else 1
    figure.legend(handles, order, loc="outside lower center", ncols=columns, handlelength=1.4, fontsize=9)
    # The legend would otherwise take its room from the axes, which grow thin with many variants.
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(order) // columns))


def log_axis(axis: Axes, values: Sequence[float], written: Callable[[float | None], str]) -> None:
    """Make the x axis logarithmic with readable ticks, and wide enough for one or two of them."""
    if not values:
        axis.xaxis.set_ticks([])
        return
    # The middle of a log axis is the geometric mean. A factor of 3.5 each way keeps a single value from an axis without
    # ticks.
    middle, half = np.sqrt(min(values) * max(values)), max(np.sqrt(max(values) / min(values)) * 1.5, 3.5)
    axis.set_xlim(middle / half, middle * half)
    axis.set_xscale("log")
    decades = np.log10(half) * 2
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if decades < 2.5 else (1,), numticks=6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
