"""Read a file of predictions that another tool wrote, and check it: scores by image and label, or texts.

Columns, in any order, by these names in upper or lower case: subject, image, label, truth, score; or subject,
reference, generated and perhaps image. Also seed (of training) and variables whose groups are compared, see `GROUPS`.
Further columns are not read. No message names a subject, an image or a text: rows are named by their number.

Shapes: N rows, L labels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cxr_ft.data import sameness
from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import subgroups

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

#: The names that each column may have, the first of them preferred; those of predictions.parquet are among them.
NAMES = {
    "subject": ("subject", "subject_id"),
    "image": ("image", "image_id", "dicom_id"),
    **{name: (name,) for name in ("seed", "split", "label", "truth", "score", "reference", "generated")},
}
#: Variables whose groups are compared, beside columns that begin with `GROUP_PREFIX`.
GROUPS = ("group", "sex", "age", "view", "race", "ethnicity", "site", "scanner")
GROUP_PREFIX = "group_"
#: The page names groups: a column of more values, or of longer ones, may hold something else.
MOST_GROUPS, LONGEST = 20, 40
#: Words for a missing number or id, in lower case.
MISSING = frozenset(("", "nan", "na", "n/a", "none", "null", "<na>"))
#: How far rounding may bring a probability out of [0, 1]; single precision needs it.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class FilePredictions:
    """Hold the predictions of one file: N rows, each seed with all of them.

    Args:
        name: what the model is called. path: the file. sha256: of its bytes.
        output: "scores" or "text".
        subjects, images: [N] keys; a row without a subject has one of its own. Texts may have no images ("").
        truth: [N, L] 1, 0 or NaN; references: N texts. Of the other kind they are empty.
        scores: by seed [N, L] in [0, 1]; generated: by seed N texts.
        groups: by variable the group of each row [N].
        seeded: whether the file names seeds; else its one seed is called 0.
        unknown_subjects: rows without a subject.
    """

    name: str
    path: Path
    sha256: str
    output: str
    subjects: Sequence[str]
    images: Sequence[str]
    labels: tuple[str, ...]
    truth: Floats
    references: Sequence[str]
    scores: Mapping[int, Floats]
    generated: Mapping[int, Sequence[str]]
    groups: Mapping[str, Sequence[str]]
    seeded: bool
    unknown_subjects: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds, from the lowest."""
        return tuple(sorted(self.generated if self.output == "text" else self.scores))


def parse(texts: Sequence[str]) -> dict[str, Path]:
    """Return the files by name of arguments such as "ours=predictions.csv".

    Raises:
        UsageError: for an argument without a name or a file, and for a name that is given twice.
    """
    out: dict[str, Path] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name.strip() or not file:
            raise UsageError(f"--predictions {text}: give a name and a file, as densenet=predictions.csv")
        if name.strip() in out:
            raise UsageError(f"--predictions: {name.strip()} is given twice; put its seeds in one file, column seed")
        out[name.strip()] = Path(file)
    return out


def read(name: str, path: Path) -> FilePredictions:
    """Return the predictions in a CSV or Parquet file.

    Raises:
        UsageError: one line, for a file that cannot be read, lacks a column, or holds what is no prediction.
    """
    table, found = _named_columns(_table(path), path)
    if not len(table):
        raise UsageError(f"{path} has no rows of predictions")
    output = "text" if {"reference", "generated"} <= set(found) and "score" not in found else "scores"
    lines = _lines(table, found, output, path)
    rows = _rows(lines, output, path)
    first, groups = rows.drop_duplicates("row"), _groups(rows, path)
    subjects, images = first["subject"].tolist(), first["image"].tolist()
    labels: tuple[str, ...] = ()
    truth, references = np.zeros((len(first), 0)), []
    scores: dict[int, Floats] = {}
    generated: dict[int, list[str]] = {}
    if output == "text":
        references = first["reference"].tolist()
        generated = {seed: part["generated"].tolist() for seed, part in _by_seed(rows)}
    else:
        labels, truth, scores = _wide(rows, path)
    return FilePredictions(
        name=name,
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        output=output,
        subjects=subjects,
        images=images,
        labels=labels,
        truth=truth,
        references=references,
        scores=scores,
        generated=generated,
        groups=groups,
        seeded="seed" in found,
        unknown_subjects=sum(subject.startswith("\n") for subject in subjects),
    )


