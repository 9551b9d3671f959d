"""The tables of the page: rows of cells, as text; and the CSV with one row a run."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_ft.score.fairness import differences, flatten
from cxr_ft.show import words
from cxr_ft.show.compare import Comparison, Variant
from cxr_ft.show.runs import Run, names, number, peak_bytes, setting, short


@dataclass(frozen=True)
class Cell:
    """A cell: its text, smaller notes below it, and for an interval where its bar stands (shares of the width)."""

    text: str
    notes: tuple[str, ...] = ()
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Row:
    """A row of cells; `kind` is "best", "floor" or nothing."""

    cells: list[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A head and rows."""

    head: list[str]
    rows: list[Row]


#: Columns of a kind of output after the primary metric: title, path in the test metrics. A path is tried after another.
QUALITY: dict[str, list[tuple[str, list[tuple[str, ...]]]]] = {
    "scores": [("F1", [("macro", "f1")]), ("Accuracy", [("accuracy",), ("micro", "accuracy")])],
    "text": [("Label F1", [("label_f1",)]), ("ROUGE-L", [("rouge_l",)]), ("Distinct", [("distinct",)])],
}

#: A value that more variants share is not followed by their names.
_NAMED = 2


def main(comparison: Comparison) -> Table:
    """One row a variant: quality with intervals, then what it cost; for reports the constant floor below."""
    output = comparison.output
    quality = QUALITY[output]
    primary = words.metric(output)[0].upper() + words.metric(output)[1:]
    head = ["Variant", f"{primary}, test", "Minus the best", f"{primary}, val"]
    head += [title for title, _ in quality]
    head += ["Trainable", "Training", "Peak memory", "Artefact"]
    scale = _scale(comparison)
    rows = [Row(_cells(comparison, variant, scale), _kind(comparison, variant)) for variant in comparison.variants]
    if output == "text":
        rows += [Row(cells, "floor") for cells in _floors(comparison, len(head))]
    return Table(head, rows)


def natural(comparison: Comparison) -> Table | None:
    """The balanced test split against that of natural prevalence, where a run was judged on both."""
    rows = []
    for variant in comparison.variants:
        found = [value for run in variant.runs if (value := run.result.primary("test_natural")) is not None]
        if found:
            mean = sum(found) / len(found)
            gap = None if variant.value is None else mean - variant.value
            cells = [variant.name, *(words.decimal(value) for value in (variant.value, mean, gap))]
            rows.append(Row([Cell(text) for text in cells]))
    return Table(["Variant", "Balanced", "Natural", "Difference"], rows) if rows else None


def unfair(comparison: Comparison) -> list[tuple[str, str]]:
    """What differs besides the method: the setting, and its values with the variants that have them."""
    runs = [run.result for run in comparison.runs]
    found = []
    for path, values in differences([setting(run) for run in runs]):
        having: dict[str, dict[str, None]] = defaultdict(dict)
        for value, name in zip(values, names(runs), strict=True):
            having[short(value)][name] = None
        # The rarest first: what stands out is the news, the most common value needs no list of names.
        told = [(value, list(who)) for value, who in sorted(having.items(), key=lambda item: len(item[1]))]
        common = f"otherwise {told[-1][0]}" if len(told[-1][1]) > _NAMED else ""
        named = [f"{value} ({words.listed(who)})" for value, who in (told[:-1] if common else told)]
        found.append((path, "; ".join([*named, common] if common else named)))
    return found


def undefined(comparison: Comparison) -> list[str]:
    """Metrics without a value on test, with their reasons; each once."""
    found = [run.result.metrics.get("test", {}).get("undefined") or {} for run in comparison.runs]
    return list(dict.fromkeys(f"{name}: {reason}" for reasons in found for name, reason in reasons.items()))


def provenance(runs: Sequence[Run]) -> tuple[Table, list[str]]:
    """Where each run's numbers come from, and what of it is the same for all."""
    places = [{key: str(value) for key, value in flatten(run.result.environment)} for run in runs]
    keys = list(dict.fromkeys(key for place in places for key in place))
    differing = [key for key in keys if len({place.get(key) for place in places}) > 1]
    rows = []
    for name, run, place in zip(names([run.result for run in runs]), runs, places, strict=True):
        hashes = run.result.data.get("sha256", {})
        splits = ", ".join(f"{file.removesuffix('_split.csv')} {value[:8]}" for file, value in hashes.items())
        cells = [f"{name}, seed {run.result.seed}", run.result.config_hash[:8], splits]
        rows.append(Row([Cell(text) for text in (*cells, *(place.get(key, words.DASH) for key in differing))]))
    shared = [f"{key.removeprefix('packages.')} {places[0][key]}" for key in keys if key not in differing]
    return Table(["Run", "Configuration", "Splits (SHA-256)", *differing], rows), shared


