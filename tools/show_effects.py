"""What options of the data change on phantoms: second view, context, larger images, curriculum, weights of classes.

    python tools/show_effects.py --out DIR [--only views,context]

Each pair of runs differs in one key and answers the same test rows. An effect is the paired difference with its 95 %
interval over subjects (bootstrap, one seed of training); an interval that holds 0 is "no effect seen". All studies here
have a frontal and a lateral film.

Two effects are planted beside those that the phantom has of itself. "lateral only": each study's frontal film is that
of another study of its side, so that the lateral alone shows its labels. "context": the findings are given before the
impression is written; a phantom's indication is drawn without a look at the film, so it can tell nothing.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.data.layouts import mimic_cxr
from cxr_ft.data.pixels.image_decode import NOT_CHECKED
from cxr_ft.data.splits.compiler import compile_splits
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import write_splits
from cxr_ft.run.evaluation.inference import Predictions, run_inference
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import saved_model
from cxr_ft.run.training import train
from cxr_ft.score.metrics import label_mentions, text_overlap
from cxr_ft.score.statistics.intervals import auroc, cluster_bootstrap, interval, macro_auroc

ARCHIVE = "phantom:subjects=1600,seed=0,size=192"
REPLICATES = 1000
Floats = NDArray[np.float64]
Statistic = Callable[["Evaluated", Floats], Floats]
FULL = {"name": "full", "lr": 1e-4}
SCORES = {"tuning": FULL, "train": {"epochs": 8, "precision": "bf16"}}
REPORT = {"tuning": {**FULL, "lr": 3e-4}, "train": {"epochs": 8, "precision": "bf16"}}
#: Name -> what is configured besides.
RUNS: Mapping[str, Mapping[str, object]] = {
    "scores": SCORES,
    "two views": {**SCORES, "data": {"views": 2}},
    "frontal of another": SCORES,
    "and own lateral": {**SCORES, "data": {"views": 2}},
    "192 pixels": {**SCORES, "data": {"image_size": 192}},
    "balanced": {**SCORES, "head": {"weights": "balanced"}},
    "mini-report": {**REPORT, "head": {"name": "report", "text": "mini_report"}},
    "indication": {**REPORT, "head": {"name": "report", "text": "mini_report"}, "data": {"context": ["indication"]}},
    "curriculum": {**REPORT, "head": {"name": "report", "text": "mini_report"}, "data": {"curriculum": 3}},
    "impression": {**REPORT, "head": {"name": "report", "text": "impression"}},
    "from findings": {**REPORT, "head": {"name": "report", "text": "impression"}, "data": {"context": ["findings"]}},
}
#: Effect -> the run with it, the run without it.
PAIRS = {
    "views": ("two views", "scores"),
    "lateral only": ("and own lateral", "frontal of another"),
    "size": ("192 pixels", "scores"),
    "weights": ("balanced", "scores"),
    "indication": ("indication", "mini-report"),
    "curriculum": ("curriculum", "mini-report"),
    "context": ("from findings", "impression"),
}


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A run's answers on test [N], and how long it trained."""

    rows: SplitDataset
    answers: Predictions
    labels: tuple[str, ...]
    seconds: float


def splits_of(out: Path, *, exchanged: bool) -> manifest.Splits:
    """Splits by study of all studies that have a lateral film.

    Args:
        exchanged: give each study the frontal film of the next one on its side.
    """
    if not (out / "manifest.json").exists():
        records = mimic_cxr.records(ARCHIVE)
        lateral = set(records.table.loc[records.table["view"] == "LATERAL", "study_id"])
        kept = records.table[records.table["study_id"].isin(lateral)].reset_index(drop=True)
        records = dataclasses.replace(records, table=kept)
        request = SplitRequest(per_label=5000, ratios=(55.0, 10.0, 35.0), views="all", unit="study", text="all")
        compiled = compile_splits(records, request, lambda _: NOT_CHECKED)
        for table in compiled.tables.values() if exchanged else ():
            for column in ("path", "dicom_id"):
                films = [str(value).split("|") for value in table[column]]
                table[column] = [f"{films[i - 1][0]}|{film[-1]}" for i, film in enumerate(films)]
        write_splits(out, records, "mimic_cxr", request, compiled)
    return manifest.read(out)


