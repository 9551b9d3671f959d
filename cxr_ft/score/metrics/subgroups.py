"""Compare a model's metrics between groups of people: one value a group, over labels all groups have.

Shapes: N rows, L labels, R bootstrap replicates. Intervals resample whole subjects, see `statistics.intervals`.
Groups of few subjects are counted, not judged.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import intervals

Array = npt.NDArray[Any]

UNKNOWN = "unknown"
#: Subjects a group needs, bootstrap replicates, and the seed of their draws.
LEAST, REPLICATES, DRAWS = 10, 1000, 0
NO_SHARED_LABEL = "no label has both classes in every group"
#: Where the bands of age begin; the last has no end.
AGES = (0, 20, 40, 60, 80)


def evaluate(
    truth: Array,
    score: Array,
    positive: Array,
    labels: Sequence[str],
    *,
    groups: Mapping[str, Sequence[str]],
    subjects: Sequence[str],
) -> dict[str, Any]:
    """Judge scores within the groups of each variable.

    Args:
        truth: [N, L] 1, 0 or NaN (masked).
        score: [N, L] in [0, 1].
        positive: bool [N, L], what was predicted.
        labels: the L names.
        groups: the group of each row [N] by variable: "sex", "age", "view".
        subjects: the subject of each row [N].

    Returns:
        By variable: "labels" (those of which every judged group has both classes: what its groups are judged on),
        "groups" by name: "n" (rows), "subjects", and "auroc" (macro), "recall" (positives found, of all labels
        together: 1 minus the rate of underdiagnosis, Seyyed-Kalantari et al. 2021) and "ece" (of all cells together,
        raw), each {"value", "low", "high"}; or None with its reason under "undefined".
    """
    truth, score = np.asarray(truth, float), np.asarray(score, float)
    who = np.asarray(subjects)
    return {
        name: _variable(truth, score, np.asarray(positive, bool), labels, by=(np.asarray(values), who))
        for name, values in groups.items()
    }


def age_bands(ages: Sequence[str]) -> list[str]:
    """Ages in years ("58", "50-59", "90+") as bands of twenty ("40-59", "80+"); UNKNOWN where there is no number."""
    import re

    out = []
    for age in ages:
        found = re.match(r"\d+", str(age).strip())
        band = sum(int(found.group()) >= start for start in AGES) - 1 if found else None
        if band is None:
            out.append(UNKNOWN)
        else:
            out.append(f"{AGES[band]}-{AGES[band + 1] - 1}" if band + 1 < len(AGES) else f"{AGES[-1]}+")
    return out


def _variable(
    truth: Array, score: Array, positive: Array, labels: Sequence[str], by: tuple[Array, Array]
) -> dict[str, Any]:
    """One variable; `by`: the group and the subject of each row [N]."""
    values, who = by
    rows = {str(name): np.flatnonzero(values == name) for name in np.unique(values)}
    people = {name: len(np.unique(who[where])) for name, where in rows.items()}
    undefined: dict[str, str] = {}
    names = [metric.name for metric in registry.shown_in("subgroup", "scores")]
    judged = [name for name in rows if people[name] >= LEAST]
    undefined |= {
        name: f"{people[name]} subjects, fewer than {LEAST}: not judged" for name in rows if name not in judged
    }
    shared = np.ones(truth.shape[1], bool)
    for name in judged:
        shared &= (truth[rows[name]] == 1).any(axis=0) & (truth[rows[name]] == 0).any(axis=0)
    if judged and not shared.any():
        undefined |= {m.name: NO_SHARED_LABEL for m in registry.shown_in("subgroup", "scores") if _on_shared(m)}
    found = {}
    for name, where in rows.items():
        found[name] = {"n": len(where), "subjects": people[name], **dict.fromkeys(names)}
        if name in judged:
            values_of, missing = _judge(truth[where], score[where], positive[where], shared, who[where])
            found[name] |= values_of
            undefined |= {f"{name}: {key}": why for key, why in missing.items()}
    return {"labels": [label for label, s in zip(labels, shared & bool(judged), strict=True) if s], "groups": found} | {
        "undefined": undefined
    }


def _judge(
    truth: Array, score: Array, positive: Array, shared: Array, who: Array
) -> tuple[dict[str, Any], dict[str, str]]:
    """The three values of one group, and why some are None."""
    draws = intervals.cluster_bootstrap(who, REPLICATES, DRAWS).astype(np.float32)
    weights = np.concatenate([np.ones((1, len(who)), np.float32), draws])
    values: dict[str, Array] = {}
    undefined: dict[str, str] = {}
    for metric in registry.shown_in("subgroup", "scores"):
        columns = shared if _on_shared(metric) else np.ones_like(shared)
        arrays = truth[:, columns], score[:, columns], positive[:, columns]
        one = metric.weighted or partial(_resampled, metric)
        row = one(*arrays, weights) if columns.any() else np.full(len(weights), np.nan)
        values[metric.name] = row
        if np.isnan(row[0]) and not _on_shared(metric):
            undefined[metric.name] = metric.undefined or "no label is positive in any row"
    found = {name: _with_interval(row) for name, row in values.items()}
    for name, value in found.items():
        if value is not None and value["low"] is None:
            undefined[f"{name}, interval"] = "more than a tenth of the resamples have no value"
    return found, undefined


def _with_interval(row: Array) -> dict[str, float | None] | None:
    if np.isnan(row[0]):
        return None
    low, high = intervals.interval(row[1:]) or (None, None)
    return {"value": float(row[0]), "low": low, "high": high}


def _on_shared(metric: registry.Metric) -> bool:
    """A mean over labels is comparable only over labels that have both classes in every group."""
    return metric.needs_both_classes or metric.weighted is None


def _resampled(metric: registry.Metric, truth: Array, score: Array, positive: Array, weights: Array) -> Array:
    """The mean over labels of a metric that has no weighted form, under integer weights [R, N] -> [R].

    A weight of w is w copies of a row. A label without a value is left out of the mean.
    """
    function: Any = metric.function
    out = np.full(len(weights), np.nan)
    for replicate, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        values = []
        for column in range(truth.shape[1]):
            known = rows[~np.isnan(truth[rows, column])]
            values.append(function(truth[known, column] > 0.5, score[known, column], positive[known, column]))
        if defined := [value for value in values if value is not None]:
            out[replicate] = np.mean(defined)
    return out
