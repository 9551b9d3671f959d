"""Split CSVs and the manifest that certifies them: written here, read here.

`manifest.json` says what was asked, what was achieved for each label, what binds, and the SHA-256 of every file.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft import plugins
from cxr_ft.data import phantom
from cxr_ft.data.audit import leak_audit
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.pixels import image_decode
from cxr_ft.data.records import IDS, SPLITS, Records, root_folder
from cxr_ft.data.sources import address, locations
from cxr_ft.data.splits import text_rows
from cxr_ft.data.splits.compiler import Compiled, compile_splits
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.errors import LeakError, UsageError
from cxr_ft.files import cache_folder, check_writable, sha256, staged, write_json

if TYPE_CHECKING:
    import pandas as pd

#: Draws a manifest's chart into a file; given by those who may import what draws.
Draw = Callable[[dict[str, Any], Path], None]
CHART = "distribution.png"
FILES = {name: f"{name}_split.csv" for name in (*SPLITS, "test_natural")}
OFFICIAL_LEAKS = "the data's own split, kept as asked by --official, has subjects or images on two sides"
#: The kind of a LeakError, where it is not the audit's own word.
KIND_OF = {"path": "image", "near-identical text": "text"}
NEEDED = (*IDS, "path", "view", "split", "weight")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A folder of splits as read: its manifest, card and tables by side."""

    folder: Path
    manifest: dict[str, Any]
    card: DatasetCard
    tables: dict[str, "pd.DataFrame"]

    @property
    def root(self) -> str:
        """What paths in the CSVs are relative to: a folder, or a phantom's specification."""
        return str(self.manifest["root"])

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each CSV, of the files as they are now."""
        return {FILES[name]: sha256(self.folder / FILES[name]) for name in self.tables}


def write(
    out: Path, records: Records, layout: str, asked: SplitRequest, compiled: Compiled, *, draw: Draw | None = None
) -> dict[str, Any]:
    """Write the CSVs, `rejected.csv`, the chart and last `manifest.json` into `out`; return the manifest.

    Raises:
        LeakError: where two of the compiled splits share a subject, a study, an image or a text; nothing is written.
        UsageError: where the folder cannot be written.
    """
    import pandas as pd

    tables = {FILES[name]: table for name, table in compiled.tables.items()}
    whole = pd.concat([compiled.tables[name] for name in SPLITS], ignore_index=True)
    tables[f"sampled_{asked.per_label}_per_label.csv"] = whole
    tables["rejected.csv"] = pd.DataFrame(compiled.rejected, columns=["path", "reason", "detail"])
    reasons = pd.Series([reason for _, reason, _ in compiled.rejected], dtype="string").value_counts()
    texts = text_rows.counted(records, compiled.tables) if records.card.unit == "text" else None
    said = [] if texts is None else [text_rows.in_words(texts, records.card.group)]
    manifest: dict[str, Any] = {
        "version": 1,
        "layout": layout,
        "root": records.root,
        "card": records.card.to_json(),
        "asked": dataclasses.asdict(asked),
        "counts": {**compiled.counts, "by_reason": {str(k): int(v) for k, v in sorted(reasons.items())}},
        "rows": {name: len(table) for name, table in compiled.tables.items()},
        "subjects": {name: int(table["subject_id"].nunique()) for name, table in compiled.tables.items()},
        "labels": compiled.labels,
        "binds": [name for name, row in compiled.labels.items() if row["available"] < asked.per_label],
        "worst_overshoot": round(compiled.worst_overshoot, 6),
        "selection": compiled.selection,
        "weights": compiled.weights,
        **({} if texts is None else {"texts": texts}),
        "leaks": (leaks := _certified(compiled, records.card, asked, out)),
        "notes": [*compiled.notes, *said, *([OFFICIAL_LEAKS] if any(leaks.values()) else [])],
    }
    with staged(out, last="manifest.json") as folder:
        for name, table in tables.items():
            _whole_numbers(table, records.card).to_csv(folder / name, index=False, lineterminator="\n")
        manifest["files"] = {name: sha256(folder / name) for name in sorted(tables)}
        if draw is not None:
            draw(manifest, folder / CHART)
        write_json(folder / "manifest.json", manifest)
    for stale in out.glob("sampled_*_per_label.csv"):
        if stale.name not in tables:
            stale.unlink()  # of earlier splits in the same folder, which the new manifest does not know
    return manifest


def _certified(compiled: Compiled, card: DatasetCard, asked: SplitRequest, out: Path) -> dict[str, int]:
    """Return how many values of each kind two splits share, counted by the code of `cxr-split --audit`.

    The data's own split is taken as it is: its leaks are counted, not refused.

    Raises:
        LeakError: where two compiled splits share anything; `out` is the folder that its message names.
    """
    kinds = [[*IDS, "path"]] if card.unit != "text" else [list(IDS)]
    # By themselves: beside a column of subjects the audit would pass over what several of them have.
    kinds += [["text"]] if card.group == "near-duplicate" else []
    parts = [leak_audit.compare({name: table[kind] for name, table in compiled.tables.items()}) for kind in kinds]
    compared, leaks = (list(chain.from_iterable(part)) for part in zip(*parts, strict=True))
    if leaks and not asked.official:
        first = leaks[0]
        raise LeakError(KIND_OF.get(first.what, first.what), (first.left, first.right), first.count, out)
    said = [*compared, *(leak.what for leak in leaks)]
    return {what: sum(leak.count for leak in leaks if leak.what == what) for what in dict.fromkeys(said)}


def read(folder: Path) -> Splits:
    """The splits in a folder.

    Raises:
        UsageError: where the manifest or a CSV is missing, or a CSV lacks its columns or was changed since.
    """
    manifest = _manifest(folder)
    card = DatasetCard.from_json(manifest["card"])
    labels = card.labels if card.multi_label else ("label",)
    tables = {name: _read_table(folder / file, (*NEEDED, *labels), labels, card) for name, file in FILES.items()}
    for name, file in FILES.items():
        if manifest["files"].get(file) != sha256(folder / file):
            raise UsageError(f"{folder / file} is not the file its manifest certifies; run cxr-split again")
        if tables[name].empty:
            raise UsageError(f"{folder / file} has no rows")
    return Splits(folder=folder, manifest=manifest, card=card, tables=tables)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no manifest.json: give a folder that cxr-split wrote") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not {"root", "card", "asked", "files"} <= manifest.keys():
        raise UsageError(f"{path} is no manifest of cxr-split")
    return manifest


def _read_table(path: Path, needed: tuple[str, ...], labels: tuple[str, ...], card: DatasetCard) -> "pd.DataFrame":
    import pandas as pd

    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
        if missing := [column for column in needed if column not in header]:
            raise UsageError(f"{path} has no column {', '.join(missing)}; it has {', '.join(header[:20])}")
        numbers = {"weight", *(labels if card.multi_label else ())}
        dtypes = {name: "float64" if name in numbers else "string" for name in header}
        table = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values={name: [""] for name in numbers})
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; run cxr-split again") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return table


def _whole_numbers(table: "pd.DataFrame", card: DatasetCard) -> "pd.DataFrame":
    """Labels as 1, 0, -1 or nothing, not as 1.0."""
    names = [name for name in card.labels if card.multi_label and name in table]
    return table.astype(dict.fromkeys(names, "Int64"))


def make(source: str, layout: str, asked: SplitRequest, out: Path, draw: Draw | None = None) -> dict[str, Any]:
    """What `cxr-split` does: read the archive, compile the splits, write them; return the manifest.

    Args:
        draw: draws the manifest's chart into a file; None: no chart is written.

    Raises:
        UsageError: for whatever is wrong with the source, the options or the folder; nothing is written then.
    """
    check_writable(out)
    records = plugins.load(plugins.LAYOUTS, layout).records(source)
    if records.card.unit == "text":
        records, asked = text_rows.about(dataclasses.replace(records, root=_resolved(records.root)), asked)
        compiled = compile_splits(records, asked, lambda _: {})
        return write(out, records, layout, asked, compiled, draw=draw)
    root = root_folder(records.root)
    at_hand = locations.has_images(root, list(records.table["path"].head(1000)))

    def check(paths: Sequence[str]) -> dict[str, tuple[str, str]]:
        return image_decode.unreadable(root, paths) if at_hand else {}

    compiled = compile_splits(records, asked, check)
    if not at_hand:
        compiled.notes.append(f"no image of {records.root} is at hand: none was checked")
    records = dataclasses.replace(records, root=_resolved(records.root))
    return write(out, records, layout, asked, compiled, draw=draw)


def _resolved(root: str) -> str:
    """A local root as it is found from anywhere."""
    return root if phantom.is_spec(root) or address.is_url(root) else str(root_folder(root).resolve())


#: The embedded default: `data_splits/phantom` in a checkout, else made in the user's cache folder.
DEFAULT_SOURCE = "phantom:subjects=1000,seed=0,size=160"
DEFAULT_ASKED = SplitRequest(per_label=100, text="all")


def default_splits() -> Path:
    """The phantom's splits: the checkout's, or the same made in the cache folder on first use."""
    tracked = Path("data_splits/phantom")
    if (tracked / "manifest.json").exists():
        return tracked
    cached = cache_folder() / "data_splits" / "phantom"
    if not (cached / "manifest.json").exists():
        make(DEFAULT_SOURCE, "mimic_cxr", DEFAULT_ASKED, cached)
    return cached
