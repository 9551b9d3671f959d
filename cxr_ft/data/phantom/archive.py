"""Writing the archive: a subject at a time, on one process or several, and in place all at once or not at all."""

import json
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from cxr_ft.child_processes import safe_path
from cxr_ft.data.phantom import archive_tables, cases, dicom_file, label_noise, report_writer
from cxr_ft.data.phantom.biases import BIASES
from cxr_ft.data.phantom.random_streams import stream
from cxr_ft.data.phantom.render import render
from cxr_ft.data.phantom.signature import PARAMETERS
from cxr_ft.errors import UsageError
from cxr_ft.files import cannot_write, in_cache, make_folder, set_kind, temporary_folder
from cxr_ft.progress import track


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options that determine every byte of an archive."""

    format: int
    subjects: int
    seed: int
    size: int
    biases: Mapping[str, float]

    def text(self) -> str:
        """Return the parameters as they are recorded."""
        return json.dumps({**vars(self), "biases": dict(self.biases)})


def write_archive(out: Path, plan: Plan, workers: int) -> None:
    """Write the archive of a plan to `out`; nothing is done where it is complete already.

    Raises:
        UsageError: where `out` holds something else, or cannot be written.
    """
    if _is_complete(out, plan):
        return
    out = out.resolve()
    try:
        with _temporary_folder(out) as folder:
            films = [film for of_subject in _subjects(folder, plan, workers) for film in of_subject]
            archive_tables.write(folder, films, plan.seed, plan.biases)
            (folder / "README.txt").write_text(_readme(plan), encoding="utf-8", newline="\n")
            (folder / PARAMETERS).write_text(plan.text() + "\n", encoding="utf-8", newline="\n")
            _place(folder, out, plan)
    except OSError as error:
        raise cannot_write(out, error) from error


def _is_complete(out: Path, plan: Plan) -> bool:
    if not out.exists():
        return False
    if not out.is_dir():
        raise UsageError(f"{out} is a file; choose another --out, a folder that is new or empty")
    if not any(out.iterdir()):
        return False
    recorded = out / PARAMETERS
    if not recorded.is_file():
        raise UsageError(
            f"{out} is not empty and holds no phantom archive; choose another --out, a new or empty folder"
        )
    text = recorded.read_text(encoding="utf-8").strip()
    # Compared as recorded text: the options determine every byte, so equal text means an equal archive.
    if text != plan.text():
        raise UsageError(f"{out} holds another phantom archive, {text}; choose another --out or the same values")
    return True


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    # The archive is renamed as a whole, so its files are written plainly: `files.atomic` for each would only cost time.
    make_folder(out.parent)
    with temporary_folder(out.parent, f".{out.name}.", private=in_cache(out)) as folder:
        yield folder


def _place(folder: Path, out: Path, plan: Plan) -> None:
    # No patient is in it; private in the cache all the same, so that one rule holds for all that is there.
    if in_cache(out):
        set_kind(folder, private=True)
    try:
        folder.rename(out)
    except OSError:
        if not _is_complete(out, plan):  # another process may have put the same archive there meanwhile
            raise


def _subjects(folder: Path, plan: Plan, workers: int) -> Iterator[list[archive_tables.Film]]:
    job = partial(write_subject, folder, plan)
    numbers = range(plan.subjects)
    if workers == 1:
        yield from track(map(job, numbers), "phantom subjects", plan.subjects)
        return
    # Spawned, since a process that has run OpenCV or PyTorch threads must not be forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, plan.subjects), mp_context=context) as pool:
        # Chunks of several subjects cost fewer messages; several chunks a worker keep the last one from working alone.
        chunk = max(1, min(16, plan.subjects // (4 * workers)))
        with safe_path():
            films = pool.map(job, numbers, chunksize=chunk)
        yield from track(films, "phantom subjects", plan.subjects)


@cache
def _keep_memory() -> None:
    # glibc gives memory back to the system, page by page to be asked for again, above a size that grows with the
    # largest block freed so far, up to 32 MB: a tenth of the time at 512 pixels.
    np.empty(31 << 20, np.uint8)


def write_subject(folder: Path, plan: Plan, index: int) -> list[archive_tables.Film]:
    """Write one subject's films and reports below `folder`; returns what the tables say of them."""
    _keep_memory()
    subject = cases.subject(plan.seed, index, plan.biases)
    films: list[archive_tables.Film] = []
    # The workers share the cores: OpenCV's own threads in each would only wait for each other.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for study, prior in zip(subject.studies, (None, *subject.studies), strict=False):
            films += [_write_film(folder, plan, subject, study, picture) for picture in study.pictures]
            text = report_writer.write(subject.body, study, prior, stream("report", plan.seed, study.study_id))
            (folder / f"{films[-1].folder}.txt").write_text(text, encoding="utf-8", newline="\n")
    finally:
        cv2.setNumThreads(threads)
    return films


def _write_film(
    folder: Path, plan: Plan, subject: cases.Subject, study: cases.Study, picture: cases.Picture
) -> archive_tables.Film:
    # One device, one style of header: the same for all films of a study.
    style = dicom_file.Style.sample(stream("header", plan.seed, study.study_id))
    film, boxes = render(subject.body, study.drawn, picture, plan.size)
    shape = (film.shape[0], film.shape[1])
    row = archive_tables.Film(
        subject=subject, study=study, picture=picture, shape=shape, has_view=style.has_view, boxes=boxes
    )
    path = folder / archive_tables.record_path(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_file.encoded(film, plan.seed, study, picture, style))
    return row


def _readme(plan: Plan) -> str:
    command = f"cxr-phantom --subjects {plan.subjects} --seed {plan.seed} --size {plan.size}"
    command += "".join(f" --bias {name}={strength:g}" for name, strength in plan.biases.items())
    planted = [f"{name} at {strength:g}: {BIASES[name]}." for name, strength in plan.biases.items()]
    slips = " and ".join(f"{share:.0%} ({name})" for name, share in label_noise.SLIPS.items())
    return (
        "Synthetic chest radiographs in the shape of MIMIC-CXR. No patient, no real image and no real report is in "
        "here: films are drawn from geometry and chance, reports are put together from sentences written for this "
        f"purpose.\n\nMade by: {command} (format {plan.format}).\n\n"
        "truth.csv holds what was drawn: severity 0..1 of each of the 14 labels of the study, and boxes (left, top, "
        "right, bottom; pixels) around what each of them changes in the film. Lung Opacity is the parent of "
        "consolidation, edema, atelectasis and lesion; pneumonia is the patchy kind of consolidation. Frequent "
        "findings are as frequent as in MIMIC-CXR; rare ones (fracture, pleural thickening, lesion, pneumothorax, "
        "wide mediastinum) are raised.\n\n"
        "Reports err as readers do: a sign under severity "
        f"{label_noise.SUBTLE:g} is passed over in {label_noise.MISSED[0]:.0%} and hedged in "
        f"{label_noise.HEDGED[0]:.0%} of studies, "
        f"a plain one in {label_noise.MISSED[1]:.0%} and {label_noise.HEDGED[1]:.0%} (pneumonia is hedged in "
        f"{label_noise.HEDGED_PNEUMONIA:.0%}); {label_noise.OVERCALLED:.1%} of absent ones, more with a hedge, are "
        f"stated. Label tables hold what the report states, 1.0, 0.0, -1.0 (hedged) or nothing, but {slips} of the "
        "mentions are taken for something else.\n\n"
        f"Planted biases: {' '.join(planted) or 'none.'}\n"
    )
