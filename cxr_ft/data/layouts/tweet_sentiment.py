"""Sentiment of tweets, in three releases.

    sentiment/{train,val,test}_{text,labels}.txt, mapping.txt    TweetEval's folder (SemEval-2017 task 4 A)
    training.1600000.processed.noemoticon.csv, testdata.manual.2009.06.14.csv    Sentiment140: the folder, or its .zip
    hub://cardiffnlp/tweet_eval/sentiment                        or a copy of it
    any table, or duckdb, bigquery    columns text, sentiment (or label: 0, 1, 2, negative, neutral, positive), split

Sentiment140's training labels were read off emoticons, and its users' names are not read. Tweets of one user may be
in two splits: short tweets that many send would otherwise tie all users together.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _releases, _texts
from cxr_ft.data.records import Records
from cxr_ft.data.sources import locations
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

#: As in TweetEval's mapping.txt.
NAMES = {"0": "negative", "1": "neutral", "2": "positive"}
#: Sentiment140's own numbers.
POLARITIES = {"0": "negative", "2": "neutral", "4": "positive"}
CARD = DatasetCard(
    name="tweet sentiment",
    labels=("negative", "neutral", "positive"),
    multi_label=False,
    unit="text",
    group="near-duplicate",
    sensitivity="public",
    source="https://github.com/cardiffnlp/tweeteval, http://help.sentiment140.com/for-students",
    terms="Twitter's terms; for research",
    citation="Rosenthal et al., SemEval-2017 task 4: sentiment analysis in Twitter (2017); Barbieri et al., TweetEval, "
    "Findings of EMNLP (2020); Go et al., Twitter sentiment classification using distant supervision (2009)",
)
COLUMNS = {"text": ("text", "tweet"), "label": ("sentiment", "label")}
SENTIMENT140 = {"training.1600000.processed.noemoticon.csv": "train", "testdata.manual.2009.06.14.csv": "test"}
TWEET_EVAL = tuple(f"{split}_{what}.txt" for split in ("train", "val", "test") for what in ("text", "labels"))


def records(source: str) -> Records:
    """Return the records of tweets.

    Raises:
        UsageError: where they cannot be read, or a column is lacking.
    """
    where = locations.normalized(source)
    own_format = _sentiment140(where) if where.rpartition("/")[2] in SENTIMENT140 else None
    table = _texts.read(where, COLUMNS, _release) if own_format is None else own_format
    table["label"] = _texts.named(table["label"], NAMES, where)
    return _texts.assemble(table, where, CARD, [])


def demo(folder: Path) -> str:
    """Return a tiny TweetEval for tests; the source to give to `records`."""
    root = folder / "sentiment"
    root.mkdir(parents=True)
    words = ("sad", "here", "great")
    for split, count in (("train", 45), ("val", 15), ("test", 15)):
        texts = [f'@user {split} {i} "it is {words[i % 3]} #day{i}' for i in range(count)]
        (root / f"{split}_text.txt").write_text("\n".join(texts) + "\n")
        (root / f"{split}_labels.txt").write_text("".join(f"{i % 3}\n" for i in range(count)))
    return str(root)


def _release(where: str) -> "pd.DataFrame | None":
    import pandas as pd

    wanted = {*SENTIMENT140, *TWEET_EVAL}
    contents = {
        name.rpartition("/")[2]: content
        for name, content in _releases.members(where, lambda name: name.rpartition("/")[2] in wanted)
    }
    parts = [_polar(name, contents[name]) for name in SENTIMENT140 if name in contents]
    for split in ("train", "val", "test"):
        if f"{split}_text.txt" in contents:
            parts.append(_tweet_eval(where, split, contents))
    return pd.concat(parts, ignore_index=True) if parts else None


def _sentiment140(where: str) -> "pd.DataFrame":
    folder, name = locations.split(where)
    contents = dict(_releases.members(folder, lambda one: one == name))
    if name not in contents:
        raise UsageError(f"{where} does not exist: give Sentiment140's folder or one of its tables")
    return _polar(name, contents[name])


def _polar(name: str, content: bytes) -> "pd.DataFrame":
    """Return Sentiment140's rows: polarity, id, date, query, user, text; without a header, in Latin-1."""
    import pandas as pd

    # keepends: a line break inside a quoted cell belongs to the tweet.
    rows = list(csv.reader(_releases.text(name, content, "latin-1").splitlines(keepends=True)))
    if bad := next((row for row in rows if len(row) != 6 or row[0] not in POLARITIES), None):
        raise UsageError(f"{name}: a row has {len(bad)} cells or another polarity than 0, 2, 4; fetch it again")
    # row[4] is a user's name, which is not needed.
    table = [{"text": row[5], "label": POLARITIES[row[0]], "split": SENTIMENT140[name]} for row in rows]
    return pd.DataFrame(table, dtype="string")


def _tweet_eval(where: str, split: str, contents: dict[str, bytes]) -> "pd.DataFrame":
    import pandas as pd

    names = [f"{split}_{what}.txt" for what in ("text", "labels")]
    texts, labels = (_releases.lines(name, contents.get(name, b"")) for name in names)
    # Line i of one file belongs to line i of the other: one line too many shifts all labels behind it.
    if len(texts) != len(labels):
        raise UsageError(f"{where}: {names[0]} has {len(texts)} lines, {names[1]} {len(labels)}; fetch them again")
    return pd.DataFrame({"text": texts, "label": labels}, dtype="string").assign(split=split)
