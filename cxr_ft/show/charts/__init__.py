"""The charts of a comparison, one file each, named like the chart; `all_charts` lists them in the page's order.

A file declares `CHART`, a `Chart`. Nothing else is edited: the page draws every chart there is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ft import plugins

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxr_ft.show.recorded_runs import RecordedRun


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of a comparison.

    Args:
        draw: makes the figure of some runs; of none, one, many, and of runs that lack a value.
        order: its place on the page; the lowest comes first.
        outputs: the kinds of output ("scores", "text") whose comparisons have it.
        optional: whether it is left out where it has nothing to show; others then show a sentence.
    """

    draw: "Callable[[Sequence[RecordedRun]], Figure]"
    order: int
    outputs: tuple[str, ...] = ("scores", "text")
    optional: bool = False


def all_charts() -> dict[str, Chart]:
    """Return the charts by name, which is also that of their files, in the page's order."""
    charts: dict[str, Chart] = {
        name: plugins.load(plugins.CHARTS, name).CHART for name in plugins.choices(plugins.CHARTS)
    }
    # The name decides between equal orders, so that a plug-in moves no other chart.
    return dict(sorted(charts.items(), key=lambda item: (item[1].order, item[0])))
