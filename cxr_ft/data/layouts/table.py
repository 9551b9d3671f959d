"""Read any CSV, TSV, Parquet or database table, with a map of its columns in YAML. Tables and images may be URLs.

SOURCE is the map, or the table with its map beside it: `labels.yaml` or `table.yaml` beside `labels.csv`.

    table: labels.csv            # beside the map, or a URL; not needed where SOURCE is the table
    root: images                 # what paths are relative to; by default the table's folder
    where: {Site: [A, B]}        # rows wanted: a column's value, or some of which it has one; the others are not read
    columns:                     # our name: the table's. Only path is needed
      path: "{Exam}/{File}.png"  # a column, or a pattern of columns
      subject_id: Patient        # without it each file is its own subject
      view: Projection           # also: study_id, dicom_id, split, sex, age, report, findings, impression
      label: Diagnosis           # one class an image; or leave it out and list
    labels: [Edema, Nodule]      # columns of 1, 0, -1 or nothing; {Nodule: nodule_flag} names them anew
    separator: ";"               # where a cell of label holds several: "a;b"; or list for ['a', 'b']. Each is a label
    values: {"present": 1, "absent": 0, "unsure": -1}   # where they hold words
    card: {name: my hospital, sensitivity: public}      # also: normal, source, terms, citation
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cxr_ft import safe_yaml
from cxr_ft.data.card import SENSITIVITIES, DatasetCard
from cxr_ft.data.layouts import _label_lists, _rows
from cxr_ft.data.records import Records
from cxr_ft.data.sources import address, locations, table_reader
from cxr_ft.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from yaml import Node

CARD = DatasetCard(
    name="table",
    group="unknown",
    sensitivity="credentialed",
    source="the user's own table",
    terms="unknown, so treated as credentialed: images and texts stay out of pages and trackers unless asked",
)
KEYS = ("table", "root", "where", "columns", "labels", "separator", "values", "card")
COLUMNS = (*_rows.KNOWN, "label")
#: What a map may say of the card; labels, unit and group follow from the table.
OF_CARD = ("name", "normal", "sensitivity", "source", "terms", "citation")


def records(source: str) -> Records:
    """Return the records of a table, by its map.

    Raises:
        UsageError: where the map or the table cannot be read, or the map names what is not there.
    """
    mapped_table = mapped(*_files(locations.normalized(source)))
    if len(without_path := mapped_table.rows["path"][mapped_table.rows["path"].isna()]):
        raise UsageError(
            f"{mapped_table.file}: {len(without_path)} of {len(mapped_table.rows)} rows have a path missing; fill it"
        )
    root = mapped_table.root or table_reader.image_root(mapped_table.file)
    # A patients' table is beside the database's tables, wherever the images are.
    patients_folder = locations.split(mapped_table.file)[0] if address.is_database(mapped_table.file) else root
    return _rows.assemble(
        mapped_table.rows, root, mapped_table.card, mapped_table.labels, [], patients_folder=patients_folder
    )


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """A map of columns, as its YAML file has it.

    Args:
        table: the table's place, beside the map or a URL; "" where the map names none.
        root: the folder of the images; "" where the map names none.
        where: the rows to read: for a column its value, or a list of values.
        columns: by our column name the table's column, or a pattern of columns ("{Exam}/{File}.png").
        labels: by label the column of its values; empty where each row has one class.
        separator: what separates the labels in a cell of `label`, or "list"; "" where a row has one class.
        values: by word in a label column the number it stands for, as text.
        card: changes of the data set card.
    """

    table: str
    root: str
    where: Mapping[str, object]
    columns: Mapping[str, str]
    labels: Mapping[str, str]
    separator: str
    values: dict[str, str]
    card: Mapping[str, str]


class Mapped(NamedTuple):
    """The result of a column map: rows by our names, label columns, card, address, and the root if the map has one."""

    rows: "pd.DataFrame"
    labels: tuple[str, ...]
    card: DatasetCard
    file: str
    root: str


def mapped(
    map_file: str, file: str = "", needed: str = "path", known: Sequence[str] = COLUMNS, card: DatasetCard = CARD
) -> Mapped:
    """Return the table that a map is of.

    Args:
        file: the table where the source is the table itself.
        needed: the column that the map must name, of those `known`.
        card: what the map's card changes.

    Raises:
        UsageError: where the map or the table cannot be read, or the map names what is not there.
    """
    columns = _read_map(map_file, needed, known)
    folder = locations.split(map_file)[0]
    # A table that the user names wins over the one that the map names.
    file = file or _from_map(folder, columns.table)
    if not file:
        raise UsageError(f"{map_file} names no table: give it `table: labels.csv`")
    patterns = columns.columns.values()
    needed_columns = {name for pattern in patterns for name in _names(pattern)} | set(columns.labels.values())
    raw = table_reader.read_table(file, sorted(needed_columns), where=columns.where)
    rows = raw[[]].assign(**{ours: _column(raw, pattern) for ours, pattern in columns.columns.items()})
    for label, column in columns.labels.items():
        rows[label] = raw[column].str.strip().replace(columns.values)
    labels = tuple(columns.labels)
    if columns.separator:
        listed = _label_lists.columns_of(rows.pop("label"), columns.separator, file)
        if clash := sorted({*rows.columns}.intersection(listed.columns)):
            raise UsageError(f"{file}: label {clash[0]!r} has the name of a column of ours; rename it")
        rows, labels = rows.assign(**listed.map(_flag).astype("string")), tuple(listed.columns)
    return Mapped(rows, labels, _card(columns.card, map_file, card), file, _from_map(folder, columns.root))


def demo(folder: Path) -> str:
    """Return a tiny table, its map and its images for tests; the source to give to `records`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = folder / "table"
    (root / "png").mkdir(parents=True)
    lines = ["File,Patient,Projection,edema_flag,nodule_flag"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 36), dtype=np.uint8)).save(root / "png" / f"{i}.png")
        flags = rng.choice(["present", "absent", "unsure", ""], 2)
        lines.append(f"{i},P{i // 2},{'PA' if i % 2 else 'LL'},{','.join(flags)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "labels.yaml").write_text(
        "root: png\n"
        'columns: {path: "{File}.png", subject_id: Patient, view: Projection}\n'
        "labels: {Edema: edema_flag, Nodule: nodule_flag}\n"
        "values: {present: 1, absent: 0, unsure: -1}\n"
        "card: {name: demo, sensitivity: synthetic}\n"
    )
    return str(root / "labels.csv")


