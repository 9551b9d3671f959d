"""Clinical F1: whether a generated report states the findings of its reference, both read by the rule-based `labeler`.

Published values differ by convention, so all are computed: 14 labels or CheXpert's 5, doubt counted as stated or as
not. Denied and not mentioned count as not stated. Both texts pass the same labeler: its errors touch both.
"""

from collections.abc import Sequence

import numpy as np

from cxr_ft.json_values import Json
from cxr_ft.score.arrays import Floats, Mask, Metrics, Values
from cxr_ft.score.metrics import label_mentions, labeler
from cxr_ft.score.metrics.registry import Metric

#: The labels on which CheXpert's competition is scored (Irvin et al. 2019).
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
SETS = {"14": labeler.LABELS, "5": FIVE}
#: What -1 counts as.
DOUBT = {"positive": True, "negative": False}
SIGNATURE = "rule-based labeler of cxr_ft 1|labels:14,5|uncertain:positive,negative|blank:negative|macro:labels stated"


def evaluate(references: Sequence[str], generated: Sequence[str]) -> Metrics:
    """Compare what N reports state against their references; pairs with a blank reference are left out.

    Returns:
        JSON-ready: for each convention ("14_positive", "14_negative", "5_positive", "5_negative": labels, and what
        doubt counts as) "macro" (over the labels that a reference states: "labels" says how many), "micro", "examples"
        (over the reports that state anything), each with "f1", "precision", "recall"; "labels": the three and "stated"
        by label for both meanings of doubt; "n"; "signature"; "undefined".

    Raises:
        ValueError: where the two differ in length.
    """
    # A blank reference states no finding: whatever the model writes would count as false.
    pairs = [(r, g) for r, g in zip(references, generated, strict=True) if r.strip()]
    truth, written = labeler.table([r for r, _ in pairs]), labeler.table([g for _, g in pairs])
    result: Metrics = {"n": len(pairs), "signature": SIGNATURE}
    undefined: dict[str, str] = {}
    by_label: dict[str, dict[str, Values]] = {name: {} for name in labeler.LABELS}
    for doubt, counts in DOUBT.items():
        true, predicted = stated(truth, counts), stated(written, counts)
        for i, name in enumerate(labeler.LABELS):
            by_label[name][doubt] = {**_scores(true[:, i], predicted[:, i]), "stated": int(true[:, i].sum())}
        for size, names in SETS.items():
            columns = [labeler.LABELS.index(name) for name in names]
            rows = [by_label[name][doubt] for name in names]
            result[f"{size}_{doubt}"] = _convention(true[:, columns], predicted[:, columns], rows)
            if not true[:, columns].any():
                undefined[f"{size}_{doubt}"] = "no reference states any of these labels"
    return {**result, "labels": by_label, "undefined": undefined}


def stated(table: Floats, doubt: bool) -> Mask:
    """Return which labels a table [N, L] of 1, 0, -1, NaN states; `doubt`: -1 counts as stated."""
    out: Mask = (table == labeler.POSITIVE) | ((table == labeler.UNCERTAIN) & doubt)
    return out


def _convention(true: Mask, predicted: Mask, rows: list[Values]) -> dict[str, Json]:
    # A label that no reference states has no recall, and its F1 could only be 0 or undefined.
    stated_rows = [row for row in rows if row["stated"]]
    return {
        "macro": {name: _mean([row[name] for row in stated_rows]) for name in ("f1", "precision", "recall")}
        | {"labels": len(stated_rows)},
        # Micro takes the cells of all labels, also of those that no reference states: writing them is false.
        "micro": _scores(true.ravel(), predicted.ravel()),
        "examples": _examples(true, predicted),
    }


def _scores(true: Mask, predicted: Mask) -> Values:
    """Return F1, precision and recall; None where their denominators are 0, and F1 where nothing is true."""
    hits, trues, positives = int((true & predicted).sum()), int(true.sum()), int(predicted.sum())
    return {
        "f1": 2 * hits / (trues + positives) if trues else None,
        "precision": hits / positives if positives else None,
        "recall": hits / trues if trues else None,
    }


def _examples(true: Mask, predicted: Mask) -> Values:
    hits, trues, positives = (cells.sum(axis=1, dtype=float) for cells in (true & predicted, true, predicted))

    def mean(part: Floats, whole: Floats) -> float | None:
        # Reports that state nothing have no value of their own: as 0 they would lower the mean, as 1 raise it.
        return float((part[whole > 0] / whole[whole > 0]).mean()) if (whole > 0).any() else None

    return {"f1": mean(2 * hits, trues + positives), "precision": mean(hits, positives), "recall": mean(hits, trues)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _counts(references: Sequence[str], generated: Sequence[str], labels: Sequence[str]) -> Floats:
    """Return the counts of `label_mentions.mean_f1` of each pair, by the rule-based labeler; doubt counts as stated."""
    truth, written = (stated(labeler.table(texts), doubt=True) for texts in (references, generated))
    return label_mentions.counts(truth, written)


METRIC = Metric(
    name="clinical_f1_14_positive",
    title="clinical F1",
    output="text",
    description="Macro F1 of 14 findings, read off both texts by the rule-based labeler; doubt counts as stated.",
    level="recorded",
    paths=(("clinical", "14_positive", "macro", "f1"), ("clinical_f1_14_positive",)),
    row_counts=_counts,
    of_sums=label_mentions.mean_f1,
    shown=frozenset(("table",)),
    position=110,
    table_position=45,
)
