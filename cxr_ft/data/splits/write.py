"""Read an archive, compile its splits, check them for leaks, and write the CSVs and the manifest: cxr-split."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cxr_ft import csv_cells, plugins
from cxr_ft.data import sameness
from cxr_ft.data.audit import acquisition, leak_audit
from cxr_ft.data.card import SENSITIVITIES, DatasetCard
from cxr_ft.data.manifest import FILES, MANIFEST, ConfoundsJson, Manifest, RequestOptions, TextCounts
from cxr_ft.data.pixels import image_decode
from cxr_ft.data.records import IDS, SPLITS, Records, is_phantom, root_folder
from cxr_ft.data.sources import address, locations
from cxr_ft.data.splits.compiler import CompiledSplits, compile_splits
from cxr_ft.data.splits.confounds import audited
from cxr_ft.data.splits.request import SplitRequest, for_texts
from cxr_ft.errors import LeakError, unknown
from cxr_ft.files import cache_folder, check_writable, sha256, staged, write_json

if TYPE_CHECKING:
    import pandas as pd

#: Draws a manifest's chart into a file; passed in by code that may import the charts.
DrawChart = Callable[[Manifest, Path], None]
CHART = "distribution.png"
OFFICIAL_LEAKS = "the data's own split, kept because of --official, has subjects or images in more than one split"
#: The kind of a LeakError, where it is not the audit's own word.
KIND_OF = {"path": "image", "pixels": "image", "near-identical text": "text"}
#: The splits that a checkout tracks in data_splits/phantom.
DEFAULT_SOURCE = "phantom:subjects=1000,seed=0,size=160"
DEFAULT_REQUEST = SplitRequest(per_label=100, text="all")


def make_splits(
    source: str,
    layout: str,
    request: SplitRequest,
    out: Path,
    draw: DrawChart | None = None,
    *,
    sensitivity: str | None = None,
) -> Manifest:
    """Read the archive, compile the splits, write them into `out`, and return the manifest: what cxr-split does.

    Args:
        draw: draws the manifest's chart into a file; None: no chart is written.
        sensitivity: of the data, as its owner declares it; None: as the layout's card does.

    Raises:
        UsageError: where the source, the options or the folder is wrong; nothing is written then.
    """
    began = time.process_time()
    # Before the archive is read, which may take long: a folder that cannot be written should fail at once.
    if sensitivity is not None and sensitivity not in SENSITIVITIES:
        raise unknown("sensitivity", sensitivity, SENSITIVITIES)
    check_writable(out)
    records: Records = plugins.load(plugins.LAYOUTS, layout).records(source)
    if sensitivity is not None:
        card = dataclasses.replace(records.card, sensitivity=sensitivity)
        records = dataclasses.replace(records, card=card)
    if records.card.unit == "text":
        records, request = for_texts(dataclasses.replace(records, root=_resolved(records.root)), request)
        compiled = compile_splits(records, request, lambda _: image_decode.NOT_CHECKED)
        return write_splits(out, records, layout, request, compiled, draw=draw)
    root = root_folder(records.root)
    at_hand = locations.has_images(root, list(records.table["path"].head(1000)))
    # Measured while they are checked: each image is decoded once.
    seen = acquisition.Acquisitions(root)

    def check(paths: Sequence[str]) -> image_decode.CheckedImages:
        return seen.check(paths) if at_hand else image_decode.NOT_CHECKED

    compiled = compile_splits(records, request, check)
    spent = time.process_time() - began
    confounds = audited(compiled.tables, records.card, request, seen, spent)
    if not at_hand:
        compiled.notes.append(f"no image of {records.root} is available here: none was checked")
    # After the check, since messages name the folder as the user wrote it; the manifest must work from any working
    # folder.
    records = dataclasses.replace(records, root=_resolved(records.root))
    return write_splits(out, records, layout, request, compiled, draw=draw, confounds=confounds)


def default_splits() -> Path:
    """Return the splits of the synthetic archive: the checkout's, or the same made in the cache folder on first use."""
    tracked = Path("data_splits/phantom")
    if (tracked / MANIFEST).exists():
        return tracked
    cached = cache_folder() / "data_splits" / "phantom"
    if not (cached / MANIFEST).exists():
        make_splits(DEFAULT_SOURCE, "mimic_cxr", DEFAULT_REQUEST, cached)
    return cached


