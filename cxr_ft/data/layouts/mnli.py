"""MultiNLI, pairs of a premise and a hypothesis, as its makers and as GLUE give it.

    multinli_1.0/multinli_1.0_{train,dev_matched,dev_mismatched}.jsonl     the folder, or multinli_1.0.zip
    MNLI/{train,dev_matched,dev_mismatched}.tsv                            GLUE's; the folder, or MNLI.zip
    hub://nyu-mll/multi_nli                                                or a copy of it
    any table, or duckdb, bigquery    columns premise, hypothesis (sentence1, sentence2), label (gold_label), split

`text` is the premise, `text_pair` the hypothesis. Pairs whose annotators did not agree ("-") have no label. Premises
that are nearly the same stay together: each was given to several writers. With --official val is dev_matched and test
is dev_mismatched, which is of other genres; GLUE keeps the labels of its own test sets back.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import json_values
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _releases, _texts
from cxr_ft.data.records import Records
from cxr_ft.data.sources import locations
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: The hub numbers the classes.
NAMES = {"0": "entailment", "1": "neutral", "2": "contradiction"}
CARD = DatasetCard(
    name="MultiNLI",
    labels=("entailment", "neutral", "contradiction"),
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="public",
    source="https://cims.nyu.edu/~sbowman/multinli/",
    terms="OANC's licence for most of it; see the paper, section 2.1",
    citation="Williams et al., A broad-coverage challenge corpus for sentence understanding through inference, NAACL "
    "(2018)",
)
COLUMNS = {
    "text": ("premise", "sentence1", "text"),
    "text_pair": ("hypothesis", "sentence2", "text_pair"),
    "label": ("label", "gold_label"),
}
SPLITS = ("train", "dev_matched", "dev_mismatched")


def records(source: str) -> Records:
    """Return the records of MultiNLI.

    Raises:
        UsageError: where it cannot be read, or lacks a column.
    """
    where = locations.normalized(source)
    table = _texts.read(where, COLUMNS, _release)
    if "text_pair" not in table:
        raise UsageError(f"{where} has no column of the hypothesis: {' or '.join(COLUMNS['text_pair'])}; rename it")
    table["label"] = _texts.named(table["label"], NAMES, where)
    return _texts.assemble(table, where, CARD, [])


def demo(folder: Path) -> str:
    """Return a tiny MultiNLI for tests; the source to give to `records`."""
    root = folder / "multinli_1.0"
    root.mkdir(parents=True)
    ends = {"entailment": "Something was seen.", "neutral": "It was a fine day.", "contradiction": "Nothing was seen."}
    for split, count in (("train", 20), ("dev_matched", 8), ("dev_mismatched", 8)):
        rows = [
            {"sentence1": f"Witness {split} {i} saw {i} birds.", "sentence2": text, "gold_label": label}
            for i in range(count)
            for label, text in ends.items()
        ]
        rows.append({"sentence1": "Nobody agreed.", "sentence2": "On this.", "gold_label": "-"})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"multinli_1.0_{split}.jsonl").write_text(text)
    return str(root)


def _release(where: str) -> "pd.DataFrame | None":
    import pandas as pd

    rows = []
    for name, content in _releases.members(where, lambda name: bool(_split(name))):
        raw_rows = _releases.tsv(name, content) if name.endswith(".tsv") else _json_lines(name, content)
        rows += [
            {
                "text": row["sentence1"],
                "text_pair": row["sentence2"],
                "label": row.get("gold_label", "-"),
                "split": _split(name),
            }
            for row in raw_rows
        ]
    return pd.DataFrame(rows, dtype="string") if rows else None


def _split(name: str) -> str:
    """Return the split that a file's name says, or ""."""
    stem, _, end = name.rpartition("/")[2].rpartition(".")
    split = stem.removeprefix("multinli_1.0_").removeprefix("multinli_0.9_")
    # A zip made on a Mac holds a __MACOSX/ shadow of each file, which is no data.
    hidden = name.startswith("__MACOSX/") or end not in {"jsonl", "tsv"}
    return split if split in SPLITS and not hidden else ""


def _json_lines(name: str, content: bytes) -> list[dict[str, str]]:
    try:
        return [json_values.loads(line) for line in _releases.lines(name, content) if line]
    except ValueError as error:
        raise UsageError(f"{name} is no JSON lines: {error}; fetch it again") from None
