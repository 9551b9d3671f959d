"""Make results of predictions that another tool wrote, as if runs had been evaluated: the page reads both alike.

Files are compared with each other, and with runs, on the same rows alone: the same subjects, images (of texts without
images: references) and labels, by the project's one rule of sameness. What training was like is not known, so the
results have no cost, no history and no val.

Shapes: N rows, L labels.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cxr_ft.data import sameness
from cxr_ft.data.card import DatasetCard
from cxr_ft.errors import UsageError
from cxr_ft.json_values import JsonObject
from cxr_ft.run.record import prediction_files, results, saved_labels
from cxr_ft.run.record.prediction_files import FilePredictions
from cxr_ft.run.record.result_parts import DataSummary, SplitMetrics, TrainingPlan
from cxr_ft.run.record.results import Result
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import (
    calibration,
    classification,
    labeler,
    report_metrics,
    subgroups,
    text_overlap,
)

if TYPE_CHECKING:
    import pandas as pd

#: From this score on a label counts as positive: there is no val to choose another one on.
THRESHOLD = 0.5
#: The name of the test rows where no split file says which they are.
ROWS = "test_split"
_TASKS = {"scores": "classify", "text": "report"}
_NO_VAL = "predictions from a file have no val to fit it on"
_NO_TRAIN = "predictions from a file do not say at which prevalences the model was trained"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedRun:
    """One seed of the predictions in a file.

    Args:
        path: the file. result: its record.
        predictions: as `results.write_predictions` names the columns.
        labels: with the threshold of each.
    """

    path: Path
    result: Result
    predictions: "pd.DataFrame"
    labels: SavedLabels


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows that files must have.

    Args:
        name: where they come from, in messages.
        keys: of each row; ids: [N] subject_id, study_id, dicom_id, as predictions have them.
        by_text: whether a row is known by its reference in place of an image.
        truth: [N, L]; references: N texts.
        multi_label: False where each row has exactly one of the labels, as the runs that have these rows know.
        task, labels: of these runs; data: what is known of their test split.
    """

    name: str
    keys: Sequence[tuple[str, ...]]
    ids: "pd.DataFrame"
    by_text: bool
    truth: "pd.DataFrame"
    references: Sequence[str]
    task: str
    labels: tuple[str, ...]
    multi_label: bool
    data: DataSummary
    from_run: bool


def read(files: Mapping[str, Path], runs: Sequence[tuple[Path, Result]] = ()) -> list[ImportedRun]:
    """Return the predictions in files as runs, one a seed.

    Args:
        files: by the name of what predicted.
        runs: folders and results of the runs on the same page; where one was evaluated on the rows of a file, both are
            compared.

    Raises:
        UsageError: one line, for a file that is no predictions, and where rows, labels or truth differ.
    """
    parsed = [prediction_files.read(name, path) for name, path in files.items()]
    taken = {result.variant for _, result in runs}
    if clash := next((one.name for one in parsed if one.name in taken), ""):
        raise UsageError(f"--predictions {clash}: a run is named so; give the file another name")
    out: list[ImportedRun] = []
    for output in dict.fromkeys(one.output for one in parsed):
        alike = [one for one in parsed if one.output == output]
        rows = _shared_rows(alike, runs)
        notes: list[str] = []
        labels = _shared_labels(alike, rows, notes)
        for one in alike:
            out += _runs_of(_aligned(one, rows, labels), rows, labels, notes)
    return out


def _shared_rows(files: Sequence[FilePredictions], runs: Sequence[tuple[Path, Result]]) -> _Rows:
    """Return the rows of a run that has those of the first file, or these themselves where no run has predictions."""
    first, by_text = files[0], not all(image for one in files for image in one.images)
    known: list[_Rows] = []
    splits: set[str] = set()
    for folder, result in runs:
        split = str(sorted(result.data.sha256.items()))
        if result.output != first.output or split in splits:
            continue
        if (rows := _of_run(folder, result, by_text=by_text)) is not None:
            splits.add(split)
            known.append(rows)
    if not known:
        return _of_file(first, by_text=by_text)
    wanted = set(_keys(first, known[0].by_text))
    return next((rows for rows in known if set(rows.keys) == wanted), known[0])


def _of_file(file: FilePredictions, *, by_text: bool) -> _Rows:
    import pandas as pd

    keys = _keys(file, by_text)
    ids = pd.DataFrame({"subject_id": file.subjects, "study_id": "", "dicom_id": ["\n".join(key[1:]) for key in keys]})
    unknown = file.unknown_subjects == len(keys)
    card = DatasetCard(name="the rows of the files", labels=file.labels, group="unknown" if unknown else "subject")
    digest = hashlib.sha256(repr([sorted(keys), file.labels, file.truth.tolist()]).encode()).hexdigest()
    subjects = {} if unknown else {ROWS: len(set(file.subjects))}
    return _Rows(
        name=str(file.path),
        keys=keys,
        ids=ids,
        by_text=by_text,
        truth=pd.DataFrame(file.truth, columns=list(file.labels)),
        references=file.references,
        task=_TASKS[file.output],
        labels=(),
        multi_label=True,
        data=DataSummary(sha256={ROWS: digest}, rows={ROWS: len(keys)}, subjects=subjects, card=card),
        from_run=False,
    )


