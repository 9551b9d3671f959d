"""What the runs of one test split answered, row by row: from it come intervals and paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.metrics import text_overlap
from cxr_ft.score.statistics import intervals
from cxr_ft.score.statistics.randomisation import Statistic
from cxr_ft.show.runs import Run, digest

Array = npt.NDArray[Any]

#: Bootstrap replicates of every interval on the page, and the seed of their draws.
REPLICATES, DRAWS = 1000, 0

#: How far the primary metric of the predictions may lie from the recorded one.
_TOLERANCE = 1e-3
_KEYS = ["subject_id", "study_id", "dicom_id"]


@dataclass(frozen=True)
class TestRows:
    """The test rows that runs were judged on.

    Args:
        digest: equal for equal rows, labels and order.
        subjects: [N] the subject of each row.
        truth: [N, ...] as `statistic` takes it.
        statistic: the primary metric of (truth, answers [N, ...], weights [..., N]).
    """

    digest: str
    subjects: Array
    truth: Array
    statistic: Statistic


@dataclass
class PredictionBook:
    """The answers of runs that were looked up, and the resampled subjects that all runs over the same rows share."""

    rows: dict[str, TestRows] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    def of(self, runs: Sequence[Run]) -> tuple[str, Array] | None:
        """The digest of the rows and the answers [S, N, ...] of the runs of a variant; None where not all have both."""
        found = [self._of(run) for run in runs]
        known = [one for one in found if one is not None]
        if len(known) != len(runs) or len({name for name, _ in known}) != 1:
            return None
        return known[0][0], np.array([answers for _, answers in known])

    def replicates(self, name: str, answers: Array) -> Array:
        """The primary metric [S, R] of answers [S, N, ...] under resampled subjects."""
        rows = self.rows[name]
        if name not in self.weights:
            self.weights[name] = intervals.cluster_bootstrap(rows.subjects, REPLICATES, DRAWS)
        return np.array([rows.statistic(rows.truth, one, self.weights[name]) for one in answers])

    def _of(self, run: Run) -> tuple[str, Array] | None:
        recorded = run.result.primary("test")
        if recorded is None or not (run.folder / "predictions.parquet").exists():
            return None
        try:
            rows, answers = _read(run)
        except (OSError, ValueError, KeyError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{run.folder / 'predictions.parquet'} is not what cxr-train writes: {line}") from error
        if not len(rows.subjects):
            return None
        again = float(rows.statistic(rows.truth, answers, np.ones(len(rows.subjects))))
        if not abs(again - recorded) <= _TOLERANCE:
            return None
        self.rows.setdefault(rows.digest, rows)
        return rows.digest, answers


def _bleu(_: Any, counts: Any, weights: Any) -> Array:
    """Corpus BLEU from the counts [N, ...] of each row's text."""
    return text_overlap.bleu(weights @ counts)


def _read(run: Run) -> tuple[TestRows, Array]:
    table = results.read_predictions(run.folder)
    table = table[table["split"] == "test"]
    table = table.assign(**{key: table[key].astype(str) for key in _KEYS})
    if run.result.output == "text":
        table = table[table["reference"].fillna("").str.strip() != ""].sort_values(_KEYS)
        counts = text_overlap.bleu_counts(table["reference"].tolist(), table["generated"].fillna("").tolist())
        name = digest(table[_KEYS].to_numpy().tolist())
        return TestRows(name, table["subject_id"].to_numpy(), np.zeros(len(table)), _bleu), counts
    wide = table.set_index([*_KEYS, "label"])[["truth", "score"]].unstack("label")
    truth, score = wide["truth"].to_numpy(float), wide["score"].to_numpy(float)
    name = digest([list(wide.index), list(wide["truth"].columns)])
    return TestRows(name, wide.index.get_level_values("subject_id").to_numpy(), truth, intervals.macro_auroc), score
