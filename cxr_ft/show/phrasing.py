"""Numbers and verdicts in words, as they stand on the page. What is not known is a dash, never a 0."""

from collections.abc import Sequence

from cxr_ft.score import fairness
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import pairs, power
from cxr_ft.score.statistics.intervals import Interval
from cxr_ft.show.compare import Comparison, Tested, Variant
from cxr_ft.show.runs import number

DASH = "–"
TASKS = {"classify": "classification", "report": "report generation"}


#: The AUROC of a coin.
CHANCE = 0.5


def metric(output: str) -> str:
    """The primary metric of what a head puts out."""
    return registry.primary(output).title


def task(name: str) -> str:
    """A task in words."""
    return TASKS.get(name, name)


def decimal(value: float | None, digits: int = 3) -> str:
    """0.912."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def span(interval: Interval | None) -> str:
    """0.861 to 0.950."""
    return DASH if interval is None else f"{decimal(interval[0])} to {decimal(interval[1])}"


def count(value: float | None) -> str:
    """222,338."""
    return DASH if value is None else f"{value:,.0f}"


def brief(value: float | None) -> str:
    """222 k."""
    return DASH if value is None else _scaled(value, 1000, ("", " k", " M", " G"))


def size(value: float | None) -> str:
    """1.7 MB (of 1,000,000 bytes)."""
    return DASH if value is None else _scaled(value, 1000, (" B", " kB", " MB", " GB", " TB"))


def seconds(value: float | None) -> str:
    """45 s, 12 min, 3.4 h."""
    if value is None:
        return DASH
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.3g} s"


def percent(part: float | None, whole: float | None) -> str:
    """0.98 %."""
    return DASH if part is None or not whole else f"{100 * part / whole:.3g} %"


def plural(many: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """A, B and C."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def lead(comparison: Comparison) -> str:
    """The answer in one sentence."""
    best, name = comparison.best, metric(comparison.output)
    if best is None:
        return f"No run has a {name} on test, so there is no answer yet."
    certain = f" (95 % interval {span(best.interval)})" if best.interval else " (no interval)"
    start = "Best by point estimate" if len(comparison.variants) > 1 else "The only variant"
    return f"{start}: {best.name}, {name} {decimal(best.value)}{certain}."


def answer(comparison: Comparison, margin: float) -> str:
    """What cannot be told apart from the best, what was compared, and what cannot be said; from the numbers alone."""
    parts = [*_baseline(comparison), *_verdicts(comparison), *_margins(comparison, margin), *_barred(comparison)]
    return " ".join([*parts, _reach(comparison), _question(comparison)])


def _question(comparison: Comparison) -> str:
    data = comparison.runs[0].result.data
    card = data.get("card", {}).get("name") or "a data set without a name"
    rows = ", ".join(f"{split.replace('_', ' ')} {many:,}" for split, many in data.get("rows", {}).items())
    people = f", judged on {plural(comparison.subjects, 'test subject')}" if comparison.subjects else ""
    return (
        f"Compared: {plural(len(comparison.variants), 'variant')} in {plural(len(comparison.runs), 'run')}, on "
        f"{task(comparison.task)} "
        f"of {card}{people}{f' (rows: {rows})' if rows else ''}."
    )


def _baseline(comparison: Comparison) -> list[str]:
    """Whether the best is shown to beat what needs no model: chance, counted words, or the constant report."""
    best, baseline, name = comparison.best, CHANCE, "chance (0.5)"
    if comparison.output == "scores" and best is not None:
        told = [
            number(run.result, "metrics", "test", "baselines", "tfidf_logreg", "macro", "auroc") for run in best.runs
        ]
        if (counted := max((value for value in told if value is not None), default=CHANCE)) > CHANCE:
            baseline, name = counted, f"TF-IDF with logistic regression ({decimal(counted)})"
    if comparison.output == "text" and best is not None:
        told = [number(run.result, "metrics", "test", "constant_baseline", "bleu_4") for run in best.runs]
        baseline = max((value for value in told if value is not None), default=0.0)
        name = f"one constant report for all ({decimal(baseline)})"
    if best is None or best.interval is None or best.interval[0] > baseline:
        return []
    return [f"Not shown to be better than {name}."]


def _verdicts(comparison: Comparison) -> list[str]:
    best = comparison.best
    others = [v for v in comparison.variants if v is not best and v.value is not None]
    if best is None or not others:
        return []
    lower = "Lower" if comparison.ranked else "Lower on these test subjects"
    said: dict[str, list[str]] = {}
    for variant in others:
        tested = comparison.pair(variant, best)
        if unequal(comparison, variant, best):
            said.setdefault("Differ from it in more than the method, so that quality is not comparable", [])
            said["Differ from it in more than the method, so that quality is not comparable"].append(variant.name)
        elif tested is None or tested.pair.p is None:
            said.setdefault("Not comparable subject by subject", []).append(variant.name)
        else:
            said.setdefault(lower if tested.apart else "Cannot be told apart from it", []).append(variant.name)
    order = sorted(said, key=lambda key: (key == lower) + 2 * key.startswith(("Not", "Differ")))
    return [f"{key}: {listed(said[key])}." for key in order]


