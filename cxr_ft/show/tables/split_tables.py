"""What is known of the splits: rows and subjects of each side, hashes, and what was found to stand on two of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_ft.show import phrasing
from cxr_ft.show.compare import Comparison
from cxr_ft.show.tables.main_tables import Cell, Row, Table

ABSENT = "The manifest of the splits is not at hand, or is of other files: what stands on two sides is not known here."


def splits(comparison: Comparison) -> tuple[Table, str]:
    """A row for each side as the runs recorded it, and one sentence on leaks from the splits' manifest."""
    data = comparison.runs[0].result.data
    rows = []
    for file, value in data.get("sha256", {}).items():
        side = Path(file).name.removesuffix("_split.csv")
        counts = [(data.get(key) or {}).get(side) for key in ("rows", "subjects")]
        cells = [Cell(phrasing.count(many), key=many) for many in counts]
        rows.append(Row([Cell(side.replace("_", " ")), *cells, Cell(str(value))]))
    return Table(["Split", "Rows", "Subjects", "SHA-256"], rows), _leaks(data)


def _leaks(data: Mapping[str, Any]) -> str:
    manifest = _manifest(data)
    if manifest is None or not isinstance(manifest.get("leaks"), dict):
        return ABSENT
    found = {what: many for what, many in manifest["leaks"].items() if many}
    if not found:
        kinds = phrasing.listed(list(manifest["leaks"]))
        return f"No {kinds} stands on two sides, by the manifest that was written with these files."
    told = phrasing.listed([f"{many:,} of {what}" for what, many in found.items()])
    return f"On two sides at once, by the manifest that was written with these files: {told}."


def _manifest(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest in the splits' folder, where it still describes the files that the runs read."""
    path = Path(str(data.get("splits", ""))) / "manifest.json"
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict):
        return None
    hashes = data.get("sha256", {})
    known = manifest.get("files")
    same = isinstance(known, dict) and all(known.get(Path(file).name) == value for file, value in hashes.items())
    return manifest if same else None
