"""SST-2, sentences and phrases of film reviews, as GLUE gives it.

    SST-2/train.tsv, dev.tsv         sentence, label; the folder or SST-2.zip
    hub://stanfordnlp/sst2           or a copy of it: data/train-*.parquet, ...
    any table, or duckdb, bigquery   columns sentence (or text), label (0, 1, negative, positive), split

The labels of test.tsv are kept back: with --official dev is the test set. Training rows are phrases cut from sentences,
so a phrase and its sentence may both be in train; a phrase of five words or more stays with the longest text that
holds it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _releases, _texts
from cxr_ft.data.records import Records
from cxr_ft.data.sources import locations

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"0": "negative", "1": "positive"}
CARD = DatasetCard(
    name="SST-2",
    labels=("negative", "positive"),
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="public",
    source="https://nlp.stanford.edu/sentiment/, as https://gluebenchmark.com/tasks gives it",
    terms="none stated by its makers; public for research",
    citation="Socher et al., Recursive deep models for semantic compositionality over a sentiment treebank, EMNLP "
    "(2013); Wang et al., GLUE, ICLR (2019)",
)
COLUMNS = {"text": ("sentence", "text"), "label": ("label",)}
#: Words of a phrase that is looked for in longer ones.
PHRASE = 5
FILES = {"train.tsv": "train", "dev.tsv": "dev", "test.tsv": "test"}


def records(source: str) -> Records:
    """Return the records of SST-2.

    Raises:
        UsageError: where it cannot be read, or lacks a column.
    """
    where = locations.normalized(source)
    table = _texts.read(where, COLUMNS, _release)
    table["label"] = _texts.named(table["label"], NAMES, where)
    return _texts.assemble(table, where, CARD, [], _phrases)


def demo(folder: Path) -> str:
    """Return a tiny SST-2 for tests; the source to give to `records`."""
    import numpy as np

    rng = np.random.default_rng(0)
    root = folder / "SST-2"
    root.mkdir(parents=True)
    words = {"0": ("dull", "clumsy", "empty", "tired"), "1": ("warm", "funny", "clever", "moving")}
    for name, rows in (("train.tsv", 60), ("dev.tsv", 20)):
        labelled = [
            (f'a {rng.choice(words[label])} film , number {i} " ', label) for i, label in enumerate("01" * (rows // 2))
        ]
        (root / name).write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in labelled))
    (root / "test.tsv").write_text("index\tsentence\n0\ta film without a label\n")
    return str(root)


def _phrases(texts: list[str]) -> list[tuple[int, int]]:
    """Return rows of phrases, each with the row of the longest text that holds it; none is tied to two texts, since a
    common phrase would tie all texts that hold it."""
    words = [text.lower().split() for text in texts]
    first: dict[str, int] = {}
    for row, one in enumerate(words):
        # Shorter phrases ("a film") occur everywhere and would tie all sentences together.
        if len(one) >= PHRASE:
            first.setdefault(" ".join(one), row)
    sizes = sorted({len(words[row]) for row in first.values()})
    row_of_phrase: dict[str, int] = {}
    # The longest first, so that a phrase stays with the longest text that has it.
    for text, row in sorted(first.items(), key=lambda item: (-len(words[item[1]]), item[0])):
        held = words[row]
        for size in sizes:
            for at in range(len(held) - size + 1):
                phrase = " ".join(held[at : at + size])
                if phrase != text and phrase in first:
                    row_of_phrase.setdefault(phrase, row)
    return [(first[phrase], row) for phrase, row in row_of_phrase.items()]


def _release(where: str) -> "pd.DataFrame | None":
    import pandas as pd

    rows = []
    for name, content in _releases.members(where, lambda name: name.rpartition("/")[2] in FILES):
        split = FILES[name.rpartition("/")[2]]
        table_rows = _releases.tsv(name, content)
        rows += [{"text": row["sentence"], "label": row.get("label", ""), "split": split} for row in table_rows]
    return pd.DataFrame(rows, dtype="string") if rows else None
