"""Decide the verdicts of a comparison from its variants and tested pairs; each is computed here and nowhere else."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from cxr_ft.score import conditions, fairness
from cxr_ft.score.statistics import multiple_comparisons, pairs, power
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.show import baselines
from cxr_ft.show.memory_sentence import sentence
from cxr_ft.show.recorded_runs import RecordedRun, record
from cxr_ft.show.variants import Variant, mean
from cxr_ft.show.verdicts import (
    ERROR,
    BaselineRow,
    BaselineTest,
    Comparison,
    MarginOutcome,
    MarginVerdict,
    Outcome,
    PairRow,
    VariantRow,
    Verdict,
)

#: The method that others are compared with, where it was run.
REFERENCE = "full"

#: Reason of a variant that has no pair with the best one.
NOT_PAIRED = "no predictions for the same test rows"

#: Reason of a variant that no margin is tested of.
ONE_SEED = "one seed: it would be of these two trainings, not of the methods"


class AdjustedPair(NamedTuple):
    """A tested pair, the first variant minus the second, and its Holm-adjusted p-value; None where it has no p."""

    pair: pairs.Pair
    adjusted_p: float | None

    @property
    def significant(self) -> bool:
        """Return whether the two differ at `ERROR` over all pairs together."""
        return self.adjusted_p is not None and self.adjusted_p <= ERROR

    @property
    def reversed(self) -> "AdjustedPair":
        """Return the second minus the first."""
        return self._replace(pair=self.pair.reversed)

    @property
    def interval(self) -> Interval | None:
        """Return the interval of the gap, which excludes 0 exactly where the pair is significant."""
        interval, gap = self.pair.interval, self.pair.gap or 0.0
        if interval is None or not self.significant or not interval[0] <= 0 <= interval[1]:
            return interval
        # Holm's method finds more than Bonferroni's intervals show; what it adds is the sign alone (Guilbaud 2008).
        return (interval[0], 0.0) if gap < 0 else (0.0, interval[1])


def decide(
    task: str,
    split: str,
    variants: Sequence[Variant],
    tested: Mapping[tuple[str, str], AdjustedPair],
    *,
    margin: float | None = None,
    baseline_rows: Sequence[BaselineRow] | None = None,
    against_baselines: Sequence[BaselineTest] = (),
    test_subjects: int | None = None,
    test_rows: int | None = None,
) -> Comparison:
    """Return the verdicts on the variants of one task and test split.

    Args:
        task, split: see `Comparison`.
        variants: in the order of the page.
        tested: by the names of two variants in that order; a pair that cannot be tested is missing.
        margin: how much worse than full fine-tuning is still acceptable, in the primary metric; None: not stated.
        baseline_rows: None: by the records of the runs, without intervals.
        against_baselines, test_subjects, test_rows: see `Comparison`.

    Raises:
        UsageError: for a margin that is not above 0.
    """
    decider = _Decider(variants, tested, margin)
    runs = [run for variant in variants for run in variant.runs]
    mismatches = _mismatches(*variants)
    return Comparison(
        task=task,
        split=split,
        output=runs[0].result.output,
        rows=decider.rows(),
        pairs=tuple(decider.pair_row(first, second) for first, second in tested),
        ranked=decider.ranked,
        margin=margin,
        mismatches=mismatches,
        not_comparable={claim: _names(mismatches, claim) for claim in conditions.CLAIMS},
        baselines=tuple(baselines.rows(runs) if baseline_rows is None else baseline_rows),
        best_baseline=baselines.best([run.result for run in _having_baselines(decider.best, runs)]),
        against_baselines=tuple(against_baselines),
        test_subjects=test_subjects,
        test_rows=test_rows,
    )


class _Decider:
    """The verdicts of one comparison; what several rows need is computed once."""

    def __init__(
        self, variants: Sequence[Variant], tested: Mapping[tuple[str, str], AdjustedPair], margin: float | None
    ) -> None:
        self.variants, self.tested, self.margin = variants, tested, margin
        self.by_name = {variant.name: variant for variant in variants}
        # Cached: a page needs the mismatches of a pair several times, and pairs grow with the square of the variants.
        self.between = cache(lambda first, second: _mismatches(self.by_name[first], self.by_name[second]))
        # By point estimate alone; whether the best differs from others is the tests' business.
        defined = [variant for variant in variants if variant.value is not None]
        self.best = max(defined, key=lambda variant: variant.value or 0.0, default=None)
        full = [variant for variant in variants if variant.points and _is_full(variant)]
        # On val, not on test: the reference must not be chosen by the numbers that it is compared on.
        self.reference = max(full, key=lambda variant: variant.mean_val, default=None)
        # What trains nothing passes `enough_seeds` without a spread: a ranking needs a variant that was trained twice.
        trained = any(len(variant.points) > 1 for variant in variants)
        self.ranked = trained and all(variant.enough_seeds for variant in variants)

    def rows(self) -> tuple[VariantRow, ...]:
        """Return one row a variant."""
        groups, memory = self._groups(), self._memory()
        margins = self._margins()
        return tuple(self._row(variant, groups, memory, margins) for variant in self.variants)

    def pair(self, first: str, second: str) -> AdjustedPair | None:
        """Return `first` minus `second`; None where the two were not tested."""
        if (adjusted := self.tested.get((first, second))) is not None:
            return adjusted
        adjusted = self.tested.get((second, first))
        return None if adjusted is None else adjusted.reversed

    def differing(self, first: str, second: str) -> tuple[str, ...]:
        """Return the conditions that differ between two variants besides the method and bear on quality."""
        return _names(self.between(first, second), conditions.QUALITY)

    def outcome(self, first: str, second: str) -> Outcome:
        """Return the verdict on the first of two variants."""
        adjusted = self.pair(first, second)
        # Before the test: its p-value stays in the table, but the difference may be due to something else than the
        # method.
        if self.differing(first, second):
            return Outcome.NOT_COMPARABLE
        if adjusted is None or adjusted.adjusted_p is None:
            return Outcome.NOT_TESTED
        if not adjusted.significant:
            return Outcome.NO_DIFFERENCE
        # With one seed the sign may be that of the seed.
        if adjusted.pair.of_trainings:
            return Outcome.NOT_RANKED
        return Outcome.LOWER if (adjusted.pair.gap or 0) < 0 else Outcome.HIGHER

    def pair_row(self, first: str, second: str) -> PairRow:
        """Return all that the page shows of a tested pair."""
        adjusted = self.tested[first, second]
        pair = adjusted.pair
        # Each pair's part of the error (Bonferroni): Holm's method finds no less.
        error = ERROR / len(self.tested)
        # What would settle a difference is no question where it is settled.
        settled = adjusted.significant
        needed = None if settled or self.margin is None else power.needed(pair, self.margin, error=error)
        detectable = None if settled else power.detectable(pair, error=error)
        return PairRow(
            first=first,
            second=second,
            gap=pair.gap,
            interval=adjusted.interval,
            covers=pair.covers,
            p=pair.p,
            adjusted_p=adjusted.adjusted_p,
            significant=adjusted.significant,
            outcome=self.outcome(first, second),
            test=pair.test,
            reason=pair.reason or "",
            differing=self.differing(first, second),
            of_trainings=pair.of_trainings,
            needed=needed,
            detectable=detectable,
        )

    def _row(
        self,
        variant: Variant,
        groups: Mapping[str, str],
        memory: Mapping[str, str],
        margins: Mapping[str, MarginVerdict],
    ) -> VariantRow:
        best = self.best
        return VariantRow(
            name=variant.name,
            runs=tuple(variant.runs),
            value=variant.value,
            estimate=variant.estimate,
            seed_range=variant.seed_range,
            val=mean(variant.primaries("val")),
            natural=variant.natural,
            metrics=variant.metrics,
            labels=variant.estimates.labels,
            cost=variant.cost,
            is_best=variant is best,
            is_reference=variant is self.reference,
            trains_nothing=variant.trains_nothing,
            enough_seeds=variant.enough_seeds,
            groups=groups.get(variant.name, ""),
            against_best=self._against_best(variant),
            against_reference=margins.get(variant.name),
            memory_sentence=memory.get(variant.name, ""),
            mismatches=() if best is None or best is variant else self.between(variant.name, best.name),
        )

    def _against_best(self, variant: Variant) -> Verdict:
        if self.best is None or variant.value is None:
            return Verdict(outcome=Outcome.UNDEFINED)
        if variant is self.best:
            return Verdict(outcome=Outcome.BEST)
        names = variant.name, self.best.name
        outcome, adjusted = self.outcome(*names), self.pair(*names)
        if outcome is Outcome.NOT_COMPARABLE:
            reasons = self.differing(*names)
        elif outcome is Outcome.NOT_TESTED:
            reasons = (NOT_PAIRED if adjusted is None else adjusted.pair.reason or "",)
        else:
            reasons = ()
        if adjusted is None:
            return Verdict(outcome=outcome, reasons=reasons)
        pair = adjusted.pair
        return Verdict(
            outcome=outcome,
            gap=pair.gap,
            interval=adjusted.interval,
            adjusted_p=adjusted.adjusted_p,
            reasons=reasons,
            of_trainings=pair.of_trainings,
        )

    def _margins(self) -> dict[str, MarginVerdict]:
        """Return the verdicts of the margin by variant; none where no margin was stated."""
        reference, margin = self.reference, self.margin
        if reference is None or margin is None:
            return {}
        verdicts: dict[str, MarginVerdict] = {}
        tested: dict[str, pairs.Margin] = {}
        for variant in self.variants:
            adjusted = self.pair(variant.name, reference.name)
            # Other variants of the same method are no alternative to it.
            if adjusted is None or variant.method == reference.method:
                continue
            if reason := self.differing(variant.name, reference.name):
                # A margin met with more epochs, say, says nothing of the method.
                verdicts[variant.name] = MarginVerdict(outcome=MarginOutcome.NOT_COMPARABLE, reason=", ".join(reason))
            elif adjusted.pair.of_trainings:
                verdicts[variant.name] = MarginVerdict(outcome=MarginOutcome.NOT_TESTED, reason=ONE_SEED)
            elif (test := pairs.non_inferior(adjusted.pair, margin)) is None:
                why = adjusted.pair.reason or "there is no test"
                verdicts[variant.name] = MarginVerdict(outcome=MarginOutcome.NOT_TESTED, reason=why)
            else:
                tested[variant.name] = test
        # Holm's method over the variants, for each side of the margin.
        not_worse = multiple_comparisons.holm([test.not_worse for test in tested.values()])
        worse = multiple_comparisons.holm([test.worse for test in tested.values()])
        for name, below, beyond in zip(tested, not_worse, worse, strict=True):
            verdicts[name] = _margin_verdict(below, beyond)
        return verdicts

    def _groups(self) -> dict[str, str]:
        """Return the letters of the variants that were tested and are comparable in quality."""
        tested = {name for names in self.tested for name in names}
        comparable: list[str] = []
        # The best one first: what is not comparable with it has no letter.
        for variant in sorted(self.variants, key=lambda variant: variant is not self.best):
            if variant.name in tested and not any(self.differing(variant.name, other) for other in comparable):
                comparable.append(variant.name)
        order = [variant.name for variant in self.variants if variant.name in comparable]
        different = [
            (order.index(first), order.index(second))
            for (first, second), adjusted in self.tested.items()
            if adjusted.significant and first in order and second in order
        ]
        # Letters are of the comparable variants alone: a shared letter would claim that two others do not differ.
        letters = multiple_comparisons.significance_groups(len(order), different)
        return dict(zip(order, letters, strict=True))

    def _memory(self) -> dict[str, str]:
        """Return a sentence for the variant of each other method that is best on val."""
        reference = self.reference
        if reference is None:
            return {}
        chosen: dict[str, Variant] = {}
        # One sentence a method, of its best variant on val; a method of many variants would fill the page.
        for variant in sorted(self.variants, key=lambda variant: -variant.mean_val):
            if not variant.trains_nothing:
                chosen.setdefault(variant.method, variant)
        chosen.pop(reference.method, None)
        sentences: dict[str, str] = {}
        for variant in chosen.values():
            mismatches = self.between(variant.name, reference.name)
            # A difference in rows at a time or precision would be taken for the method's.
            why_not = fairness.verdict(mismatches, conditions.MEMORY)
            costs = variant.runs[0].result.cost, reference.runs[0].result.cost
            text = f"{variant.name} and {reference.name}: {why_not}." if why_not else sentence(variant.name, *costs)
            sentences[variant.name] = text or ""
        return sentences


def _margin_verdict(not_worse: float | None, worse: float | None) -> MarginVerdict:
    # Half the error on each side, as ICH E9 asks of a one-sided test.
    if worse is not None and worse <= ERROR / 2:
        return MarginVerdict(outcome=MarginOutcome.WORSE, adjusted_p=worse)
    shown = not_worse is not None and not_worse <= ERROR / 2
    outcome = MarginOutcome.NOT_WORSE if shown else MarginOutcome.UNDECIDED
    return MarginVerdict(outcome=outcome, adjusted_p=not_worse)


def _having_baselines(best: Variant | None, runs: Sequence[RecordedRun]) -> Sequence[RecordedRun]:
    """Return the runs whose baselines the best variant has to beat: its own; of predictions from a file, all."""
    # A file knows no rows of train, of which baselines are made; runs on the same test rows do.
    return runs if best is None or best.runs[0].result.imported else best.runs


def _is_full(variant: Variant) -> bool:
    """Return whether a variant is full fine-tuning of the whole model: with targets it is of some modules."""
    result = variant.runs[0].result
    return result.method == REFERENCE and not result.targets


def _mismatches(*variants: Variant) -> tuple[fairness.Mismatch, ...]:
    runs = [(variant.name, run) for variant in variants for run in variant.runs]
    return tuple(fairness.mismatches([record(run.result) for _, run in runs], [name for name, _ in runs]))


def _names(mismatches: Sequence[fairness.Mismatch], claim: str) -> tuple[str, ...]:
    return tuple(mismatch.name for mismatch in fairness.barring(mismatches, claim))
