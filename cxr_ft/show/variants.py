"""Bring the seeds of a variant together: its values, intervals and means, from the records of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import intervals
from cxr_ft.score.statistics.estimates import Estimate
from cxr_ft.show import metric_columns
from cxr_ft.show.recorded_runs import RecordedRun, number, peak_bytes
from cxr_ft.show.variant_estimates import VariantEstimates
from cxr_ft.show.verdicts import VariantCost

#: Key of the saved model's size in the cost of a record.
SAVED_MODEL = "saved_model_bytes"


@dataclass(frozen=True)
class Variant:
    """The runs that differ in seed alone, before any verdict.

    Args:
        name: its name on the page.
        runs: one a seed, by seed.
        digest: of the test rows it was evaluated on; None where they are not known.
        estimates: of its metrics, with their intervals.
    """

    name: str
    runs: Sequence[RecordedRun]
    digest: str | None
    estimates: VariantEstimates = field(default_factory=VariantEstimates)

    @cached_property
    def points(self) -> list[float]:
        """Return the primary test metric of each seed that has one."""
        return self.primaries("test")

    @property
    def value(self) -> float | None:
        """Return the mean over seeds; None where the metric is undefined."""
        return mean(self.points)

    @cached_property
    def interval(self) -> intervals.Interval | None:
        """Return the 95 % interval of `value`, over test subjects and, with several seeds, over seeds."""
        return self.estimate.interval

    @property
    def estimate(self) -> Estimate:
        """Return the primary test metric with its interval, or the reason why there is none."""
        return self.estimates.of("test", registry.primary(self.runs[0].result.output).name, self.value)

    @property
    def natural(self) -> Estimate:
        """Return the same on the test split of natural prevalence."""
        name = registry.primary(self.runs[0].result.output).name
        return self.estimates.of("test_natural", name, mean(self.primaries("test_natural")))

    @property
    def seed_range(self) -> intervals.Interval | None:
        """Return the lowest and the highest value of the seeds; None with one seed."""
        # The range, not a deviation: of two or three seeds that would be more noise than measure.
        return (min(self.points), max(self.points)) if len(self.points) > 1 else None

    @property
    def trains_nothing(self) -> bool:
        """Return whether no parameter was trained, so that another seed could change nothing."""
        return self.average("cost", "parameters", "trainable") == 0

    @property
    def enough_seeds(self) -> bool:
        """Return whether the spread over seeds is known, or there is none."""
        return len(self.points) > 1 or self.trains_nothing

    @property
    def method(self) -> str:
        """Return the name of the tuning method."""
        return self.runs[0].result.method

    @property
    def mean_val(self) -> float:
        """Return the primary metric on val, mean over seeds; 0 where it is undefined."""
        # 0 is below every defined value, so that a variant without one is never chosen. The mean, since the best of
        # many seeds is higher by chance than the best of few.
        return mean(self.primaries("val")) or 0.0

    @property
    def metrics(self) -> tuple[Estimate, ...]:
        """Return the test metrics in the order of `metric_columns.columns`, means over seeds with their intervals."""
        # Of the seeds that have a value: an undefined one is no 0.
        tests = [run.result.metrics.get("test") or {} for run in self.runs]
        return tuple(
            self.estimates.of(
                "test", metric.name, mean([value for test in tests if (value := metric.value(test)) is not None])
            )
            for metric in metric_columns.columns(self.runs[0].result.output)
        )

    @property
    def cost(self) -> VariantCost:
        """Return the means over seeds of what it cost."""
        return VariantCost(
            trainable=self.average("cost", "parameters", "trainable"),
            total=self.average("cost", "parameters", "total"),
            seconds=self.average("cost", "train_seconds"),
            peak_bytes=mean([value for run in self.runs if (value := peak_bytes(run.result)) is not None]),
            saved_model_bytes=self.average("cost", SAVED_MODEL),
        )

    def primaries(self, split: str) -> list[float]:
        """Return the primary metric on a split of each seed that has one."""
        return [value for run in self.runs if (value := run.result.primary(split)) is not None]

    def average(self, *path: str) -> float | None:
        """Return the mean over seeds of the number at a path in the record, e.g. "cost", "train_seconds"."""
        return average(self.runs, *path)


def average(runs: Sequence[RecordedRun], *path: str) -> float | None:
    """Return the mean over those runs that record a number at `path`; None where none does."""
    return mean([value for run in runs if (value := number(run.result, *path)) is not None])


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of no values."""
    return float(np.mean(values)) if values else None
