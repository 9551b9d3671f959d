"""Tabulate everything in which the variants of a comparison differ: what is compared, and what may confound it."""

from collections.abc import Mapping

from cxr_ft.score import conditions, fairness
from cxr_ft.show import number_format
from cxr_ft.show.tables.cells import Cell, Table, TableRow
from cxr_ft.show.verdicts import Comparison

INTENDED = "compared on purpose"
TUNED = "tuned for each variant: see learning rates"
SEEDS = "repetitions: the tests take their number into account"
LISTED = "rules out no claim"

#: Options that are named in words; a method has further ones of its own.
_WORDS = {"name": "method", "targets": "target modules", "rank": "rank", "lr": "learning rate"}
#: As many variants of one value are named; of more, the first ones.
_NAMED = 4


def differences(comparison: Comparison) -> Table | None:
    """Return a row for each setting that is not the same in all runs; None where nothing differs."""
    names = [row.name for row in comparison.rows for _ in row.runs]
    rows = [*_intended(comparison, names), *_seeds(comparison)]
    for mismatch in comparison.mismatches:
        rows.append(_line(mismatch.name, fairness.by_value(mismatch.values, names), _follows(mismatch)))
    return Table(["Setting", "Values, with the variants that have them", "What follows"], rows) if rows else None


def _intended(comparison: Comparison, names: list[str]) -> list[TableRow]:
    """Return the rows of the method and its options; those that one method alone has are one row."""
    options = [_options(run.result.tuning) for run in comparison.runs]
    keys = list(dict.fromkeys([*_WORDS, *(key for own in options for key in own)]))
    rows, own_alone = [], list[str]()
    for key in keys:
        values = [own.get(key) for own in options]
        # None: the method has no such option.
        applying = [value for value in values if value is not None]
        if len(set(applying)) > 1:
            follows = TUNED if key == "lr" else INTENDED
            rows.append(_line(_WORDS.get(key, key), fairness.by_value(values, names, str), follows))
        elif applying and len(applying) < len(values):
            own_alone.append(key)
    rest = [
        ", ".join(f"{_WORDS.get(key, key)} {own[key]}" for key in own_alone if key in own) or None for own in options
    ]
    if own_alone:
        rows.append(_line("options that other methods lack", fairness.by_value(rest, names, str), INTENDED))
    return rows


def _options(tuning: Mapping[str, object]) -> dict[str, str]:
    out = {}
    for key, value in tuning.items():
        if key == "targets":
            # A method without this option has no such key.
            out[key] = ",".join(map(str, value)) if isinstance(value, list) and value else "not restricted"
        elif isinstance(value, list):
            out[key] = ",".join(map(str, value))
        elif isinstance(value, bool):
            out[key] = "on" if value else "off"
        elif value is not None:
            out[key] = f"{value:g}" if isinstance(value, float) else str(value)
    return out


def _seeds(comparison: Comparison) -> list[TableRow]:
    trained = [row for row in comparison.rows if not row.trains_nothing]
    seeds = [", ".join(map(str, row.seeds)) for row in trained]
    if len(set(seeds)) < 2:
        return []
    return [_line("seeds", fairness.by_value(seeds, [row.name for row in trained]), SEEDS)]


def _line(name: str, values: list[tuple[str, list[str]]], follows: str) -> TableRow:
    lines = [f"{value}: {_named(names)}" for value, names in values]
    return TableRow([Cell(name), Cell(lines[0], tuple(lines[1:])), Cell(follows)])


def _named(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return number_format.listed(names)
    return number_format.listed([*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} others"])


def _follows(mismatch: fairness.Mismatch) -> str:
    if conditions.EVERYTHING in mismatch.concerns:
        return "may explain a difference: these runs are not ranked"
    if not mismatch.concerns:
        return LISTED
    verb = "is" if len(mismatch.concerns) == 1 else "are"
    return f"may explain a difference: {number_format.listed(list(mismatch.concerns))} {verb} not comparable"
