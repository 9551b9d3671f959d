"""Tabulate pairs of variants, pairs.csv, and the test of the margin against full fine-tuning."""

import csv
import io
from collections.abc import Sequence

from cxr_ft import csv_cells
from cxr_ft.show import number_format, phrasing
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison, PairRow

#: At most so many pairs are on the page; all of them are in pairs.csv.
PAIRS = 40
PAIR_HEAD = [
    *("First", "Second", "First minus second", "p", "Adjusted p", "Verdict", "Test", "Detectable difference"),
]
NEEDED_HEAD = ["Subjects needed", "Seeds needed of each"]
COLUMNS = (
    *("task", "test_split", "first", "second", "gap", "low", "high", "p", "p_holm", "verdict", "test", "covers"),
    *("detectable", "margin", "subjects_for_margin", "seeds_for_margin", "reason"),
)


def pair_table(comparison: Comparison) -> Table | None:
    """Return every pair, or where there are many, those with the best variant or with full fine-tuning."""
    shown = list(comparison.pairs)
    if len(shown) > PAIRS:
        # Pairs grow with the square of the variants; these two are the ones that the verdicts rest on.
        central = {row.name for row in comparison.rows if row.is_best or row.is_reference}
        shown = [pair for pair in shown if {pair.first, pair.second} & central]
    # Without a stated difference there is no number of subjects or seeds to give.
    stated = comparison.margin is not None
    rows = [TableRow(_cells(pair, stated)) for pair in shown]
    return Table([*PAIR_HEAD, *(NEEDED_HEAD if stated else [])], rows) if rows else None


def pairs_csv(comparisons: Sequence[Comparison]) -> str:
    """Return a CSV of one row a pair of variants, the first minus the second, with numbers as computed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for comparison in comparisons:
        writer.writerows(csv_cells.escape_row(_csv_row(comparison, pair)) for pair in comparison.pairs)
    return text.getvalue()


def margin_table(comparison: Comparison) -> Table | None:
    """Return whether each variant is worse than full fine-tuning by less than the margin."""
    verdicts = [(row.name, row.against_reference) for row in comparison.rows if row.against_reference]
    rows = [TableRow([Cell(name), *map(Cell, phrasing.margin(comparison, verdict))]) for name, verdict in verdicts]
    head = ["Variant", f"Margin {number_format.decimal(comparison.margin)}", "Why"]
    return Table(head, rows) if rows else None


def _csv_row(comparison: Comparison, pair: PairRow) -> list[str | float | None]:
    low, high = pair.interval or (None, None)
    # Numbers as computed, not as shown: a reader of the CSV rounds as they need.
    line = [comparison.task, comparison.split, pair.first, pair.second, pair.gap, low, high, pair.p, pair.adjusted_p]
    verdict = phrasing.outcome(pair.outcome, pair.differing, pair.of_trainings)
    planned = [pair.detectable, comparison.margin, *phrasing.needed(pair)]
    return [*line, verdict, pair.test, pair.covers, *planned, pair.reason]


def _cells(pair: PairRow, stated: bool) -> list[Cell]:
    note = f"{number_format.span(pair.interval)}, {pair.covers}" if pair.interval else pair.reason
    return [
        Cell(pair.first),
        Cell(pair.second),
        Cell(number_format.decimal(pair.gap), (note,), key=pair.gap),
        Cell(number_format.p_value(pair.p), key=pair.p),
        Cell(number_format.p_value(pair.adjusted_p), key=pair.adjusted_p),
        Cell(phrasing.outcome(pair.outcome, pair.differing, pair.of_trainings)),
        Cell(pair.test),
        Cell(number_format.decimal(pair.detectable), key=pair.detectable),
        *(map(Cell, phrasing.needed(pair)) if stated else ()),
    ]