def write_splits(
    out: Path,
    records: Records,
    layout: str,
    request: SplitRequest,
    compiled: CompiledSplits,
    *,
    draw: DrawChart | None = None,
    confounds: ConfoundsJson | None = None,
) -> Manifest:
    """Write the CSVs, `rejected.csv`, the chart and last `manifest.json` into `out`; return the manifest.

    Args:
        confounds: the confound audit; None: there was none.

    Raises:
        LeakError: where two of the compiled splits share a subject, a study, an image or a text; nothing is written.
        UsageError: where the folder cannot be written.
    """
    import pandas as pd

    tables = {FILES[name]: table for name, table in compiled.tables.items()}
    whole = pd.concat([compiled.tables[name] for name in SPLITS], ignore_index=True)
    tables[f"sampled_{request.per_label}_per_label.csv"] = whole
    tables["rejected.csv"] = pd.DataFrame(compiled.rejected, columns=["path", "reason", "detail"])
    # The certificate comes before the first file: splits that leak are never on disk.
    leaks = _certified_leaks(compiled, records.card, records.root, request, out)
    manifest = _manifest(records, layout, request, compiled, leaks=leaks, confounds=confounds)
    if (position := _position(records.root, out)) is not None:
        manifest["root_from_splits"] = position
    # The manifest is moved into place last: a folder with a manifest has all the files that it lists.
    with staged(out, last=MANIFEST, private=True) as folder:
        for name, table in tables.items():
            csv_cells.escape_table(_whole_numbers(table, records.card)).to_csv(
                folder / name, index=False, lineterminator="\n"
            )
        # Hashed from the files, not from the tables: what a reader will open is what is certified.
        manifest["files"] = {name: sha256(folder / name) for name in sorted(tables)}
        if draw is not None:
            draw(manifest, folder / CHART)
        write_json(folder / MANIFEST, manifest)
    for stale in out.glob("sampled_*_per_label.csv"):
        if stale.name not in tables:
            stale.unlink()  # of earlier splits in the same folder, which the new manifest does not know
    return manifest


def _manifest(
    records: Records,
    layout: str,
    request: SplitRequest,
    compiled: CompiledSplits,
    *,
    leaks: dict[str, int],
    confounds: ConfoundsJson | None,
) -> Manifest:
    """Return the manifest, still without the hashes of the files."""
    import pandas as pd

    reasons = pd.Series([reason for _, reason, _ in compiled.rejected], dtype="string").value_counts()
    texts = text_counts(records, compiled.tables) if records.card.unit == "text" else None
    notes = [] if texts is None else [_text_note(texts, records.card.group)]
    manifest: Manifest = {
        "version": 1,
        "layout": layout,
        "root": records.root,
        "card": records.card.to_json(),
        "request": cast(RequestOptions, dataclasses.asdict(request)),
        "counts": {
            "records": compiled.counts["records"],
            "eligible": compiled.counts["eligible"],
            "rejected": compiled.counts["rejected"],
            "by_reason": {str(k): int(v) for k, v in sorted(reasons.items())},
        },
        "rows": {name: len(table) for name, table in compiled.tables.items()},
        "subjects": {name: int(table["subject_id"].nunique()) for name, table in compiled.tables.items()},
        "labels": compiled.labels,
        "short_labels": [name for name, row in compiled.labels.items() if row["available"] < request.per_label],
        "worst_overshoot": round(compiled.worst_overshoot, 6),
        "selection": compiled.selection,
        "weights": compiled.weights,
        **({} if texts is None else {"texts": texts}),  # type: ignore[typeddict-item]
        "leaks": leaks,
        **({} if confounds is None else {"confounds": confounds}),  # type: ignore[typeddict-item]
        "notes": [*compiled.notes, *notes, *([OFFICIAL_LEAKS] if any(leaks.values()) else [])],
        "files": {},
    }
    return manifest


