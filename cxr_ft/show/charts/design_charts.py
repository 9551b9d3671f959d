"""Charts of a designed grid: which modules in which layers were worth training, and what each factor does."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr_ft.errors import UsageError
from cxr_ft.run.record.results import Result
from cxr_ft.show import phrasing
from cxr_ft.show.charts.style import INK, PALETTE, STYLE, blank
from cxr_ft.show.runs import Run

#: The name of a module of a numbered layer: what stands before, the number, what stands behind.
_LAYER = re.compile(r"(?P<tower>.*?)\.(?P<layer>\d+)\.(?P<module>.+)")
_COLUMNS = ("factor", "level", "effect", "low", "high")
#: At most so many rows of a chart.
_ROWS = 24


def modules(runs: Sequence[Result]) -> Figure:
    """Target module by layer: the mean of the primary metric on test over the runs that had an adapter there."""
    with mpl.rc_context(STYLE):
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for run in runs:
            value = run.primary("test")
            if value is not None and run.config["tuning"].get("targets"):
                for place in _places(run):
                    found[place].append(value)
        rows = list(dict.fromkeys(module for module, _ in found))[:_ROWS]
        layers = sorted({layer for _, layer in found})
        # Grids that trained the same places everywhere have one value alone, which no map is needed for.
        means = {place: float(np.mean(values)) for place, values in found.items() if place[0] in rows}
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
            metric = phrasing.metric(runs[0].output)
            figure.colorbar(image, ax=axis, location="bottom", label=f"{metric}, test: mean of the runs that train it")
        return figure


def main_effects(runs: Sequence[Run]) -> Figure:
    """What `effects.csv` beside the runs says of each factor: the effect on the test metric with its 95 % interval."""
    with mpl.rc_context(STYLE):
        rows = [row for row in effects([run.folder for run in runs]) if _number(row["effect"]) is not None][:_ROWS]
        figure, (axis,) = blank("What each factor does", 1.2 + 0.3 * len(rows), rows)
        for place, row in enumerate(rows):
            ends = [end for key in ("low", "high") if (end := _number(row[key])) is not None]
            axis.plot(ends, [place] * len(ends), color=PALETTE[0], linewidth=1.6)
            axis.plot([float(row["effect"])], [place], "o", color=PALETTE[0], markersize=6)
        if rows:
            axis.axvline(0, color=INK, linewidth=1)
            axis.set_yticks(range(len(rows)), [f"{row['factor']} ({row['level']})" for row in rows])
            axis.set(xlabel=f"Change of {phrasing.metric(runs[0].result.output)}, test", ylim=(len(rows) - 0.4, -0.6))
            axis.grid(visible=False, axis="y")
        return figure


def effects(folders: Sequence[Path]) -> list[dict[str, str]]:
    """The rows of `effects.csv` in the one folder that holds all these runs; none where there is no such file.

    Raises:
        UsageError: where the file is another one.
    """
    places = {folder.resolve().parent for folder in folders}
    file = next(iter(places)) / "effects.csv" if len(places) == 1 else None
    if file is None or not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if missing := sorted(set(_COLUMNS) - set(reader.fieldnames or ())):
            raise UsageError(f"{file} is not what cxr-ablate writes: it lacks {', '.join(missing)}; move it away")
        return [dict(row) for row in reader]


def _places(run: Result) -> list[tuple[str, int]]:
    """The adapted modules as (tower and module, layer); a name without a layer has none."""
    found = (_LAYER.fullmatch(str(name)) for name in run.plan.get("modules", []))
    return [(_short(match), int(match["layer"])) for match in found if match]


def _short(match: re.Match[str]) -> str:
    tower = "vision" if re.search(r"image|vision|visual", match["tower"]) else "text"
    return f"{tower} {match['module']}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
