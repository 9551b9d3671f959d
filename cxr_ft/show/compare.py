"""Compare runs: bring them together by task, test split and variant, test every pair, decide the verdicts."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from cxr_ft.score.arrays import Floats
from cxr_ft.score.statistics import multiple_comparisons, pairs
from cxr_ft.show import baselines, variant_estimates
from cxr_ft.show.decide import AdjustedPair, decide
from cxr_ft.show.margins import Margins, by_output
from cxr_ft.show.prediction_rows import PredictionBook
from cxr_ft.show.recorded_runs import RecordedRun, names, test_split
from cxr_ft.show.variants import Variant
from cxr_ft.show.verdicts import ERROR, Comparison


def compare(runs: Sequence[RecordedRun], margins: Margins | None = None) -> list[Comparison]:
    """Return the verdicts of each task and test split.

    Args:
        runs: successful ones, as `runs.load` returns them.
        margins: how much worse than full fine-tuning is still acceptable, as `margins.parse` returns them; no verdict
            of non-inferiority is made of a metric without one.

    Raises:
        UsageError: for broken predictions, or a margin of no metric that is compared.
    """
    groups: dict[tuple[str, str], list[RecordedRun]] = defaultdict(list)
    for run in runs:
        groups[run.result.task, test_split(run.result)].append(run)
    stated = by_output(margins or {}, [run.result.output for run in runs])
    return [
        _comparison(task, split, groups[task, split], stated.get(groups[task, split][0].result.output))
        for task, split in sorted(groups)
    ]


def _comparison(task: str, split: str, runs: Sequence[RecordedRun], margin: float | None) -> Comparison:
    by_name: dict[str, list[RecordedRun]] = defaultdict(list)
    # Names depend on all runs of the table: settings are added only where they distinguish two variants.
    for name, run in zip(names([run.result for run in runs]), runs, strict=True):
        by_name[name].append(run)
    book, variants, predictions = PredictionBook(), [], {}
    for name, members in by_name.items():
        members.sort(key=lambda run: run.result.seed)
        rows_and_predictions = book.of(members)
        digest = None
        if rows_and_predictions is not None:
            digest, predictions[name] = rows_and_predictions
        variants.append(Variant(name, members, digest, variant_estimates.of_runs(members, book)))
    # By cost, not by value: an order by value would read as a ranking.
    variants.sort(key=_place)
    first = next(iter(book.rows.values()), None)
    return decide(
        task,
        split,
        variants,
        paired_tests(variants, predictions, book),
        margin=margin,
        baseline_rows=baselines.rows(runs, book),
        against_baselines=baselines.tests(variants, predictions, book),
        test_subjects=None if first is None else len(set(first.subjects)),
        test_rows=None if first is None else len(first.subjects),
    )


def _place(variant: Variant) -> tuple[bool, float, str]:
    # What was trained elsewhere has no cost to be ordered by.
    trainable = variant.average("cost", "parameters", "trainable") or 0
    return variant.runs[0].result.imported, trainable, variant.name


def paired_tests(
    variants: Sequence[Variant], predictions: Mapping[str, Floats], book: PredictionBook
) -> dict[tuple[str, str], AdjustedPair]:
    """Test every pair of variants that were evaluated on the same rows, and adjust the p-values together (Holm)."""
    tested: list[tuple[str, str, pairs.Pair]] = []
    # Only variants with predictions for the same rows can be paired; others have intervals of their own, and no test.
    alike = {digest: [variant for variant in variants if variant.digest == digest] for digest in book.rows}
    many = sum(math.comb(len(same), 2) for same in alike.values())
    for digest, same in alike.items():
        rows = book.rows[digest]
        by_position = pairs.compare_all(
            rows.truth,
            [predictions[variant.name] for variant in same],
            rows.subjects,
            rows.statistic,
            fixed=[variant.trains_nothing for variant in same],
            # Bonferroni's: all intervals of the table together miss a true difference in at most one table of twenty.
            level=1 - ERROR / max(1, many),
        )
        tested += [(same[i].name, same[j].name, pair) for (i, j), pair in by_position.items()]
    # Over all rows' pairs at once: the error is that of the whole table.
    adjusted = multiple_comparisons.holm([pair.p for *_, pair in tested])
    return {(first, second): AdjustedPair(pair, p) for (first, second, pair), p in zip(tested, adjusted, strict=True)}