def _table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        head = list(map(str, _csv(path, ",", rows=0).columns))
        # Spreadsheets write semicolons where a comma is the decimal sign.
        other = max((";", "\t"), key=head[0].count) if len(head) == 1 else ","
        return _csv(path, other if other in head[0] else ",")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; give a CSV or Parquet file of predictions") from None
    except pd.errors.EmptyDataError:
        raise UsageError(f"{path} is empty; give a CSV or Parquet file of predictions") from None
    except (OSError, ValueError) as error:
        # The parser's own words hold numbers of lines, and no cell.
        line = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error).splitlines()[0]
        raise UsageError(f"{path} cannot be read as {path.suffix or 'a CSV'}: {line}") from None


def _csv(path: Path, separator: str, rows: int | None = None) -> "pd.DataFrame":
    import pandas as pd

    # As text: 00007 stays what it is, and a report of the word NA is a report.
    # Without an index: of lines with one cell more than the head the first cell would be lost.
    return pd.read_csv(
        path, sep=separator, nrows=rows, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
    )


def _named_columns(table: "pd.DataFrame", path: Path) -> tuple["pd.DataFrame", list[str]]:
    """Return the table with its columns under our names, those of no use left out, and these names."""
    plain = [str(column).strip().lower() for column in table.columns]
    places = {name: next((plain.index(own) for own in owns if own in plain), -1) for name, owns in NAMES.items()}
    variables = [name for name in plain if name in GROUPS or (name.startswith(GROUP_PREFIX) and name != GROUP_PREFIX)]
    places |= {f"group:{name.removeprefix(GROUP_PREFIX)}": plain.index(name) for name in variables}
    found = [name for name, place in places.items() if place >= 0]
    texts = "generated" in found or "reference" in found
    needed = (
        ("subject", "reference", "generated")
        if texts and "score" not in found
        else (*("subject", "image", "label", "truth", "score"),)
    )
    if missing := [name for name in needed if name not in found]:
        raise UsageError(
            f"{path} lacks the column {', '.join(missing)}; predictions have subject, image, label, truth, score, or "
            "subject, reference, generated"
        )
    if twice := sorted({plain[places[name]] for name in found if plain.count(plain[places[name]]) > 1}):
        raise UsageError(f"{path} has two columns {twice[0]}; keep one")
    return table.iloc[:, [places[name] for name in found]].set_axis(found, axis=1), found


def _lines(table: "pd.DataFrame", found: Sequence[str], output: str, path: Path) -> "pd.DataFrame":
    """Return the lines of the file with keys, numbers and texts in the place of cells, and the number of each."""
    import pandas as pd

    table = table.assign(number=np.arange(1, len(table) + 1))
    if "split" in found and (test := table["split"].astype(str).str.strip() == "test").any():
        table = table[test]
    if output == "scores":
        # The predictions of a model that also writes have lines of texts, which have no label.
        table = table[~(_blank(table["label"]) & _blank(table["score"]) & _blank(table["truth"]))]
    if not len(table):
        raise UsageError(f"{path} has no rows of predictions")
    out = pd.DataFrame({"number": table["number"].to_numpy()})
    out["subject"] = _keys(table["subject"])
    out["image"] = _keys(table["image"]) if "image" in found else ""
    out["seed"] = _seeds(table, path) if "seed" in found else 0
    for column in (name for name in found if name.startswith("group:")):
        out[column] = table[column].to_numpy()
    if output == "text":
        out["reference"], out["generated"] = (_words(table[name]) for name in ("reference", "generated"))
        return out
    if missing := _first(out["number"], out["image"] == ""):
        raise UsageError(f"{path}, row {missing}: no image; each row needs the id of its image or study")
    out["label"] = [sameness.label_key(word) for word in _words(table["label"])]
    if missing := _first(out["number"], out["label"] == ""):
        raise UsageError(f"{path}, row {missing}: no label")
    out["truth"], out["score"] = (_numbers(table, name, path) for name in ("truth", "score"))
    _check(out, path)
    return out


