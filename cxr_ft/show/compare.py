"""Variants judged side by side: seeds brought together, intervals and differences from the predictions.

Runs share a table where task and test split are the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cxr_ft.score import fairness
from cxr_ft.score.statistics import intervals, multiple_comparisons, pairs
from cxr_ft.show.runs import Run, names, number, record, test_split
from cxr_ft.show.test_predictions import Array, PredictionBook

#: The error of all pairs of a table together.
ERROR = 0.05

#: What other methods are held against, where it is there.
REFERENCE = "full"


@dataclass(frozen=True)
class Variant:
    """The runs that differ by nothing but the seed.

    Args:
        name: what the page calls it.
        runs: one a seed, by seed.
        rows: digest of the test rows it was judged on; None where they are not known.
        replicates: [S, R] the primary test metric under resampled subjects; None where it cannot be had.
    """

    name: str
    runs: list[Run]
    rows: str | None
    replicates: Array | None

    @cached_property
    def points(self) -> list[float]:
        """The primary test metric of each seed that has one."""
        return self.primaries("test")

    @property
    def value(self) -> float | None:
        """The mean over seeds, or None where the metric is undefined."""
        return float(np.mean(self.points)) if self.points else None

    @cached_property
    def interval(self) -> intervals.Interval | None:
        """The 95 % interval of `value` over resampled test subjects."""
        return None if self.replicates is None else intervals.interval(self.replicates.mean(axis=0))

    @property
    def fixed(self) -> bool:
        """Whether nothing was trained, so that another seed could change nothing."""
        return self.average("cost", "parameters", "trainable") == 0

    @property
    def settled(self) -> bool:
        """Whether another seed is there to judge by, or could change nothing."""
        return len(self.points) > 1 or self.fixed

    def primaries(self, side: str) -> list[float]:
        """The primary metric on a side of each seed that has one."""
        return [value for run in self.runs if (value := run.result.primary(side)) is not None]

    def average(self, *path: str) -> float | None:
        """The mean over seeds of a number in the record, e.g. `average("cost", "train_seconds")`."""
        values = [value for run in self.runs if (value := number(run.result, *path)) is not None]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Tested:
    """A pair of variants, the first minus the second, and its p-value beside all others of the table (Holm)."""

    first: Variant
    second: Variant
    pair: pairs.Pair
    adjusted: float | None

    @property
    def apart(self) -> bool:
        """Whether the two are told apart, at an error of 5 % over all pairs together."""
        return self.adjusted is not None and self.adjusted <= ERROR

    @property
    def turned(self) -> "Tested":
        """The second minus the first."""
        pair = self.pair
        ends = None if pair.interval is None else (-pair.interval[1], -pair.interval[0])
        gap = None if pair.gap is None else -pair.gap
        turned = pair._replace(gap=gap, interval=ends, fixed=pair.fixed[::-1])
        return Tested(self.second, self.first, turned, self.adjusted)


@dataclass(frozen=True)
class Comparison:
    """What stands in one table: one task, one test split.

    Args:
        tested: pairs by the names of their variants, in the page's order; those that cannot be paired are missing.
        subjects, rows: of the test split; None where no predictions say.
    """

    task: str
    split: str
    variants: list[Variant]
    subjects: int | None
    rows: int | None
    tested: Mapping[tuple[str, str], Tested] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """What the heads put out: "scores" or "text"."""
        return self.runs[0].result.output

    @property
    def runs(self) -> list[Run]:
        """All runs, by variant and seed."""
        return [run for variant in self.variants for run in variant.runs]

    @cached_property
    def best(self) -> Variant | None:
        """The highest primary test metric by point estimate."""
        defined = [variant for variant in self.variants if variant.value is not None]
        return max(defined, key=lambda variant: variant.value or 0.0, default=None)

    @cached_property
    def reference(self) -> Variant | None:
        """Full fine-tuning, of everything; of several such variants the best on val."""
        tunings = [(variant, variant.runs[0].result.config["tuning"]) for variant in self.variants if variant.points]
        found = [variant for variant, how in tunings if how["name"] == REFERENCE and not how.get("targets")]
        return max(found, key=lambda variant: max(variant.primaries("val"), default=0.0), default=None)

    @property
    def ranked(self) -> bool:
        """Whether an order may be spoken of: every variant that was trained has two seeds or more."""
        trained = any(len(variant.points) > 1 for variant in self.variants)
        return trained and all(variant.settled for variant in self.variants)

    @cached_property
    def findings(self) -> list[fairness.Mismatch]:
        """What differs between the runs besides the method."""
        return _findings(*self.variants)

    @cached_property
    def letters(self) -> dict[str, str]:
        """Of variants that may be compared in quality: two share a letter exactly when they are not told apart."""
        known = {name for names in self.tested for name in names}
        equal: list[Variant] = []
        # The best first: who may not be compared with it has no letter.
        for variant in sorted(self.variants, key=lambda variant: variant is not self.best):
            if variant.name in known and not any(self.unequal(variant, other) for other in equal):
                equal.append(variant)
        order = [variant.name for variant in self.variants if any(variant is one for one in equal)]
        apart = [
            (order.index(a), order.index(b))
            for (a, b), tested in self.tested.items()
            if tested.apart and a in order and b in order
        ]
        return dict(zip(order, multiple_comparisons.significance_groups(len(order), apart), strict=True))

    def pair(self, first: Variant, second: Variant) -> Tested | None:
        """`first` minus `second` on the same subjects; None where the two cannot be paired."""
        if (found := self.tested.get((first.name, second.name))) is not None:
            return found
        found = self.tested.get((second.name, first.name))
        return None if found is None else found.turned

    def unequal(self, first: Variant, second: Variant) -> list[fairness.Mismatch]:
        """What differs between the runs of two variants besides the method, and bears on quality."""
        return fairness.barring(self.between(first, second), fairness.QUALITY)

    def between(self, first: Variant, second: Variant) -> list[fairness.Mismatch]:
        """What differs between the runs of two variants besides the method."""
        return _findings(first, second)


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Bring runs together by task and test split, and judge the variants of each."""
    tables: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        tables[run.result.task, test_split(run.result)].append(run)
    return [_comparison(task, split, tables[task, split]) for task, split in sorted(tables)]


