"""Read a recipe: one YAML an experiment, with what its runs share, the key `grid`, and its tiny form.

    tiny:                          laid over the rest of the file; a list replaces a list
      splits: {source: "texts:reviews,rows=400", layout: imdb, per_label: 150}
      model: bert-tiny-random
      train: {epochs: 4}
      grid: {seeds: [0]}

`splits` holds the options of `cxr-split`; its source is embedded data (`phantom:...`, `texts:...`), so that the tiny
form needs no network. The splits are made in the user's cache folder when they are first needed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cxr_ft
from cxr_ft import config
from cxr_ft.data import phantom
from cxr_ft.data.phantom import texts
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder

KEY = "tiny"


@dataclass(frozen=True, kw_only=True)
class TinySplits:
    """The splits of a tiny form: embedded data, and options of `cxr-split` by their names."""

    source: str
    layout: str = "mimic_cxr"
    per_label: int
    seed: int = 0
    unit: str = "image"
    official: bool = False
    text: str = "mini_report"

    def __post_init__(self) -> None:
        if not (phantom.is_spec(self.source) or texts.is_spec(self.source)):
            raise UsageError(f"{KEY}.splits.source: {self.source} is not embedded; give phantom:... or texts:...")


def read(path: Path, *, tiny: bool = False, splits: bool = True) -> dict[str, object]:
    """Return a recipe's mapping, with its `grid` and without its `tiny`.

    Args:
        tiny: merge the tiny form over the rest.
        splits: make the tiny form's splits where they do not exist yet, and set data.splits.

    Raises:
        UsageError: where it cannot be read, or has no tiny form.
    """
    raw = config.read_yaml(path)
    over = dict(config.mapping(raw, KEY, str(path)))
    raw.pop(KEY, None)
    if not tiny:
        return raw
    if not over:
        raise UsageError(f"{path} has no key {KEY}: it has no tiny form; run it without --tiny")
    tiny_splits = _splits(over, path)
    over.pop("splits")
    out = config.merge(raw, over)
    return config.merge(out, {"data": {"splits": str(ensure_splits(tiny_splits))}}) if splits else out


def ensure_splits(splits: TinySplits) -> Path:
    """Return the folder of the splits, made in the cache folder on first use.

    Raises:
        UsageError: for options that cxr-split refuses, and where the cache folder cannot be written.
    """
    options = dataclasses.asdict(splits)
    # Another version may draw other splits from the same options: it gets a folder of its own.
    version = [cxr_ft.__version__, phantom.FORMAT, texts.FORMAT]
    # By content: two recipes with the same tiny splits share one folder.
    name = hashlib.sha256(json.dumps([options, version], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / "data_splits" / f"{KEY}-{splits.layout}-{name}"
    # The manifest is written last: without it the folder was left by a process that was killed.
    if not (folder / "manifest.json").exists():
        source, layout = options.pop("source"), options.pop("layout")
        source = texts.ensure(source) if texts.is_spec(source) else source
        make_splits(source, layout, SplitRequest(**options), folder)
    return folder


def _splits(over: Mapping[str, object], path: Path) -> TinySplits:
    where = f"{path}, {KEY}.splits"
    raw = config.mapping(over, "splits", str(path))
    if missing := [key for key in ("source", "per_label") if key not in raw]:
        raise UsageError(f"{where}: {missing[0]} is missing; give source and per_label, as cxr-split takes them")
    return config.options(TinySplits, raw, where)