def _files(where: str) -> tuple[str, str]:
    """Return the map, and the table where the source is the table itself."""
    if where.lower().endswith((".yaml", ".yml")):
        return where, ""
    if address.is_database(where):
        raise UsageError(f"{where} has no map of its columns: write `table: URL` into one, and give the map as SOURCE")
    if not table_reader.is_table(where):
        raise UsageError(f"{where} is neither a map (.yaml) nor a table ({', '.join(table_reader.TABLES)})")
    folder, name = locations.split(where)
    # The longest ending first: labels.csv.gz has the map labels.yaml, not labels.csv.yaml.
    end = next(end for end in sorted(table_reader.TABLES, key=len, reverse=True) if name.lower().endswith(end))
    wanted = (f"{name[: -len(end)]}.yaml", "table.yaml")
    map_file = next((locations.join(folder, n) for n in wanted if locations.exists(locations.join(folder, n))), None)
    if map_file is None:
        raise UsageError(f"{where} has no {' or '.join(wanted)} beside it, which maps its columns")
    return map_file, where


def _from_map(folder: str, name: str) -> str:
    """Return a place that a map names: a URL, an absolute path, or one beside the map."""
    if not name or address.is_url(name):
        return name
    path = locations.normalized(name)
    return path if Path(path).is_absolute() else locations.join(folder, path)


