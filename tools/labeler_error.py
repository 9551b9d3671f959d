"""How often the rule-based labeler errs: on phantom reports, whose labels are known, and on real ones with headings.

    python tools/labeler_error.py                                  phantom reports
    python tools/labeler_error.py openi_reports.csv                Open-I: columns uid, findings, impression, mesh

Open-I's MeSH headings were given by people to the whole examination; HEADINGS maps those that name a label. A heading
says that something is there, never that it is denied or in doubt, and no heading is no proof of absence. "No
Finding" is where no heading names another label but devices, as the labeler has it. Only errors in reports of even uid
were looked up while the rules were written: both halves are shown.
"""

import argparse
import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import labeler

#: What begins a MeSH heading of Open-I, by label.
HEADINGS = {
    "Enlarged Cardiomediastinum": ("Mediastinum/prominent", "Mediastinum/enlarged"),
    "Cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged"),
    "Lung Opacity": ("Opacity", "Infiltrate", "Airspace Disease"),
    "Lung Lesion": ("Nodule", "Mass/lung", "Mass/thorax", "Lung Neoplasms"),
    "Edema": ("Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Pulmonary Atelectasis",),
    "Pneumothorax": ("Pneumothorax", "Hydropneumothorax"),
    "Pleural Effusion": ("Pleural Effusion", "Hydropneumothorax"),
    "Pleural Other": ("Thickening/pleura", "Cicatrix/pleura"),
    "Fracture": ("Fractures, Bone",),
    "Support Devices": (
        "Surgical Instruments", "Catheters, Indwelling", "Implanted Medical Device", "Medical Device", "Tube, Inserted",
        "Stents", "Sutures",
    ),
}  # fmt: skip


def openi(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, labels bool [N, 14] by heading, and whose errors were not looked up, bool [N]."""
    texts, truth, unseen = [], [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := {"uid", "findings", "impression", "mesh"} - set(reader.fieldnames or ()):
            raise UsageError(f"{path} has no column {', '.join(sorted(missing))}: give Open-I's reports as a CSV")
        for row in reader:
            text = f"{row['findings']}\n\n{row['impression']}"
            headings = row["mesh"].split("|")
            if not text.strip() or headings in ([""], ["No Indexing"]):
                continue
            texts.append(text)
            there = {name: any(h.startswith(begins) for h in headings) for name, begins in HEADINGS.items()}
            there[labeler.NO_FINDING] = not any(v for name, v in there.items() if name != labeler.DEVICES)
            truth.append([there[name] for name in labeler.LABELS])
            unseen.append(int(re.sub(r"\D", "", row["uid"])) % 2 == 1)
    return texts, np.array(truth), np.array(unseen)


def phantom(subjects: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Reports of the phantom's subjects, findings and impression, and what they say: [N, 14] 1, 0, -1, NaN."""
    from cxr_ft.data.phantom import cases, report_writer
    from cxr_ft.data.reports.text_columns import sections

    texts, truth = [], []
    for index in range(subjects):
        subject = cases.subject(seed, index)
        for number, study in enumerate(subject.studies):
            prior = subject.studies[number - 1] if number else None
            parts = sections(
                report_writer.write(subject.body, study, prior, np.random.default_rng([seed, index, number]))
            )
            texts.append("\n\n".join(parts.get(name) or "" for name in ("findings", "impression")))
            truth.append([study.stated.get(name, np.nan) for name in labeler.LABELS])
    return texts, np.array(truth, dtype=float)


def print_agreement(truth: np.ndarray, said: np.ndarray) -> None:
    """F1 of each kind of statement by label."""
    print(f"{len(truth)} reports; F1 (number in truth) of what is stated, denied, in doubt\n")
    for i, name in enumerate([*labeler.LABELS, "all labels"]):
        columns = slice(i, i + 1) if i < len(labeler.LABELS) else slice(None)
        cells = []
        for value in (1, 0, -1):
            a, b = truth[:, columns] == value, said[:, columns] == value
            cells.append(f"{_ratio(2 * (a & b).sum(), a.sum() + b.sum())} ({a.sum()})")
        print(f"{name:28}" + "".join(f"{cell:>16}" for cell in cells))


def print_errors(truth: np.ndarray, said: np.ndarray) -> None:
    """Precision and recall of each label, what is in doubt counted as stated and as not."""
    print(f"{len(truth)} reports; headings, then precision and recall with doubt as stated, with doubt as not stated\n")
    for i, name in enumerate([*labeler.LABELS, "all labels"]):
        columns = slice(i, i + 1) if i < len(labeler.LABELS) else slice(None)
        cells = [f"{truth[:, columns].sum():8}"]
        for doubt in (True, False):
            told = (said[:, columns] == 1) | ((said[:, columns] == -1) & doubt)
            hit = (truth[:, columns] & told).sum()
            cells += [_ratio(hit, told.sum()), _ratio(hit, truth[:, columns].sum())]
        print(f"{name:28}" + "".join(f"{cell:>8}" for cell in cells))


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Errors of the rule-based labeler.")
    parser.add_argument("csv", nargs="?", type=Path, help="Open-I's reports; without it: phantom reports")
    parser.add_argument("--subjects", type=int, default=1000, help="of the phantom")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom")
    args = parser.parse_args(arguments)
    if args.csv is None:
        texts, truth = phantom(args.subjects, args.seed)
        print_agreement(truth, labeler.table(texts))
        return 0
    texts, truth, unseen = openi(args.csv)
    said = labeler.table(texts)
    parts: Iterable[tuple[str, np.ndarray]] = (
        ("even uid, errors looked up", ~unseen),
        ("odd uid, errors not looked up", unseen),
    )
    for words, rows in parts:
        print(f"\n{words}:")
        print_errors(truth[rows], said[rows])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