def _check(lines: "pd.DataFrame", path: Path) -> None:
    known, score = lines["truth"].notna(), lines["score"]
    if bad := _first(lines["number"], known & ~lines["truth"].isin([0, 1])):
        raise UsageError(
            f"{path}, row {bad}: truth is {lines.loc[lines['number'] == bad, 'truth'].iloc[0]:g}; give 1 (positive), "
            "0 (negative) or nothing (not known)"
        )
    if bad := _first(lines["number"], known & ~np.isfinite(score)):
        raise UsageError(f"{path}, row {bad}: the score is missing or no finite number")
    if bad := _first(lines["number"], (score < -ROUNDING) | (score > 1 + ROUNDING)):
        raise UsageError(
            f"{path}, row {bad}: score {score[lines['number'] == bad].iloc[0]:.4g} lies outside [0, 1]; give "
            "probabilities (of a logit x: 1 / (1 + exp(-x)))"
        )


def _rows(lines: "pd.DataFrame", output: str, path: Path) -> "pd.DataFrame":
    """Return the lines, each with its row (the same for all labels and seeds), by seed and row.

    Raises:
        UsageError: for a line that stands there twice, and for seeds of other rows.
    """
    import pandas as pd

    # A row without a subject is one of its own; a line feed is in no key.
    lone = lines["subject"] == ""
    lines["subject"] = lines["subject"].where(~lone, "\n" + lines["image"])
    if output == "text" and (lines["image"] == "").any():
        # Without images a text is known by its reference; of equal ones, as of two normal reports, by its place.
        lines["image"] = ""
        text = lines["reference"].map({text: sameness.text_key(text) for text in lines["reference"].unique()})
        lines["subject"] = lines["subject"].where(~lone, "\n" + text)
        place = lines.assign(text=text).groupby(["seed", "subject", "text"]).cumcount()
        lines["subject"] = lines["subject"].where(~lone, lines["subject"] + "\n" + place.astype(str))
        keys = [lines["subject"], text, place]
    else:
        keys = [lines["subject"], lines["image"]]
    lines["row"] = pd.MultiIndex.from_arrays(keys).factorize(sort=True)[0]
    by = ["seed", "row", *(["label"] if output == "scores" else [])]
    twice = lines.duplicated(by)
    if bad := _first(lines["number"], twice):
        what = "subject, image, label and seed" if output == "scores" else "subject, image and seed"
        raise UsageError(f"{path}: {int(twice.sum())} rows repeat the {what} of another (first: row {bad}); keep one")
    lines = lines.sort_values(by, kind="stable", ignore_index=True)
    sets = {seed: part[by[1:]].to_numpy().tolist() for seed, part in _by_seed(lines)}
    first, *others = sets
    for seed in others:
        if sets[seed] != sets[first]:
            raise UsageError(
                f"{path}: the rows of seed {seed} ({len(sets[seed])}) are not those of seed {first} "
                f"({len(sets[first])}); each seed needs the same subjects, images and labels"
            )
    column = "truth" if output == "scores" else "reference"
    several = lines.fillna({"truth": -1.0} if output == "scores" else {}).groupby(by[1:])[column].nunique() > 1
    if several.any():
        raise UsageError(f"{path}: {column} of {int(several.sum())} rows differs between seeds")
    return lines


def _by_seed(rows: "pd.DataFrame") -> "list[tuple[int, pd.DataFrame]]":
    return [(seed, rows[rows["seed"] == seed]) for seed in sorted(set(rows["seed"].tolist()))]