def _findings(*variants: Variant) -> list[fairness.Mismatch]:
    runs = [(variant.name, run) for variant in variants for run in variant.runs]
    return fairness.mismatches([record(run.result) for _, run in runs], [name for name, _ in runs])


def _comparison(task: str, split: str, runs: list[Run]) -> Comparison:
    grouped: dict[str, list[Run]] = defaultdict(list)
    for name, run in zip(names([run.result for run in runs]), runs, strict=True):
        grouped[name].append(run)
    book, variants, answers = PredictionBook(), [], {}
    for name, members in grouped.items():
        members.sort(key=lambda run: run.result.seed)
        found = book.of(members)
        if found is None:
            variants.append(Variant(name, members, None, None))
        else:
            answers[name] = found[1]
            variants.append(Variant(name, members, found[0], book.replicates(*found)))
    # By cost, not by score: an order by score would read as a ranking.
    variants.sort(key=lambda variant: (variant.average("cost", "parameters", "trainable") or 0, variant.name))
    first = next(iter(book.rows.values()), None)
    subjects, rows = (None, None) if first is None else (len(set(first.subjects)), len(first.subjects))
    return Comparison(task, split, variants, subjects, rows, _tested(variants, answers, book))


def _tested(
    variants: Sequence[Variant], answers: Mapping[str, Array], book: PredictionBook
) -> dict[tuple[str, str], Tested]:
    """Every pair of variants that were judged on the same rows."""
    found: list[tuple[Variant, Variant, pairs.Pair]] = []
    for name, rows in book.rows.items():
        same = [variant for variant in variants if variant.rows == name]
        judged = pairs.compare_all(
            rows.truth,
            [answers[variant.name] for variant in same],
            rows.subjects,
            rows.statistic,
            fixed=[variant.fixed for variant in same],
        )
        found += [(same[i], same[j], pair) for (i, j), pair in judged.items()]
    adjusted = multiple_comparisons.holm([pair.p for *_, pair in found])
    return {(a.name, b.name): Tested(a, b, pair, p) for (a, b, pair), p in zip(found, adjusted, strict=True)}
