"""Score test images without a trained model: by the majority, the acquisition, the brightness, a thumbnail, the base.

A model that does not beat them is not shown to have learnt anything from the images that they do not have. Each is a
logistic regression (but for the majority), fitted on train with the targets that metrics use, without weights; the
strength of its ridge and its thresholds are chosen on val. Nothing depends on a label of a test row.

    majority        the prevalence of each label in train
    acquisition     of the image file: width, height, their ratio, bytes, bytes a pixel, kind; of its header: modality,
                    photometric interpretation, bits stored, manufacturer, transfer syntax, or of another file the
                    colour mode, JPEG tables and resolution; of the table: view, sex, age. No folder, which may name
                    the label.
    mean_intensity  mean and standard deviation of the pixels
    thumbnail       32 x 32 pixels
    frozen_probe    the pooled vector of the run's base as it is loaded

All runs on the same rows share them (of one base the probe, too): they are kept in the cache folder, by content.

Shapes: M rows of a split, L labels, F features.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.audit import acquisition
from cxr_ft.data.audit.column_encoder import ColumnEncoder
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.data.pixels import cache
from cxr_ft.data.records import order_key
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder
from cxr_ft.model import base_weights
from cxr_ft.model.assembly import ModelParts
from cxr_ft.run.evaluation import frozen_features
from cxr_ft.run.evaluation.baseline_scores import BaselineScores
from cxr_ft.run.evaluation.inference import is_out_of_memory
from cxr_ft.score.metrics import label_regression

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
#: Raise it when the files change in a way that nothing else in their key shows.
FORMAT = 2
#: Rows of train that a baseline is fitted on, at most, and that the probe is fitted on; val has as many at most.
ROWS, PROBE_ROWS = 4000, 2000
#: Side of a thumbnail in pixels, and principal components that are used of thumbnails and of vectors.
SIDE, COMPONENTS = 32, 64
#: Columns of the splits that belong to the acquisition.
COLUMNS = ("view", "sex", "age")
PROBE = "frozen_probe"


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """One baseline: its scores [M, L] by split, thresholds [L], and how many rows of train it was fitted on."""

    scores: Mapping[str, Floats]
    thresholds: Floats
    train_rows: int


@dataclass(frozen=True, kw_only=True)
class ImageBaselines:
    """The baselines of a run on images.

    Args:
        parts: the run's model, on its device; it is left as it is.
        config: of the run.
        splits: as they were read.
        datasets: by split, of the run's rows.
        labels, multi_label: of the run.
        batch_size: rows in a forward pass of the probe.
    """

    parts: ModelParts
    config: RunConfig
    splits: manifest.Splits
    datasets: Mapping[str, SplitDataset]
    labels: Sequence[str]
    multi_label: bool
    batch_size: int

    def scores(self, tested: Sequence[str]) -> dict[str, BaselineScores]:
        """Return the scores on each of the splits `tested`; {} where rows have no image, or the head writes texts."""
        if self.parts.head.output != "scores" or not self.datasets["train"].images[0].size:
            return {}
        fitted = self._cached([FORMAT], lambda: self._of_data(tested))
        missing = {}
        try:
            fitted |= self._cached(self._base, lambda: {PROBE: self._probe(tested)})
        except UsageError:
            missing[PROBE] = "the base could not be loaded"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            missing[PROBE] = "out of memory"
        return {
            split: BaselineScores(
                scores={name: one.scores[split] for name, one in fitted.items()},
                thresholds={name: one.thresholds.tolist() for name, one in fitted.items()},
                train_rows={name: one.train_rows for name, one in fitted.items()},
                missing=missing,
            )
            for split in tested
        }

    def _of_data(self, tested: Sequence[str]) -> dict[str, _Fitted]:
        rows = self._rows(tested, ROWS)
        grey = {split: _grey_levels(self.datasets[split], wanted) for split, wanted in rows.items()}
        facts = {split: self._facts(split, wanted) for split, wanted in rows.items()}
        levels = {split: one for split, (one, _) in grey.items()}
        return {
            "majority": self._fit(rows, {split: np.zeros((len(wanted), 0)) for split, wanted in rows.items()}),
            "acquisition": self._fit(rows, _encoded(facts)),
            "mean_intensity": self._fit(rows, _encoded(levels)),
            "thumbnail": self._fit(rows, {split: small for split, (_, small) in grey.items()}, COMPONENTS),
        }

    def _probe(self, tested: Sequence[str]) -> _Fitted:
        rows = self._rows(tested, PROBE_ROWS)
        vectors = frozen_features.compute(self.parts, self.config, self.datasets, rows, self.batch_size)
        return self._fit(rows, vectors, COMPONENTS)

    def _fit(
        self, rows: Mapping[str, Sequence[int]], features: Mapping[str, Floats], components: int | None = None
    ) -> _Fitted:
        targets = {split: self.datasets[split].targets[list(rows[split])] for split in ("train", "val")}
        baseline = label_regression.fit_features(
            (features["train"], targets["train"]),
            (features["val"], targets["val"]),
            multi_label=self.multi_label,
            components=components,
        )
        chosen = label_regression.best_thresholds(targets["val"], baseline.scores(features["val"]))
        scores = {split: baseline.scores(values) for split, values in features.items() if split not in targets}
        return _Fitted(scores=scores, thresholds=np.array(chosen), train_rows=len(rows["train"]))

    def _rows(self, tested: Sequence[str], most: int) -> dict[str, Sequence[int]]:
        """Return the rows that are used of each split: all of a tested one, some at random of a large train or val."""
        rows: dict[str, Sequence[int]] = {split: range(len(self.datasets[split])) for split in tested}
        for split in ("train", "val"):
            names = self.datasets[split].ids["dicom_id"].astype(str).tolist()
            # By a hash of the id: the same rows whatever the machine, the order or the seed.
            chosen = sorted(range(len(names)), key=lambda row: order_key(0, names[row]))[:most]
            rows[split] = sorted(chosen)
        return rows

    def _facts(self, split: str, rows: Sequence[int]) -> "pd.DataFrame":
        """Return what is known of the acquisition of some rows; no column holds their content."""
        table = self.datasets[split].table.iloc[list(rows)].reset_index(drop=True)
        known = table[[column for column in COLUMNS if column in table]].fillna("")
        return known.join(acquisition.stored(self._root, cache.first(table)))

    @cached_property
    def _root(self) -> Path:
        return cache.source_folder(self.splits, self.config.data.root)

    @property
    def _base(self) -> list[object] | None:
        """Return what decides the probe's vectors, besides the images; None where it is not known."""
        weights = base_weights.of(self.config.model, fetch=False).digest
        # Without a hash the name would stand for the weights, which may be others tomorrow.
        return None if weights is None else [FORMAT, PROBE, weights, next(iter(self.parts.base.pools))]

    def _cached(self, key: Sequence[object] | None, compute: Callable[[], dict[str, _Fitted]]) -> dict[str, _Fitted]:
        """Return baselines from the file of their key, or compute them and write it; None: there is no file."""
        if key is None:
            return compute()
        whole = json.dumps([*key, *self._content])
        path = cache_folder() / "baselines" / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.npz"
        # A broken file is as good as none.
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return _read(path)
        fitted = compute()
        # A cache that cannot be written costs time alone.
        with contextlib.suppress(UsageError), atomic(path, private=True) as temporary:
            np.savez(temporary, **_arrays(fitted))  # type: ignore[arg-type]  # numpy has a keyword of its own besides
        return fitted

    @cached_property
    def _content(self) -> list[object]:
        """Return a hash of all that decides the baselines: rows, pixels, files and labels of train and val."""
        whole: list[object] = [version("scikit-learn"), ROWS, PROBE_ROWS, list(self.labels), self.multi_label]
        for split, dataset in self.datasets.items():
            table = dataset.table
            paths = cache.first(table)
            known = [table["dicom_id"], *(table[column].fillna("") for column in COLUMNS if column in table)]
            rows = [paths, *(column.astype(str).tolist() for column in known), _states(self._root, paths)]
            whole += [split, _hash(json.dumps(rows).encode()), dataset.images.digest]
            if split in ("train", "val"):
                whole.append(_hash(np.ascontiguousarray(dataset.targets).tobytes()))
        return whole