def unequal(comparison: Comparison, first: Variant, second: Variant) -> str:
    """The names of what differs between two variants besides the method and bears on quality; else nothing."""
    return listed([finding.name for finding in comparison.unequal(first, second)])


def unlike(comparison: Comparison, first: Variant, second: Variant, claim: str) -> str | None:
    """By name and value why a claim about two variants ("quality", "time", "memory") cannot be made."""
    return fairness.verdict(comparison.between(first, second), claim)


def margins(comparison: Comparison, margin: float) -> dict[str, tuple[str, str]]:
    """Whether each variant is worse than the reference by less than `margin`: outcome, and the words for it."""
    reference = comparison.reference
    found = {}
    for variant in comparison.variants:
        tested = None if reference in (None, variant) or reference is None else comparison.pair(variant, reference)
        if tested is None or reference is None or variant.runs[0].result.method == reference.runs[0].result.method:
            continue
        if what := unequal(comparison, variant, reference):
            found[variant.name] = ("not comparable", f"differs in {what}")
            continue
        judged = pairs.non_inferior(tested.pair, margin)
        found[variant.name] = (judged.outcome, _why(tested, judged))
    return found


def _why(tested: Tested, judged: pairs.Margin) -> str:
    if tested.pair.interval is None:
        return tested.pair.reason or ""
    low, high = tested.pair.interval
    worse = judged.outcome == "worse by more than the margin"
    sure = f"one-sided {100 * judged.level:g} %"
    return (
        f"the gap is {'below' if worse else 'above'} {decimal(high if worse else low)} ({sure}; {tested.pair.covers})"
    )


def _margins(comparison: Comparison, margin: float) -> list[str]:
    reference, judged = comparison.reference, margins(comparison, margin)
    if reference is None or not judged:
        return []
    said = f"{decimal(margin)} ({metric(comparison.output)}) of {reference.name}"
    out = []
    for outcome, start in (
        ("within margin", f"Within {said}"),
        ("worse by more than the margin", f"Not within {said}"),
    ):
        if names := [name for name, (found, _) in judged.items() if found == outcome]:
            out.append(f"{start}: {listed(names)}.")
    if names := [name for name, (found, _) in judged.items() if found == "open"]:
        out.append(f"Open whether within {said}: {listed(names)}.")
    return out


def _barred(comparison: Comparison) -> list[str]:
    """Which claims of cost the runs do not bear, and what differs."""
    by_reason: dict[str, list[str]] = {}
    for claim in (fairness.TIME, fairness.MEMORY):
        if found := fairness.barring(comparison.findings, claim):
            by_reason.setdefault(listed([finding.name for finding in found]), []).append(claim)
    return [
        f"{listed(claims).capitalize()}: not comparable, since the runs differ in {what}."
        for what, claims in by_reason.items()
    ]


def _reach(comparison: Comparison) -> str:
    if len(comparison.variants) == 1 and len(comparison.runs) > 1:
        return "There is nothing to compare it with."
    if comparison.ranked:
        return "Differences count both the sampling of test subjects and the spread over seeds, for all pairs together."
    single = [variant.name for variant in comparison.variants if not variant.settled]
    who = "One seed" if all(len(v.runs) == 1 for v in comparison.variants) else f"One seed of {listed(single)}"
    return f"{who}: intervals cover test sampling only; not ranked."


def difference(comparison: Comparison, variant: Variant) -> tuple[str, str]:
    """The difference to the best as its interval, and the verdict."""
    if len(comparison.variants) == 1:
        return DASH, ""
    if variant is comparison.best:
        return "best", "by point estimate"
    best = comparison.best
    tested = None if best is None else comparison.pair(variant, best)
    if best is None or tested is None or tested.pair.interval is None:
        return DASH, "not paired" if variant.value is not None else ""
    if what := unequal(comparison, variant, best):
        return span(tested.pair.interval), f"not comparable: {what}"
    return span(tested.pair.interval), verdict(comparison, tested)


def verdict(comparison: Comparison, tested: Tested) -> str:
    """Of the first against the second, at the error of all pairs together."""
    if tested.adjusted is None:
        return "not tested"
    if not tested.apart:
        return "cannot be told apart"
    return ("lower" if (tested.pair.gap or 0) < 0 else "higher") if comparison.ranked else "apart, one seed"


def needed(tested: Tested) -> tuple[str, str]:
    """How many subjects, and how many seeds of each, would show the gap that was seen; or why none would."""
    if tested.apart:
        return DASH, DASH
    found = power.needed(tested.pair)
    subjects = (found.why_subjects or DASH) if found.subjects is None else f"{found.subjects:,}"
    seeds = (found.why_seeds or DASH) if found.seeds is None else f"{found.seeds:,}"
    return subjects, seeds


def p_value(value: float | None) -> str:
    """0.032; below a thousandth, so."""
    return DASH if value is None else "below 0.001" if value < 0.001 else decimal(value)


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / step, power + 1
    return f"{value:.3g}{units[power]}"
