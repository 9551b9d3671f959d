"""Read the baselines of the runs: what is scored without understanding the image or the text."""

from collections.abc import Iterable, Sequence

from cxr_ft.run.record.results import Result
from cxr_ft.show import metric_columns
from cxr_ft.show.metric_columns import BASELINES
from cxr_ft.show.number_format import decimal
from cxr_ft.show.recorded_runs import number
from cxr_ft.show.verdicts import BaselineRow

#: The AUROC of a random score.
CHANCE = 0.5


def rows(results: Sequence[Result]) -> tuple[BaselineRow, ...]:
    """Return the baselines of some runs of one output; equal ones once, those without the primary metric not at all."""
    output = results[0].output
    unique: dict[tuple[str, tuple[float | None, ...]], None] = {}
    for result in results:
        test = result.metrics.get("test") or {}
        # A record without baselines may still hold the constant report, which has a place of its own.
        recorded = test.get("baselines") or ({"constant": None} if output == "text" else {})
        for name in [name for name in BASELINES if name in recorded]:
            # The constant report has a place of its own in the record, too.
            sources = [recorded[name] or {}, (test.get("constant_baseline") or {}) if name == "constant" else {}]
            candidates = zip(*(metric_columns.values(output, source) for source in sources), strict=True)
            unique[name, tuple(next((v for v in both if v is not None), None) for both in candidates)] = None
    return tuple(
        BaselineRow(title=BASELINES[name].title, note=BASELINES[name].note, value=value, metrics=others)
        for name, (value, *rest) in unique
        if value is not None
        for others in [tuple(rest)]
    )


def best(results: Sequence[Result]) -> tuple[str, float]:
    """Return the name and the primary metric of the highest baseline that some runs of one output have to beat."""
    if results[0].output == "scores":
        value = _highest(
            number(result, "metrics", "test", "baselines", "tfidf_logreg", "macro", "auroc") for result in results
        )
        # A baseline below chance is no bar to clear.
        if value is None or value <= CHANCE:
            return f"chance ({CHANCE})", CHANCE
        return f"TF-IDF with logistic regression ({decimal(value)})", value
    value = _highest(number(result, "metrics", "test", "constant_baseline", "bleu_4") for result in results) or 0.0
    return f"one constant report for all ({decimal(value)})", value


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
