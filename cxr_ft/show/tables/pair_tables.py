"""Tables of what the numbers bear: pairs of variants, the margin, memory in words, and the numbers of others."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from cxr_ft.score import fairness, published
from cxr_ft.show import phrasing
from cxr_ft.show.compare import Comparison, Tested, Variant
from cxr_ft.show.memory_sentence import sentence
from cxr_ft.show.tables.main_tables import Cell, Row, Table

#: At most so many pairs stand on the page; all of them in pairs.csv.
PAIRS = 40
PAIR_HEAD = ["First", "Second", "Gap", "p", "p, all pairs", "Verdict", "Test", "Subjects to settle it", "Seeds of each"]
COLUMNS = (
    *("task", "test_split", "first", "second", "gap", "low", "high", "p", "p_holm", "verdict", "test", "covers"),
    *("subjects_to_settle", "seeds_to_settle", "reason"),
)


def pair_table(comparison: Comparison) -> Table | None:
    """Every pair, or where they are many those with the best and with full fine-tuning: the gap and what it bears."""
    shown = list(comparison.tested.values())
    if len(shown) > PAIRS:
        held = (comparison.best, comparison.reference)
        shown = [tested for tested in shown if tested.first in held or tested.second in held]
    rows = [Row(_pair_cells(comparison, tested)) for tested in shown]
    return Table(PAIR_HEAD, rows) if rows else None


def pairs_csv(comparisons: Sequence[Comparison]) -> str:
    """One row a pair of variants, with numbers as computed: the first minus the second."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for comparison in comparisons:
        writer.writerows(_pair_row(comparison, tested) for tested in comparison.tested.values())
    return text.getvalue()


def margin_table(comparison: Comparison, margin: float) -> Table | None:
    """Whether each variant is worse than full fine-tuning by less than the margin."""
    found = phrasing.margins(comparison, margin)
    rows = [Row([Cell(name), Cell(outcome), Cell(why)]) for name, (outcome, why) in found.items()]
    return Table(["Variant", f"Within {phrasing.decimal(margin)} of full", "Why"], rows) if rows else None


def memory(comparison: Comparison) -> list[str]:
    """Of each other method's variant that is best on val, what it saves of full fine-tuning's memory and why; or why
    that cannot be said.
    """
    reference = comparison.reference
    if reference is None:
        return []
    chosen: dict[str, Variant] = {}
    for variant in sorted(comparison.variants, key=lambda variant: -max(variant.primaries("val"), default=0.0)):
        if not variant.fixed:
            chosen.setdefault(variant.runs[0].result.method, variant)
    chosen.pop(reference.runs[0].result.method, None)
    said = []
    for variant in chosen.values():
        found = phrasing.unlike(comparison, variant, reference, fairness.MEMORY)
        costs = variant.runs[0].result.cost, reference.runs[0].result.cost
        text = f"{variant.name} and {reference.name}: {found}." if found else sentence(variant.name, *costs)
        said += [text] if text else []
    return said


def published_table(rows: Sequence[published.Published]) -> Table | None:
    """Numbers that others published; not ours, and in no order."""
    found = [Row([Cell(text or phrasing.DASH) for text in cells]) for cells in published.cells(rows)]
    return Table(list(published.HEAD), found) if found else None


def _pair_row(comparison: Comparison, tested: Tested) -> list[Any]:
    pair = tested.pair
    low, high = pair.interval or (None, None)
    line = [comparison.task, comparison.split, tested.first.name, tested.second.name, pair.gap, low, high, pair.p]
    verdict = _verdict(comparison, tested)
    return [*line, tested.adjusted, verdict, pair.test, pair.covers, *phrasing.needed(tested), pair.reason]


def _verdict(comparison: Comparison, tested: Tested) -> str:
    differs = phrasing.unequal(comparison, tested.first, tested.second)
    return f"not comparable: {differs}" if differs else phrasing.verdict(comparison, tested)


def _pair_cells(comparison: Comparison, tested: Tested) -> list[Cell]:
    pair = tested.pair
    subjects, seeds = phrasing.needed(tested)
    notes = (f"{phrasing.span(pair.interval)}, {pair.covers}",) if pair.interval else (pair.reason or "",)
    return [
        Cell(tested.first.name),
        Cell(tested.second.name),
        Cell(phrasing.decimal(pair.gap), notes, key=pair.gap),
        Cell(phrasing.p_value(pair.p), key=pair.p),
        Cell(phrasing.p_value(tested.adjusted), key=tested.adjusted),
        Cell(_verdict(comparison, tested)),
        Cell(pair.test),
        Cell(subjects),
        Cell(seeds),
    ]
