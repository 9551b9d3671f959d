"""Phrase the verdicts of a comparison as plain sentences. They format rows and compute nothing."""

from collections.abc import Mapping, Sequence

from cxr_ft.score import conditions
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.number_format import DASH, count, decimal, listed, p_value, plural, span
from cxr_ft.show.verdicts import (
    BaselineTest,
    Comparison,
    MarginOutcome,
    MarginVerdict,
    Outcome,
    PairRow,
    VariantRow,
    Verdict,
)

_TASKS = {"classify": "classification", "report": "report generation"}


def task(name: str) -> str:
    """Return a task in words."""
    return _TASKS.get(name, name)


def lead(comparison: Comparison) -> str:
    """Return the answer in one sentence."""
    best, metric = comparison.best, primary_title(comparison.output)
    if best is None:
        return f"No run has a {metric} on test, so there is no answer yet."
    interval = f"95 % interval {span(best.interval)}" if best.interval else "no interval"
    # "Best" alone would claim more than a point estimate can.
    start = "Best by point estimate" if len(comparison.rows) > 1 else "The only variant"
    return f"{start}: {best.name}, {metric} {decimal(best.value)} ({interval})."


def answer(comparison: Comparison) -> str:
    """Return what follows the lead: baselines, verdicts against the best, the margin, what cannot be stated."""
    parts = [*_baseline(comparison), *_against_best(comparison), *_margins(comparison), *_not_comparable(comparison)]
    return " ".join([*parts, _limits(comparison), _subject(comparison), *_other_bases(comparison)])


#: What follows from a baseline that is not beaten.
BASELINE = (
    "These are simple predictors, fitted to the same training rows without fine-tuning. Where one does as well, the "
    "model may have learnt nothing more than it."
)
#: At most so many variants are named in a sentence on a baseline; the table has all of them.
NAMED = 3


def against_baselines(comparison: Comparison) -> list[str]:
    """Return sentences on which baselines the variants are not shown to beat, the worst first; [] without a test."""
    tests = comparison.against_baselines
    if not tests:
        return []
    by_baseline: dict[str, list[BaselineTest]] = {}
    for test in tests:
        by_baseline.setdefault(test.baseline, []).append(test)
    sentences, beaten = [], {}
    for title, own in by_baseline.items():
        failed = [test for test in own if test.p is not None and not test.shown]
        untested = [test.variant for test in own if test.p is None]
        sentences += [_not_beaten(comparison, title, failed)] if failed else []
        sentences += [f"Not tested against {title}: {_named(untested)} ({own[0].reason})."] if untested else []
        if not failed and not untested:
            beaten[title] = [test.variant for test in own]
    tested = {test.variant for test in tests}
    without = [row.name for row in comparison.rows if row.name not in tested]
    sentences += (
        [f"Not tested against any baseline, for want of scores row by row: {_named(without)}."] if without else []
    )
    if not sentences and all(test.shown for test in tests):
        largest = _adjusted(max(test.adjusted_p or 0.0 for test in tests))
        return [f"{_who(comparison, [*tested])} shown to beat every baseline: {listed([*beaten])} (largest {largest})."]
    return [*sentences, *_beaten(comparison, beaten), BASELINE]


def _beaten(comparison: Comparison, beaten: Mapping[str, Sequence[str]]) -> list[str]:
    """Say which baselines all variants that were tested against them are shown to beat."""
    titles: dict[str, list[str]] = {}
    for title, variants in beaten.items():
        titles.setdefault(_who(comparison, variants), []).append(title)
    return [f"{who} shown to beat {listed(names)}." for who, names in titles.items()]


def _who(comparison: Comparison, variants: Sequence[str]) -> str:
    every = len(variants) == len(comparison.rows) > 1
    return "Every variant is" if every else f"{_named(variants)} {'is' if len(variants) == 1 else 'are'}"


def _not_beaten(comparison: Comparison, title: str, failed: Sequence[BaselineTest]) -> str:
    metric = primary_title(comparison.output)
    several = len(comparison.rows) > 1
    first = sorted(failed, key=lambda test: -test.value)
    words = [
        f"{test.variant if several else metric} {decimal(test.value)} against {decimal(test.baseline_value)}, "
        f"{_adjusted(test.adjusted_p)}"
        for test in first[:NAMED]
    ]
    more = [f"{len(failed) - NAMED} more"] if len(failed) > NAMED else []
    of = f"{metric}: " if several else ""
    return f"Not shown to beat {title} ({of}{'; '.join([*words, *more])})."


