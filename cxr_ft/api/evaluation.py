"""Evaluate predictions of any origin: values by label with the page's intervals, and the page's tests of gaps."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cxr_ft.api import evaluated_rows
from cxr_ft.api.evaluated_rows import EvaluatedRows

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ft.score.metrics.registry import Metric
    from cxr_ft.score.statistics import gaps as tests

#: From this score on a label counts as positive: without val no other threshold can be chosen.
THRESHOLD = 0.5
#: The names of a mean over labels, of all labels together, and of all texts.
MACRO, ALL, TEXTS = "macro", "all labels", "all texts"
#: Metrics of scores that no threshold has a part in.
_WITHOUT_THRESHOLD = ("auroc", "ap", "brier")
_CALIBRATION = {
    "debiased_error": "calibration_error",
    "slope": "calibration_slope",
    "intercept": "calibration_intercept",
}
_NO_ERROR_INTERVAL = "no interval: slope and intercept have one"
_TEXT_GAPS = "not tested: gaps are tested in scores alone"


@dataclass(frozen=True)
class Value:
    """One metric of one label, of the mean over labels ("macro"), of "all labels" together, or of "all texts".

    Args:
        label, metric: what was computed.
        value: None where the metric is undefined.
        low, high: the 95 % interval over subjects and, with several seeds, over trainings; None where there is none.
        note: the threshold, why value or interval are missing, of how many labels a mean is, what was assumed.
    """

    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """The metric of a group minus that of all others of its variable.

    Args:
        group: variable and value, as "sex=F".
        metric: "auroc", "recall", "calibration_slope" or "calibration_intercept" of all labels together; of one of
            several labels with its name, as "auroc: Edema".
        difference: None where it was not tested.
        low, high: its interval, adjusted for the number of gaps: it holds 0 unless the gap is stated.
        p: two-sided, of no gap, not adjusted.
        stated: whether the gap may be stated: all gaps together share one error of 5 % (Holm).
        note: why it was not tested.
    """

    group: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    stated: bool
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Hold what `evaluate` returns: `values`, `gaps`, of how many rows and subjects they are, and what was assumed."""

    values: tuple[Value, ...]
    gaps: "pd.DataFrame"
    rows: int
    subjects: int
    notes: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """Return the values as a table: label, metric, value, low, high, note."""
        return _frame(self.values, Value)

    def _repr_html_(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        heading = f"<p>{self.rows:,} rows of {self.subjects:,} subjects; 95 % intervals over subjects{notes}</p>"
        gaps = self.gaps.to_html(index=False, float_format="{:.3f}".format) if len(self.gaps) else ""
        return f"{heading}{self.to_frame().to_html(index=False, float_format='{:.3f}'.format, na_rep='')}{gaps}"


def evaluate(  # noqa: PLR0917 (the design fixes this signature: people script against it)
    truth: "npt.ArrayLike | pd.DataFrame | Sequence[str | None]",
    scores: "npt.ArrayLike | pd.DataFrame | Sequence[str | None]",
    subjects: "npt.ArrayLike | Sequence[object] | None",
    groups: "Mapping[str, Sequence[object]] | pd.DataFrame | Sequence[object] | None" = None,
    labels: Sequence[str] | None = None,
    seed: "int | Sequence[object] | None" = None,
) -> Evaluation:
    """Evaluate scores or generated texts of any origin against the truth; a subject's rows count together.

    Args:
        truth: [N] or [N, L], 1 or 0, NaN where it is not known; or N reference texts, blank where there is none.
        scores: like `truth`, probabilities in [0, 1]; or N generated texts. Of two data frames columns go by name.
        subjects: [N], the subject of each row; ids are compared as in the splits (7, 7.0 and 00007 are one). A row
            without one counts as a subject of its own, and a note says so; None: all of them.
        groups: by variable ("sex", "scanner", ...) the group of each row [N]; missing values are in no group.
        labels: the L names; None: the columns of a data frame, else "0", "1", ... Of texts: names whose mentions are
            compared (label F1); None: the 14 of CheXpert.
        seed: of several trainings of one model the seed of each row [N], each seed with the same rows in the same
            order: values are means over seeds, and intervals cover the chance of training. A single number changes
            nothing, since nothing is drawn.

    Returns:
        An `Evaluation`, with the numbers of the comparison page (docs/predictions.md): `to_frame()` gives the metrics
        with their intervals; F1, precision, recall and accuracy are at a threshold of 0.5. `gaps` are the tests of
        each group against the others.

    Raises:
        UsageError: one line, where shapes do not fit, scores are no probabilities, or seeds have other rows.

    Example:
        >>> import cxr_ft
        >>> evaluation = cxr_ft.evaluate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], subjects=["a", "b", "c", "d"])
        >>> evaluation.to_frame().set_index("metric")["value"].round(3)[["auroc", "ap", "accuracy"]].tolist()
        [0.75, 0.833, 0.5]
        >>> texts = cxr_ft.evaluate(["No edema."], ["No edema."], subjects=["a"]).to_frame().set_index("metric")
        >>> texts.loc["rouge_l", "note"]
        'no interval: 1 subject'
    """
    rows = evaluated_rows.read(truth, scores, subjects, groups, labels, seed)
    values = _score_values(rows) if rows.references is None else _text_values(rows)
    noted = [dataclasses.replace(one, note="; ".join(filter(None, (one.note, *rows.notes)))) for one in values]
    return Evaluation(
        tuple(noted), _frame(list(_gaps(rows)), Gap), len(rows.subjects), len(np.unique(rows.subjects)), rows.notes
    )


def _score_values(rows: EvaluatedRows) -> list[Value]:
    """Return each metric of each label, and of several labels their mean, as the page computes them."""
    from cxr_ft.score.metrics import registry
    from cxr_ft.score.statistics import estimates

    answers = estimates.Answers(
        truth=rows.truth, scores=rows.scores, predicted=rows.scores >= THRESHOLD, subjects=rows.subjects
    ).labels()
    several = len(rows.labels) > 1
    by_label: dict[str, list[Value]] = {name: [] for name in rows.labels}
    means: list[Value] = []
    together: list[Value] = []
    for metric in registry.all_metrics("scores"):
        if metric.interval is None:
            continue
        if metric.over_cells:
            together += [_value(ALL, metric, estimates.pooled(metric.interval, answers), len(rows.labels))]
            continue
        for name, one in zip(rows.labels, estimates.by_label(metric.interval, answers), strict=True):
            by_label[name].append(_value(name, metric, one, len(rows.labels)))
        means.append(_value(MACRO, metric, estimates.macro(metric.interval, answers), len(rows.labels)))
    for column, name in enumerate(rows.labels):
        by_label[name] += _calibration(rows, name, [column])
    listed = [value for name in rows.labels for value in by_label[name]]
    return [*listed, *means, *together, *_calibration(rows, ALL, range(len(rows.labels)))] if several else listed


def _value(label: str, metric: "Metric", estimate: "object", labels: int) -> Value:
    from cxr_ft.score.statistics.estimates import Estimate

    if not isinstance(estimate, Estimate):
        raise TypeError(f"{estimate!r} is no estimate")
    notes = [estimate.note] if estimate.note else []
    if metric.name not in _WITHOUT_THRESHOLD:
        notes.append(f"threshold {THRESHOLD}")
    if estimate.labels is not None and estimate.labels < labels:
        notes.append(f"mean of {estimate.labels} of {labels} labels")
    return Value(label, metric.name, estimate.value, estimate.low, estimate.high, "; ".join(notes))


def _calibration(rows: EvaluatedRows, label: str, columns: Sequence[int]) -> Iterator[Value]:
    """Yield debiased error, slope and intercept of some labels together, means over seeds."""
    from cxr_ft.score.metrics import calibration

    subjects = np.unique(rows.subjects, return_inverse=True)[1]
    truth = rows.truth[:, columns]
    found = [calibration.corrections(truth, scores[:, columns], subjects) for scores in rows.scores]
    for key, metric in _CALIBRATION.items():
        parts = [one[key] for one in found]
        reason = next((str(one["reason"]) for one in found if one["reason"]), "") or "no cell is known"
        numbers = [part for part in parts if isinstance(part, int | float)]
        corrections = [part for part in parts if isinstance(part, Mapping)]
        if len(numbers) == len(parts):
            yield Value(label, metric, float(np.mean(numbers)), None, None, _NO_ERROR_INTERVAL)
        elif len(corrections) == len(parts):
            # The mean of the intervals' ends, as on the page: wide enough, since seeds share the subjects.
            value, low, high = (float(np.mean([part[end] for part in corrections])) for end in ("value", "low", "high"))
            yield Value(label, metric, value, low, high)
        else:
            yield Value(label, metric, None, None, None, f"no value: {reason}")


def _text_values(rows: EvaluatedRows) -> list[Value]:
    """Return each metric of texts, with the page's interval where it has one."""
    from cxr_ft.score.metrics import labeler, registry, report_metrics

    labels = rows.labels or labeler.LABELS
    references = list(rows.references or ())
    recorded = [report_metrics.evaluate(references, list(written), labels) for written in rows.generated]
    out = []
    for metric in registry.all_metrics("text"):
        values = [value for metrics in recorded if (value := metric.value(metrics)) is not None]
        if len(values) < len(recorded):
            undefined = recorded[0].get("undefined")
            reasons: Mapping[str, object] = undefined if isinstance(undefined, Mapping) else {}
            reason = reasons.get(metric.name) or reasons.get("all") or "no reference states any of these labels"
            out.append(Value(TEXTS, metric.name, None, None, None, f"no value: {reason}"))
        else:
            out.append(_text_value(metric, rows, labels, float(np.mean(values))))
    return out


def _text_value(metric: "Metric", rows: EvaluatedRows, labels: Sequence[str], value: float) -> Value:
    from cxr_ft.score.statistics import estimates

    if metric.row_counts is None or metric.of_sums is None:
        return Value(TEXTS, metric.name, value, None, None, f"no interval: {metric.no_interval}")
    references = list(rows.references or ())
    counts = np.array([metric.row_counts(references, list(written), labels) for written in rows.generated])
    one = estimates.of_texts(metric.of_sums, counts, rows.subjects)
    return Value(TEXTS, metric.name, value, one.low, one.high, one.note)


def _gaps(rows: EvaluatedRows) -> Iterator[Gap]:
    """Yield the page's tests of each group; of a variable with two groups each gap and its mirror image."""
    from cxr_ft.score.statistics import gaps as tests

    known = {variable: sorted(set(members.tolist()) - {"", tests.UNKNOWN}) for variable, members in rows.groups.items()}
    if rows.references is not None:
        for variable, names in known.items():
            yield from (_untested(f"{variable}={name}", "", _TEXT_GAPS) for name in names)
        return
    groups = {variable: members.tolist() for variable, members in rows.groups.items()}
    by_seed = [
        tests.unadjusted(rows.truth, scores, scores >= THRESHOLD, rows.subjects, groups, rows.labels)
        for scores in rows.scores
    ]
    adjusted = tests.adjust([tests.over_seeds(seeds) for seeds in zip(*by_seed, strict=True)])
    for variable, names in known.items():
        if len(names) < 2:
            name = names[0] if names else tests.UNKNOWN
            yield _untested(f"{variable}={name}", tests.AUROC, "there is no other known group to compare with")
            continue
        own = [gap for gap in adjusted if gap.group in {f"{variable}={name}" for name in names}]
        yield from (_gap(gap, len(rows.labels)) for gap in own)
        # The same test seen from the other side: it counts once.
        yield from (_mirrored(gap, len(rows.labels)) for gap in own if gap.against != tests.OTHERS)


def _gap(gap: "tests.Gap", labels: int) -> Gap:
    from cxr_ft.score.statistics import gaps as tests

    # Of one label there is no other test than its own.
    metric = gap.metric if gap.label == tests.ALL or labels == 1 else f"{gap.metric}: {gap.label}"
    return Gap(gap.group, metric, gap.difference, gap.low, gap.high, gap.p, gap.stated, gap.reason)


def _mirrored(gap: "tests.Gap", labels: int) -> Gap:
    one = _gap(gap, labels)
    difference, low, high = (None if end is None else -end for end in (one.difference, one.high, one.low))
    return dataclasses.replace(one, group=gap.against, difference=difference, low=low, high=high)


def _untested(group: str, metric: str, note: str) -> Gap:
    return Gap(group, metric, None, None, None, None, stated=False, note=note)


def _frame(rows: "Sequence[Value] | Sequence[Gap]", kind: type) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=[f.name for f in dataclasses.fields(kind)])
