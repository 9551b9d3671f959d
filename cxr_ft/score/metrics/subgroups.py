"""Compare a model's metrics between groups of people: one value a group, over labels all groups have.

Shapes: N rows, L labels, R bootstrap replicates. Intervals resample whole subjects, see `statistics.intervals`.
Groups of few subjects are counted, but get no metric. Whether groups differ is said by the tests of `statistics.gaps`,
not by these intervals.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Mask, Metrics, Names, Values
from cxr_ft.score.metrics import calibration, registry
from cxr_ft.score.statistics import gaps, intervals

UNKNOWN = gaps.UNKNOWN
#: Subjects a group needs, bootstrap replicates, and the seed of their draws.
LEAST, REPLICATES, DRAWS = gaps.LEAST_SUBJECTS, 1000, 0
#: What of calibration is measured in a group, by its key in `calibration.corrections`.
CALIBRATION = {
    "debiased_error": "calibration_error",
    "slope": gaps.SLOPE,
    "intercept": gaps.INTERCEPT,
}
NO_SHARED_LABEL = "no label has both classes in every group"
#: Where the bands of age begin; the last has no end.
AGES = (0, 20, 40, 60, 80)


class _Table(NamedTuple):
    """Truth, scores and predictions [N, L], and the subject of each row [N]."""

    truth: Floats
    score: Floats
    positive: Mask
    subjects: Names

    def rows(self, where: npt.NDArray[np.intp]) -> "_Table":
        return _Table(self.truth[where], self.score[where], self.positive[where], self.subjects[where])


def evaluate(
    truth: Floats,
    score: Floats,
    positive: Mask,
    labels: Sequence[str],
    *,
    groups: Mapping[str, Sequence[str]],
    subjects: Sequence[str],
) -> Metrics:
    """Measure scores within the groups of each variable.

    Args:
        truth: [N, L] 1, 0 or NaN (masked).
        score: [N, L] in [0, 1].
        positive: bool [N, L], what was predicted.
        labels: the L names.
        groups: the group of each row [N] by variable: "sex", "age", "view".
        subjects: the subject of each row [N].

    Returns:
        By variable: "labels" (those of which every measured group has both classes: what its groups are compared on),
        "groups" by name: "n" (rows), "subjects", and "auroc" (macro), "recall" (positives predicted, of all labels
        together: 1 minus the rate of underdiagnosis, Seyyed-Kalantari et al. 2021), "calibration_error" (debiased,
        without interval), "calibration_slope" and "calibration_intercept" (of all cells together), each {"value",
        "low", "high"}; or None with its reason under "undefined". "gaps": the tests of `statistics.gaps`, not yet
        adjusted, since that is for all tests that are shown together.
    """
    truth, score = np.asarray(truth, float), np.asarray(score, float)
    table = _Table(truth, score, np.asarray(positive, bool), np.asarray(subjects))
    out: Metrics = {}
    for name, values in groups.items():
        tested = gaps.unadjusted(truth, score, positive, subjects, {name: values}, labels)
        out[name] = {**_variable(table, labels, np.asarray(values)), "gaps": [gaps.as_record(gap) for gap in tested]}
    return out


def age_bands(ages: Sequence[str]) -> list[str]:
    """Return ages in years ("58", "50-59", "90+") as bands of twenty ("40-59", "80+"); UNKNOWN without a number."""
    import re

    out = []
    for age in ages:
        years = re.match(r"\d+", str(age).strip())
        band = sum(int(years.group()) >= start for start in AGES) - 1 if years else None
        if band is None:
            out.append(UNKNOWN)
        else:
            out.append(f"{AGES[band]}-{AGES[band + 1] - 1}" if band + 1 < len(AGES) else f"{AGES[-1]}+")
    return out


def _variable(table: _Table, labels: Sequence[str], values: Names) -> Metrics:
    """Measure the groups of one variable; `values`: the group of each row [N]."""
    rows = {str(name): np.flatnonzero(values == name) for name in np.unique(values)}
    subject_counts = {name: len(np.unique(table.subjects[where])) for name, where in rows.items()}
    large = [name for name in rows if subject_counts[name] >= LEAST]
    undefined = {
        name: f"{subject_counts[name]} subjects, fewer than {LEAST}: not measured" for name in rows if name not in large
    }
    # A mean over other labels is another metric: groups are compared on the labels that all of them can be.
    shared = np.ones(table.truth.shape[1], bool)
    for name in large:
        truth = table.truth[rows[name]]
        shared &= (truth == 1).any(axis=0) & (truth == 0).any(axis=0)
    metrics = registry.shown_in("subgroup", "scores")
    if large and not shared.any():
        undefined |= {metric.name: NO_SHARED_LABEL for metric in metrics if _on_shared(metric)}
    groups: dict[str, Metrics] = {}
    for name, where in rows.items():
        nothing = dict.fromkeys([*(metric.name for metric in metrics), *CALIBRATION.values()])
        groups[name] = {"n": len(where), "subjects": subject_counts[name], **nothing}
        if name in large:
            measured, missing = _measure(table.rows(where), shared)
            groups[name] |= measured
            undefined |= {f"{name}: {key}": why for key, why in missing.items()}
    names = [label for label, on_all in zip(labels, shared, strict=True) if on_all] if large else []
    return {"labels": names, "groups": groups, "undefined": undefined}


def _measure(group: _Table, shared: Mask) -> tuple[dict[str, Values | None], dict[str, str]]:
    """Return the values of one group, each with its interval, and why some are None."""
    # 1000 resamples of many rows: half the memory of float64, and whole numbers this small are exact in it.
    draws = intervals.cluster_bootstrap(group.subjects, REPLICATES, DRAWS).astype(np.float32)
    # The first line has each row once: the value itself.
    weights = np.concatenate([np.ones((1, len(group.subjects)), np.float32), draws])
    values: dict[str, Values | None] = {}
    undefined: dict[str, str] = {}
    for metric in registry.shown_in("subgroup", "scores"):
        # Pooled metrics count cells, and need no label that all groups share.
        columns = shared if _on_shared(metric) else np.ones_like(shared)
        arrays = group.truth[:, columns], group.score[:, columns], group.positive[:, columns]
        weighted = metric.weighted or partial(_resampled, metric)
        replicates = weighted(*arrays, weights) if columns.any() else np.full(len(weights), np.nan)
        values[metric.name] = _with_interval(replicates)
        # Where no label is shared, the reason is of the variable and is written once, by `_variable`.
        if np.isnan(replicates[0]) and not _on_shared(metric):
            undefined[metric.name] = metric.undefined or "no label is positive in any row"
    for name, value in values.items():
        if value is not None and value["low"] is None:
            undefined[f"{name}, interval"] = "more than a tenth of the resamples have no value"
    of_calibration, missing = _calibration(group)
    return values | of_calibration, undefined | missing


def _calibration(group: _Table) -> tuple[dict[str, Values | None], dict[str, str]]:
    owners = np.unique(group.subjects, return_inverse=True)[1]
    found = calibration.corrections(group.truth, group.score, owners)
    error = found["debiased_error"]
    values: dict[str, Values | None] = {CALIBRATION["debiased_error"]: None}
    if isinstance(error, float):
        values[CALIBRATION["debiased_error"]] = {"value": error, "low": None, "high": None}
    for key in ("slope", "intercept"):
        estimate = found[key]
        values[CALIBRATION[key]] = estimate if isinstance(estimate, dict) else None
    undefined = {name: str(found["reason"]) or "no cell is known" for name, value in values.items() if value is None}
    return values, undefined


def _with_interval(row: Floats) -> Values | None:
    if np.isnan(row[0]):
        return None
    low, high = intervals.interval(row[1:]) or (None, None)
    return {"value": float(row[0]), "low": low, "high": high}


def _on_shared(metric: registry.Metric) -> bool:
    """Return whether a metric is a mean over labels, comparable only on labels with both classes in every group."""
    return metric.needs_both_classes or metric.weighted is None


def _resampled(metric: registry.Metric, truth: Floats, score: Floats, positive: Mask, weights: Floats) -> Floats:
    """Return the mean over labels of a metric that has no weighted form, under integer weights [R, N] -> [R].

    A weight of w is w copies of a row. A label without a value is left out of the mean.
    """
    function = metric.score_function
    out = np.full(len(weights), np.nan)
    for replicate, weight in enumerate(weights):
        # Weights of a bootstrap are counts, so that any metric of plain rows can be resampled.
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        values = []
        for column in range(truth.shape[1]):
            known = rows[~np.isnan(truth[rows, column])]
            values.append(function(truth[known, column] > 0.5, score[known, column], positive[known, column]))
        if defined := [value for value in values if value is not None]:
            out[replicate] = np.mean(defined)
    return out
