"""Synthetic texts with known truth, for trying the studies of texts without a network: as the phantom is of films.

    texts:reviews,rows=400,seed=0      text, label: three opinions, the label is that of most of them
    texts:tweets,rows=400              text, label: three classes; neutral ones say what is, and no opinion
    texts:pairs,rows=400               premise, hypothesis, label: entailment, neutral, contradiction
    texts:resumes,rows=400             Resume, Category, split: every text several times, as in the public table

A specification names a table, written to the user's cache folder when it is first needed: CSV, or with `as=duckdb` the
table `texts` in a DuckDB file. Its bytes follow from kind, rows and seed alone (CSV), its rows do (DuckDB).

Pairs give much away by the hypothesis alone, as real ones do (Gururangan et al., NAACL 2018). One resume in five is of
somebody who changed trade: its text does not tell its category. `split` parts the rows at random, so that it leaks.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np

from cxr_ft.errors import UsageError, unknown
from cxr_ft.files import atomic, cache_folder

#: Raised whenever the same specification would give other rows.
FORMAT = 1
PREFIX = "texts:"
LIMITS = {"rows": (30, 100_000), "seed": (0, 2**31 - 1)}
DEFAULTS = {"rows": 400, "seed": 0}
ENDS = ("csv", "duckdb")
Row = dict[str, str]

_GOOD = ("splendid", "warm", "clever", "moving", "bright", "graceful", "gripping", "tender", "witty", "superb")
_BAD = ("dull", "clumsy", "empty", "tired", "noisy", "lifeless", "muddled", "tedious", "shallow", "awful")
_PARTS = ("story", "music", "acting", "camera", "dialogue", "ending", "opening", "humour", "pace", "costumes")
_SEEN = ("a matinee", "a festival", "my sofa", "a night train", "a school hall", "an open field", "a small cinema")
_WITH = ("my aunt", "two friends", "nobody", "a merry crowd", "my brother", "three colleagues", "a sleeping dog")
_PLACES = ("harbour", "market", "library", "station", "garden", "museum", "bakery", "stadium", "bridge", "office")
_PEOPLE = ("Ada", "Bruno", "Chen", "Dilek", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jamila", "Kofi", "Lena")
_THINGS = ("a blue kite", "an old map", "two melons", "a heavy lamp", "a red bicycle", "a box of nails", "a violin")
_TRADES = {
    "Baker": ("sourdough", "rye", "proving", "ovens", "pastry", "flour"),
    "Electrician": ("wiring", "fuses", "cables", "meters", "sockets", "earthing"),
    "Gardener": ("pruning", "hedges", "compost", "seedlings", "lawns", "orchards"),
    "Librarian": ("cataloguing", "loans", "archives", "shelving", "periodicals", "indexing"),
    "Sailor": ("rigging", "knots", "charts", "anchors", "mooring", "tides"),
}
#: A resume's copies, and one in so many whose text does not tell its category.
COPIES, CHANGED = 6, 5


def is_spec(text: str) -> bool:
    """Return True if a text names a table of synthetic texts, valid or not."""
    return text.startswith(PREFIX)


def ensure(spec: str) -> str:
    """Return the table that a specification names, made in the cache folder on first use: a source for any layout.

    Raises:
        UsageError: for an unknown kind or key, a bad value, and where the cache folder cannot be written.
    """
    kind, values, end = _parse(spec)
    name = "-".join([f"format{FORMAT}", kind, *(f"{key}{value}" for key, value in values.items())])
    path = cache_folder() / "texts" / f"{name}.{end}"
    if not path.exists():
        table = rows(kind, values["rows"], values["seed"])
        with atomic(path, private=True) as temporary:
            # Under another name first: a process that is ended half-way leaves no table that looks whole.
            (_write_duckdb if end == "duckdb" else _write_csv)(temporary, table)
    return f"duckdb://{quote(str(path.absolute()))}?table=texts" if end == "duckdb" else str(path)


def rows(kind: str, count: int, seed: int) -> list[Row]:
    """Return `count` rows of a kind, in an order by chance.

    Raises:
        UsageError: for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of texts", kind, KINDS)
    return KINDS[kind](count, np.random.default_rng([FORMAT, seed]))


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _reviews(count: int, rng: np.random.Generator) -> list[Row]:
    return [_review(bool(rng.integers(2)), rng) for _ in range(count)]


def _review(good: bool, rng: np.random.Generator) -> Row:
    dissent = int(rng.integers(6))  # below 3: one of the three opinions is the other way
    parts = rng.permutation(_PARTS)[:3]
    sentences = [
        f"The {part} was {_pick(rng, _GOOD if good != (i == dissent) else _BAD)}." for i, part in enumerate(parts)
    ]
    where = f"I saw it in {_pick(rng, _SEEN)} with {_pick(rng, _WITH)}, film {int(rng.integers(1000))} of my list."
    sentences.insert(int(rng.integers(4)), where)
    return {"text": " ".join(sentences), "label": "positive" if good else "negative"}


