"""Hold the verdicts of a comparison: frozen rows that tables, charts and sentences format and never recompute."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from cxr_ft.score.fairness import Mismatch
from cxr_ft.score.statistics.estimates import Estimate
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.score.statistics.power import Needed
from cxr_ft.show.recorded_runs import RecordedRun

#: Probability of any false difference among all pairs of a comparison together, and of any false claim that a variant
#: beats a baseline.
ERROR = 0.05


class Outcome(StrEnum):
    """The result of comparing a variant, the first, with another one.

    LOWER and HIGHER need a significant difference and two seeds of what trains; with one seed of either variant a
    significant difference is NOT_RANKED: of these two trainings, since another might reverse it.
    """

    BEST = "best"
    LOWER = "lower"
    HIGHER = "higher"
    NOT_RANKED = "differs"
    NO_DIFFERENCE = "no significant difference"
    NOT_COMPARABLE = "not comparable"
    NOT_TESTED = "not tested"
    UNDEFINED = "no value"

    @property
    def significant(self) -> bool:
        """Return whether the adjusted p-value is at most the error of the comparison."""
        return self in (Outcome.LOWER, Outcome.HIGHER, Outcome.NOT_RANKED)

    @property
    def reversed(self) -> "Outcome":
        """Return the outcome of the second against the first."""
        # All other outcomes are the same from both sides.
        return {Outcome.LOWER: Outcome.HIGHER, Outcome.HIGHER: Outcome.LOWER}.get(self, self)


class MarginOutcome(StrEnum):
    """The result of a test of non-inferiority against full fine-tuning."""

    NOT_WORSE = "not worse by more than the margin"
    WORSE = "worse by more than the margin"
    UNDECIDED = "undecided"
    NOT_COMPARABLE = "not comparable"
    NOT_TESTED = "not tested"


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two variants on the same test rows: the first minus the second, in the primary metric.

    Args:
        first, second: their names.
        gap: the difference of the means over seeds; None where the metric is undefined.
        interval: of this gap, adjusted for the number of pairs: it excludes 0 exactly where `significant`; an end of 0
            does not belong to it. `covers` says which chance it holds: of subjects, or of seeds too.
        p: two-sided p-value of this pair alone.
        adjusted_p: Holm-adjusted over all pairs of the comparison.
        significant: whether `adjusted_p` is at most 0.05, be the two comparable or not.
        outcome: the verdict.
        test: the name of the test.
        reason: why there is no interval; "" where there is one.
        differing: conditions that differ between the two, besides the method, and bear on quality.
        of_trainings: whether the result is of the trained models, not of their methods: one has a single seed.
        needed: how many subjects or seeds settle a true difference as large as the margin; None where the pair is
            significant already, or no margin was stated.
        detectable: the smallest true difference that these runs find significant in 80 % of experiments; None where the
            pair is significant already, or it is not known.
    """

    first: str
    second: str
    gap: float | None
    interval: Interval | None
    covers: str
    p: float | None
    adjusted_p: float | None
    significant: bool
    outcome: Outcome
    test: str
    reason: str = ""
    differing: tuple[str, ...] = ()
    of_trainings: bool = False
    needed: Needed | None = None
    detectable: float | None = None

    @property
    def reversed(self) -> "PairRow":
        """Return the same pair as the second minus the first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            gap=None if self.gap is None else -self.gap,
            # The ends change places with the sign.
            interval=None if self.interval is None else (-self.interval[1], -self.interval[0]),
            outcome=self.outcome.reversed,
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A variant against the best one: the variant minus the best.

    Args:
        outcome: the verdict.
        gap, interval, adjusted_p, of_trainings: see `PairRow`; None where the two were not tested.
        reasons: what differs, for NOT_COMPARABLE; why, for NOT_TESTED; else empty.
    """

    outcome: Outcome
    gap: float | None = None
    interval: Interval | None = None
    adjusted_p: float | None = None
    reasons: tuple[str, ...] = ()
    of_trainings: bool = False


