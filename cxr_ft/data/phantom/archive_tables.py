"""The archive's tables, in the columns of MIMIC-CXR 2.0.0 and MIMIC-CXR-JPG 2.0.0, and the truth beside them."""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import label_noise
from cxr_ft.data.phantom.canvas import Box
from cxr_ft.data.phantom.cases import Picture, Study, Subject, labels, severities
from cxr_ft.data.phantom.dicom_file import MEANINGS, procedure
from cxr_ft.data.phantom.random_streams import stream

#: In the order of MIMIC-CXR-JPG's label tables, which is alphabetical.
LABELS = tuple(sorted(CHEXPERT_14))


@dataclass(frozen=True, kw_only=True)
class Film:
    """The entry of one image file in the tables."""

    subject: Subject
    study: Study
    picture: Picture
    shape: tuple[int, int]
    has_view: bool
    boxes: Mapping[str, Sequence[Box]]

    @property
    def folder(self) -> str:
        """Return the study's folder, relative to the archive."""
        number = str(self.subject.subject_id)
        return f"files/p{number[:2]}/p{number}/s{self.study.study_id}"

    @property
    def ids(self) -> dict[str, object]:
        """Return the three ids."""
        study = self.study.study_id
        return {"subject_id": self.subject.subject_id, "study_id": study, "dicom_id": self.picture.dicom_id}


def write(root: Path, films: Sequence[Film], seed: int, biases: Iterable[str] = ()) -> None:
    """Write every table of `films` below `root`; the truth says what each of `biases` did to an image."""
    # The label tables have one row a study; its first film stands for it.
    studies = [film for film in films if film.study.pictures[0] == film.picture]
    name = "mimic-cxr-2.0.0-"
    _gzip(root / f"{name}metadata.csv.gz", map(_metadata, films))
    _gzip(root / f"{name}split.csv.gz", ({**_order(film), "split": film.subject.split} for film in films))
    for labeler in label_noise.SLIPS:
        _gzip(root / f"{name}{labeler}.csv.gz", (_labels(film, seed, labeler) for film in studies))
    _gzip(root / "cxr-record-list.csv.gz", ({**film.ids, "path": record_path(film)} for film in films))
    _gzip(root / "cxr-study-list.csv.gz", ({**_study_ids(film), "path": f"{film.folder}.txt"} for film in studies))
    (root / "truth.csv").write_bytes(_csv(_truth(film, biases) for film in films))


def record_path(film: Film) -> str:
    """Return the image file, relative to the archive."""
    return f"{film.folder}/{film.picture.dicom_id}.dcm"


def _order(film: Film) -> dict[str, object]:
    return {key: film.ids[key] for key in ("dicom_id", "study_id", "subject_id")}


def _study_ids(film: Film) -> dict[str, object]:
    return {key: film.ids[key] for key in ("subject_id", "study_id")}


def _metadata(film: Film) -> dict[str, object]:
    when, view = film.study.when, film.picture.view
    meaning, orientation = MEANINGS[view]
    return {
        "dicom_id": film.picture.dicom_id,
        **_study_ids(film),
        "PerformedProcedureStepDescription": procedure(film.study),
        # What the header lacks the table lacks too: it was made from headers.
        "ViewPosition": view if film.has_view else "",
        "Rows": film.shape[0],
        "Columns": film.shape[1],
        "StudyDate": f"{when:%Y%m%d}",
        # MIMIC-CXR's table has times as numbers: 00:07:05 is 705.000.
        "StudyTime": f"{int(f'{when:%H%M%S}')}.{when.microsecond // 1000:03d}",
        "ProcedureCodeSequence_CodeMeaning": procedure(film.study),
        "ViewCodeSequence_CodeMeaning": meaning,
        "PatientOrientationCodeSequence_CodeMeaning": orientation,
    }


def _labels(film: Film, seed: int, labeler: str) -> dict[str, object]:
    table = label_noise.labelled(stream(labeler, seed, film.study.study_id), film.study.stated, labeler)
    return {**_study_ids(film), **{label: f"{table[label]:.1f}" if label in table else "" for label in LABELS}}


def _truth(film: Film, biases: Iterable[str]) -> dict[str, object]:
    planted = {
        "device": int(film.study.tied),
        "site": int(film.picture.site),
        "subgroup": f"{film.study.faint:.4g}",
    }
    severity_of_label = severities(film.study.signs)
    boxes: dict[str, list[Box]] = {}
    # A parent label (Lung Opacity) is drawn by its children, so it has their boxes.
    for bearer, label in sorted({(sign.label, label) for sign in film.study.signs for label in labels(sign)}):
        if drawn := film.boxes.get(bearer):
            boxes.setdefault(label, []).extend(drawn)
    return {
        **film.ids,
        "view": film.picture.view,
        "sex": film.subject.body.sex,
        "age": film.subject.body.age,
        **{label: f"{severity_of_label[label]:.4g}" for label in LABELS},
        **{f"bias_{name}": planted[name] for name in biases},
        "boxes": json.dumps(boxes, sort_keys=True),
    }


def _csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        # The header comes from the first row, so that rows may be a generator.
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue().encode()


def _gzip(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    # Neither time nor file name in gzip's header: the same rows are the same bytes.
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(_csv(rows))
