"""Variants judged side by side: seeds brought together, intervals and differences from the predictions.

Runs share a table where task and test split are the same.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ft.errors import UsageError
from cxr_ft.run import results
from cxr_ft.score import stats
from cxr_ft.score.metrics import text
from cxr_ft.show.runs import Run, digest, names, number, test_split

Array = npt.NDArray[Any]
Statistic = Callable[[Array], Array]

#: Bootstrap replicates of every interval on the page, and the seed of their draws.
REPLICATES, DRAWS = 1000, 0

#: How far the primary metric of the predictions may lie from the recorded one.
_TOLERANCE = 1e-3
_KEYS = ["subject_id", "study_id", "dicom_id"]


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
        return [value for run in self.runs if (value := run.result.primary("test")) is not None]

    @property
    def value(self) -> float | None:
        """The mean over seeds, or None where the metric is undefined."""
        return float(np.mean(self.points)) if self.points else None

    @cached_property
    def interval(self) -> stats.Interval | None:
        """The 95 % interval of `value` over resampled test subjects."""
        return None if self.replicates is None else stats.interval(self.replicates.mean(axis=0))

    @property
    def settled(self) -> bool:
        """Whether another seed is there to judge by, or could change nothing, since nothing was trained."""
        return len(self.points) > 1 or self.average("cost", "parameters", "trainable") == 0

    def average(self, *path: str) -> float | None:
        """The mean over seeds of a number in the record, e.g. `average("cost", "train_seconds")`."""
        values = [value for run in self.runs if (value := number(run.result, *path)) is not None]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Comparison:
    """What stands in one table: one task, one test split."""

    task: str
    split: str
    variants: list[Variant]
    subjects: int | None
    rows: int | None

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

    @property
    def ranked(self) -> bool:
        """Whether an order may be spoken of: every variant that was trained has two seeds or more."""
        trained = any(len(variant.points) > 1 for variant in self.variants)
        return trained and all(variant.settled for variant in self.variants)

    def gap(self, variant: Variant) -> stats.Interval | None:
        """The interval of `variant` minus the best, paired by subject; None where the two cannot be paired.

        Its level holds for all comparisons with the best together (Bonferroni).
        """
        best = self.best
        if best is None or variant is best or variant.rows != best.rows:
            return None
        if variant.replicates is None or best.replicates is None:
            return None
        level = 1 - 0.05 / max(1, len(self.variants) - 1)
        return stats.difference(variant.points, best.points, variant.replicates, best.replicates, level)


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Bring runs together by task and test split, and judge the variants of each."""
    tables: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        tables[run.result.task, test_split(run.result)].append(run)
    return [_comparison(task, split, tables[task, split]) for task, split in sorted(tables)]


def _comparison(task: str, split: str, runs: list[Run]) -> Comparison:
    grouped: dict[str, list[Run]] = defaultdict(list)
    for name, run in zip(names([run.result for run in runs]), runs, strict=True):
        grouped[name].append(run)
    judge = _Judge()
    variants = []
    for name, members in grouped.items():
        members.sort(key=lambda run: run.result.seed)
        variants.append(Variant(name, members, *judge.replicates(members)))
    # By cost, not by score: an order by score would read as a ranking.
    variants.sort(key=lambda variant: (variant.average("cost", "parameters", "trainable") or 0, variant.name))
    return Comparison(task, split, variants, judge.subjects, judge.rows)


class _Judge:
    """Replicates of the primary metric; one set of draws serves all runs over the same rows."""

    def __init__(self) -> None:
        self.draws: dict[str, Array] = {}
        self.subjects: int | None = None
        self.rows: int | None = None

    def replicates(self, runs: Sequence[Run]) -> tuple[str | None, Array | None]:
        """The digest of the test rows and the replicates [S, R] of a variant's runs, where all have both."""
        found = [self._of(run) for run in runs]
        rows = {name for name, _ in found}
        values = [value for _, value in found if value is not None]
        if len(rows) != 1 or len(values) != len(runs):
            return None, None
        return rows.pop(), np.array(values)

    def _of(self, run: Run) -> tuple[str | None, Array | None]:
        recorded = run.result.primary("test")
        if recorded is None or not (run.folder / "predictions.parquet").exists():
            return None, None
        try:
            rows, subjects, statistic = _predictions(run)
        except (OSError, ValueError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{run.folder / 'predictions.parquet'} is not what cxr-train writes: {line}") from error
        if not len(subjects) or not abs(float(statistic(np.ones(len(subjects)))) - recorded) <= _TOLERANCE:
            return None, None
        if rows not in self.draws:
            self.draws[rows] = stats.cluster_bootstrap(subjects, REPLICATES, DRAWS)
        if self.subjects is None:
            self.subjects, self.rows = len(set(subjects)), len(subjects)
        return rows, statistic(self.draws[rows])


def _predictions(run: Run) -> tuple[str, Array, Statistic]:
    """The test rows' digest, their subjects [N], and the primary metric as a function of row weights [..., N]."""
    table = results.read_predictions(run.folder)
    table = table[table["split"] == "test"]
    table = table.assign(**{key: table[key].astype(str) for key in _KEYS})
    if run.result.output == "text":
        table = table[table["reference"].fillna("").str.strip() != ""].sort_values(_KEYS)
        counts = text.bleu_counts(table["reference"].tolist(), table["generated"].fillna("").tolist())
        return (
            digest(table[_KEYS].to_numpy().tolist()),
            table["subject_id"].to_numpy(),
            lambda weights: text.bleu(weights @ counts),
        )
    wide = table.set_index([*_KEYS, "label"])[["truth", "score"]].unstack("label")
    truth, score = wide["truth"].to_numpy(float), wide["score"].to_numpy(float)
    rows = [list(wide.index), list(wide["truth"].columns)]
    subjects = wide.index.get_level_values("subject_id").to_numpy()
    return digest(rows), subjects, lambda weights: stats.macro_auroc(truth, score, weights)
