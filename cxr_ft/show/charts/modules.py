"""Draw the quality of runs by the modules and layers that they train."""

import re
from collections import defaultdict
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.run.record.results import Result
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._style import STYLE, blank
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.recorded_runs import RecordedRun

#: The name of a module of a numbered layer: what precedes the number, the number, what follows it.
_LAYER = re.compile(r"(?P<tower>.*?)\.(?P<layer>\d+)\.(?P<module>.+)")
#: At most so many rows of a chart.
_ROWS = 24


def draw(runs: Sequence[RecordedRun]) -> Figure:
    """Draw target module by layer: the mean of the primary metric on test over the runs that had an adapter there."""
    results = [run.result for run in runs]
    with mpl.rc_context(STYLE):
        values_by_place: dict[tuple[str, int], list[float]] = defaultdict(list)
        for run in results:
            value = run.primary("test")
            if value is not None and run.targets:
                for place in _places(run):
                    values_by_place[place].append(value)
        rows = list(dict.fromkeys(module for module, _ in values_by_place))[:_ROWS]
        layers = sorted({layer for _, layer in values_by_place})
        # Grids that trained the same places everywhere have one value alone, which no map is needed for.
        means = {place: float(np.mean(values)) for place, values in values_by_place.items() if place[0] in rows}
        # Rounded: means of the same values summed in another order differ in the last digits.
        drawn = rows if len({round(value, 9) for value in means.values()}) > 1 else []
        figure, (axis,) = blank("Trained modules by layer", 1.4 + 0.3 * len(rows), drawn)
        if drawn:
            table = np.array([[means.get((module, layer), np.nan) for layer in layers] for module in rows])
            image = axis.imshow(table, aspect="auto", cmap="cividis")
            axis.set_yticks(range(len(rows)), rows)
            axis.set_xticks(range(len(layers)), [str(layer) for layer in layers])
            axis.set_xlabel("Layer")
            axis.grid(visible=False)
            axis.tick_params(length=0)
            metric = primary_title(results[0].output)
            figure.colorbar(image, ax=axis, location="bottom", label=f"{metric}, test: mean of the runs that train it")
        return figure


def _places(run: Result) -> list[tuple[str, int]]:
    """Return the adapted modules as (tower and module, layer); names without a layer are left out."""
    matches = (_LAYER.fullmatch(str(name)) for name in run.plan.get("modules", []))
    return [(_short(match), int(match["layer"])) for match in matches if match]


def _short(match: re.Match[str]) -> str:
    tower = "vision" if re.search(r"image|vision|visual", match["tower"]) else "text"
    return f"{tower} {match['module']}"


CHART = Chart(draw=draw, order=80, optional=True)
