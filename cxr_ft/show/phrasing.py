"""Phrase the verdicts of a comparison as plain sentences. They format rows and compute nothing."""

from collections.abc import Sequence

from cxr_ft.score import fairness
from cxr_ft.show.metric_columns import primary_title
from cxr_ft.show.number_format import DASH, count, decimal, listed, plural, span
from cxr_ft.show.verdicts import Comparison, MarginOutcome, MarginVerdict, Outcome, PairRow, VariantRow, Verdict

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


def outcome(verdict: Outcome, differing: Sequence[str] = ()) -> str:
    """Return a verdict in words, with what differs where two variants are not comparable."""
    if verdict is Outcome.NOT_COMPARABLE:
        return f"{verdict.value}: {listed(list(differing))}"
    return verdict.value


def against_best(comparison: Comparison, row: VariantRow) -> tuple[str, str]:
    """Return the interval of a variant minus the best one, and the verdict."""
    verdict = row.against_best
    if len(comparison.rows) == 1 or verdict.outcome is Outcome.UNDEFINED:
        return DASH, ""
    if verdict.outcome is Outcome.BEST:
        return "best", "by point estimate"
    return span(verdict.interval), _verdict(verdict)


def needed(pair: PairRow) -> tuple[str, str]:
    """Return how many subjects, and how many seeds of each, would make the gap significant; or why none would."""
    subjects = (pair.subjects_reason or DASH) if pair.subjects_needed is None else count(pair.subjects_needed)
    seeds = (pair.seeds_reason or DASH) if pair.seeds_needed is None else count(pair.seeds_needed)
    return subjects, seeds


def margin(verdict: MarginVerdict) -> tuple[str, str]:
    """Return the verdict of the margin, and the reason for it."""
    if verdict.outcome is MarginOutcome.NOT_COMPARABLE:
        return verdict.outcome.value, f"differs in {verdict.reason}"
    words = "undecided" if verdict.outcome is MarginOutcome.UNDECIDED else verdict.outcome.value
    if verdict.interval is None or verdict.level is None:
        return words, verdict.reason
    low, high = verdict.interval
    # Only one end of the interval decides: the high one that the gap is too large, the low one that it is small enough.
    worse = verdict.outcome is MarginOutcome.BEYOND
    bound = f"below {decimal(high)}" if worse else f"above {decimal(low)}"
    return words, f"the gap is {bound} (one-sided {100 * verdict.level:g} %; {verdict.covers})"


def _verdict(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.NOT_TESTED:
        return f"{verdict.outcome.value}: {listed(list(verdict.reasons))}"
    return outcome(verdict.outcome, verdict.reasons)


def _baseline(comparison: Comparison) -> list[str]:
    """Say whether the best variant is not shown to be better than chance or the best baseline."""
    best, (name, value) = comparison.best, comparison.best_baseline
    # The low end has to be above it: a value above the baseline by chance is no proof.
    if best is None or best.interval is None or best.interval[0] > value:
        return []
    return [f"Not shown to be better than {name}."]


def _against_best(comparison: Comparison) -> list[str]:
    """List the other variants by their verdict: the undecided first, then the lower, then what cannot be stated."""
    # With single seeds the sentence is about these models; another training might turn it.
    lower = "Significantly lower" if comparison.ranked else "Significantly lower on these test subjects"
    starts = {
        Outcome.NO_DIFFERENCE: "No significant difference from it",
        Outcome.LOWER: lower,
        Outcome.HIGHER: lower,
        Outcome.NOT_RANKED: lower,
        Outcome.NOT_TESTED: "Not tested against it",
        Outcome.NOT_COMPARABLE: "Differ from it in more than the method, so that quality is not comparable",
    }
    # Keyed by sentence, since several outcomes share one; the dict keeps the order above.
    names: dict[str, list[str]] = {start: [] for start in starts.values()}
    for row in comparison.rows:
        if row.against_best.outcome in starts:
            names[starts[row.against_best.outcome]].append(row.name)
    return [f"{start}: {listed(variants)}." for start, variants in names.items() if variants]


def _margins(comparison: Comparison) -> list[str]:
    reference = comparison.reference
    if reference is None:
        return []
    end = f"{decimal(comparison.margin)} ({primary_title(comparison.output)}) of {reference.name}"
    starts = {
        MarginOutcome.WITHIN: f"Within {end}",
        MarginOutcome.BEYOND: f"Not within {end}",
        MarginOutcome.UNDECIDED: f"Undecided whether within {end}",
    }
    sentences = []
    for verdict, start in starts.items():
        rows = [row for row in comparison.rows if row.against_reference and row.against_reference.outcome is verdict]
        sentences += [f"{start}: {listed([row.name for row in rows])}."] if rows else []
    return sentences


def _not_comparable(comparison: Comparison) -> list[str]:
    """Say which claims of cost cannot be made, and what differs."""
    # Time and memory usually fail for the same reason, which is then written once.
    claims_by_reason: dict[str, list[str]] = {}
    for claim in (fairness.TIME, fairness.MEMORY):
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
    return f"{start}: intervals cover the sampling of test subjects only, so the variants are not ranked."


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