def as_csv(runs: Sequence[Run]) -> str:
    """One row a run, whatever its status; numbers as recorded."""
    results = [run.result for run in runs]
    lines = [_csv_row(run, name) for run, name in zip(runs, names(results), strict=True)]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(run: Run, name: str) -> dict[str, Any]:
    result = run.result
    hashes = result.data.get("sha256", {})
    line: dict[str, Any] = {
        "folder": str(run.folder),
        "status": result.status,
        "task": result.task,
        "variant": name,
        "seed": result.seed,
        "config_hash": result.config_hash,
        **{f"sha256 {file}": value for file, value in hashes.items()},
    }
    for split, values in result.metrics.items():
        flat = {**values, **{f"macro {key}": value for key, value in (values.get("macro") or {}).items()}}
        line |= {f"{split} {key}": v for key, v in flat.items() if v is None or isinstance(v, int | float)}
    for key, value in result.cost.items():
        parts = value if isinstance(value, dict) else {"": value}
        line |= {f"{key} {part}".strip(): v for part, v in parts.items()}
    return line | {"error": result.error}


def _cells(comparison: Comparison, variant: Variant, scale: tuple[float, float]) -> list[Cell]:
    seeds = ", ".join(str(run.result.seed) for run in variant.runs)
    trainable, total = (variant.average("cost", "parameters", key) for key in ("trainable", "total"))
    quality = [
        next((value for path in paths if (value := variant.average("metrics", "test", *path)) is not None), None)
        for _, paths in QUALITY[comparison.output]
    ]
    vals = [value for run in variant.runs if (value := run.result.primary("val")) is not None]
    peaks = [value for run in variant.runs if (value := peak_bytes(run.result)) is not None]
    gap, verdict = words.difference(comparison, variant)
    return [
        Cell(variant.name, (f"seed{'s' if len(variant.runs) > 1 else ''} {seeds}",)),
        Cell(words.decimal(variant.value), _uncertainty(variant), _bar(variant, *scale)),
        Cell(gap, (verdict,) if verdict else ()),
        Cell(words.decimal(_mean(vals))),
        *(Cell(words.decimal(value)) for value in quality),
        Cell(words.count(trainable), (words.percent(trainable, total),)),
        Cell(words.seconds(variant.average("cost", "train_seconds"))),
        Cell(words.size(_mean(peaks))),
        Cell(words.size(variant.average("cost", "artefact_bytes"))),
    ]


def _uncertainty(variant: Variant) -> tuple[str, ...]:
    spread = (min(variant.points), max(variant.points)) if len(variant.points) > 1 else None
    known = [(variant.interval, "{}"), (spread, "seeds {}")]
    told = tuple(form.format(words.span(ends)) for ends, form in known if ends)
    return told if variant.interval or variant.value is None else ("no interval", *told)


def _bar(variant: Variant, low: float, high: float) -> tuple[float, float, float] | None:
    if variant.interval is None or variant.value is None or high <= low:
        return None
    start, end, at = ((value - low) / (high - low) for value in (*variant.interval, variant.value))
    return start, end, at


def _floors(comparison: Comparison, width: int) -> list[list[Cell]]:
    """A row for each distinct constant floor; there is one, unless the train splits differ."""
    found = {
        tuple(number(run.result, "metrics", "test", "floor", key) for key in ("bleu_4", "label_f1", "rouge_l"))
        for run in comparison.runs
    }
    rows = []
    for bleu, *others in sorted(found, key=str):
        cells = [Cell("constant report", ("chosen on train: the floor",)), Cell(words.decimal(bleu))]
        cells += [Cell(words.DASH)] * 2 + [Cell(words.decimal(value)) for value in others]
        rows += [cells + [Cell(words.DASH)] * (width - len(cells))] if bleu is not None else []
    return rows


def _scale(comparison: Comparison) -> tuple[float, float]:
    """The range of all intervals of a table, so that their bars can be compared by eye."""
    ends = [end for variant in comparison.variants for end in variant.interval or ()]
    return (min(ends), max(ends)) if ends else (0.0, 0.0)


def _kind(comparison: Comparison, variant: Variant) -> str:
    return "best" if variant is comparison.best and len(comparison.variants) > 1 else ""


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
