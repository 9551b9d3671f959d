"""Run an ablation: train the cells of a grid, verify them, write the tables; as many learning rates for every method.

Finished runs are skipped, failed ones become a row with their reason, the others go on.

A method's learning rates are tried on its first cell (its first targets and rank, the first seed), half decades apart
around the one the grid would use, and evaluated on val alone. All cells of the method use the best one.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.files import copy_folder, make_folder
from cxr_ft.model import methods
from cxr_ft.run import trackers
from cxr_ft.run.ablation import result_tables, workers
from cxr_ft.run.ablation.grid import Cells
from cxr_ft.run.evaluation.verify import verify_all
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import RateSearch
from cxr_ft.run.training import train
from cxr_ft.score.metrics import registry

#: The folder of the runs of the rate search, below the ablation's. They never see test.
TRIES_FOLDER = "tries"
#: Options that leave the best learning rate of a method as it is: cells that differ in these alone share a search.
_SHARE_RATE = ("targets", "rank", "lr")


def run(
    cells: Mapping[str, RunConfig],
    out: Path,
    *,
    tries: int = 1,
    execute: workers.Execute = workers.run_sequential,
    tracking: trackers.Tracking = trackers.NOBODY,
) -> list[results.Result]:
    """Train every cell into `out/<name>`, verify all in one fresh process, write the tables.

    Args:
        cells: runs by name, as `grid.cells` returns them.
        tries: learning rates tried for each method, on val; see `search_rates`.
        execute: where the cells are trained: `workers.run_sequential`, `workers.run_parallel(n)`, `workers.on_ray(a)`.
        tracking: the tracker that gets each run's summary after test.

    Returns:
        The results in the order of `cells`.

    Raises:
        UsageError: for a cell that cannot be built, before any is trained.
    """
    # Before the first training: a grid of days must not stop at its last cell for a wrong option.
    _check(cells)
    make_folder(out)
    chosen, searches = search_rates(dict(cells), out, tries, execute)
    execute(chosen, out)
    # After the runs, which write their records anew: the search belongs to the record of each cell.
    for name, search in searches.items():
        results.write(out / name, results.read(out / name).replace(search=search))
    verify_all([out / name for name in chosen if results.read(out / name).status == "trained"])
    finished = {name: results.read(out / name) for name in chosen}
    for name, result in finished.items():
        if result.status == "success":
            trackers.summarise(out / name, tracking)
    # Of all cells, also those that an earlier attempt has finished: the tables show the whole grid.
    result_tables.write(out, finished)
    for note in [*search_notes(searches), *base_notes(finished)]:
        print(f"note: {note}")
    return list(finished.values())


def _check(cells: Mapping[str, RunConfig]) -> None:
    """Build every cell without weights, each method with its options once."""
    # By fingerprint without splits: equal configurations are built once.
    for cell in {c.fingerprint({}): c for c in cells.values()}.values():
        card = manifest.read(Path(cell.data.splits)).card
        train.plan(cell, card.labels, card.multi_label)


def search_rates(cells: Cells, out: Path, tries: int, execute: workers.Execute) -> tuple[Cells, dict[str, RateSearch]]:
    """Try `tries` learning rates for each method and return the cells with their method's best one.

    Args:
        cells: as `grid.cells` returns them.
        out: the ablation's folder.
        tries: learning rates a method; 1: the one it has.
        execute: trains cells into folders, each of which has a result afterwards.

    Returns:
        The cells, and the search of each cell whose method trains, by the cell's name.

    Raises:
        UsageError: where the grid varies the rate itself.
    """
    if tries == 1:
        return cells, {}
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if methods.load(cell.tuning.name).trains:
            groups.setdefault(_group(cell), []).append(name)
    if any(len({cells[name].tuning.options.lr for name in names}) > 1 for names in groups.values()):
        raise UsageError("grid: lr is varied already; leave out tries, or lr")
    tried = {
        names[0]: {
            rate: _with_rate(cells[names[0]], rate) for rate in rates_around(cells[names[0]].tuning.options.lr, tries)
        }
        for names in groups.values()
    }
    folder = out / TRIES_FOLDER
    execute({_try_name(name, rate): cell for name, rates in tried.items() for rate, cell in rates.items()}, folder)
    chosen, searches = dict(cells), {}
    for names in groups.values():
        first = names[0]
        scores = {rate: best_on_val(results.read(folder / _try_name(first, rate))) for rate in tried[first]}
        defined = {rate: value for rate, value in scores.items() if value is not None}
        # The smaller one of equals; where all failed, the cells fail with the rate they had.
        best = max(defined, key=lambda rate: (defined[rate], -rate)) if defined else cells[first].tuning.options.lr
        search = RateSearch(tries=tries, rates=tuple(scores), val=tuple(scores.values()), chosen=best, on=first)
        for name in names:
            chosen[name] = _with_rate(cells[name], best)
            searches[name] = search
        # The tries have the first cell's targets, rank and seed, so that the best one is this cell.
        _reuse(folder / _try_name(first, best), out / first)
    return chosen, searches


def rates_around(rate: float, tries: int) -> list[float]:
    """Return `tries` rates, half a decade apart, around `rate`, ascending; two digits each."""
    # For an even number of tries the additional one is above.
    steps = range(-((tries - 1) // 2), tries // 2 + 1)
    return [float(f"{rate * 10 ** (step / 2):.2g}") if step else rate for step in steps]


def search_notes(searches: Mapping[str, RateSearch]) -> list[str]:
    """Return a sentence for each method whose best rate is the smallest or largest that was tried."""
    out = []
    for name, search in searches.items():
        if search.on == name and search.chosen in (search.rates[0], search.rates[-1]):
            end = "smallest" if search.chosen == search.rates[0] else "largest"
            out.append(
                f"{name}: the best learning rate, {search.chosen:g}, is the {end} tried; a better one may lie beyond"
            )
    return out


def base_notes(finished: result_tables.Finished) -> list[str]:
    """Return a sentence for each base whose runs were trained on different weights, as --other-base allows."""
    weights: dict[str, set[str]] = {}
    for result in finished.values():
        digests = [digest for digest in (result.base.digest, *result.base.instead_of) if digest]
        weights.setdefault(str(result.config["model"]), set()).update(digests)
    return [
        f"runs on {model} were trained on different weights of it (base_weights in ablation.csv): not comparable"
        for model, digests in weights.items()
        if len(digests) > 1
    ]


def best_on_val(result: results.Result) -> float | None:
    """Return the value on val by which a run's best epoch was chosen; larger is better, None for a failed run."""
    if result.status not in ("trained", "success"):
        return None
    primary = [row.val for row in result.history if row.val is not None]
    # The same rule as the loop's: where the primary metric is undefined, the loss on val decides.
    if primary:
        return max(primary) if registry.primary("scores").higher_is_better else -min(primary)
    return -min(row.val_loss for row in result.history if row.val_loss is not None)


def _group(cell: RunConfig) -> str:
    """Return a key that cells share whose method and options agree, whatever their modules and rank."""
    options = {key: value for key, value in cell.tuning.to_json().items() if key not in _SHARE_RATE}
    return repr(sorted(options.items(), key=lambda item: item[0]))


def _with_rate(cell: RunConfig, rate: float) -> RunConfig:
    options = dataclasses.replace(cell.tuning.options, lr=rate)
    return dataclasses.replace(cell, tuning=dataclasses.replace(cell.tuning, options=options))


def _try_name(name: str, rate: float) -> str:
    return f"{name}-lr{rate:g}"


def _reuse(tried: Path, cell: Path) -> None:
    """Copy the best try to the cell's folder: with that rate it is the cell, which is not trained twice."""
    if cell.exists() or not tried.exists() or results.read(tried).status != "trained":
        return
    # Under another name first: a copy that was interrupted must not look like a finished run.
    half = cell.parent / f".{cell.name}.half"
    shutil.rmtree(half, ignore_errors=True)
    copy_folder(tried, half)
    # A rename within one folder is atomic: the cell exists whole or not at all.
    half.rename(cell)