def _tweets(count: int, rng: np.random.Generator) -> list[Row]:
    return [_tweet(("negative", "neutral", "positive")[int(rng.integers(3))], rng) for _ in range(count)]


def _tweet(label: str, rng: np.random.Generator) -> Row:
    place, who, number = _pick(rng, _PLACES), _pick(rng, _PEOPLE), int(rng.integers(1000))
    if label == "neutral":
        text = f"the {place} opens at {int(rng.integers(6, 12))}, {who} has {_pick(rng, _THINGS)}"
    else:
        words = rng.permutation(_GOOD if label == "positive" else _BAD)[:2]
        text = f"{who} and the {place} today: {words[0]} and {words[1]}"
    # TweetEval writes every user's name as @user.
    return {"text": f"@user {text} #{place}{number}", "label": label}


def _pairs(count: int, rng: np.random.Generator) -> list[Row]:
    # As in MultiNLI, whose writers invented a hypothesis of each class for every premise.
    pairs = [row for _ in range(-(-count // 3)) for row in _three(rng)]
    return [pairs[int(i)] for i in rng.permutation(len(pairs))[:count]]


def _three(rng: np.random.Generator) -> list[Row]:
    """Return a premise with a hypothesis of each class."""
    who, thing, place = _pick(rng, _PEOPLE), _pick(rng, _THINGS), _pick(rng, _PLACES)
    premise = f"{who} carried {thing} past the {place} at {int(rng.integers(1, 13))} on day {int(rng.integers(1000))}."
    ends = {
        "entailment": (
            f"{who} carried something.",
            f"Something went past the {place}.",
            f"{who} was near the {place}.",
        ),
        "neutral": (
            f"{who} was happy to own {thing}.",
            f"{who} was late for work.",
            f"The {place} was bought last year.",
        ),
        "contradiction": (f"Nobody carried {thing}.", f"{who} never left home.", f"No one went past the {place}."),
    }
    return [{"premise": premise, "hypothesis": _pick(rng, choices), "label": label} for label, choices in ends.items()]


def _resumes(count: int, rng: np.random.Generator) -> list[Row]:
    distinct = [_resume(i, rng) for i in range(-(-count // COPIES))]
    copied = [distinct[i % len(distinct)] for i in range(count)]
    # 70/15/15 of the rows and not of the texts: copies of a text fall into several splits, as when the public table is
    # split by rows.
    splits = ("train",) * 14 + ("val",) * 3 + ("test",) * 3
    return [{**copied[int(i)], "split": splits[int(rng.integers(20))]} for i in rng.permutation(count)]


def _resume(index: int, rng: np.random.Generator) -> Row:
    trades = tuple(_TRADES)
    trade, other = (str(name) for name in rng.permutation(trades)[:2])
    described = other if index % CHANGED == 0 else trade
    skills = rng.permutation(_TRADES[described])[:4]
    jobs = [f"{2000 + int(year)} {_pick(rng, _PLACES)}" for year in rng.integers(25, size=3)]
    text = f"Skills: {', '.join(skills)}.\nJobs: {', '.join(jobs)}.\nLikes {_pick(rng, _THINGS)}."
    return {"Resume": text, "Category": trade}


KINDS: dict[str, Callable[[int, np.random.Generator], list[Row]]] = {
    "reviews": _reviews,
    "tweets": _tweets,
    "pairs": _pairs,
    "resumes": _resumes,
}


def _parse(spec: str) -> tuple[str, dict[str, int], str]:
    kind, *parts = spec.removeprefix(PREFIX).split(",")
    if kind not in KINDS:
        raise unknown("kind of texts", kind, KINDS, f"specification {spec!r}")
    values, end = dict(DEFAULTS), ENDS[0]
    for part in filter(None, parts):
        key, _, text = part.partition("=")
        if key == "as" and text in ENDS:
            end = text
        elif key not in DEFAULTS:
            raise unknown("key", part, [*DEFAULTS, *(f"as={known}" for known in ENDS)], f"specification {spec!r}")
        elif not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not LIMITS[key][0] <= int(text) <= LIMITS[key][1]:
            least, most = LIMITS[key]
            raise UsageError(f"{key}={text} in specification {spec!r}: give a whole number from {least} to {most}")
        else:
            values[key] = int(text)
    return kind, values, end


def _write_csv(path: Path, table: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def _write_duckdb(path: Path, table: list[Row]) -> None:
    import pyarrow as pa

    try:
        import duckdb
    except ImportError:
        raise UsageError("texts:...,as=duckdb needs the package duckdb: pip install duckdb") from None
    path.unlink()  # DuckDB makes its own file, and takes no empty one
    with duckdb.connect(str(path)) as connection:
        connection.register("rows_in_memory", pa.Table.from_pylist(table))
        connection.execute("CREATE TABLE texts AS SELECT * FROM rows_in_memory")
