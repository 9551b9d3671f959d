"""The tables of the page: rows of cells, as text; and the CSV with one row a run."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_ft.score.fairness import flatten
from cxr_ft.score.metrics import registry
from cxr_ft.show import phrasing
from cxr_ft.show.compare import Comparison, Variant
from cxr_ft.show.runs import Run, names, peak_bytes


@dataclass(frozen=True)
class Cell:
    """A cell.

    Args:
        text: what it says; `notes`: smaller lines below.
        bar: for an interval, where its bar stands (shares of the width).
        key: what its column is sorted by, where that is not the text.
    """

    text: str
    notes: tuple[str, ...] = ()
    bar: tuple[float, float, float] | None = None
    key: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of cells; `kind` is "best", "baseline" or nothing."""

    cells: list[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A head and rows."""

    head: list[str]
    rows: list[Row]


#: Baselines by their key in the metrics: who says it, and how it is chosen.
BASELINES = {
    "majority": ("what train has most of", "for everyone"),
    "tfidf_logreg": ("TF-IDF with logistic regression", "a baseline"),
    "rule_labeler": ("rules that read labels off the text", "a baseline"),
    "constant": ("one report for all", "the best BLEU-4 on train"),
    "constant_clinical": ("one report for all", "the best clinical F1 on train"),
    "random": ("a report of train at random", "a baseline"),
    "nearest": ("the report of the train image that looks most alike", "a baseline"),
}


def main(comparison: Comparison) -> Table:
    """One row a variant: quality with intervals, then what it cost; the baselines below."""
    output = comparison.output
    primary = registry.primary(output).heading
    head = ["Variant", f"{primary}, test", "Letters", "Minus the best", f"{primary}, val"]
    head += [known.heading for known in _quality(output)]
    head += ["Trainable", "Training", "Peak memory", "Artefact"]
    scale = _scale(comparison)
    rows = [Row(_cells(comparison, variant, scale), _kind(comparison, variant)) for variant in comparison.variants]
    rows += [Row(cells, "baseline") for cells in _baselines(comparison, len(head))]
    return Table(head, rows)


def natural(comparison: Comparison) -> Table | None:
    """The balanced test split against that of natural prevalence, where a run was judged on both."""
    rows = []
    for variant in comparison.variants:
        found = [value for run in variant.runs if (value := run.result.primary("test_natural")) is not None]
        if found:
            mean = sum(found) / len(found)
            gap = None if variant.value is None else mean - variant.value
            cells = [Cell(phrasing.decimal(value), key=value) for value in (variant.value, mean, gap)]
            rows.append(Row([Cell(variant.name), *cells]))
    return Table(["Variant", "Balanced", "Natural", "Difference"], rows) if rows else None


def undefined(comparison: Comparison) -> list[str]:
    """Metrics without a value on test in some run, by their reason; each once."""
    found = [run.result.metrics.get("test", {}).get("undefined") or {} for run in comparison.runs]
    names: dict[str, dict[str, None]] = {}
    for reasons in found:
        for name, reason in reasons.items():
            names.setdefault(reason, {})[name] = None
    return [f"{phrasing.listed(list(those))}: {reason}" for reason, those in names.items()]


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
        rows.append(Row([Cell(text) for text in (*cells, *(place.get(key, phrasing.DASH) for key in differing))]))
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
        _mean(
            [value for run in variant.runs if (value := known.value(run.result.metrics.get("test") or {})) is not None]
        )
        for known in _quality(comparison.output)
    ]
    peaks = [value for run in variant.runs if (value := peak_bytes(run.result)) is not None]
    gap, verdict = phrasing.difference(comparison, variant)
    tested = None if comparison.best in (None, variant) else comparison.pair(variant, comparison.best or variant)
    spent = [
        (variant.average("cost", "train_seconds"), phrasing.seconds),
        (_mean(peaks), phrasing.size),
        (variant.average("cost", "saved_model_bytes"), phrasing.size),
    ]
    return [
        Cell(variant.name, (f"seed{'s' if len(variant.runs) > 1 else ''} {seeds}",)),
        Cell(phrasing.decimal(variant.value), _uncertainty(variant), _bar(variant, *scale), variant.value),
        Cell(comparison.letters.get(variant.name, phrasing.DASH)),
        Cell(gap, (verdict,) if verdict else (), key=0.0 if tested is None else tested.pair.gap),
        *(_number(value) for value in (_mean(variant.primaries("val")), *quality)),
        Cell(phrasing.count(trainable), (phrasing.percent(trainable, total),), key=trainable),
        *(Cell(written(value), key=value) for value, written in spent),
    ]


def _number(value: float | None) -> Cell:
    return Cell(phrasing.decimal(value), key=value)


def _uncertainty(variant: Variant) -> tuple[str, ...]:
    spread = (min(variant.points), max(variant.points)) if len(variant.points) > 1 else None
    known = [(variant.interval, "{}"), (spread, "seeds {}")]
    told = tuple(form.format(phrasing.span(ends)) for ends, form in known if ends)
    return told if variant.interval or variant.value is None else ("no interval", *told)


def _bar(variant: Variant, low: float, high: float) -> tuple[float, float, float] | None:
    if variant.interval is None or variant.value is None or high <= low:
        return None
    start, end, at = ((value - low) / (high - low) for value in (*variant.interval, variant.value))
    return start, end, at


def _baselines(comparison: Comparison, width: int) -> list[list[Cell]]:
    """What is scored without reading the image, or without understanding the text; a row for each that differs."""
    text = comparison.output == "text"
    metrics = [registry.primary(comparison.output), *_quality(comparison.output)]
    found: dict[tuple[str, tuple[float | None, ...]], None] = {}
    for run in comparison.runs:
        test = run.result.metrics.get("test") or {}
        recorded = test.get("baselines") or ({"constant": None} if text else {})
        for name in [name for name in BASELINES if name in recorded]:
            sources = [recorded[name] or {}, (test.get("constant_baseline") or {}) if name == "constant" else {}]
            values = ([known.value(source) for source in sources] for known in metrics)
            found[name, tuple(next((v for v in tried if v is not None), None) for tried in values)] = None
    rows = []
    for name, (primary, *others) in found:
        who, how = BASELINES[name]
        cells = [Cell(who, (how,)), _number(primary), *[Cell(phrasing.DASH)] * 3, *map(_number, others)]
        rows += [cells + [Cell(phrasing.DASH)] * (width - len(cells))] if primary is not None else []
    return rows


def _quality(output: str) -> list[registry.Metric]:
    """The metrics of the table's columns after the primary one."""
    return [known for known in registry.shown_in("table", output) if not known.primary]


def _scale(comparison: Comparison) -> tuple[float, float]:
    """The range of all intervals of a table, so that their bars can be compared by eye."""
    ends = [end for variant in comparison.variants for end in variant.interval or ()]
    return (min(ends), max(ends)) if ends else (0.0, 0.0)


def _kind(comparison: Comparison, variant: Variant) -> str:
    return "best" if variant is comparison.best and len(comparison.variants) > 1 else ""


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
