"""Read the predictions of runs on one split, row by row: intervals and paired tests come from them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.arrays import Floats, Names
from cxr_ft.score.metrics import registry
from cxr_ft.score.metrics.registry import Metric
from cxr_ft.score.statistics.randomisation import Statistic
from cxr_ft.show.recorded_runs import RecordedRun, digest

if TYPE_CHECKING:
    import pandas as pd

#: How far the primary metric of the predictions may lie from the recorded one.
TOLERANCE = 1e-3
_KEYS = ["subject_id", "study_id", "dicom_id"]


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """Hold the predictions of a run on the rows of a split.

    Args:
        digest: equal for equal rows, labels and order.
        subjects: [N] the subject of each row.
        labels: the L names; none of texts.
        truth, scores: [N, L]; of texts [N, 0].
        references, generated: N texts each; none of scores.
    """

    digest: str
    subjects: Names
    labels: tuple[str, ...]
    truth: Floats
    scores: Floats
    references: Sequence[str] = ()
    generated: Sequence[str] = ()

    @classmethod
    def of_texts(cls, table: "pd.DataFrame") -> "SplitPredictions":
        """Return the pairs of a table with columns reference and generated."""
        # As in the recorded metric: a blank reference is no reference. With its pair in the sums the interval would be
        # of another BLEU than the value, and its subject would count without a text to score.
        table = table[table["reference"].fillna("").str.strip() != ""].sort_values(_KEYS)
        empty = np.zeros((len(table), 0))
        return cls(
            digest=digest(table[_KEYS].to_numpy().tolist()),
            subjects=table["subject_id"].to_numpy(),
            labels=(),
            truth=empty,
            scores=empty,
            references=table["reference"].tolist(),
            generated=table["generated"].fillna("").tolist(),
        )

    @classmethod
    def of_scores(cls, table: "pd.DataFrame") -> "SplitPredictions":
        """Return the scores of a table with one line for each row and label."""
        # Unstacking sorts rows and labels, so that equal rows get equal digests.
        wide = table.set_index([*_KEYS, "label"])[["truth", "score"]].unstack("label")
        return cls(
            digest=digest([list(wide.index), list(wide["truth"].columns)]),
            subjects=wide.index.get_level_values("subject_id").to_numpy(),
            labels=tuple(map(str, wide["truth"].columns)),
            truth=wide["truth"].to_numpy(float),
            scores=wide["score"].to_numpy(float),
        )


@dataclass(frozen=True)
class EvaluationRows:
    """The test rows that runs were evaluated on.

    Args:
        digest: equal for equal rows, labels and order.
        subjects: [N] the subject of each row.
        truth: [N, ...] as `statistic` takes it.
        statistic: the primary metric of (truth, predictions [N, ...], weights [..., N]).
    """

    digest: str
    subjects: Names
    truth: Floats
    statistic: Statistic


@dataclass
class PredictionBook:
    """The predictions read so far: each file is read once, and the n-grams of each text are counted once."""

    rows: dict[str, EvaluationRows] = field(default_factory=dict)
    _splits: dict[tuple[Path, int, str], SplitPredictions | None] = field(default_factory=dict)
    _baselines: dict[Path, dict[str, SplitPredictions]] = field(default_factory=dict)
    _counts: dict[tuple[str, Path, int, str], Floats] = field(default_factory=dict)

    def of(self, runs: Sequence[RecordedRun]) -> tuple[str, Floats] | None:
        """Return the digest of the rows and the predictions [S, N, ...] of S seeds; None if they do not share rows."""
        known = [read for run in runs if (read := self._of(run)) is not None]
        # Seeds on other rows cannot be averaged: the mean would be of different questions.
        if len(known) != len(runs) or len({digest for digest, _ in known}) != 1:
            return None
        return known[0][0], np.array([predictions for _, predictions in known])

    def split(self, run: RecordedRun, name: str) -> SplitPredictions | None:
        """Return the predictions of a run on the split "test" or "test_natural"; None where it has none.

        Raises:
            UsageError: for a file that is not what cxr-train writes.
        """
        # The seeds of one file of predictions share its path.
        place = run.folder, run.result.seed
        if (*place, name) not in self._splits:
            with _broken(run.folder / "predictions.parquet"):
                read = _read(run, ("test", "test_natural"))
            for one in ("test", "test_natural"):
                self._splits[*place, one] = read.get(one)
        return self._splits[*place, name]

    def baselines(self, run: RecordedRun) -> dict[str, SplitPredictions]:
        """Return the scores on test of the baselines beside a run, by name; {} where none were kept row by row.

        Raises:
            UsageError: for a file that is not what cxr-train writes.
        """
        if run.folder not in self._baselines:
            with _broken(run.folder / "baselines.parquet"):
                self._baselines[run.folder] = _read_baselines(run)
        return self._baselines[run.folder]

    def counts(self, metric: Metric, run: RecordedRun, split: str, labels: Sequence[str] = ()) -> Floats:
        """Return the counts [N, C] of a metric of texts.

        Raises:
            ValueError: for a metric that declares none.
        """
        if metric.row_counts is None:
            raise ValueError(f"metric {metric.name} declares no row_counts, which intervals of texts need")
        # Metrics of one family, as BLEU-1 and BLEU-4, share their counts.
        name = f"{metric.row_counts.__module__}.{metric.row_counts.__qualname__}"
        key = (name, run.folder, run.result.seed, split)
        if key not in self._counts:
            texts = self.split(run, split)
            pairs = ((), ()) if texts is None else (texts.references, texts.generated)
            self._counts[key] = metric.row_counts(*pairs, labels)
        return self._counts[key]

    def _of(self, run: RecordedRun) -> tuple[str, Floats] | None:
        recorded = run.result.primary("test")
        read = None if recorded is None else self.split(run, "test")
        # A split of blank references alone has nothing to resample.
        if recorded is None or read is None or not len(read.subjects):
            return None
        primary, of_texts = registry.primary(run.result.output), run.result.output == "text"
        predictions = self.counts(primary, run, "test") if of_texts else read.scores
        truth = np.zeros(len(read.subjects)) if of_texts else read.truth
        # The function itself: by it a paired test knows the metrics whose covariance has a closed form.
        rows = EvaluationRows(read.digest, read.subjects, truth, primary.statistic or primary.over_rows)
        recomputed = float(np.asarray(rows.statistic(rows.truth, predictions, np.ones(len(rows.subjects)))))
        # Predictions of another model or metric give no interval to this value; written so that NaN is refused.
        if not abs(recomputed - recorded) <= TOLERANCE:
            return None
        self.rows.setdefault(rows.digest, rows)
        return rows.digest, predictions


@contextlib.contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Turn what a broken file raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is not what cxr-train writes: {line}") from error


def _read_baselines(run: RecordedRun) -> dict[str, SplitPredictions]:
    # A file of predictions has a path, and no folder with baselines in it.
    table = None if run.result.imported or run.result.output != "scores" else results.read_baselines(run.folder)
    if table is None:
        return {}
    table = _with_text_ids(table[table["split"] == "test"])
    names = [str(name) for name in table if name not in ("split", *_KEYS, "label", "truth")]
    return {name: SplitPredictions.of_scores(table.rename(columns={name: "score"})) for name in names}


def _read(run: RecordedRun, splits: Sequence[str]) -> dict[str, SplitPredictions]:
    table = run.predictions()
    if table is None:
        return {}
    table = _with_text_ids(table)
    make = SplitPredictions.of_texts if run.result.output == "text" else SplitPredictions.of_scores
    parts = {name: table[table["split"] == name] for name in splits}
    return {name: make(part) for name, part in parts.items() if len(part)}


def _with_text_ids(table: "pd.DataFrame") -> "pd.DataFrame":
    # Ids that look like numbers may be read as numbers from one file and as text from another.
    return table.assign(**{key: table[key].astype(str) for key in _KEYS})
