"""Tabulate single runs: their provenance, comparison.csv, and the numbers that others published."""

import csv
import io
from collections.abc import Mapping, Sequence

from cxr_ft import csv_cells
from cxr_ft.score import conditions, published
from cxr_ft.score.conditions import flatten
from cxr_ft.show import number_format
from cxr_ft.show.recorded_runs import RecordedRun, names
from cxr_ft.show.tables.cells import Cell, Table, TableRow

#: A value of comparison.csv.
CsvValue = str | int | float | None


def provenance(runs: Sequence[RecordedRun]) -> tuple[Table, list[str]]:
    """Return configuration, splits and environment of each run, and what of the environment is the same for all."""
    environments = [{key: str(value) for key, value in flatten(run.result.environment)} for run in runs]
    keys = list(dict.fromkeys(key for environment in environments for key in environment))
    # What is equal everywhere is one line below the table instead of a column of it.
    differing = [key for key in keys if len({environment.get(key) for environment in environments}) > 1]
    rows = []
    for name, run, environment in zip(names([run.result for run in runs]), runs, environments, strict=True):
        hashes = run.result.data.get("sha256", {})
        splits = ", ".join(f"{file.removesuffix('_split.csv')} {value[:8]}" for file, value in hashes.items())
        base = run.result.base
        weights = ", ".join(text[:8] for text in (base.digest, base.revision) if text) or number_format.DASH
        if run.result.imported:
            weights = f"predictions from a file, {str(conditions.at(run.result.config, 'predictions.sha256'))[:8]}"
        named = f"{name}, seed {run.result.seed}" if run.result.seeded else name
        texts = [named, run.result.config_hash[:8], weights, splits]
        texts += [environment.get(key, number_format.DASH) for key in differing]
        rows.append(TableRow([Cell(text) for text in texts]))
    shared = [f"{key.removeprefix('packages.')} {environments[0][key]}" for key in keys if key not in differing]
    return Table(
        ["Run", "Configuration (hash)", "Base (weights, revision)", "Splits (SHA-256)", *differing], rows
    ), shared


def runs_csv(runs: Sequence[RecordedRun]) -> str:
    """Return a CSV of one row a run, whatever its status; numbers as recorded."""
    lines = [_csv_row(run, name) for run, name in zip(runs, names([run.result for run in runs]), strict=True)]
    # Runs of other tasks have other columns: the header is the union, in the order of their first appearance.
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(csv_cells.escape_row(columns))
    writer.writerows(csv_cells.escape_row(line.get(name, "") for name in columns) for line in lines)
    return text.getvalue()


def published_table(numbers: Sequence[published.Published]) -> Table | None:
    """Return the numbers that others published, in no order of value; None where there are none."""
    rows = [TableRow([Cell(text or number_format.DASH) for text in cells]) for cells in published.cells(numbers)]
    return Table(list(published.HEAD), rows) if rows else None


def _csv_row(run: RecordedRun, name: str) -> dict[str, CsvValue]:
    result = run.result
    hashes = result.data.get("sha256", {})
    line: dict[str, CsvValue] = {
        "folder": str(run.folder),
        "status": result.status,
        "task": result.task,
        "variant": name,
        "seed": result.seed,
        "config_hash": result.config_hash,
        "base_weights": result.base.digest,
        "base_revision": result.base.revision,
        **{f"sha256 {file}": value for file, value in hashes.items()},
    }
    for split, values in result.metrics.items():
        # Only numbers: nested parts (by label, by group) have tables of their own.
        flat = {**values, **{f"macro {key}": value for key, value in (values.get("macro") or {}).items()}}
        line |= {f"{split} {key}": v for key, v in flat.items() if v is None or isinstance(v, int | float)}
    for key, value in result.cost.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        line |= {f"{key} {part}".strip(): v for part, v in parts.items()}
    return line | {"error": result.error}
