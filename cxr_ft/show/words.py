"""Numbers and verdicts in words, as they stand on the page. What is not known is a dash, never a 0."""

from collections.abc import Sequence

from cxr_ft.score.stats import Interval, tied
from cxr_ft.show.compare import Comparison, Variant
from cxr_ft.show.runs import number

DASH = "–"
METRICS = {"scores": "macro AUROC", "text": "BLEU-4"}
TASKS = {"classify": "classification", "report": "report generation"}


#: The AUROC of a coin.
CHANCE = 0.5


def metric(output: str) -> str:
    """The primary metric of what a head puts out."""
    return METRICS[output]


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


def answer(comparison: Comparison) -> str:
    """What cannot be told apart from the best, what was compared, and what cannot be said; from the numbers alone."""
    return " ".join([*_floor(comparison), *_verdicts(comparison), _reach(comparison), _question(comparison)])


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


def _floor(comparison: Comparison) -> list[str]:
    """Whether the best is shown to beat what needs no image: chance, or the constant report."""
    best, floor, name = comparison.best, CHANCE, "chance (0.5)"
    if comparison.output == "text" and best is not None:
        told = [number(run.result, "metrics", "test", "floor", "bleu_4") for run in best.runs]
        floor = max((value for value in told if value is not None), default=0.0)
        name = f"one constant report for all ({decimal(floor)})"
    if best is None or best.interval is None or best.interval[0] > floor:
        return []
    return [f"Not shown to be better than {name}."]


def _verdicts(comparison: Comparison) -> list[str]:
    others = [v for v in comparison.variants if v is not comparison.best and v.value is not None]
    if comparison.best is None or not others:
        return []
    gaps = {variant.name: comparison.gap(variant) for variant in others}
    equal = [name for name, gap in gaps.items() if gap is not None and tied(gap)]
    apart = [name for name, gap in gaps.items() if gap is not None and not tied(gap)]
    unknown = [name for name, gap in gaps.items() if gap is None]
    lower = "Lower" if comparison.ranked else "Lower on these test subjects"
    sentences = [
        (equal, f"Cannot be told apart from it: {listed(equal)}." if equal else ""),
        (apart, f"{lower}: {listed(apart)}." if apart else ""),
        (unknown, f"Not comparable subject by subject: {listed(unknown)}." if unknown else ""),
    ]
    return [sentence for names, sentence in sentences if names]


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
    gap = comparison.gap(variant)
    if gap is None:
        return DASH, "not paired" if variant.value is not None else ""
    verdict = "cannot be told apart" if tied(gap) else "lower" if comparison.ranked else "apart, one seed"
    return span(gap), verdict


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / step, power + 1
    return f"{value:.3g}{units[power]}"
