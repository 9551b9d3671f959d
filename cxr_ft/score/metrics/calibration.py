"""Measure calibration: raw scores, after temperature scaling, after correction to another prevalence.

Shapes: N rows, L labels. Truth is 1, 0 or NaN (masked); scores lie in [0, 1]. Multi-label: each label's score is
read as a probability of its own. Single-label: the largest score is, as in Guo et al. 2017, and each class by itself; a
row that is masked anywhere is left out. Errors are over 15 bins of equal width (Naeini et al. 2015; Guo et al. 2017).

On few rows the expected calibration error of a perfect model is well above 0, about 1 / sqrt(rows): it is recorded and
not shown. What is shown is the debiased error, and the slope and intercept of a logistic recalibration.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cxr_ft.score.arrays import Floats, Metrics, Values
from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.statistics import recalibration, spread

BINS = 15
#: Temperatures searched; one at an end means that none is best.
RANGE = (0.02, 50.0)
#: Scores are clipped to this distance from 0 and 1, so that each has finite log odds.
_EDGE = 1e-12


#: A bin of a reliability diagram: "from", "to", "n", "score" (mean), "positive" (share).
Bin: TypeAlias = dict[str, float]


def evaluate(
    truth: Floats,
    score: Floats,
    labels: Sequence[str],
    multi_label: bool,
    *,
    temperature: float | None = None,
    shift: Sequence[float | None] | None = None,
    why: dict[str, str] | None = None,
    subjects: Sequence[str] | None = None,
) -> Metrics:
    """Measure how well scores [N, L] are probabilities, as they are and corrected.

    Args:
        truth: [N, L]; score: [N, L].
        temperature: fitted on val by `fit_temperature`; None: nothing is scaled.
        shift: of each label's log odds, by `prior_shift`; None: nothing is shifted. Single-label data needs all.
        why: the reasons for what is None, under "temperature" and "prior".
        subjects: the subject of each row [N]; None: each row is one of its own.

    Returns:
        JSON-ready: "temperature"; "shift" by label, None for one that has none; "raw", "scaled" (by the temperature),
        "corrected" (scaled where there is a temperature, then shifted; labels without a shift are left out), each as
        `errors` says or None; "undefined" with reasons.
    """
    why = why or {}
    undefined: dict[str, str] = {}
    scaled = None if temperature is None else scale(score, temperature, multi_label)
    if scaled is None:
        undefined["scaled"] = why.get("temperature", "no temperature was fitted")
    shifts: list[float | None] = [None] * len(labels) if shift is None else list(shift)
    # A single-label row is normalised over all classes: one class without a shift spoils the others.
    usable = any(s is not None for s in shifts) and (multi_label or None not in shifts)
    corrected = None
    if usable:
        known = [i for i, s in enumerate(shifts) if s is not None]
        # A shift of 0 fills the place of a label without one, whose errors are left out below.
        moved = shifted(score if scaled is None else scaled, [s or 0.0 for s in shifts], multi_label)
        corrected = errors(truth[:, known], moved[:, known], [labels[i] for i in known], multi_label, subjects)
        if len(known) < len(labels):
            names = ", ".join(name for i, name in enumerate(labels) if i not in known)
            undefined["corrected, some labels"] = f"left out, their prevalence here or in train is not known: {names}"
    else:
        undefined["corrected"] = why.get("prior", "no label's prevalence is known here and in train")
    return {
        "temperature": temperature,
        "shift": dict(zip(labels, shifts, strict=True)),
        "raw": errors(truth, score, labels, multi_label, subjects),
        "scaled": None if scaled is None else errors(truth, scaled, labels, multi_label, subjects),
        "corrected": corrected,
        "undefined": undefined,
    }


def errors(
    truth: Floats, score: Floats, labels: Sequence[str], multi_label: bool, subjects: Sequence[str] | None = None
) -> Metrics:
    """Measure how far scores [N, L] are from the observed frequencies.

    Returns:
        "ece": multi-label: the mean over labels of the expected calibration error; single-label: that of the largest
        score. "brier": the mean squared distance of score and truth, over labels; single-label: summed over the classes
        (Brier 1950). "log_loss": the mean -log of the probability of what is true, over labels or rows, in nats.
        "debiased_error", "slope", "intercept": see `corrections`, of all labels; single-label: of the largest score.
        "labels": all of them by label. "reliability": the bins behind the error, see `reliability`, of all cells
        together; single-label: of the largest score. None, all of them, where nothing is known.
    """
    truth, score = np.asarray(truth, float), np.asarray(score, float)
    known = ~np.isnan(truth)
    owners = np.arange(len(truth)) if subjects is None else np.unique(np.asarray(subjects), return_inverse=True)[1]
    if not multi_label:
        known[~known.all(axis=1)] = False
    values = [_binary(truth[rows, i], score[rows, i]) for i, rows in enumerate(known.T)]
    by_label = {
        name: {**values[i], **corrections(truth[rows, i : i + 1], score[rows, i : i + 1], owners[rows])}
        for i, (name, rows) in enumerate(zip(labels, known.T, strict=True))
    }
    if multi_label:
        cells = reliability(truth[known], score[known])
        together = corrections(truth, score, owners)
        return {**_means(values), **together, "labels": by_label, "reliability": cells}
    rows = known.all(axis=1)
    truth, score, owners = truth[rows], score[rows], owners[rows]
    # The means of no rows would be NaN, which a JSON record cannot hold.
    if not len(truth):
        nothing = {**_binary(truth.ravel(), score.ravel()), **corrections(truth, score, owners)}
        return {**nothing, "labels": by_label, "reliability": []}
    largest = score.argmax(axis=1)[:, None]
    hits, sure = np.take_along_axis(truth, largest, 1), np.take_along_axis(score, largest, 1)
    return {
        "ece": ece(hits[:, 0], sure[:, 0]),
        "brier": float(((score - truth) ** 2).sum(axis=1).mean()),
        # Only the true class's score counts, so the upper end needs no clipping: log(1) is 0.
        "log_loss": float(-(truth * np.log(np.clip(score, _EDGE, 1))).sum(axis=1).mean()),
        **corrections(hits, sure, owners),
        "labels": by_label,
        "reliability": reliability(hits[:, 0], sure[:, 0]),
    }


def corrections(truth: Floats, score: Floats, subjects: npt.NDArray[np.intp]) -> Metrics:
    """Return how scores [N, L] would have to be corrected, and the error without the part that chance adds.

    Args:
        truth: [N, L] 1, 0 or NaN; subjects: [N] numbers.

    Returns:
        "debiased_error": the root of the mean over labels of `recalibration.squared_error`, 0 where that is below 0;
        None without a row. "slope", "intercept": of `recalibration.recalibration`, all cells together, each "value",
        "low", "high", or None with its "reason".
    """
    known = ~np.isnan(truth)
    squares = [
        square
        for i, rows in enumerate(known.T)
        if (square := recalibration.squared_error(truth[rows, i], score[rows, i], bins(score[rows, i]), subjects[rows]))
        is not None
    ]
    rows, columns = np.nonzero(known)
    owners = np.unique(subjects[rows], return_inverse=True)[1]
    found = recalibration.recalibration(truth[rows, columns], score[rows, columns], owners)
    return {
        # Below 0 is less error than chance alone leaves on average: no error is shown.
        "debiased_error": float(np.sqrt(max(0.0, float(np.mean(squares))))) if squares else None,
        "slope": None if found.slope is None else dict(found.slope._asdict()),
        "intercept": None if found.intercept is None else dict(found.intercept._asdict()),
        "reason": found.reason,
    }


def ece(truth: Floats, score: Floats) -> float | None:
    """Return the expected calibration error of probabilities [n] of 1 against truth [n]; None where there are none."""
    bins = reliability(truth, score)
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["score"] - b["positive"]) for b in bins) / total if total else None


def reliability(truth: Floats, score: Floats) -> list[Bin]:
    """Return the bins of a reliability diagram that are not empty, in order."""
    place = bins(score)
    count = np.bincount(place, minlength=BINS)
    scores, positives = (np.bincount(place, weights=values, minlength=BINS) for values in (score, truth))
    return [
        {
            "from": b / BINS,
            "to": (b + 1) / BINS,
            "n": int(count[b]),
            "score": float(scores[b] / count[b]),
            "positive": float(positives[b] / count[b]),
        }
        for b in np.flatnonzero(count).tolist()
    ]


def bins(score: Floats) -> npt.NDArray[np.int64]:
    """Return the bin of each score, 0 to BINS - 1; a score on a boundary belongs to the bin above, 1 to the last."""
    place: npt.NDArray[np.int64] = np.minimum((np.asarray(score, float) * BINS).astype(np.int64), BINS - 1)
    return place


def fit_temperature(truth: Floats, score: Floats, multi_label: bool) -> tuple[float | None, str]:
    """Return the temperature with the least log loss (Guo et al. 2017), one for all labels; fit it on val.

    Returns:
        The temperature; or None, and why there is none: no truth, or a loss that falls towards 0 or infinity.
    """
    from scipy.optimize import minimize_scalar

    truth, score = np.asarray(truth, float), np.asarray(score, float)
    # A cell of its own is a probability only with several labels; of one label the row is.
    known = ~np.isnan(truth) if multi_label else np.isfinite(truth).all(axis=1)
    truth, score = truth[known], score[known]
    if not truth.size:
        return None, "val has nothing to fit a temperature on"

    def loss(log_temperature: float) -> float:
        p = np.clip(scale(score, float(np.exp(log_temperature)), multi_label), _EDGE, 1 - _EDGE)
        # log1p(-p), since 1 - p loses the digits of a small p.
        each = truth * np.log(p) + (1 - truth) * np.log1p(-p) if multi_label else truth * np.log(p)
        return float(-each.sum() / len(truth))

    low, high = np.log(RANGE)
    # Over the logarithm, since halving and doubling a temperature are steps of one size.
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    # The bounded search comes near an end but never returns it.
    if best.x < low + 1e-3:
        return None, "the scores of val separate its classes: the lower the temperature, the better"
    if best.x > high - 1e-3:
        return None, "the scores say nothing about val: the higher the temperature, the better"
    return float(np.exp(best.x)), ""


def scale(score: Floats, temperature: float, multi_label: bool) -> Floats:
    """Return scores [..., L] with their log odds, or the logarithms of a single-label row, divided by `temperature`."""
    if multi_label:
        return _sigmoid(_log_odds(score) / temperature)
    return _softmax(np.log(np.clip(score, _EDGE, 1)) / temperature)


def prior_shift(train: float | None, natural: float | None) -> float | None:
    """Return what to add to a label's log odds so that a model trained at one prevalence fits another.

    Elkan 2001, theorem 2; Saerens, Latinne and Decaestecker 2002, equation 2.4: it assumes that positives look alike
    at both prevalences, and negatives too. None where a prevalence is unknown, 0 or 1.
    """
    if train is None or natural is None or not (0 < train < 1 and 0 < natural < 1):
        return None
    return float(np.log(natural / (1 - natural)) - np.log(train / (1 - train)))


def class_shift(train: float | None, natural: float | None) -> float | None:
    """Return the shift of a class of single-label data: of the logarithm of its score, before rows are normalised."""
    # No odds are taken here, so that a prevalence of 1 has a shift, too.
    if train is None or natural is None or train <= 0 or natural <= 0:
        return None
    return float(np.log(natural / train))


def shifted(score: Floats, shift: Sequence[float], multi_label: bool) -> Floats:
    """Return scores [N, L] with `shift` [L] added to their log odds; single-label: to their logarithms."""
    if multi_label:
        return _sigmoid(_log_odds(score) + np.asarray(shift, float))
    return _softmax(np.log(np.clip(score, _EDGE, 1)) + np.asarray(shift, float))


def _binary(truth: Floats, score: Floats) -> Values:
    if not len(truth):
        return dict.fromkeys(("ece", "brier", "log_loss"))
    # A saturated score of 0 or 1 of the wrong class would make the loss of all rows infinite.
    p = np.clip(score, _EDGE, 1 - _EDGE)
    return {
        "ece": ece(truth, score),
        "brier": float(((score - truth) ** 2).mean()),
        "log_loss": float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean()),
    }


def _means(rows: list[Values]) -> Values:
    values = {
        name: [value for row in rows if (value := row[name]) is not None] for name in ("ece", "brier", "log_loss")
    }
    return {name: float(np.mean(known)) if known else None for name, known in values.items()}


def _log_odds(score: Floats) -> Floats:
    p = np.clip(np.asarray(score, float), _EDGE, 1 - _EDGE)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def _sigmoid(log_odds: Floats) -> Floats:
    from scipy.special import expit

    # 1 / (1 + exp(-x)) overflows for large negative log odds; expit does not.
    return np.asarray(expit(log_odds))


def _softmax(logits: Floats) -> Floats:
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=-1))


METRICS = (
    Metric(
        name="ece",
        title="calibration error",
        output="scores",
        description="Expected calibration error over 15 bins of equal width (Naeini et al. 2015).",
        level="recorded",
        paths=(("calibration", "raw", "ece"),),
        higher_is_better=False,
        # It is biased upwards on few rows: the debiased error is shown in its place.
        shown=frozenset(),
        position=80,
    ),
    Metric(
        name="brier",
        title="Brier score",
        output="scores",
        description="Mean squared distance of score and truth (Brier 1950).",
        level="recorded",
        paths=(("calibration", "raw", "brier"),),
        interval=spread.squared_error,
        higher_is_better=False,
        undefined="no cell is known",
        shown=frozenset(),
        position=85,
    ),
)
