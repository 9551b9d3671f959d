"""Show the baselines beside the variants: their rows of the table, and whether a variant is shown to beat them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxr_ft.json_values import JsonObject
from cxr_ft.run.record import results, saved_labels
from cxr_ft.run.record.results import Result
from cxr_ft.score.arrays import Floats
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import multiple_comparisons, pairs
from cxr_ft.score.statistics.estimates import Estimate
from cxr_ft.show import metric_columns, variant_estimates
from cxr_ft.show.metric_columns import BASELINES
from cxr_ft.show.number_format import decimal
from cxr_ft.show.prediction_rows import TOLERANCE, EvaluationRows, PredictionBook, SplitPredictions
from cxr_ft.show.recorded_runs import RecordedRun, number
from cxr_ft.show.variants import Variant
from cxr_ft.show.verdicts import BaselineRow, BaselineTest

#: The AUROC of a random score.
CHANCE = 0.5
#: Why the area of equal scores has no interval.
CONSTANT = "0.5 by definition: the same answer for every row"
#: The values of the primary metric and of the other columns, by which equal baselines of several runs are one row.
Values = tuple[float | None, ...]


@dataclass(frozen=True)
class _Found:
    """A baseline as one run recorded it: its key in `BASELINES`, its values, and that run."""

    name: str
    values: Values
    run: RecordedRun = field(compare=False)


def rows(runs: Sequence[RecordedRun], book: PredictionBook | None = None) -> tuple[BaselineRow, ...]:
    """Return the baselines of some runs of one output; equal ones once, those without the primary metric not at all.

    Args:
        runs: of one task and test split.
        book: reads their scores row by row, which intervals need; None: no intervals.
    """
    found = [one for one in _found(runs) if one.values[0] is not None]
    titles = _titles(found)
    output = runs[0].result.output
    metrics = (registry.primary(output), *metric_columns.columns(output))
    table = []
    for one in found:
        known = {} if book is None else _estimates(one, book)
        estimates = [
            variant_estimates.agreeing(known[metric.name], value) if metric.name in known else Estimate(value=value)
            for metric, value in zip(metrics, one.values, strict=True)
        ]
        note = BASELINES[one.name].note
        table.append(BaselineRow(title=titles[one], note=note, estimate=estimates[0], metrics=tuple(estimates[1:])))
    return tuple(table)


def tests(
    variants: Sequence[Variant], predictions: Mapping[str, Floats], book: PredictionBook
) -> tuple[BaselineTest, ...]:
    """Test every variant against the baselines of its own runs, and adjust the p-values together (Holm).

    A baseline has no seed: given the data it is one predictor.

    Args:
        variants: of one comparison.
        predictions: of each variant [S, N, L], by its name.
        book: that read them; it has their rows.
    """
    found = [one for one in _found([run for variant in variants for run in variant.runs]) if one.values[0] is not None]
    titles = _titles(found)
    tested: list[tuple[Variant, _Found, pairs.Pair]] = []
    for digest, evaluated in book.rows.items():
        alike = [variant for variant in variants if variant.digest == digest]
        scored = [(one, read) for one in found if (read := _scores(one, book)) is not None and read.digest == digest]
        # Of two bases each has a probe of its own: a variant is held against that of its base.
        wanted = [
            (i, len(alike) + j)
            for i, variant in enumerate(alike)
            for j, (one, _) in enumerate(scored)
            if (one.name, one.values) in {(own.name, own.values) for own in _found(variant.runs)}
        ]
        by_position = pairs.compare_all(
            evaluated.truth,
            [*(predictions[variant.name] for variant in alike), *(read.scores[None] for _, read in scored)],
            evaluated.subjects,
            evaluated.statistic,
            fixed=[*(variant.trains_nothing for variant in alike), *(True for _ in scored)],
            only=wanted,
        )
        for (i, j), pair in by_position.items():
            one, read = scored[j - len(alike)]
            answers = predictions[alike[i].name].mean(axis=0), read.scores
            tested.append((alike[i], one, _varying(pair, evaluated, *answers)))
    ps = [None if pair.tail is None else pair.tail(0.0) for *_, pair in tested]
    out = [
        BaselineTest(
            variant=variant.name,
            baseline=titles[one],
            value=variant.value or 0.0,
            baseline_value=one.values[0] or 0.0,
            p=p,
            adjusted_p=adjusted,
            test=pair.test,
            reason=pair.reason or "",
            of_trainings=not variant.enough_seeds,
        )
        for (variant, one, pair), p, adjusted in zip(tested, ps, multiple_comparisons.holm(ps), strict=True)
    ]
    # The highest baseline first: it is what a variant has to beat. Equal ones keep the order of the table.
    return tuple(sorted(out, key=lambda test: -test.baseline_value))


def _varying(pair: pairs.Pair, rows: EvaluationRows, first: Floats, second: Floats) -> pairs.Pair:
    """Return a pair that has a test where its subjects leave no spread: its answers are exchanged instead."""
    # A model without any error against equal scores for all: neither varies over subjects, and yet they differ.
    if pair.reason != pairs.NOTHING_VARIES:
        return pair
    return pairs.exchange(rows.truth, first, second, rows.subjects, rows.statistic)


def best(recorded: Sequence[Result]) -> tuple[str, float]:
    """Return the name and the primary metric of the highest baseline that some runs of one output have to beat."""
    if recorded[0].output == "scores":
        value = _highest(
            number(result, "metrics", "test", "baselines", "tfidf_logreg", "macro", "auroc") for result in recorded
        )
        # A baseline below chance is no bar to clear.
        if value is None or value <= CHANCE:
            return f"chance ({CHANCE})", CHANCE
        return f"TF-IDF with logistic regression ({decimal(value)})", value
    value = _highest(number(result, "metrics", "test", "constant_baseline", "bleu_4") for result in recorded) or 0.0
    return f"one constant report for all ({decimal(value)})", value


def _found(runs: Sequence[RecordedRun]) -> list[_Found]:
    """Return the baselines in the records of some runs of one output; equal ones once."""
    unique: dict[tuple[str, Values], RecordedRun] = {}
    for run in runs:
        output, test = run.result.output, run.result.metrics.get("test") or {}
        # A record without baselines may still hold the constant report, which has a place of its own.
        recorded: Mapping[str, JsonObject | None] = test.get("baselines") or (
            {"constant": None} if output == "text" else {}
        )
        for name in [name for name in BASELINES if name in recorded]:
            # The constant report has a place of its own in the record, too.
            sources = [recorded[name] or {}, (test.get("constant_baseline") or {}) if name == "constant" else {}]
            candidates = zip(*(metric_columns.values(output, source) for source in sources), strict=True)
            values = tuple(next((v for v in both if v is not None), None) for both in candidates)
            # Of equal ones that whose scores were kept row by row: runs of before have none.
            if (name, values) not in unique or not results.has_baselines(unique[name, values].folder):
                unique[name, values] = run
    return [_Found(name, values, run) for (name, values), run in unique.items()]


def _titles(found: Sequence[_Found]) -> dict[_Found, str]:
    """Return the title of each baseline; of several with one name, as the probes of two bases, with the base's name."""
    times = Counter(one.name for one in found)
    bases = {one: f"{BASELINES[one.name].title}, {Path(str(one.run.result.config['model'])).name}" for one in found}
    same = Counter(bases.values())
    return {
        one: BASELINES[one.name].title
        if times[one.name] == 1
        # Where the bases have one name as well, the value tells them apart.
        else bases[one] + (f" ({decimal(one.values[0])})" if same[bases[one]] > 1 else "")
        for one in found
    }