def _read_map(where: str, needed: str, known_columns: Sequence[str]) -> ColumnMap:
    """Return the map in a YAML file.

    Raises:
        UsageError: where it is no YAML, lacks the column `needed`, or has an unknown key or a value of another form.
    """
    text = locations.read_text(where)
    raw = safe_yaml.load(text, where)
    # YAML's loader keeps the last of two equal keys without a word; a lost column would go unnoticed.
    if twice := _twice(safe_yaml.compose(text)):
        raise UsageError(f"{where} has the key {twice!r} twice in one map; keep one")
    if not isinstance(raw, dict) or not isinstance(columns := raw.get("columns"), dict) or needed not in columns:
        raise UsageError(f"{where} must have at least `columns: {{{needed}: ...}}`")
    for keys in (raw, columns):
        if empty := [name for name, value in keys.items() if value is None or value == ""]:
            raise UsageError(f"{where}: {empty[0]} has no value; fill it, or take the line out")
    card = raw.get("card", {})
    for kind, keys, known in (("key", raw, KEYS), ("column", columns, known_columns), ("key of card", card, OF_CARD)):
        if not isinstance(keys, dict):
            raise UsageError(f"{where}: {kind.split()[-1]} must be a map of names")
        if other := [name for name in keys if name not in known]:
            raise unknown(kind, other[0], known, where)
    if not isinstance(rows := raw.get("where", {}), dict):
        raise UsageError(f"{where}: write where as {{Site: [A, B]}}, a column and the values wanted")
    # A bare true or false is a truth value, so the word in the table would never match.
    if not isinstance(words := raw.get("values", {}), dict) or any(isinstance(word, bool) for word in words):
        raise UsageError(f'{where}: write values as {{"true": 1, "false": 0}}, in quotes: bare ones are truth values')
    return ColumnMap(
        table=str(raw.get("table", "")),
        root=str(raw.get("root", "")),
        where={str(column): values for column, values in rows.items()},
        columns={str(ours): str(pattern) for ours, pattern in columns.items()},
        labels=_labels(raw.get("labels", {}), where, has_class_column="label" in columns),
        separator=_separator(raw.get("separator", ""), where, has_class_column="label" in columns),
        values={str(word): str(number) for word, number in words.items()},
        card={str(key): str(value) for key, value in card.items() if value is not None},
    )


def _twice(node: "Node | None") -> str:
    """Return a key that a map of the YAML holds twice, of which the parser would take the last; "" where none does."""
    from yaml import MappingNode

    if not isinstance(node, MappingNode):
        return ""
    names = [str(key.value) for key, _ in node.value]
    here = next((name for name in names if names.count(name) > 1), "")
    return here or next(filter(None, (_twice(value) for _, value in node.value)), "")


def _labels(labels: object, where: str, *, has_class_column: bool) -> dict[str, str]:
    """Return the column of each label, from the map's `labels`: a list of columns, or a map of names to columns."""
    pairs = [(name, name) for name in labels] if isinstance(labels, list) else None
    pairs = list(labels.items()) if isinstance(labels, dict) else pairs
    if pairs is None or not all(_is_name(name) for pair in pairs for name in pair):
        raise UsageError(f"{where}: write labels as [Edema, Nodule] or {{Nodule: nodule_flag}}, plain names each")
    # Two labels on one column, or one name for two columns, would silently count a label twice.
    for names in zip(*pairs, strict=True):
        if twice := [name for name, times in Counter(map(str, names)).items() if times > 1]:
            raise UsageError(f"{where}: labels name {twice[0]!r} twice; name each once")
    if bool(labels) == has_class_column:
        raise UsageError(
            f"{where} must have either labels (columns of 1, 0, -1) or columns: {{label: ...}} (one class)"
        )
    return {str(label): str(column) for label, column in pairs}


def _separator(value: object, where: str, *, has_class_column: bool) -> str:
    """Return what separates the labels in a cell; UsageError where it is no text, or there is no such column."""
    if not isinstance(value, str):
        raise UsageError(f'{where}: write separator as ";" or list, not {value!r}')
    if value and not has_class_column:
        raise UsageError(f"{where}: separator goes with columns: {{label: ...}}, whose cells hold several labels")
    return value


# In Python True is an int, and YAML writes it for a bare yes: it is no column's name.
def _is_name(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value) != ""


def _names(pattern: str) -> list[str]:
    """Return the columns that a pattern of columns needs."""
    return re.findall(r"{([^{}]+)}", pattern) or [pattern]


def _column(raw: "pd.DataFrame", pattern: str) -> "pd.Series[str]":
    """Return a column, or a pattern filled row by row; missing where one of its parts is."""
    import pandas as pd

    parts = re.split(r"{([^{}]+)}", pattern)
    if len(parts) == 1:
        return raw[pattern]
    # A sum of strings is missing where one part is: half a path would name another file.
    out = pd.Series(parts[0], index=raw.index, dtype="string")
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        out = out + raw[name] + text
    return out


def _flag(value: float) -> str | None:
    # As text, like every other column of a table.
    return None if math.isnan(value) else str(int(value))


def _card(changes: Mapping[str, str], where: str, card: DatasetCard) -> DatasetCard:
    """Return a card with the map's changes; UsageError for an unknown sensitivity."""
    if (sensitivity := changes.get("sensitivity", "credentialed")) not in SENSITIVITIES:
        raise unknown("sensitivity", sensitivity, SENSITIVITIES, where)
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]  # sensitivity was checked
