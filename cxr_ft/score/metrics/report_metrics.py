"""Judging generated reports by all there is without a download: words, findings, sides; baselines and probes beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_ft.score.metrics import clinical, label_mentions, labeler, laterality, probes, registry, text_overlap

#: The seed of the random report; train reports the clinical constant is chosen from, references probed, at most.
SEED, CHOICES, PROBED = 0, 5000, 500


def evaluate(
    references: Sequence[str], generated: Sequence[str], labels: Sequence[str] = (), section: str = ""
) -> dict[str, Any]:
    """`text.evaluate`, and under "clinical" and "sides" what those modules say; "signature" names the `section` too.

    Args:
        references: N texts; generated: N texts, in the same order.
        labels: see `text.evaluate`.
        section: the part of the report that was written, for the signature.

    Raises:
        ValueError: where the two differ in length.
    """
    result = text_overlap.evaluate(references, generated, labels)
    result |= {
        "clinical": clinical.evaluate(references, generated),
        "sides": laterality.evaluate(references, generated),
    }
    more = {name: result[name]["signature"] for name in ("clinical", "sides")}
    result["signature"] |= more | ({"section": section} if section else {})
    return result


def baselines(
    train: Sequence[str], references: Sequence[str], nearest: Sequence[int] | None = None, why: str = ""
) -> dict[str, Any]:
    """Return the scores of the baseline reports that a model must beat, all taken from train.

    Args:
        train: texts of train, M > 0 that are not blank.
        references: N texts to judge against.
        nearest: for each of the N the row of `train` whose image looks most like its own; None: not known, for `why`.

    Returns:
        "constant" (the text of the best BLEU-4 on train, see `text.constant_baseline`) and "constant_clinical" (that of
        the best macro clinical F1 on train), said to everyone; "random" (a text of train drawn for each, by a fixed
        seed); "nearest"; each as `brief` says, or None with its reason under "undefined".
    """
    texts = sorted(text for text in train if text.strip())
    if not texts:
        return {"undefined": {"all": "train has no text"}}
    drawn = np.random.default_rng(SEED).integers(len(texts), size=len(references))
    said: dict[str, Sequence[str] | None] = {
        "constant": [text_overlap.constant_text(tuple(texts))] * len(references),
        "constant_clinical": [_clinical_constant(texts)] * len(references),
        "random": [texts[i] for i in drawn],
        "nearest": None if nearest is None else [train[i] for i in nearest],
    }
    values = {name: None if given is None else brief(references, given) for name, given in said.items()}
    return {**values, "undefined": {"nearest": why} if nearest is None else {}}


def probed(references: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of references that were made wrong on purpose, see `probes`; right texts score 1.

    At most PROBED references are taken, evenly spread, and of them those that the probe changes ("changed").
    """
    some = [text for text in references if text.strip()]
    some = [some[i] for i in np.unique(np.linspace(0, len(some) - 1, min(PROBED, len(some))).round().astype(int))]
    out: dict[str, Any] = {}
    for name in probes.PROBES:
        right, wrong = probes.changed(some, name)
        out[name] = {**brief(right, wrong), "changed": len(right)}
        if not right:
            out[name]["undefined"] = {"all": "it changes none of the references"}
    return out


def brief(references: Sequence[str], generated: Sequence[str]) -> dict[str, Any]:
    """The metrics of a baseline or a probe as one level of numbers: those the registry shows of baselines,
    "clinical_f1_14_positive" and its like (macro), "clinical_f1_micro_14_positive", "sides"; "undefined" with reasons.
    """
    judged = evaluate(references, generated)
    out: dict[str, Any] = {known.name: known.value(judged) for known in registry.shown_in("baseline", "text")}
    for size in clinical.SETS:
        for doubt in clinical.DOUBT:
            value: Mapping[str, Any] = judged["clinical"][f"{size}_{doubt}"]
            out[f"clinical_f1_{size}_{doubt}"] = value["macro"]["f1"]
            out[f"clinical_f1_micro_{size}_{doubt}"] = value["micro"]["f1"]
    undefined = {**judged["undefined"]}
    undefined |= {f"clinical_f1_{name}": why for name, why in judged["clinical"]["undefined"].items()}
    if why_not := judged["sides"]["undefined"]:
        undefined["sides"] = why_not["accuracy"]
    return out | {"sides": judged["sides"]["accuracy"], "undefined": undefined}


def nearest(train: npt.NDArray[np.uint8], images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """For each image [N, D] the row of `train` [M, D] that looks most like it: the highest correlation of pixels."""
    from sklearn.metrics import pairwise_distances_argmin

    found: npt.NDArray[np.int64] = pairwise_distances_argmin(_standard(images), _standard(train))
    return found


def _standard(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that exposure and contrast do not count; a blank image is all 0."""
    centred = images.astype(np.float32) - images.mean(axis=1, keepdims=True, dtype=np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    out: npt.NDArray[np.float32] = centred / np.maximum(length, 1e-6)
    return out


def _clinical_constant(texts: Sequence[str]) -> str:
    """Of at most CHOICES sorted texts the one that, said to everyone, has the best macro clinical F1 on them."""
    some = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, min(CHOICES, len(texts))).round().astype(int))]
    best: str = some[label_mentions.best_constant(clinical.stated(labeler.table(some), doubt=True))]
    return best
