"""What judging takes from the data besides truth and answers: prevalences, subgroups, what a baseline may look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import manifest
from cxr_ft.data.dataset import split_dataset
from cxr_ft.data.reports.text_columns import TEXTS
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.record import saved_model
from cxr_ft.score.metrics import calibration, classification, report_metrics, subgroups, text_baselines

#: The side, in pixels, of the pictures by which the nearest train image is found.
THUMBNAIL = 16
NATURAL = "test_natural"


@dataclass(frozen=True)
class EvaluationContext:
    """What judging on a test side needs of the other sides: `train`, `val`, and the prevalences of the archive."""

    train: split_dataset.SplitDataset
    val: split_dataset.SplitDataset
    splits: manifest.Splits

    @cached_property
    def thumbnails(self) -> NDArray[np.uint8] | None:
        """Those of train, see `thumbnails`."""
        return thumbnails(self.train)

    def baselines(
        self, rows: split_dataset.SplitDataset, labels: Sequence[str], multi_label: bool
    ) -> dict[str, Any] | None:
        """The baselines of a task that reads text alone, on `rows`; None where images are read."""
        if not rows.beside.context or (len(rows) and rows.images[0].size):
            return None
        fitted_baselines, chosen = _fitted_on(self, labels, multi_label)
        texts, ruled = list(rows.beside.context), text_baselines.by_rules(rows.beside.context, labels)
        return text_baselines.evaluate(
            fitted_baselines, texts, rows.targets, labels, pairs=rows.beside.pairs, ruled=ruled, chosen=chosen
        )

    def natural(self, labels: Sequence[str]) -> list[float | None]:
        """The share of the archive's eligible rows that hold each label, from the manifest's counts; None: not known.

        Nothing of it is measured on a test side's rows. Where uncertain labels are masked, they count as absent here.
        """
        whole = self.splits.manifest
        rows, counts = whole.get("counts", {}).get("eligible"), whole.get("labels", {})
        if not rows or whole["asked"]["blank"] == "ignore":
            return [None] * len(labels)
        return [counts[name]["available"] / rows if name in counts else None for name in labels]


def _fitted_on(
    tested: EvaluationContext, labels: Sequence[str], multi_label: bool
) -> tuple[text_baselines.TextBaselines, dict[str, list[float]]]:
    """The baselines of train and their thresholds on val. Those of the last splits are kept: an ablation evaluates many
    runs on the same ones.
    """
    train, val = tested.train, tested.val
    key = repr((sorted(tested.splits.hashes.items()), list(labels), hash(tuple(train.beside.context))))
    if key not in _kept:
        fitted_baselines = text_baselines.fit(
            train.beside.context, train.targets, multi_label=multi_label, pairs=train.beside.pairs
        )
        ruled = text_baselines.by_rules(val.beside.context, labels)
        chosen = text_baselines.thresholds(
            fitted_baselines, val.beside.context, val.targets, pairs=val.beside.pairs, ruled=ruled
        )
        _kept.clear()
        _kept[key] = fitted_baselines, chosen
    return _kept[key]


_kept: dict[str, tuple[text_baselines.TextBaselines, dict[str, list[float]]]] = {}


def fitted(
    method: str,
    train: split_dataset.SplitDataset,
    val: split_dataset.SplitDataset,
    scores: NDArray[np.float64],
    multi_label: bool,
) -> dict[str, Any]:
    """What calibration takes along with the artefact: the temperature that fits `scores` [N, L] of val, the prevalence
    of each label as training saw it (None where `method` trains nothing), and why there is no temperature.
    """
    temperature, why = calibration.fit_temperature(val.targets, scores, multi_label)
    return {"temperature": temperature, "prevalence": _trained(method, train, multi_label), "why": why}


def _trained(method: str, train: split_dataset.SplitDataset, multi_label: bool) -> list[float | None] | None:
    """The prevalence of each label by the targets and weights of training."""
    if not saved_model.trains(method):
        return None
    learnt = train.learnt
    targets = train.targets if learnt is None else learnt.targets
    weights = np.ones_like(targets) if learnt is None or learnt.weights is None else learnt.weights
    weights = np.where(np.isnan(targets), 0.0, weights)
    there = (weights * np.nan_to_num(targets)).sum(axis=0)
    whole = weights.sum(axis=0) if multi_label else np.full_like(there, there.sum())
    return [float(part / all_) if all_ > 0 else None for part, all_ in zip(there, whole, strict=True)]


def of_scores(
    rows: split_dataset.SplitDataset,
    scores: NDArray[np.float64],
    saved: dict[str, Any],
    side: str,
    tested: EvaluationContext | None,
) -> dict[str, Any]:
    """`classification.evaluate` of `scores` [N, L] with "calibration", and on a test side "subgroups"."""
    labels, multi_label = saved["labels"], saved["multi_label"]
    metrics = classification.evaluate(rows.targets, scores, labels, saved["thresholds"], multi_label)
    metrics["calibration"] = _calibration(rows, scores, saved, side, tested)
    if tested is not None:
        positive = classification.predicted(scores, saved["thresholds"], multi_label)
        people = rows.ids["subject_id"].astype(str).tolist()
        metrics["subgroups"] = subgroups.evaluate(
            rows.targets, scores, positive, labels, groups=groups(rows), subjects=people
        )
        if baselines := tested.baselines(rows, labels, multi_label):
            metrics["baselines"] = baselines
    return metrics


def _calibration(
    rows: split_dataset.SplitDataset,
    scores: NDArray[np.float64],
    saved: dict[str, Any],
    side: str,
    tested: EvaluationContext | None,
) -> dict[str, Any]:
    labels, multi_label = saved["labels"], saved["multi_label"]
    known = saved.get("calibration") or {"temperature": None, "prevalence": None, "why": "the run recorded none"}
    why, shift = {"temperature": known["why"]}, None
    if known["prevalence"] is None:
        why["prior"] = "nothing was trained, or no prevalence was recorded: there is none to correct"
    elif side != NATURAL or tested is None:
        why["prior"] = "this side is balanced as train is: its prevalences are not the natural ones"
    else:
        one = calibration.prior_shift if multi_label else calibration.class_shift
        shift = [one(a, b) for a, b in zip(known["prevalence"], tested.natural(labels), strict=True)]
        why["prior"] = "the manifest does not say the natural prevalences, or a label is on all rows or none"
    temperature = known["temperature"]
    return calibration.evaluate(
        rows.targets, scores, labels, multi_label, temperature=temperature, shift=shift, why=why
    )


def groups(rows: split_dataset.SplitDataset) -> dict[str, list[str]]:
    """The subgroup of each row by sex, age and view, as far as the table says."""
    found = {}
    for name in ("sex", "age", "view"):
        if name in rows.table:
            values = [str(v) or subgroups.UNKNOWN for v in rows.table[name].fillna("").tolist()]
            values = subgroups.age_bands(values) if name == "age" else values
            if set(values) != {subgroups.UNKNOWN}:
                found[name] = values
    return found


def of_texts(
    parts: ModelParts,
    rows: split_dataset.SplitDataset,
    texts: Sequence[str],
    saved: dict[str, Any],
    tested: EvaluationContext | None,
) -> dict[str, Any]:
    """`reports.evaluate` of generated `texts` [N], and on a test side "baselines" and "probes"."""
    metrics = report_metrics.evaluate(rows.texts, texts, saved["labels"], section(parts, rows))
    if tested is not None:
        near, why = _nearest(rows, tested)
        metrics["baselines"] = report_metrics.baselines(tested.train.texts, rows.texts, near, why)
        metrics["probes"] = report_metrics.probed(rows.texts)
    return metrics


def _nearest(rows: split_dataset.SplitDataset, tested: EvaluationContext) -> tuple[Sequence[int] | None, str]:
    ours = thumbnails(rows)
    if ours is None or tested.thumbnails is None:
        return None, "the rows have no image"
    return report_metrics.nearest(tested.thumbnails, ours).tolist(), ""


def thumbnails(rows: split_dataset.SplitDataset) -> NDArray[np.uint8] | None:
    """Each row's first image as THUMBNAIL x THUMBNAIL means of its pixels, uint8 [N, D]; None where rows have none."""
    import cv2

    if len(rows) == 0 or not rows.images[0].size:
        return None
    out = np.empty((len(rows), THUMBNAIL * THUMBNAIL), np.uint8)
    for row in range(len(rows)):
        out[row] = cv2.resize(rows.images[row], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    return out


def section(parts: ModelParts, rows: split_dataset.SplitDataset) -> str:
    """The text column that is written: the head's, or the first one there is."""
    writing = getattr(parts.head, "text", None)
    return (writing and writing.config.text) or next((name for name in TEXTS["all"] if name in rows.table), "")
