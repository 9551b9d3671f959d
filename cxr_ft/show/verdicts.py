"""Hold the verdicts of a comparison: frozen rows that tables, charts and sentences format and never recompute."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from cxr_ft.score.fairness import Mismatch
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.show.runs import Run


class Outcome(StrEnum):
    """The result of comparing a variant, the first, with another one.

    LOWER and HIGHER need a significant difference and two seeds of everything that trains; with one seed of any variant
    a significant difference is NOT_RANKED, since another training might reverse it.
    """

    BEST = "best"
    LOWER = "lower"
    HIGHER = "higher"
    NOT_RANKED = "differs (not ranked)"
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
    """The result of a test of non-inferiority. The values are those of `score.statistics.pairs.non_inferior`."""

    WITHIN = "within margin"
    BEYOND = "worse by more than the margin"
    UNDECIDED = "open"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two variants on the same test rows: the first minus the second, in the primary metric.

    Args:
        first, second: their names.
        gap: the difference of the means over seeds; None where the metric is undefined.
        interval: 95 % interval of this gap alone; `covers` says which chance it holds: of subjects, or of seeds too.
        p: two-sided p-value of this pair alone.
        adjusted_p: Holm-adjusted over all pairs of the comparison.
        significant: whether `adjusted_p` is at most 0.05, be the two comparable or not.
        outcome: the verdict.
        test: the name of the test.
        reason: why there is no interval; "" where there is one.
        differing: conditions that differ between the two, besides the method, and bear on quality.
        subjects_needed, seeds_needed: how many would make the observed gap significant with a power of 80 %; None where
            it is significant already, or none would. Then `subjects_reason`, `seeds_reason` say why, else they are "".
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
    subjects_needed: int | None = None
    subjects_reason: str = ""
    seeds_needed: int | None = None
    seeds_reason: str = ""

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
        gap, interval, adjusted_p: see `PairRow`; None where the two were not tested.
        reasons: what differs, for NOT_COMPARABLE; why, for NOT_TESTED; else empty.
    """

    outcome: Outcome
    gap: float | None = None
    interval: Interval | None = None
    adjusted_p: float | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MarginVerdict:
    """A variant against full fine-tuning: is it worse by less than the margin?

    Args:
        outcome: the verdict.
        interval: of the variant minus the reference; None where it is not known.
        level: one-sided confidence of either end of the interval.
        covers: see `PairRow`.
        reason: why there is no verdict; "" where there is one.
    """

    outcome: MarginOutcome
    interval: Interval | None = None
    level: float | None = None
    covers: str = ""
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
        interval: its 95 % interval over resampled test subjects; None without predictions.
        seed_range: lowest and highest value of its seeds; None with one seed.
        val, natural: the primary metric on val, and on the test split of natural prevalence; means over seeds.
        metrics: means over seeds in the order of `metric_columns.columns`.
        cost: means over seeds.
        is_best: it has the highest value, by point estimate.
        is_reference: it is full fine-tuning, which the others are compared with.
        trains_nothing: another seed could change nothing.
        enough_seeds: it has two seeds or trains nothing.
        groups: letters of its significance groups; "" where it was not tested or is not comparable with the best.
        against_best: verdict against the best variant.
        against_reference: verdict of the margin; None for the reference's own method, and where the two are not paired.
        memory_sentence: what it saves of the reference's memory, or why that is not comparable; "" where none is shown.
        mismatches: what differs between its runs and those of the best besides the method.
    """

    name: str
    runs: tuple[Run, ...]
    value: float | None
    interval: Interval | None
    seed_range: Interval | None
    val: float | None
    natural: float | None
    metrics: tuple[float | None, ...]
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


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """A baseline on the test split: the primary metric, and the others in the order of the columns."""

    title: str
    note: str
    value: float
    metrics: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdicts of one task on one test split.

    Args:
        task: the head's name.
        split: digest of the test split.
        output: kind of output of the heads, "scores" or "text".
        rows: one a variant, by trainable parameters and name: an order by value would read as a ranking.
        pairs: every pair of variants with predictions for the same test rows, in the order of `rows`.
        ranked: everything that trains has two seeds or more, so that an order may be stated.
        margin: of `MarginVerdict`, in the primary metric.
        mismatches: what differs between the runs besides the method.
        not_comparable: by claim ("quality", "time", "memory") the names of what differs and bars it.
        baselines: what is scored without understanding the image or the text.
        best_baseline: the name and value of the one that the best variant has to beat.
        test_subjects, test_rows: of the test split; None where no predictions say.
    """

    task: str
    split: str
    output: str
    rows: tuple[VariantRow, ...]
    pairs: tuple[PairRow, ...]
    ranked: bool
    margin: float
    mismatches: tuple[Mismatch, ...]
    not_comparable: Mapping[str, tuple[str, ...]]
    baselines: tuple[BaselineRow, ...]
    best_baseline: tuple[str, float]
    test_subjects: int | None
    test_rows: int | None

    @property
    def best(self) -> VariantRow | None:
        """Return the variant with the highest value; None where no variant has one."""
        return next((row for row in self.rows if row.is_best), None)

    @property
    def reference(self) -> VariantRow | None:
        """Return full fine-tuning of everything, of several such variants the best on val; None without one."""
        return next((row for row in self.rows if row.is_reference), None)

    @property
    def runs(self) -> list[Run]:
        """Return all runs, by variant and seed."""
        return [run for row in self.rows for run in row.runs]