def _wide(rows: "pd.DataFrame", path: Path) -> tuple[tuple[str, ...], Floats, dict[int, Floats]]:
    """Return labels, truth [N, L] and scores by seed [N, L]; a cell that the file lacks is not known."""
    tables = {
        seed: part.pivot(index="row", columns="label", values=["truth", "score"]) for seed, part in _by_seed(rows)
    }
    truth = next(iter(tables.values()))["truth"]
    if bool(truth.isna().to_numpy().all()):
        raise UsageError(f"{path}: truth is known in no row")
    # The score of a cell that is not known counts nowhere; as 0 it is a number.
    scores = {seed: table["score"].fillna(0.0).clip(0, 1).to_numpy(float) for seed, table in tables.items()}
    return tuple(map(str, truth.columns)), truth.to_numpy(float), scores


def _groups(rows: "pd.DataFrame", path: Path) -> dict[str, list[str]]:
    """Return by variable the group of each row [N].

    Raises:
        UsageError: where one row is in two groups, or a column holds what is no group.
    """
    out = {}
    for column in (name for name in rows.columns if name.startswith("group:")):
        name = column.removeprefix("group:")
        plain = rows[["row"]].assign(value=[word.strip() for word in _words(rows[column])])
        if (several := plain.groupby("row")["value"].nunique() > 1).any():
            raise UsageError(f"{path}: {int(several.sum())} rows are in two groups of {name}")
        values = plain.drop_duplicates("row")["value"].tolist()
        if name == "age":
            values = subgroups.age_bands(values)
        values = [subgroups.UNKNOWN if value.lower() in MISSING else value for value in values]
        if len(set(values)) > MOST_GROUPS or max(map(len, values)) > LONGEST:
            raise UsageError(
                f"{path}: {name} has {len(set(values))} different values; a variable of groups has at most "
                f"{MOST_GROUPS}, of at most {LONGEST} characters, since the page names them"
            )
        out[name] = values
    return out


def _first(numbers: "pd.Series[int]", where: "pd.Series[bool]") -> int:
    """Return the number of the first line of some, from 1; 0 where there is none."""
    return int(numbers[where].iloc[0]) if where.any() else 0


def _words(column: "pd.Series[str]") -> list[str]:
    """Return cells as texts; a missing one as ""."""
    return ["" if value is None or value != value else str(value) for value in column.tolist()]  # noqa: PLR0124


def _blank(column: "pd.Series[str]") -> "pd.Series[bool]":
    import pandas as pd

    return pd.Series([word.strip().lower() in MISSING for word in _words(column)], index=column.index)


def _keys(column: "pd.Series[str]") -> list[str]:
    """Return the key of each id [N], by the rule of the splits; "" for a missing one."""
    words = _words(column)
    keys = {word: "" if word.strip().lower() in MISSING else sameness.id_key(word) for word in set(words)}
    return [keys[word] for word in words]


def _numbers(table: "pd.DataFrame", name: str, path: Path) -> Floats:
    import pandas as pd

    words = pd.Series([word.strip().lower() for word in _words(table[name])])
    words = words.where(~words.isin(MISSING)).replace({"true": "1", "false": "0"})
    numbers = pd.to_numeric(words, errors="coerce")
    wrong = (numbers.isna() & words.notna()).to_numpy()
    if wrong.any():
        # The cell itself is not shown: where columns were mixed up it may be a text or an id.
        raise UsageError(f"{path}, row {int(table['number'].to_numpy()[wrong][0])}: {name} is no number")
    return np.asarray(numbers, float)


def _seeds(table: "pd.DataFrame", path: Path) -> npt.NDArray[np.int64]:
    numbers = _numbers(table, "seed", path)
    # Written so that NaN is refused.
    wrong = ~((numbers == np.round(numbers)) & (np.abs(numbers) < 2**53))
    if wrong.any():
        raise UsageError(f"{path}, row {int(table['number'].to_numpy()[wrong][0])}: seed is no whole number")
    return numbers.astype(np.int64)