@dataclass(frozen=True, kw_only=True)
class MarginVerdict:
    """A variant against full fine-tuning: is it worse by less than the margin?

    Args:
        outcome: the verdict.
        adjusted_p: one-sided, of the margin's side that was decided, or of "worse by the margin or more"; adjusted for
            the number of variants that are compared with the reference (Holm). None where there is no test.
        reason: why there is no verdict; "" where there is one.
    """

    outcome: MarginOutcome
    adjusted_p: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class VariantCost:
    """The cost of a variant, as means over seeds; None where it was not recorded."""

    trainable: float | None
    total: float | None
    seconds: float | None
    peak_bytes: float | None
    saved_model_bytes: float | None


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """All that the page shows of one variant, the runs that differ in seed alone.

    Args:
        name: its name on the page.
        runs: by seed.
        value: the primary metric on test, mean over seeds; None where it is undefined.
        estimate: the same with its 95 % interval, over test subjects and, with several seeds, over seeds.
        seed_range: lowest and highest value of its seeds; None with one seed.
        val: the primary metric on val, mean over seeds; `natural`: on the test split of natural prevalence.
        metrics: means over seeds in the order of `metric_columns.columns`.
        labels: the primary metric on test by label; empty for texts.
        cost: means over seeds.
        is_best: it has the highest value, by point estimate.
        is_reference: it is full fine-tuning, which the others are compared with.
        trains_nothing: another seed could change nothing.
        enough_seeds: it has two seeds or trains nothing.
        groups: letters of its significance groups; "" where it was not tested or is not comparable with the best.
        against_best: verdict against the best variant.
        against_reference: verdict of the margin; None without a margin, for the reference's own method, and where the
            two are not paired.
        memory_sentence: what it saves of the reference's memory, or why that is not comparable; "" where none is shown.
        mismatches: what differs between its runs and those of the best besides the method.
    """

    name: str
    runs: tuple[RecordedRun, ...]
    value: float | None
    estimate: Estimate
    seed_range: Interval | None
    val: float | None
    natural: Estimate
    metrics: tuple[Estimate, ...]
    labels: Mapping[str, Estimate]
    cost: VariantCost
    is_best: bool
    is_reference: bool
    trains_nothing: bool
    enough_seeds: bool
    groups: str
    against_best: Verdict
    against_reference: MarginVerdict | None
    memory_sentence: str
    mismatches: tuple[Mismatch, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of its runs."""
        return tuple(run.result.seed for run in self.runs)

    @property
    def interval(self) -> Interval | None:
        """Return the interval of `value`; None where there is none."""
        return self.estimate.interval


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """A baseline on the test split: the primary metric, and the others in the order of the columns."""

    title: str
    note: str
    estimate: Estimate
    metrics: tuple[Estimate, ...]

    @property
    def value(self) -> float | None:
        """Return the primary metric."""
        return self.estimate.value


@dataclass(frozen=True, kw_only=True)
class BaselineTest:
    """A variant against a baseline on the same test rows, in the primary metric: is it better?

    Args:
        variant, baseline: the name of the one and the title of the other.
        value, baseline_value: the primary metric of both; the variant's is the mean over seeds.
        p: one-sided, of a variant that is no better; None where there is no test.
        adjusted_p: the same, Holm-adjusted over all variants and baselines of the comparison.
        test: the name of the test.
        reason: why there is none; "" where there is one.
        of_trainings: whether the result is of the trained model, not of its method: it has a single seed.
    """

    variant: str
    baseline: str
    value: float
    baseline_value: float
    p: float | None
    adjusted_p: float | None
    test: str
    reason: str = ""
    of_trainings: bool = False

    @property
    def shown(self) -> bool:
        """Return whether the variant is shown to be better: the adjusted p-value is at most 0.05."""
        return self.adjusted_p is not None and self.adjusted_p <= ERROR


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdicts of one task on one test split.

    Args:
        task: the head's name.
        split: digest of the test split.
        output: kind of output of the heads, "scores" or "text".
        rows: one a variant, by trainable parameters and name: an order by value would read as a ranking.
        pairs: every pair of variants with predictions for the same test rows, in the order of `rows`.
        ranked: everything that trains has two seeds or more, so that an order of all may be stated.
        margin: of `MarginVerdict`, in the primary metric; None: none was stated.
        mismatches: what differs between the runs besides the method.
        not_comparable: by claim ("quality", "time", "memory") the names of what differs and bars it.
        baselines: what is scored without understanding the image or the text.
        best_baseline: the name and value of the one that the best variant has to beat, where none can be tested.
        against_baselines: every variant against every baseline whose scores are known row by row, the highest first.
        test_subjects, test_rows: of the test split; None where no predictions say.
    """

    task: str
    split: str
    output: str
    rows: tuple[VariantRow, ...]
    pairs: tuple[PairRow, ...]
    ranked: bool
    margin: float | None
    mismatches: tuple[Mismatch, ...]
    not_comparable: Mapping[str, tuple[str, ...]]
    baselines: tuple[BaselineRow, ...]
    best_baseline: tuple[str, float]
    against_baselines: tuple[BaselineTest, ...]
    test_subjects: int | None
    test_rows: int | None

    @property
    def best(self) -> VariantRow | None:
        """Return the variant with the highest value; None where no variant has one."""
        return next((row for row in self.rows if row.is_best), None)

    @property
    def reference(self) -> VariantRow | None:
        """Return full fine-tuning of everything, of several the variant of highest mean on val; None without one."""
        return next((row for row in self.rows if row.is_reference), None)

    @property
    def runs(self) -> list[RecordedRun]:
        """Return all runs, by variant and seed."""
        return [run for row in self.rows for run in row.runs]