def _named(names: Sequence[str]) -> str:
    return listed(list(names) if len(names) <= NAMED else [*names[:NAMED], f"{len(names) - NAMED} more"])


def _adjusted(value: float | None) -> str:
    # An adjusted p-value below 0.001 is written in words.
    text = p_value(value)
    return f"adjusted p {text}" if text.startswith("below") else f"adjusted p = {text}"


#: What a verdict is of where one of two variants has a single seed.
TRAININGS = "of these two trainings, not of the methods"
#: The same of a verdict on one variant.
THIS_TRAINING = "of this training, not of the method"


def outcome(verdict: Outcome, differing: Sequence[str] = (), of_trainings: bool = False) -> str:
    """Return a verdict in words, with what differs where two variants are not comparable, and what it is of."""
    if verdict is Outcome.NOT_COMPARABLE:
        return f"{verdict.value}: {listed(list(differing))}"
    tested = verdict.significant or verdict is Outcome.NO_DIFFERENCE
    return f"{verdict.value} ({TRAININGS})" if tested and of_trainings else verdict.value


def against_best(comparison: Comparison, row: VariantRow) -> tuple[str, str]:
    """Return the interval of a variant minus the best one, and the verdict."""
    verdict = row.against_best
    if len(comparison.rows) == 1 or verdict.outcome is Outcome.UNDEFINED:
        return DASH, ""
    if verdict.outcome is Outcome.BEST:
        return "best", "by point estimate"
    return span(verdict.interval), _verdict(verdict)


def needed(pair: PairRow) -> tuple[str, str]:
    """Return how many subjects, and how many seeds of each, settle a difference of the margin; or why none would."""
    answer = pair.needed
    if answer is None:
        return DASH, DASH
    subjects = _number(answer.subjects, answer.subjects_range) or answer.why_subjects or DASH
    return subjects, _number(answer.seeds, answer.seeds_range) or answer.why_seeds or DASH


def margin(comparison: Comparison, verdict: MarginVerdict) -> tuple[str, str]:
    """Return the verdict of the margin, and the reason for it."""
    start = _MARGINS.get(verdict.outcome)
    words = verdict.outcome.value if start is None else start.format(*_margin_words(comparison))
    if verdict.outcome is MarginOutcome.NOT_COMPARABLE:
        return words, f"differs in {verdict.reason}"
    if verdict.adjusted_p is None:
        return words, verdict.reason
    return words, f"adjusted one-sided p {p_value(verdict.adjusted_p)}; at most 0.025 decides"


#: How a decided margin reads: {0} is the name of full fine-tuning, {1} the margin.
_MARGINS = {
    MarginOutcome.NOT_WORSE: "not worse than {0} by more than {1}",
    MarginOutcome.WORSE: "worse than {0} by more than {1}",
    MarginOutcome.UNDECIDED: "undecided whether worse than {0} by more than {1}",
}


def _margin_words(comparison: Comparison) -> tuple[str, str]:
    reference = comparison.reference
    return ("full fine-tuning" if reference is None else reference.name), decimal(comparison.margin)


def _number(value: int | None, ends: tuple[int, int | None] | None) -> str:
    if value is None or ends is None:
        return ""
    low, high = ends
    return (
        f"{count(value)} ({count(low)} to {count(high)})" if high is not None else f"{count(value)} (from {count(low)})"
    )


