"""Say what was compared and when: data set, base, dates, learning rates, and the version that made the page."""

from collections.abc import Sequence

import cxr_ft
from cxr_ft.run.record.checkout import commit
from cxr_ft.score import conditions
from cxr_ft.show.number_format import listed, plural
from cxr_ft.show.recorded_runs import record
from cxr_ft.show.tables import rate_table
from cxr_ft.show.verdicts import Comparison, VariantRow

#: Characters of a hash that are shown.
_SHORT = 8
UNKNOWN = "not recorded"


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the facts that a reader asks for first, each with its title."""
    return [
        ("Data set", _data_set(comparison)),
        ("Base", _base(comparison)),
        ("Trained", _dates(comparison)),
        ("Learning rates", _rates(comparison)),
        ("Trained with", _software(comparison)),
    ]


def made_by() -> str:
    """Return the package, its version and its commit, with which the page is made."""
    return _version(cxr_ft.__version__, commit())


def _version(version: str | None, commit_of: str | None) -> str:
    return f"cxr_ft {version or UNKNOWN}" + (f", commit {commit_of}" if commit_of else "")


def _data_set(comparison: Comparison) -> str:
    cards = [run.result.data.card for run in comparison.runs]
    names = dict.fromkeys(card.name if card is not None and card.name else UNKNOWN for card in cards)
    return f"{listed(list(names))}; test split {comparison.split[:_SHORT]}"


def _base(comparison: Comparison) -> str:
    labels = []
    for run in comparison.runs:
        base = run.result.base
        name = conditions.base_name(record(run.result))
        weights = f"weights {base.digest[:_SHORT]}" if base.digest else f"weights {UNKNOWN}"
        revision = f", revision {base.revision[:_SHORT]}" if base.revision else ""
        labels.append(f"{name} ({weights}{revision})")
    return listed(list(dict.fromkeys(labels)))


def _dates(comparison: Comparison) -> str:
    days = sorted(run.result.began[:10] for run in comparison.runs if run.result.began)
    missing = len(comparison.runs) - len(days)
    if not days:
        return f"date {UNKNOWN}"
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    others = f"; date of {plural(missing, 'run')} {UNKNOWN}" if missing else ""
    return f"{span} (UTC){others}"


def _software(comparison: Comparison) -> str:
    environments = [run.result.environment for run in comparison.runs]
    return listed(list(dict.fromkeys(_version(e.cxr_ft, e.commit) for e in environments)))


def _rates(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if not row.trains_nothing]
    if not rows:
        return "none: nothing was trained"
    ways = {
        "searched": "searched on val",
        "inherited": "inherited from another variant",
        "configured": "as configured, without a search",
    }
    sentences = []
    for origin, words in ways.items():
        having = [row for row in rows if origin in rate_table.origins(row)]
        if having:
            sentences.append(f"{words}, {_for(having, rows, everything=len(rows) == len(comparison.rows))}")
    edges = [row.name for row in rows if rate_table.unsettled(row)]
    sentences += [f"not settled for {_few(edges)}: the best was the smallest or largest tried"] if edges else []
    return "; ".join(sentences)


def _for(having: Sequence[VariantRow], rows: Sequence[VariantRow], *, everything: bool) -> str:
    if len(having) < len(rows):
        return f"for {_few([row.name for row in having])}"
    tried = {len(run.result.search.rates) for row in rows for run in row.runs}
    same = next(iter(tried)) if len(tried) == 1 else 0
    trained = "every variant" if everything else "every trained variant"
    return f"for {trained}{f', {same} rates each' if same else ''}"


def _few(names: Sequence[str]) -> str:
    return listed(list(names)) if len(names) <= 3 else plural(len(names), "variant")
