"""IMDB's film reviews, the Large Movie Review Dataset, as its makers give it.

    aclImdb/{train,test}/{pos,neg}/0_9.txt    the folder, or aclImdb_v1.tar.gz; unsup/ has no labels
    hub://stanfordnlp/imdb                    or a copy of it
    any table, or duckdb, bigquery            columns review (or text), sentiment (or label: 0, 1, neg, pos), split

The release has no validation set: with --official a part of train is taken for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _releases, _texts
from cxr_ft.data.records import Records
from cxr_ft.data.sources import locations

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
CARD = DatasetCard(
    name="IMDB",
    labels=("negative", "positive"),
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="public",
    source="https://ai.stanford.edu/~amaas/data/sentiment/",
    terms="none stated by its makers; public for research",
    citation="Maas et al., Learning word vectors for sentiment analysis, ACL (2011)",
)
#: The hub's names first, then those of Kaggle's copy.
COLUMNS = {"text": ("text", "review"), "label": ("label", "sentiment")}


def records(source: str) -> Records:
    """Return the records of the film reviews.

    Raises:
        UsageError: where they cannot be read, or a column is lacking.
    """
    where = locations.normalized(source)
    table = _texts.read(where, COLUMNS, _release)
    table["label"] = _texts.named(table["label"], NAMES, where)
    return _texts.assemble(table, where, CARD, [])


def demo(folder: Path) -> str:
    """Return a tiny release for tests, as an archive; the source to give to `records`."""
    files = {"aclImdb/README": b"demo", "aclImdb/train/unsup/0_0.txt": b"Nobody says whether this one was any good."}
    for split, count in (("train", 24), ("test", 12)):
        for label, word in (("pos", "splendid"), ("neg", "dreary")):
            for i in range(count):
                text = f"Film {split} {i} was {word}.<br /><br />I saw it {i} times, \u201ctruly\u201d."
                files[f"aclImdb/{split}/{label}/{i}_{9 if label == 'pos' else 2}.txt"] = text.encode()
    folder.mkdir(parents=True, exist_ok=True)
    _releases.tarred(folder / "aclImdb_v1.tar.gz", files)
    return str(folder / "aclImdb_v1.tar.gz")


def _release(where: str) -> "pd.DataFrame | None":
    import pandas as pd

    rows = []
    for name, content in _releases.members(where, lambda name: _place(name) is not None):
        split, label = _place(name) or ("", "")
        rows.append({"text": _releases.text(name, content), "label": label, "split": split})
    return pd.DataFrame(rows, dtype="string") if rows else None


def _place(name: str) -> tuple[str, str] | None:
    """Return the split and the label that a review's path says."""
    parts = name.split("/")
    # train/unsup/ holds 50,000 reviews without a label, which are no part of the task.
    known = len(parts) > 2 and parts[-3] in {"train", "test"} and parts[-2] in {"pos", "neg"}
    return (parts[-3], parts[-2]) if known and name.endswith(".txt") else None