def evaluated(name: str, out: Path, splits: manifest.Splits) -> Evaluated:
    """Train a run, or take it as it is there, and answer test."""
    resolved = config.resolve(config.merge(RUNS[name], {"data": {"splits": str(splits.folder)}}))
    run = out / name.replace(" ", "_")
    result = train.fit(resolved, run, verify=False)
    parts, _, _ = saved_model.load(run)
    rows = build_datasets(resolved, splits, parts.base.image_size)["test"]
    return Evaluated(rows, run_inference(parts, rows, 32, name), splits.card.labels, result.cost["train_seconds"])


def area(one: Evaluated, weights: Floats) -> Floats:
    """Macro AUROC under weights [R, N]."""
    return np.asarray(macro_auroc(one.rows.targets, one.answers.scores, weights))


def area_of(label: str) -> Statistic:
    """AUROC of one label under weights [R, N]."""

    def of(one: Evaluated, weights: Floats) -> Floats:
        i = one.labels.index(label)
        known = ~np.isnan(one.rows.targets[:, i])
        return np.asarray(auroc(one.rows.targets[known, i], one.answers.scores[known, i], weights[:, known]))

    return of


def bleu(one: Evaluated, weights: Floats) -> Floats:
    """BLEU-4 under weights [R, N]."""
    return np.asarray(text_overlap.bleu(weights @ text_overlap.bleu_counts(one.rows.texts, one.answers.texts)))


def label_f1(one: Evaluated, weights: Floats) -> Floats:
    """F1 of the labels that texts state, all together, under weights [R, N]."""
    truth, said = (label_mentions.stated(texts, one.labels) for texts in (one.rows.texts, one.answers.texts))
    both, either = (truth & said).sum(1), truth.sum(1) + said.sum(1)
    return np.asarray(2 * (weights @ both) / (weights @ either))


def compared(effect: str, with_it: Evaluated, without: Evaluated) -> list[str]:
    """A line of the table for each statistic."""
    statistics: dict[str, Statistic] = {"BLEU-4": bleu, "label F1": label_f1}
    if with_it.answers.score_rows:
        statistics = {"macro AUROC": area}
    if effect in ("views", "lateral only"):
        statistics |= {label: area_of(label) for label in ("Pleural Effusion", "Enlarged Cardiomediastinum")}
    subjects = with_it.rows.ids["subject_id"].to_numpy()
    drawn = cluster_bootstrap(subjects, REPLICATES, 0).astype(float)
    whole = np.ones((1, len(subjects)))
    lines = []
    for name, statistic in statistics.items():
        first, second = (float(statistic(one, whole)[0]) for one in (with_it, without))
        found = interval(statistic(with_it, drawn) - statistic(without, drawn))
        low, high = found if found is not None else (float("nan"), float("nan"))
        verdict = "better" if low > 0 else "worse" if high < 0 else "no effect seen"
        lines.append(
            f"| {effect} | {name} | {second:.3f} | {first:.3f} | {low:+.3f} to {high:+.3f} | {verdict} | "
            f"{without.seconds:.0f} s, {with_it.seconds:.0f} s |"
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where splits and runs go; finished ones are taken")
    parser.add_argument("--only", default=",".join(PAIRS), help=f"of {', '.join(PAIRS)}")
    args = parser.parse_args()
    start = time.perf_counter()
    plain, planted = (splits_of(args.out / name, exchanged=name == "planted") for name in ("splits", "planted"))
    print(", ".join(f"{side} {len(table)}" for side, table in plain.tables.items()), flush=True)
    print("| effect | statistic | without | with | difference, 95 % | | training |\n|---|---|---|---|---|---|---|")
    done: dict[str, Evaluated] = {}
    for effect in args.only.split(","):
        for name in PAIRS[effect]:
            if name not in done:
                done[name] = evaluated(name, args.out, planted if effect == "lateral only" else plain)
        print("\n".join(compared(effect, *(done[name] for name in PAIRS[effect]))), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
