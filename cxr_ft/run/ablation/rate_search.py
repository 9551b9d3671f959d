"""As many learning rates tried for every method, judged on val alone, and recorded with each run.

A method is tried on its first cell: its first targets and rank, the first seed. The rate that is best there on val is
used by all its cells. Rates are half decades apart, around the one the grid would use.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cxr_ft.config import RunConfig
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder
from cxr_ft.run.ablation.grid import Cells
from cxr_ft.run.record import results

#: Below the ablation's folder: the runs that were tried. They never see test.
FOLDER = "tries"
_SHAPE = ("targets", "rank", "lr")


def around(rate: float, tries: int) -> list[float]:
    """`tries` rates, half a decade apart, around `rate`, from small to large; two digits each."""
    steps = range(-((tries - 1) // 2), tries // 2 + 1)
    return [float(f"{rate * 10 ** (step / 2):.2g}") if step else rate for step in steps]


def search(
    cells: Cells, out: Path, tries: int, carry_out: Callable[[Cells, Path], None]
) -> tuple[Cells, dict[str, dict[str, Any]]]:
    """The cells with their methods' best rates, and what was tried, by the cell's name.

    Args:
        cells: as `grid.cells` gives them.
        out: the ablation's folder.
        tries: learning rates a method; 1: the one it has.
        carry_out: trains cells into folders, each of which has a result afterwards.

    Raises:
        UsageError: where the grid varies the rate itself.
    """
    if tries == 1:
        return cells, {}
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if hasattr(cell.tuning.options, "lr"):
            groups.setdefault(_group(cell), []).append(name)
    if any(len({cells[name].tuning.options.lr for name in names}) > 1 for names in groups.values()):
        raise UsageError("grid: lr is varied already; leave out tries, or lr")
    tried = {
        names[0]: {rate: _with_rate(cells[names[0]], rate) for rate in around(cells[names[0]].tuning.options.lr, tries)}
        for names in groups.values()
    }
    place = out / FOLDER
    carry_out({_try(name, rate): cell for name, rates in tried.items() for rate, cell in rates.items()}, place)
    chosen, record = dict(cells), {}
    for names in groups.values():
        first = names[0]
        scores = {rate: score(results.read(place / _try(first, rate))) for rate in tried[first]}
        defined = {rate: value for rate, value in scores.items() if value is not None}
        # The smaller one of equals; where all failed, the cells fail with the rate they had.
        best = max(defined, key=lambda rate: (defined[rate], -rate)) if defined else cells[first].tuning.options.lr
        entry = {"tries": tries, "rates": list(scores), "val": list(scores.values()), "chosen": best, "on": first}
        for name in names:
            chosen[name] = _with_rate(cells[name], best)
            record[name] = entry
        _keep(place / _try(first, best), out / first)
    return chosen, record


def notes(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each method whose best rate is the smallest or largest that was tried."""
    out = []
    for name, entry in record.items():
        rates = entry["rates"]
        if entry["on"] == name and entry["chosen"] in (rates[0], rates[-1]):
            end = "smallest" if entry["chosen"] == rates[0] else "largest"
            out.append(
                f"{name}: the best learning rate, {entry['chosen']:g}, is the {end} tried; the best may lie beyond"
            )
    return out


def score(result: results.Result) -> float | None:
    """What a run reached on val at its best epoch, by the measure that its epochs were chosen by; larger is better."""
    if result.status not in ("trained", "success"):
        return None
    primary = [float(row["val"]) for row in result.history if row["val"] is not None]
    return max(primary) if primary else -min(float(row["val_loss"]) for row in result.history)


def _group(cell: RunConfig) -> str:
    """What is tried once: a method with its options, whatever modules and rank it is given."""
    options = {key: value for key, value in cell.tuning.to_json().items() if key not in _SHAPE}
    return repr(sorted(options.items(), key=lambda item: item[0]))


def _with_rate(cell: RunConfig, rate: float) -> RunConfig:
    options = dataclasses.replace(cell.tuning.options, lr=rate)
    return dataclasses.replace(cell, tuning=dataclasses.replace(cell.tuning, options=options))


def _try(name: str, rate: float) -> str:
    return f"{name}-lr{rate:g}"


def _keep(tried: Path, cell: Path) -> None:
    """The best try is the cell itself: it is not trained twice."""
    if cell.exists() or not tried.exists() or results.read(tried).status != "trained":
        return
    half = cell.parent / f".{cell.name}.half"
    shutil.rmtree(half, ignore_errors=True)
    make_folder(cell.parent)
    shutil.copytree(tried, half)
    half.rename(cell)