def _certified_leaks(
    compiled: CompiledSplits, card: DatasetCard, root: str, request: SplitRequest, out: Path
) -> dict[str, int]:
    """Return how many values of each kind two splits share, counted by the code of `cxr-split --audit`.

    The data's own split is taken as it is: its leaks are counted, not refused.

    Raises:
        LeakError: where two compiled splits share anything; `out` is the folder that its message names.
    """
    kinds = [[*IDS, "path"]] if card.unit != "text" else [list(IDS)]
    # By themselves: together with a column of subjects the audit would pass over what several of them have.
    kinds += [["text"]] if card.group == "near-duplicate" else []
    tables = compiled.tables
    # Pixels are compared only where images were decoded; an empty column would be reported as compared.
    if compiled.pixels:
        kinds[0].append(leak_audit.PIXELS)
        tables = leak_audit.with_pixels(tables, "path", compiled.pixels)
    local_root = Path(root) if compiled.pixels and _is_local(root) else None
    exact = request.ids == "exact"
    parts = [
        # The independent code of the audit, not the compiler's own groups: an error in the compiler must not certify
        # itself.
        leak_audit.compare({name: table[kind] for name, table in tables.items()}, exact_ids=exact, root=local_root)
        for kind in kinds
    ]
    compared, leaks = (list(chain.from_iterable(part)) for part in zip(*parts, strict=True))
    if leaks and not request.official:
        first = leaks[0]
        raise LeakError(KIND_OF.get(first.kind, first.kind), (first.left, first.right), first.count, out)
    counted = dict.fromkeys([*compared, *(leak.kind for leak in leaks)])
    return {kind: sum(leak.count for leak in leaks if leak.kind == kind) for kind in counted}


def text_counts(records: Records, tables: "dict[str, pd.DataFrame]") -> TextCounts:
    """Count distinct texts, the groups that stay together, and each split's texts that are word for word in train.

    The last is not 0 where subjects are known: a stock report of one subject is no copy of another's.
    """
    normal = {name: table["text"].map(sameness.text_key) for name, table in tables.items()}
    train = set(normal.pop("train"))
    groups = records.table["subject_id"].value_counts()
    return {
        "rows": len(records.table),
        "distinct": int(records.table["text"].map(sameness.text_key).nunique()),
        "groups": len(groups),
        "largest_group": int(groups.iloc[0]),
        "verbatim_in_train": {name: int(texts.isin(train).sum()) for name, texts in normal.items()},
    }


def _text_note(counts: TextCounts, group: str) -> str:
    note = (
        f"{counts['rows']} texts, {counts['distinct']} of them distinct, are {counts['groups']} groups that stay "
        f"together, the largest of {counts['largest_group']}"
    )
    if group == "near-duplicate":
        return note
    rows = counts["verbatim_in_train"]["test"]
    return f"{note}; {rows} texts of test are word for word in train, since other subjects have them too"


def _whole_numbers(table: "pd.DataFrame", card: DatasetCard) -> "pd.DataFrame":
    """Return the table with labels as 1, 0, -1 or nothing, not as 1.0."""
    # pandas writes a float column with missing cells as 1.0; Int64 can be missing and stays whole.
    names = [name for name in card.labels if card.multi_label and name in table]
    return table.astype(dict.fromkeys(names, "Int64"))


def _is_local(root: str) -> bool:
    return not (is_phantom(root) or address.is_url(root))


def _resolved(root: str) -> str:
    """Return a local root as it is found from any working folder."""
    return str(root_folder(root).resolve()) if _is_local(root) else root


def _position(root: str, out: Path) -> str | None:
    """Return a local root relative to the folder of the splits; None: it is not local, or on another drive."""
    if not _is_local(root):
        return None
    try:
        return Path(os.path.relpath(Path(root).resolve(), out.resolve())).as_posix()
    except ValueError:  # Windows knows no way from one drive to another
        return None