def _scores(one: _Found, book: PredictionBook) -> SplitPredictions | None:
    """Return the scores of a baseline on test; None where none were kept, or they give another value."""
    read = book.baselines(one.run).get(one.name)
    if read is None or one.values[0] is None:
        return None
    recomputed = float(registry.primary("scores").over_rows(read.truth, read.scores))
    # Scores of other rows or of another baseline; written so that NaN is refused.
    return read if abs(recomputed - one.values[0]) <= TOLERANCE else None


def _estimates(one: _Found, book: PredictionBook) -> Mapping[str, Estimate]:
    """Return the estimates of a baseline by metric; {} where its scores were not kept row by row."""
    read = _scores(one, book)
    if read is None:
        return {}
    recorded = (one.run.result.metrics["test"].get("baselines") or {}).get(one.name) or {}
    levels, saved = recorded.get("thresholds"), saved_labels.read(one.run.folder)
    if saved is not None:
        known = isinstance(levels, Sequence) and len(levels) == len(saved.labels)
        chosen = tuple(float(str(level)) for level in levels) if known and isinstance(levels, Sequence) else ()
        saved = replace(saved, thresholds=chosen)
    metrics = (registry.primary("scores"), *metric_columns.columns("scores"))
    estimates = variant_estimates.of_scores(metrics, [read], [saved])[0]
    # The area of equal scores is a half whatever the subjects are: an interval would say that it is not known.
    if (read.scores == read.scores[:1]).all():
        estimates |= {metrics[0].name: replace(estimates[metrics[0].name], low=None, high=None, note=CONSTANT)}
    return estimates


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
