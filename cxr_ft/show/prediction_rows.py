"""Read the predictions of runs on one test split, row by row: intervals and paired tests come from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.arrays import Floats, Names, Numbers
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import intervals
from cxr_ft.score.statistics.randomisation import Statistic
from cxr_ft.show.runs import Run, digest

#: Bootstrap replicates of every interval on the page, and the seed of their draws.
REPLICATES, DRAWS = 1000, 0

#: How far the primary metric of the predictions may lie from the recorded one.
_TOLERANCE = 1e-3
_KEYS = ["subject_id", "study_id", "dicom_id"]


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
    """The rows of predictions read so far, and the resampled subjects that all runs on the same rows share.

    Shared resamples make differences of runs paired.
    """

    rows: dict[str, EvaluationRows] = field(default_factory=dict)
    weights: dict[str, Numbers] = field(default_factory=dict)

    def of(self, runs: Sequence[Run]) -> tuple[str, Floats] | None:
        """Return the digest of the rows and the predictions [S, N, ...] of S seeds; None if they do not share rows."""
        known = [read for run in runs if (read := self._of(run)) is not None]
        # Seeds on other rows cannot be averaged: the mean would be of different questions.
        if len(known) != len(runs) or len({digest for digest, _ in known}) != 1:
            return None
        return known[0][0], np.array([predictions for _, predictions in known])

    def replicates(self, digest: str, predictions: Floats) -> Floats:
        """Return the primary metric [S, R] of predictions [S, N, ...] under R resamples of the subjects."""
        rows = self.rows[digest]
        # Drawn once for each set of rows: the same subjects in every replicate of every run.
        if digest not in self.weights:
            self.weights[digest] = intervals.cluster_bootstrap(rows.subjects, REPLICATES, DRAWS)
        return np.array([rows.statistic(rows.truth, seed, self.weights[digest]) for seed in predictions])

    def _of(self, run: Run) -> tuple[str, Floats] | None:
        recorded = run.result.primary("test")
        if recorded is None or not (run.folder / "predictions.parquet").exists():
            return None
        try:
            rows, predictions = _read(run)
        except (OSError, ValueError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{run.folder / 'predictions.parquet'} is not what cxr-train writes: {line}") from error
        # A split of blank references alone has nothing to resample.
        if not len(rows.subjects):
            return None
        recomputed = float(np.asarray(rows.statistic(rows.truth, predictions, np.ones(len(rows.subjects)))))
        # Predictions of another model or metric give no interval to this value; written so that NaN is refused.
        if not abs(recomputed - recorded) <= _TOLERANCE:
            return None
        self.rows.setdefault(rows.digest, rows)
        return rows.digest, predictions


def _read(run: Run) -> tuple[EvaluationRows, Floats]:
    table = results.read_predictions(run.folder)
    table = table[table["split"] == "test"]
    # Ids that look like numbers may be read as numbers from one file and as text from another.
    table = table.assign(**{key: table[key].astype(str) for key in _KEYS})
    primary = registry.primary(run.result.output)
    if run.result.output == "text":
        if primary.row_counts is None:
            raise ValueError(f"metric {primary.name} declares no row_counts, which intervals of texts need")
        # As in the recorded metric: a blank reference is no reference. With its pair in the sums the interval would be
        # of another BLEU than the value, and its subject would be drawn without a text to score.
        table = table[table["reference"].fillna("").str.strip() != ""].sort_values(_KEYS)
        # n-grams are counted once; each resample then only weighs and adds up these rows.
        counts = primary.row_counts(table["reference"].tolist(), table["generated"].fillna("").tolist(), ())
        name = digest(table[_KEYS].to_numpy().tolist())
        return EvaluationRows(
            name, table["subject_id"].to_numpy(), np.zeros(len(table)), primary.statistic or primary.over_rows
        ), counts
    # The table has one line for each row and label; unstacking sorts both, so that equal rows get equal digests.
    wide = table.set_index([*_KEYS, "label"])[["truth", "score"]].unstack("label")
    truth, score = wide["truth"].to_numpy(float), wide["score"].to_numpy(float)
    name = digest([list(wide.index), list(wide["truth"].columns)])
    return EvaluationRows(
        name, wide.index.get_level_values("subject_id").to_numpy(), truth, primary.statistic or primary.over_rows
    ), score