def _of_run(folder: Path, result: Result, *, by_text: bool) -> _Rows | None:
    """Return the test rows of a run; None where it kept no predictions."""
    import pandas as pd

    try:
        table = results.read_predictions(folder)
        table = table[table["split"] == "test"]
        kind = "reference" if result.output == "text" else "label"
        table = table[table[kind].notna()].astype({"subject_id": str, "study_id": str, "dicom_id": str})
    except (OSError, ValueError, KeyError):
        return None
    if not len(table):
        return None
    columns = ["subject_id", "study_id", "dicom_id"]
    if kind == "label":
        truth = table.pivot(index=columns, columns="label", values="truth")
        ids, references = truth.index.to_frame(index=False), []
    else:
        ids = table[columns].reset_index(drop=True)
        truth, references = pd.DataFrame(index=range(len(ids))), table["reference"].tolist()
    subjects, images = ([sameness.id_key(word) for word in ids[name]] for name in ("subject_id", "dicom_id"))
    saved = saved_labels.read(folder)
    hashes = {name: value for name, value in result.data.sha256.items() if Path(name).name.startswith("test_split")}
    return _Rows(
        name=f"the test split of {result.variant}",
        keys=_text_keys(subjects, references) if by_text else list(zip(subjects, images, strict=True)),
        ids=ids,
        by_text=by_text,
        truth=truth.reset_index(drop=True).rename(columns=str),
        references=references,
        task=result.task,
        labels=() if saved is None else saved.labels,
        multi_label=saved is None or saved.multi_label,
        data=DataSummary(
            sha256=hashes or result.data.sha256,
            rows={name: many for name, many in result.data.rows.items() if name == "test"},
            card=result.data.card,
        ),
        from_run=True,
    )


def _keys(file: FilePredictions, by_text: bool) -> list[tuple[str, ...]]:
    if by_text:
        return _text_keys(file.subjects, file.references)
    return list(zip(file.subjects, file.images, strict=True))


