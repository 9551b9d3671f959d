"""Tabulate the learning rates: the one that each variant used, how it was found, what was tried, what that cost."""

from cxr_ft.run.record.result_parts import RateSearch
from cxr_ft.score.metrics import registry
from cxr_ft.show import number_format
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison, VariantRow


def rates(comparison: Comparison) -> Table:
    """Return a row a variant. The columns of the search are left out where none was made."""
    rows = [_row(row, comparison.output) for row in comparison.rows]
    searched = any(_search(row).rates for row in comparison.rows)
    head = ["Variant", "Learning rate", "How it was found", "Tried: rate and best epoch on val", "Cost of the search"]
    width = len(head) if searched else 3
    return Table(head[:width], [TableRow(cells[:width]) for cells in rows])


def origins(row: VariantRow) -> list[str]:
    """Return how the rate of a variant's runs was found, each way once; none where nothing is trained."""
    # Seeds that were trained by hand, beside those of an ablation, say nothing of a search.
    return [] if row.trains_nothing else list(dict.fromkeys(run.result.search.origin for run in row.runs))


def unsettled(row: VariantRow) -> str:
    """Return why the search of a variant's rate is not settled; "" where it is, or none was made."""
    search = _search(row)
    return f"the {search.edge} {search.edge_of}: a better one may lie beyond" if search.edge else ""


def _row(row: VariantRow, output: str) -> list[Cell]:
    dash = Cell(number_format.DASH)
    if row.trains_nothing:
        return [Cell(row.name), dash, Cell("trains nothing"), dash, dash]
    search, rate = _search(row), row.runs[0].result.tuning.get("lr")
    used = Cell(f"{rate:g}", key=rate) if isinstance(rate, float) else Cell("not recorded")
    note = (text,) if (text := unsettled(row)) else ()
    ways = origins(row)
    lines = [f"{_found(row, way)}{_seeds(row, way) if len(ways) > 1 else ''}" for way in ways]
    cost = f"{number_format.plural(len(search.rates), 'run')}, {number_format.seconds(search.total_seconds)}"
    return [
        Cell(row.name),
        Cell(used.text, note, key=used.key),
        Cell(lines[0], tuple(lines[1:])),
        _tried(search, output) if search.rates else dash,
        Cell("as of that variant" if search.inherited else cost) if search.rates else dash,
    ]


def _seeds(row: VariantRow, origin: str) -> str:
    seeds = [str(run.result.seed) for run in row.runs if run.result.search.origin == origin]
    return f" (seed {number_format.listed(seeds)})"


def _search(row: VariantRow) -> RateSearch:
    """Return the search of the first run that has one; all runs of a variant have one rate."""
    return next((run.result.search for run in row.runs if run.result.search.rates), RateSearch())


def _found(row: VariantRow, origin: str) -> str:
    """Return how the rate of the runs of one origin was found."""
    search = next(run.result.search for run in row.runs if run.result.search.origin == origin)
    if not search.rates:
        return "as configured; no search was recorded"
    done, many = len(search.finished), len(search.rates)
    if not done:
        return f"as configured: all {many} tries failed"
    best = f"best of {many} on val" if done == many else f"best of {done} finished tries of {many} on val"
    if search.inherited:
        return f"inherited from {search.variant}: {best} for that variant"
    return f"searched: {best}{'' if search.seed is None else f', with seed {search.seed}'}"


def _tried(search: RateSearch, output: str) -> Cell:
    names = {metric.name: metric.title for metric in registry.all_metrics(output)}
    sign = -1 if search.metric == "loss" else 1
    reached = [
        f"{rate:g}: {'failed' if value is None else number_format.decimal(sign * value)}"
        f"{' (chosen)' if value is not None and rate == search.chosen else ''}"
        for rate, value in zip(search.rates, search.val, strict=False)
    ]
    return Cell(", ".join(reached), (names.get(search.metric, search.metric),) if search.metric else ())