def _grey_levels(dataset: SplitDataset, rows: Sequence[int]) -> "tuple[pd.DataFrame, Floats]":
    """Return mean and deviation of each row's first image, and its thumbnail as numbers [M, SIDE * SIDE]."""
    import cv2
    import pandas as pd

    levels, small = np.empty((len(rows), 2)), np.empty((len(rows), SIDE * SIDE), np.float32)
    for at, row in enumerate(rows):
        image = dataset.images[row]
        levels[at] = image.mean(), image.std()
        # Area means: each pixel of the image counts alike.
        small[at] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return pd.DataFrame(levels, columns=["mean", "deviation"]), small.astype(np.float64)


def _encoded(tables: "Mapping[str, pd.DataFrame]") -> dict[str, Floats]:
    """Return tables of one row an image as numbers [M, F]; what a column's values mean is learnt from train."""
    encoders = {column: ColumnEncoder.fit(tables["train"][column]) for column in tables["train"]}
    out = {}
    for split, table in tables.items():
        # A column that no row of this split has, as a header's field, is all missing.
        whole = table.reindex(columns=list(encoders))
        columns = [encoder.encode(whole[column]) for column, encoder in encoders.items()]
        out[split] = np.concatenate([np.zeros((len(table), 0)), *columns], axis=1)
    return out


def _states(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the size and time of each file: a header can change where the pixels do not."""
    states = []
    for path in paths:
        try:
            found = (root / path).stat()
        except OSError:  # a remote file that is not fetched now
            states.append("")
            continue
        states.append(f"{found.st_size}|{found.st_mtime_ns}")
    return states


def _arrays(fitted: Mapping[str, _Fitted]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, one in fitted.items():
        arrays |= {f"{name}/scores/{split}": scores for split, scores in one.scores.items()}
        arrays |= {f"{name}/thresholds": one.thresholds, f"{name}/train_rows": np.array(one.train_rows)}
    return arrays


def _read(path: Path) -> dict[str, _Fitted]:
    """Return the baselines in a file of `_arrays`.

    Raises:
        OSError, ValueError, KeyError, EOFError, BadZipFile: where there is none, or it is broken.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    names = dict.fromkeys(key.split("/")[0] for key in arrays)
    return {
        name: _Fitted(
            scores={key.split("/")[2]: scores for key, scores in arrays.items() if key.startswith(f"{name}/scores/")},
            thresholds=arrays[f"{name}/thresholds"],
            train_rows=int(arrays[f"{name}/train_rows"]),
        )
        for name in names
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
