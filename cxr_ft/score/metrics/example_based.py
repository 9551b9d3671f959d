"""Judging classification by examples: each row's labels are judged together, then the rows are averaged.

Shapes: N rows, L labels (Tsoumakas and Vlahavas 2007; scikit-learn's average="samples", but that a row without a value
is left out instead of counting as 0).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: What is averaged over rows, besides "exact".
NAMES = ("auroc", "ap", "f1", "precision", "recall", "accuracy")


def evaluate(truth: Array, score: Array, positive: Array, known: Array) -> tuple[dict[str, Any], str]:
    """The means over rows, and why some are None ("" where none is).

    Args:
        truth: [N, L] 1 or 0; read where known.
        score: [N, L].
        positive: bool [N, L], what was predicted.
        known: bool [N, L], which cells count.

    Returns:
        "auroc" and "ap" over the rows that have both classes, "f1" over those with a positive label, true or predicted,
        "precision" over those with a predicted one, "recall" over those with a true one, "accuracy" (share of labels
        that are right) and "exact" (all are right) over the rows that are known; "n" (rows known). "accuracy" of rows
        that are known in all labels is 1 minus the Hamming loss.
    """
    rows = known.any(axis=1)
    known, score = known[rows], score[rows]
    true, said = (truth[rows] > 0.5) & known, positive[rows] & known
    n, trues, saids, both = (cells.sum(axis=1) for cells in (known, true, said, true & said))
    right = ((true == said) & known).sum(axis=1)
    auroc, ap = _ranked(true, score, known) if len(n) else (right, right)
    parts = {
        "auroc": _mean(auroc, (trues > 0) & (trues < n)),
        "ap": _mean(ap, (trues > 0) & (trues < n)),
        "f1": _mean(2 * both / np.maximum(trues + saids, 1), trues + saids > 0),
        "precision": _mean(both / np.maximum(saids, 1), saids > 0),
        "recall": _mean(both / np.maximum(trues, 1), trues > 0),
        "accuracy": _mean(right / np.maximum(n, 1), n > 0),
        "exact": _mean(right == n, n > 0),
    }
    missing = [name for name, value in parts.items() if value is None]
    why = "nothing to judge" if len(n) == 0 else f"no row gives a value for {', '.join(missing)}"
    return {**parts, "n": len(n)}, why if missing else ""


def _ranked(true: Array, score: Array, known: Array) -> tuple[Array, Array]:
    """AUROC and average precision of each row [n]; meaningless where a row has one class only."""
    from scipy.stats import rankdata

    # Cells that do not count rank below all others, where they change no rank from the top.
    down = np.where(known, -score, np.inf)
    from_top = rankdata(down, method="average", axis=1)
    trues, n = true.sum(axis=1), known.sum(axis=1)
    falses = np.maximum(trues * (n - trues), 1)
    auroc = (trues * (n + 1) - (from_top * true).sum(axis=1) - trues * (trues + 1) / 2) / falses
    # A step of the curve holds all cells of one score: its precision counts what is above and at it.
    at_least = rankdata(down, method="max", axis=1)
    true_at_least = rankdata(np.where(true, -score, np.inf), method="max", axis=1)
    ap = np.where(true, true_at_least / at_least, 0.0).sum(axis=1) / np.maximum(trues, 1)
    return auroc, ap


def _mean(values: Array, defined: Array) -> float | None:
    return float(values[defined].mean()) if defined.any() else None