def _text_keys(subjects: Sequence[str], references: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a key for each text: its subject and reference, and of equal ones, as of two normal reports, its place."""
    seen: dict[tuple[str, str], int] = {}
    out: list[tuple[str, ...]] = []
    for subject, reference in zip(subjects, references, strict=True):
        # The name of a subject that is not known has the text in it already.
        key = (subject.partition("\n")[0], sameness.text_key(reference))
        seen[key] = seen.get(key, 0) + 1
        out.append((*key, str(seen[key])))
    return out


def _shared_labels(files: Sequence[FilePredictions], rows: _Rows, notes: list[str]) -> tuple[str, ...]:
    """Return the labels that all files have; those of some alone are left out, and `notes` says so."""
    if files[0].output == "text":
        return rows.labels or labeler.LABELS
    # In the order of the run's labels, so that tables and charts list both alike.
    wanted = [label for label in rows.labels if label in rows.truth] or list(rows.truth.columns)
    if rows.from_run:
        for one in files:
            if missing := [label for label in wanted if label not in one.labels]:
                raise UsageError(f"{one.path} lacks labels of {rows.name}: {', '.join(missing)}")
    shared = [label for label in wanted if all(label in one.labels for one in files)]
    if not shared:
        raise UsageError(f"{' and '.join(str(one.path) for one in files)} have no label in common")
    for label in dict.fromkeys(label for one in files for label in one.labels):
        if label not in shared:
            having = [one.name for one in files if label in one.labels]
            notes.append(f"The label {label} is in the predictions of {', '.join(having)} alone, and left out.")
    return tuple(shared)


def _aligned(file: FilePredictions, rows: _Rows, labels: tuple[str, ...]) -> FilePredictions:
    """Return the file in the order of `rows` and `labels`.

    Raises:
        UsageError: where it has other rows, or another truth.
    """
    place = {key: i for i, key in enumerate(_keys(file, rows.by_text))}
    lacking, more = len(set(rows.keys) - set(place)), len(set(place) - set(rows.keys))
    if lacking or more or len(place) != len(rows.keys):
        what = "subjects and references" if rows.by_text else "subjects and images"
        raise UsageError(
            f"{file.path} does not have the rows of {rows.name}, so that they cannot be compared: by {what} it lacks "
            f"{lacking} of {len(rows.keys)} and has {more} others; give the same test rows"
        )
    order = [place[key] for key in rows.keys]
    if file.output == "text":
        references = [file.references[i] for i in order]
        same = [sameness.text_key(a) == sameness.text_key(b) for a, b in zip(references, rows.references, strict=True)]
        if not all(same):
            raise UsageError(
                f"{file.path}: {len(same) - sum(same)} of {len(same)} references are not those of {rows.name}"
            )
        generated = {seed: [texts[i] for i in order] for seed, texts in file.generated.items()}
        moved = dataclasses.replace(file, references=list(rows.references), generated=generated)
    else:
        columns = [file.labels.index(label) for label in labels]
        truth, wanted = file.truth[order][:, columns], rows.truth[list(labels)].to_numpy(float)
        if different := int((~((truth == wanted) | (np.isnan(truth) & np.isnan(wanted)))).sum()):
            raise UsageError(
                f"{file.path}: the truth of {different} of {truth.size} cells is not that of {rows.name} (1, 0, or "
                "nothing where it is not known)"
            )
        scores = {seed: table[order][:, columns] for seed, table in file.scores.items()}
        moved = dataclasses.replace(file, truth=truth, scores=scores, labels=labels)
    groups = {name: [values[i] for i in order] for name, values in file.groups.items()}
    subjects = [file.subjects[i] for i in order]
    return dataclasses.replace(moved, groups=groups, subjects=subjects)


def _runs_of(file: FilePredictions, rows: _Rows, labels: tuple[str, ...], notes: Sequence[str]) -> list[ImportedRun]:
    sentences = list(notes)
    if file.unknown_subjects:
        sentences.append(
            f"{file.unknown_subjects} of {len(rows.keys)} rows of {file.name} have no subject: each counts as a "
            "subject of its own."
        )
    thresholds = () if file.output == "text" else (THRESHOLD,) * len(labels)
    saved = SavedLabels(labels=labels, multi_label=rows.multi_label, task=rows.task, thresholds=thresholds)
    out = []
    for seed in file.seeds:
        config: JsonObject = {
            "predictions": {"name": file.name, "sha256": file.sha256, "seeded": file.seeded},
            "data": {},
            "model": "",
            "head": {"name": rows.task},
            "tuning": {"name": file.name},
            "train": {"seed": seed},
        }
        metrics = (
            _text_metrics(file, seed, labels, rows) if file.output == "text" else _metrics(file, seed, rows.multi_label)
        )
        result = Result(
            status="success",
            config=config,
            config_hash=hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest(),
            data=dataclasses.replace(rows.data, notes=tuple(sentences)),
            plan=TrainingPlan(output=file.output),
            metrics={"test": cast(SplitMetrics, metrics)},
        )
        out.append(ImportedRun(path=file.path, result=result, predictions=_table(file, seed, rows), labels=saved))
    return out


def _metrics(file: FilePredictions, seed: int, multi_label: bool) -> Metrics:
    """Return what a run records of its scores on test, at a threshold of 0.5; single-label: of the largest score."""
    truth, scores, labels = file.truth, file.scores[seed], file.labels
    subjects = list(file.subjects)
    metrics = classification.evaluate(truth, scores, labels, [THRESHOLD] * len(labels), multi_label)
    why = {"temperature": _NO_VAL, "prior": _NO_TRAIN}
    metrics["calibration"] = calibration.evaluate(truth, scores, labels, multi_label, why=why, subjects=subjects)
    if file.groups:
        positive = classification.predicted(scores, [THRESHOLD] * len(labels), multi_label)
        metrics["subgroups"] = subgroups.evaluate(
            truth, scores, positive, labels, groups=file.groups, subjects=subjects
        )
    return metrics


def _text_metrics(file: FilePredictions, seed: int, labels: tuple[str, ...], rows: _Rows) -> Metrics:
    """Return what a run records of its texts on test; where no run has these rows, with a constant report."""
    metrics = report_metrics.evaluate(file.references, file.generated[seed], labels)
    if not rows.from_run and (constant := _constant_reports(file)) is not None:
        metrics["baselines"] = {"constant_others": report_metrics.brief(file.references, constant)}
        pairs = [(r, c) for r, c in zip(file.references, constant, strict=True) if r.strip()]
        counts = text_overlap.bleu_counts([r for r, _ in pairs], [c for _, c in pairs])
        metrics["constant_baseline"] = {"bleu_4": float(text_overlap.bleu(counts.sum(axis=0)))}
    return metrics


def _constant_reports(file: FilePredictions) -> list[str] | None:
    """Return for each row the constant report chosen on the other half of the subjects; None where a half has none.

    There is no train to choose it on; chosen on its own subjects it would know the answers.
    """
    names = sorted(set(file.subjects))
    half = {name: i % 2 for i, name in enumerate(names)}
    of_half = [
        tuple(sorted(r for r, s in zip(file.references, file.subjects, strict=True) if half[s] == i and r.strip()))
        for i in (0, 1)
    ]
    if not all(of_half):
        return None
    chosen = [text_overlap.constant_text(texts) for texts in of_half]
    return [chosen[1 - half[subject]] for subject in file.subjects]


def _table(file: FilePredictions, seed: int, rows: _Rows) -> "pd.DataFrame":
    """Return the predictions of one seed as rows of predictions.parquet, with the ids of `rows`."""
    import pandas as pd

    ids = rows.ids.assign(split="test")
    if file.output == "text":
        return ids.assign(reference=list(rows.references), generated=list(file.generated[seed]))
    return pd.concat(
        [
            ids.assign(label=label, truth=file.truth[:, i], score=file.scores[seed][:, i])
            for i, label in enumerate(file.labels)
        ],
        ignore_index=True,
    )
