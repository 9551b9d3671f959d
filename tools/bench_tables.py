"""How long splits of tables of MIMIC-CXR's size take, and how much memory, beyond reading the tables.

    python tools/bench_tables.py [FOLDER]

makes three tables with MIMIC-CXR's columns in FOLDER (default: a temporary one), 377,110 images of 227,835 studies of
65,379 subjects with invented labels, reads them, writes the splits, and prints seconds and peak memory of each step.
The labels' frequencies are those MIMIC-CXR-JPG's tables are published with; which come together is made up.
"""

import argparse
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.layouts import mimic_cxr
from cxr_ft.data.pixels.image_decode import NOT_CHECKED
from cxr_ft.data.records import Records
from cxr_ft.data.splits.compiler import CompiledSplits, compile_splits
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import write_splits

IMAGES, STUDIES, SUBJECTS = 377_110, 227_835, 65_379
#: The share of studies each label is positive in, in the order of CHEXPERT_14, about as in MIMIC-CXR.
POSITIVE = (0.33, 0.031, 0.20, 0.226, 0.027, 0.12, 0.047, 0.072, 0.20, 0.046, 0.238, 0.0085, 0.019, 0.29)
VIEWS, VIEW_SHARES = ("AP", "PA", "LATERAL", "LL", ""), (0.39, 0.255, 0.22, 0.095, 0.04)


def main() -> None:
    """Make the tables, then read, compile and write, and say what each took."""
    parser = argparse.ArgumentParser(description="Time and memory of splits at MIMIC-CXR's size.")
    parser.add_argument("folder", nargs="?", type=Path, help="where the tables go (default: a temporary folder)")
    parser.add_argument("--per-label", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_tables(folder)
        bench(folder, SplitRequest(per_label=args.per_label))


def bench(folder: Path, request: SplitRequest) -> None:
    """Read the tables in `folder` and write their splits below it."""
    with measured("read the tables"):
        records = mimic_cxr.records(str(folder))
    with measured("compile and write the splits"):
        compiled = compile_splits(records, request, lambda paths: NOT_CHECKED)
        made = write_splits(folder / "splits", records, "mimic_cxr", request, compiled)
    shares = np.array([[row[side] for side in ("train", "val", "test")] for row in made["labels"].values()])
    goal = np.array(request.ratios) / 100
    off = np.abs(shares / shares.sum(axis=1, keepdims=True) / goal - 1).max()
    print(f"rows: {made['rows']}; {compiled.notes[-1]}")
    print(f"worst share of a label on a side is {100 * off:.2f} % off its target")
    stability(records, compiled, request)


def stability(records: Records, whole: CompiledSplits, request: SplitRequest) -> None:
    """Print how much changes when the last 1 % of the subjects come to an archive."""
    subject = records.table["subject_id"]
    late = subject.drop_duplicates().sample(frac=0.01, random_state=0)
    early = records.table[~subject.isin(late)].reset_index(drop=True)
    before = compile_splits(dataclasses.replace(records, table=early), request, lambda paths: NOT_CHECKED)
    images, subjects = ((sides(one, key) for one in (before, whole)) for key in ("dicom_id", "subject_id"))
    stay, moved = (pd.concat(pair, axis=1, keys=["before", "after"]) for pair in (images, subjects))
    chosen = stay.dropna(subset="before")
    known = moved.dropna()
    print(
        f"with 1 % more subjects {100 * (chosen['before'] == chosen['after']).mean():.1f} % of the images stay on "
        f"their side, {100 * (known['before'] != known['after']).mean():.1f} % of the subjects change theirs"
    )


def sides(compiled: CompiledSplits, key: str) -> "pd.Series[str]":
    """The side of each image or subject that was chosen, by its id."""
    tables = [compiled.tables[side].assign(side=side) for side in ("train", "val", "test")]
    return pd.concat(tables).drop_duplicates(key).set_index(key)["side"]


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds of a step (wall, and of this process) and the memory it adds at its peak."""
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    start, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        stop.set()
        thread.join()
    print(f"{what}: {wall:.2f} s ({cpu:.2f} s of CPU), {(peak - before) / 2**20:.0f} MB beyond the start")


def make_tables(folder: Path) -> None:
    """Write metadata, labels and official split with MIMIC-CXR's columns below `folder`."""
    rng = np.random.default_rng(0)
    per_subject = 1 + rng.multinomial(STUDIES - SUBJECTS, _heavy(rng, SUBJECTS))
    per_study = 1 + rng.multinomial(IMAGES - STUDIES, np.full(STUDIES, 1 / STUDIES))
    subject = np.repeat(np.arange(SUBJECTS) + 10_000_000, per_subject)
    study = np.arange(STUDIES) + 50_000_000
    # One subject's studies are alike: a factor of its own, and one of the study.
    ill = np.repeat(rng.normal(size=SUBJECTS), per_subject)[:, None]
    latent = 0.3 * ill + 0.2 * rng.normal(size=(STUDIES, 1)) + 0.93 * rng.normal(size=(STUDIES, 14))
    cut = [np.quantile(column, 1 - share) for column, share in zip(latent.T, POSITIVE, strict=True)]
    values = np.where(latent > cut, 1.0, np.nan)
    values[:, 0] = np.where(np.isnan(values[:, 1:13]).all(axis=1), 1.0, np.nan)
    values[rng.random(values.shape) < 0.03] = -1.0
    values[np.isnan(values) & (rng.random(values.shape) < 0.1)] = 0.0
    ids = pd.DataFrame({"subject_id": subject, "study_id": study})
    labels = pd.concat([ids, pd.DataFrame(values, columns=list(CHEXPERT_14))], axis=1)
    images = ids.loc[np.repeat(np.arange(STUDIES), per_study)].reset_index(drop=True)
    words = rng.integers(0, 2**32, (IMAGES, 5)).tolist()
    images.insert(0, "dicom_id", ["-".join(f"{word:08x}" for word in row) for row in words])
    images["ViewPosition"] = rng.choice(VIEWS, IMAGES, p=VIEW_SHARES)
    split = images[["dicom_id", "subject_id", "study_id"]].assign(split="train")
    for name, table in (("metadata", images), ("chexpert", labels), ("split", split)):
        table.to_csv(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})


def _heavy(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Shares with a long tail: most subjects have a study or two, a few have a hundred."""
    drawn = rng.lognormal(0.0, 1.2, count)
    return np.asarray(drawn / drawn.sum())


if __name__ == "__main__":
    main()
