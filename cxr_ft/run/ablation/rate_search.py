"""Search the learning rates of a grid: as many tries for every variant, judged on val alone.

A variant is the cells of the grid that differ in the seed alone. Its rates are tried with its first seed, into the
folder `tries`, and all its seeds use the one that is best on val. The best try becomes the run of the first seed, so
that nothing is trained twice: a search of N rates costs N - 1 runs more. Tries never see test.

By default the rates lie half a decade apart around the variant's own one, so that each variant gets the same multiples.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cxr_ft.config import RunConfig, mapping
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError, unknown
from cxr_ft.files import copy_folder
from cxr_ft.model import methods
from cxr_ft.run.ablation import result_tables, workers
from cxr_ft.run.ablation.grid import Cells
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import RateSearch
from cxr_ft.score.metrics import registry

#: The folder of the tries, below the ablation's.
FOLDER = "tries"
#: Keys of a grid that are options of the search and no dimension of the grid.
KEYS = ("tries", "tries_for")

#: What has a search of its own: each variant, or each method, whose sets of targets and ranks then share one.
Owner = Literal["variant", "method"]

_FINISHED = ("trained", "success")


@dataclass(frozen=True)
class Tries:
    """The learning rates to try.

    Args:
        count: how many for each search; 1: none, each cell keeps its own.
        rates: the same for every search; empty: `count` around the cell's own.
        owner: what has a search of its own.
    """

    count: int = 1
    rates: tuple[float, ...] = ()
    owner: Owner = "variant"

    @classmethod
    def parse(cls, tries: object = None, owner: object = None) -> "Tries":
        """Return the tries as a grid states them: a number or a list of rates, and "variant" or "method".

        Raises:
            UsageError: for anything else.
        """
        owner = "variant" if owner is None else owner
        for known in get_args(Owner):
            if owner == known:
                if isinstance(tries, Sequence) and not isinstance(tries, str):
                    rates = tuple(sorted({_rate(value) for value in tries}))
                    if len(rates) < 2:
                        raise UsageError(f"tries: {list(tries)!r}; give two rates or more, or a number of tries")
                    return cls(len(rates), rates, known)
                count = 1 if tries is None else tries
                # A YAML file may say `tries: yes`, which Python counts as 1.
                if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                    raise UsageError(f"tries: {tries!r}; give the number of learning rates to try, 1 or more")
                return cls(count, (), known)
        raise unknown("choice", owner, get_args(Owner), "tries_for")

    def of(self, cell: RunConfig) -> list[float]:
        """Return the rates that are tried for a cell, ascending."""
        return list(self.rates) or rates_around(cell.tuning.options.lr, self.count)


@dataclass(frozen=True)
class Search:
    """One search: the names of the cells that use its result, the first of which it tries, and the rates."""

    names: tuple[str, ...]
    rates: tuple[float, ...]

    @property
    def first(self) -> str:
        """Return the cell on which the rates are tried."""
        return self.names[0]


def from_grid(grid: Mapping[str, object], tries: object = None) -> tuple[dict[str, object], Tries]:
    """Return the dimensions of a grid, and its tries; `tries`, where it is not None, replaces those of the grid.

    Raises:
        UsageError: for tries that cannot be.
    """
    stated = grid.get("tries") if tries is None else tries
    rest = {key: value for key, value in grid.items() if key not in KEYS}
    return rest, Tries.parse(stated, grid.get("tries_for"))


def rates_around(rate: float, tries: int) -> list[float]:
    """Return `tries` rates, half a decade apart, around `rate`, ascending; two digits each."""
    # For an even number of tries the additional one is above.
    steps = range(-((tries - 1) // 2), tries // 2 + 1)
    return [float(f"{rate * 10 ** (step / 2):.2g}") if step else rate for step in steps]


def searches(cells: Cells, tries: Tries) -> list[Search]:
    """Return the searches that the cells need: none for a method that trains nothing, none where there is one try.

    Raises:
        UsageError: where the grid varies the rate itself.
    """
    if tries.count == 1:
        return []
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if methods.load(cell.tuning.name).trains:
            groups.setdefault(_key(cell, tries.owner), []).append(name)
    if any(len({cells[name].tuning.options.lr for name in names}) > 1 for names in groups.values()):
        raise UsageError("grid: lr is varied already; leave out tries, or lr")
    return [Search(tuple(names), tuple(tries.of(cells[names[0]]))) for names in groups.values()]


def run(cells: Cells, out: Path, tries: Tries, execute: workers.Execute) -> tuple[Cells, dict[str, RateSearch]]:
    """Try the rates and return the cells with the best one, and the record of each cell's search.

    Finished tries are kept, failed ones tried again. Where that makes another rate the best, the cells that were
    trained with the earlier one are moved to the tries. Also writes `tries.csv`, and the first cell of each search.

    Args:
        cells: as `grid.cells` returns them.
        out: the ablation's folder.
        tries: which.
        execute: trains cells into folders, each of which has a result afterwards.

    Raises:
        UsageError: where the grid varies the rate itself.
    """
    needed, folder = searches(cells, tries), out / FOLDER
    if not needed:
        return cells, {}
    try:
        wanted = {_try(s.first, rate): with_rate(cells[s.first], rate) for s in needed for rate in s.rates}
        execute(wanted, folder)
    finally:
        # However it ended: a page must not take a try for a run of the comparison.
        for search in needed:
            _mark(folder, search)
    chosen, records = dict(cells), {}
    for search in needed:
        record = _record(search, cells, folder)
        for name in search.names:
            inherited = _key(cells[name], "variant") != _key(cells[search.first], "variant")
            records[name] = replace(record, inherited=inherited)
            chosen[name] = with_rate(cells[name], record.chosen or cells[name].tuning.options.lr)
            _set_aside(out, name, chosen[name])
        _reuse(folder / _try(search.first, record.chosen or 0.0), out / search.first, records[search.first])
    tried = {s.first: [results.read(folder / _try(s.first, rate)) for rate in s.rates] for s in needed}
    result_tables.write_tries(out, {name: (records[name], tried[name]) for name in tried})
    return chosen, records


def with_rate(cell: RunConfig, rate: float) -> RunConfig:
    """Return the cell with another learning rate."""
    return replace(cell, tuning=replace(cell.tuning, options=replace(cell.tuning.options, lr=rate)))


def best_on_val(result: results.Result) -> tuple[float | None, str]:
    """Return the value on val by which a run's best epoch was chosen, larger is better, and the metric it is of.

    The value is None for a run that failed.
    """
    metric = registry.primary("scores")
    if result.status not in _FINISHED:
        return None, ""
    # The same rule as the loop's: where the primary metric is undefined, the loss on val decides.
    if primary := [row.val for row in result.history if row.val is not None]:
        return max(primary) if metric.higher_is_better else -min(primary), metric.name
    losses = [row.val_loss for row in result.history if row.val_loss is not None]
    return (-min(losses) if losses else None), "loss"


def summary(name: str, record: RateSearch) -> str:
    """Return a line on the search of the cell `name`: the rate, what each one reached on val, and what it cost."""
    sign = -1 if record.metric == "loss" else 1
    reached = ", ".join(
        f"{rate:g}: {'failed' if value is None else f'{sign * value:.3f}'}"
        for rate, value in zip(record.rates, record.val, strict=True)
    )
    variant, runs = name.removesuffix(f"-s{record.seed}"), f"{len(record.rates)} runs, {record.total_seconds:.3g} s"
    done = len(record.finished)
    if not done:
        return f"{variant}: all {len(record.rates)} tries failed; learning rate {record.chosen:g}, as configured"
    tried = f"{done}" if done == len(record.rates) else f"{done} finished tries of {len(record.rates)}"
    return f"{variant}: learning rate {record.chosen:g}, best of {tried} on val ({record.metric} {reached}); {runs}"


def edge_notes(records: Mapping[str, RateSearch]) -> list[str]:
    """Return a sentence for each search whose best rate is the smallest or largest of the finished tries."""
    return [
        f"{name}: the best learning rate, {record.chosen:g}, is the {record.edge} {record.edge_of}; "
        "a better one may lie beyond"
        for name, record in records.items()
        if record.on == name and record.edge
    ]


def _key(cell: RunConfig, owner: Owner) -> str:
    """Return a key that cells share whose search is the same: all but seed and rate, for a method also its modules."""
    raw = cell.to_json()
    left_out = {"tuning": ("lr",) if owner == "variant" else ("lr", "targets", "rank"), "train": ("seed",)}
    for section, keys in left_out.items():
        raw = {**raw, section: {key: value for key, value in mapping(raw, section).items() if key not in keys}}
    return json.dumps(raw, sort_keys=True)


def _rate(value: object) -> float:
    try:
        rate = float(str(value))  # YAML 1.1 reads 1e-3 as text
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0) or isinstance(value, bool):
        raise UsageError(f"tries: {value!r} is no learning rate; give numbers above 0")
    return rate


def _try(name: str, rate: float) -> str:
    return f"{name}-lr{rate:g}"


def _mark(folder: Path, search: Search) -> None:
    """Record of each try that it is one, and for which cell."""
    for rate in search.rates:
        run = folder / _try(search.first, rate)
        if (run / "result.json").exists() and (result := results.read(run)).search.try_for != search.first:
            results.write(run, result.replace(search=RateSearch(try_for=search.first)))


def _record(search: Search, cells: Cells, folder: Path) -> RateSearch:
    """Return the record of a search whose tries are done."""
    cell = cells[search.first]
    tried = [results.read(folder / _try(search.first, rate)) for rate in search.rates]
    values = [best_on_val(result) for result in tried]
    defined = {rate: value for rate, (value, _) in zip(search.rates, values, strict=True) if value is not None}
    # The smaller one of equals; where all failed, the cells fail with the rate they had.
    best = max(defined, key=lambda rate: (defined[rate], -rate)) if defined else cell.tuning.options.lr
    return RateSearch(
        tries=len(search.rates),
        rates=search.rates,
        val=tuple(value for value, _ in values),
        metric=next((metric for value, metric in values if value is not None), ""),
        seconds=tuple(_seconds(result) for result in tried),
        chosen=best,
        on=search.first,
        variant=results.Result(status="running", config=cell.to_json(), config_hash="").variant,
        seed=cell.train.seed,
    )


def _seconds(result: results.Result) -> float | None:
    # Those that a checkpoint keeps: the wall time of a try that was killed is of its last process alone.
    parts = (result.cost.train_seconds, result.cost.eval_seconds, result.cost.feature_seconds)
    known = [part for part in parts if part is not None]
    return round(sum(known), 3) if known else None


def _reuse(tried: Path, cell: Path, record: RateSearch) -> None:
    """Copy the best try to the cell's folder: with that rate it is the cell, which is not trained twice."""
    if cell.exists() or not (tried / "result.json").exists() or results.read(tried).status not in _FINISHED:
        return
    # Under another name first: a copy that was interrupted must not look like a finished run.
    half = cell.parent / f".{cell.name}.half"
    shutil.rmtree(half, ignore_errors=True)
    copy_folder(tried, half)
    results.write(half, results.read(half).replace(search=record))
    # A rename within one folder is atomic: the cell exists whole or not at all.
    half.rename(cell)


def _set_aside(out: Path, name: str, cell: RunConfig) -> None:
    """Move a cell's run that was trained with another rate to the tries, where the cell's rate has changed since."""
    if not (out / name / "result.json").exists():
        return
    before = results.read(out / name)
    rate, hashes = before.tuning.get("lr"), manifest.read(Path(cell.data.splits)).hashes
    # Any other difference is another run, which is refused later and stays where it is.
    same = isinstance(rate, float) and with_rate(cell, rate).fingerprint(hashes, before.base.digest)
    if not isinstance(rate, float) or rate == cell.tuning.options.lr or same != before.config_hash:
        return
    place = out / FOLDER / _try(name, rate)
    print(
        f"note: {name} was trained with the rate {rate:g}; {cell.tuning.options.lr:g} is better on val: trained again"
    )
    if (place / "result.json").exists():
        shutil.rmtree(out / name)  # the try that it is a copy of stays
        return
    results.write(out / name, before.replace(search=RateSearch(try_for=name)))
    (out / name).rename(place)