def _verdict(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.NOT_TESTED:
        return f"{verdict.outcome.value}: {listed(list(verdict.reasons))}"
    return outcome(verdict.outcome, verdict.reasons, verdict.of_trainings)


def _baseline(comparison: Comparison) -> list[str]:
    """Say whether the best variant is not shown to be better than chance or the best baseline, where none is tested."""
    if comparison.against_baselines:
        return []
    best, (name, value) = comparison.best, comparison.best_baseline
    # The low end has to be above it: a value above the baseline by chance is no proof.
    if best is None or best.interval is None or best.interval[0] > value:
        return []
    return [f"Not shown to be better than {name}."]


def _against_best(comparison: Comparison) -> list[str]:
    """List the other variants by their verdict: the undecided first, then the lower, then what cannot be stated."""
    lower, none = "Significantly lower", "No significant difference from it"
    starts = {
        Outcome.NO_DIFFERENCE: none,
        Outcome.LOWER: lower,
        Outcome.HIGHER: lower,
        Outcome.NOT_RANKED: lower,
        Outcome.NOT_TESTED: "Not tested against it",
        Outcome.NOT_COMPARABLE: "Differ from it in more than the method, so that quality is not comparable",
    }
    # Keyed by sentence, since several outcomes share one; the dict keeps the order above. With single seeds the
    # sentence is about these models; another training might turn it.
    names: dict[str, list[str]] = {}
    for start in dict.fromkeys(starts.values()):
        names |= {start: [], f"{start}, {TRAININGS}": []}
    for row in comparison.rows:
        verdict = row.against_best
        if verdict.outcome in starts:
            start = starts[verdict.outcome]
            names[f"{start}, {TRAININGS}" if verdict.of_trainings and start in (lower, none) else start].append(
                row.name
            )
    return [f"{start}: {listed(variants)}." for start, variants in names.items() if variants]


def _margins(comparison: Comparison) -> list[str]:
    reference = comparison.reference
    if reference is None or comparison.margin is None:
        return []
    metric, sentences = primary_title(comparison.output), []
    for verdict, start in _MARGINS.items():
        rows = [row for row in comparison.rows if row.against_reference and row.against_reference.outcome is verdict]
        words = start.format(*_margin_words(comparison))
        names = listed([row.name for row in rows])
        sentences += [f"{words[0].upper()}{words[1:]} ({metric}): {names}."] if rows else []
    return sentences


def _not_comparable(comparison: Comparison) -> list[str]:
    """Say which claims of cost cannot be made, and what differs."""
    # Time and memory usually fail for the same reason, which is then written once.
    claims_by_reason: dict[str, list[str]] = {}
    for claim in (conditions.TIME, conditions.MEMORY):
        if names := comparison.not_comparable[claim]:
            claims_by_reason.setdefault(listed(list(names)), []).append(claim)
    return [
        f"{listed(claims).capitalize()}: not comparable, since the runs differ in {reason}."
        for reason, claims in claims_by_reason.items()
    ]


def _limits(comparison: Comparison) -> str:
    """Say what the intervals and tests take into account."""
    if len(comparison.rows) == 1 and len(comparison.runs) > 1:
        return "There is nothing to compare it with."
    if comparison.ranked:
        return (
            "The tests take into account the sampling of test subjects and the spread over seeds; p-values are "
            "corrected for the number of pairs."
        )
    # What trains nothing needs no second seed, and is not named.
    single = [row.name for row in comparison.rows if not row.enough_seeds]
    start = "One seed" if all(len(row.runs) == 1 for row in comparison.rows) else f"One seed of {listed(single)}"
    return (
        f"{start}: tests with it are of the trained models, not of the methods, and another training might turn them; "
        "they take into account the sampling of test subjects only."
    )


def _other_bases(comparison: Comparison) -> list[str]:
    """Name the runs in which --other-base replaced the weights of the base."""
    sentences = []
    for row in comparison.rows:
        for run in row.runs:
            if earlier := run.result.base.instead_of:
                weights = listed([digest[:8] for digest in earlier])
                sentences.append(
                    f"{row.name}, seed {run.result.seed}: by --other-base, its base has other weights "
                    f"({(run.result.base.digest or DASH)[:8]}) than those recorded before ({weights})."
                )
    return sentences


def _subject(comparison: Comparison) -> str:
    """Say what was compared, on which data."""
    data = comparison.runs[0].result.data
    # A record may lack the card, and a card the name.
    card = (data.get("card") or {}).get("name") or "a data set without a name"
    rows = ", ".join(f"{split.replace('_', ' ')} {many:,}" for split, many in (data.get("rows") or {}).items())
    # Where nobody knows whose image it is, to count subjects would claim that somebody does.
    unknown = (data.get("card") or {}).get("group") == "unknown"
    many = comparison.test_rows if unknown else comparison.test_subjects
    is_text = (data.get("card") or {}).get("unit") == "text"
    unit = ("test text" if is_text else "test image") if unknown else "test subject"
    subjects = f", evaluated on {plural(many, unit)}{' (subjects unknown)' if unknown else ''}" if many else ""
    return (
        f"Compared: {plural(len(comparison.rows), 'variant')} in {plural(len(comparison.runs), 'run')}, on "
        f"{task(comparison.task)} of {card}{subjects}{f' (rows: {rows})' if rows else ''}."
    )
