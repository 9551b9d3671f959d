"""Tabulate quality and cost, one row a variant, with the baselines below."""

from cxr_ft.show import metric_columns, number_format, phrasing
from cxr_ft.show.tables.cells import Cell, Table, TableRow, estimate_cell, estimate_notes, number_cell
from cxr_ft.show.verdicts import BaselineRow, Comparison, VariantRow

_COST_HEAD = ("Trainable parameters", "Training time", "Peak memory", "Saved model")


def quality(comparison: Comparison) -> Table:
    """Return one row a variant: quality with intervals, then cost; the baselines below."""
    title = metric_columns.primary_title(comparison.output)
    title = title[0].upper() + title[1:]
    columns = metric_columns.columns(comparison.output)
    head = ["Variant", f"{title}, test", "Significance groups", "Minus the best", f"{title}, val"]
    # The registry decides the columns, so that a metric of one more file has one here.
    head += [*(column.heading for column in columns), *_COST_HEAD]
    ends = [end for row in comparison.rows for end in row.interval or ()]
    # One scale for all bars, so that the eye can compare them.
    scale = (min(ends), max(ends)) if ends else (0.0, 0.0)
    several = len(comparison.rows) > 1
    rows = [
        TableRow(_cells(comparison, row, scale), "best" if row.is_best and several else "") for row in comparison.rows
    ]
    rows += [TableRow(_baseline_cells(row, len(head)), "baseline") for row in comparison.baselines]
    return Table(head, rows)


def natural(comparison: Comparison) -> Table | None:
    """Return the metric on the balanced and on the natural test split; None where no run was evaluated on both."""
    rows = []
    for row in comparison.rows:
        # Only runs that were evaluated on both splits: a mean over other runs would be of other models.
        if row.natural.value is not None:
            gap = None if row.value is None else row.natural.value - row.value
            cells = [estimate_cell(one) for one in (row.estimate, row.natural)]
            rows.append(TableRow([Cell(row.name), *cells, number_cell(gap)]))
    return Table(["Variant", "Balanced test", "Natural test", "Natural minus balanced"], rows) if rows else None


def undefined(comparison: Comparison) -> list[str]:
    """Return the metrics without a value on test in some run, by their reason; each once."""
    names: dict[str, dict[str, None]] = {}
    for run in comparison.runs:
        for name, reason in (run.result.metrics.get("test", {}).get("undefined") or {}).items():
            # By reason: many metrics are undefined for the same one, as a label without positives.
            names.setdefault(reason, {})[name] = None
    return [f"{number_format.listed(list(metrics))}: {reason}" for reason, metrics in names.items()]


def _cells(comparison: Comparison, row: VariantRow, scale: tuple[float, float]) -> list[Cell]:
    gap, verdict = phrasing.against_best(comparison, row)
    cost = row.cost
    return [
        Cell(row.name, _origin(row)),
        Cell(number_format.decimal(row.value), _uncertainty(row), _bar(row, *scale), row.value),
        Cell(row.groups or number_format.DASH),
        Cell(gap, (verdict,) if verdict else (), key=0.0 if row.is_best else row.against_best.gap),
        number_cell(row.val),
        *(estimate_cell(metric) for metric in row.metrics),
        Cell(
            number_format.count(cost.trainable),
            (number_format.percent(cost.trainable, cost.total),),
            key=cost.trainable,
        ),
        Cell(number_format.seconds(cost.seconds), key=cost.seconds),
        *(Cell(number_format.size(value), key=value) for value in (cost.peak_bytes, cost.saved_model_bytes)),
    ]


def _origin(row: VariantRow) -> tuple[str, ...]:
    """Return the seeds, and that the predictions are from a file, where they are."""
    numbers = ", ".join(map(str, row.seeds))
    seeds = (f"seed{'s' if len(row.seeds) > 1 else ''} {numbers}",)
    result = row.runs[0].result
    if not result.imported:
        return seeds
    return ("from a file", *(seeds if result.seeded else ()))


def _uncertainty(row: VariantRow) -> tuple[str, ...]:
    seeds = (f"seeds {number_format.span(row.seed_range)}",) if row.seed_range else ()
    return (*estimate_notes(row.estimate), *seeds)


def _bar(row: VariantRow, low: float, high: float) -> tuple[float, float, float] | None:
    # With one end for all intervals the scale has no width to divide by.
    if row.interval is None or row.value is None or high <= low:
        return None
    start, end, at = ((value - low) / (high - low) for value in (*row.interval, row.value))
    return start, end, at


def _baseline_cells(row: BaselineRow, width: int) -> list[Cell]:
    # A baseline has no groups, no gap and no value on val, and costs nothing worth a number.
    none = Cell(number_format.DASH)
    cells = [Cell(row.title, (row.note,)), estimate_cell(row.estimate), none, none, none]
    cells += [estimate_cell(metric) for metric in row.metrics]
    return cells + [none] * (width - len(cells))
