"""Measure generated reports by words, findings and sides, none of which is downloaded; with baselines and probes."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_ft.json_values import JsonObject
from cxr_ft.score.arrays import Metrics
from cxr_ft.score.metrics import clinical, label_mentions, labeler, laterality, probes, registry, text_overlap

#: The seed of the random report; train reports the clinical constant is chosen from, references probed, at most.
SEED, CHOICES, PROBED = 0, 5000, 500


def evaluate(
    references: Sequence[str], generated: Sequence[str], labels: Sequence[str] = (), section: str = ""
) -> Metrics:
    """Return `text_overlap.evaluate`, with "clinical" and "sides" of their modules; "signature" names `section` too.

    Args:
        references: N texts; generated: N texts, in the same order.
        labels: see `text_overlap.evaluate`.
        section: the part of the report that was written, for the signature.

    Raises:
        ValueError: where the two differ in length.
    """
    result = text_overlap.evaluate(references, generated, labels)
    result |= {
        "clinical": clinical.evaluate(references, generated),
        "sides": laterality.evaluate(references, generated),
    }
    more = {name: _part(result, name)["signature"] for name in ("clinical", "sides")}
    section_name: Metrics = {"section": section} if section else {}
    result["signature"] = {**_part(result, "signature"), **more, **section_name}
    return result


def baselines(
    train: Sequence[str], references: Sequence[str], nearest: Sequence[int] | None = None, why: str = ""
) -> Metrics:
    """Return the scores of the baseline reports that a model must beat, all taken from train.

    Args:
        train: texts of train, M > 0 that are not blank.
        references: N texts to compare with.
        nearest: for each of the N the row of `train` whose image looks most like its own; None: not known, for `why`.

    Returns:
        "constant" (the text of the best BLEU-4 on train, see `constant_text`) and "constant_clinical" (that of
        the best macro clinical F1 on train), written for every image; "random" (a text of train drawn for each
        by a fixed seed); "nearest"; each as `brief` says, or None with its reason under "undefined".
    """
    # Sorted, so that the choices do not depend on the order of the rows.
    texts = sorted(text for text in train if text.strip())
    if not texts:
        return {"undefined": {"all": "train has no text"}}
    # A seed of its own, so that the random report is the same for every run on these splits.
    drawn = np.random.default_rng(SEED).integers(len(texts), size=len(references))
    written: dict[str, Sequence[str] | None] = {
        "constant": [text_overlap.constant_text(tuple(texts))] * len(references),
        "constant_clinical": [_clinical_constant(texts)] * len(references),
        "random": [texts[i] for i in drawn],
        # By row of `train` as it was passed: `nearest` counts rows, not the sorted texts.
        "nearest": None if nearest is None else [train[i] for i in nearest],
    }
    values = {name: None if reports is None else brief(references, reports) for name, reports in written.items()}
    return {**values, "undefined": {"nearest": why} if nearest is None else {}}


def probed(references: Sequence[str]) -> Metrics:
    """Return the metrics of references that were made wrong on purpose, see `probes`; right texts score 1.

    At most PROBED references are taken, evenly spread, and of them those that the probe changes ("changed").
    """
    # Probes cost a full evaluation each: a few hundred references are enough for a mean.
    some = text_overlap.evenly_spread([text for text in references if text.strip()], PROBED)
    out: Metrics = {}
    for name in probes.PROBES:
        right, wrong = probes.changed(some, name)
        values = {**brief(right, wrong), "changed": len(right)}
        if not right:
            values["undefined"] = {"all": "it changes none of the references"}
        out[name] = values
    return out


def brief(references: Sequence[str], generated: Sequence[str]) -> Metrics:
    """Return the metrics of a baseline or a probe as one level of numbers.

    Those the registry shows of baselines, "clinical_f1_14_positive" and its like (macro),
    "clinical_f1_micro_14_positive", "sides"; "undefined" with reasons.
    """
    metrics = evaluate(references, generated)
    findings, sides = _part(metrics, "clinical"), _part(metrics, "sides")
    out: Metrics = {known.name: known.value(metrics) for known in registry.shown_in("baseline", "text")}
    for size in clinical.SETS:
        for doubt in clinical.DOUBT:
            convention = _part(findings, f"{size}_{doubt}")
            out[f"clinical_f1_{size}_{doubt}"] = _part(convention, "macro")["f1"]
            out[f"clinical_f1_micro_{size}_{doubt}"] = _part(convention, "micro")["f1"]
    undefined = {**_part(metrics, "undefined")}
    # Reasons get the keys of the flat record, where nothing says which evaluation they came from.
    undefined |= {f"clinical_f1_{name}": why for name, why in _part(findings, "undefined").items()}
    if reasons := _part(sides, "undefined"):
        undefined["sides"] = reasons["accuracy"]
    return {**out, "sides": sides["accuracy"], "undefined": undefined}


def _part(metrics: JsonObject, name: str) -> JsonObject:
    """Return a part of some metrics that is an object by its format."""
    part = metrics[name]
    if not isinstance(part, Mapping):
        raise TypeError(f"{name} of some metrics is no object but {part!r}")
    return part


def nearest(train: npt.NDArray[np.uint8], images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return for each image [N, D] the row of `train` [M, D] with the highest correlation of pixels."""
    from sklearn.metrics import pairwise_distances_argmin

    rows: npt.NDArray[np.int64] = pairwise_distances_argmin(_standard(images), _standard(train))
    return rows


def _standard(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return rows of mean 0 and length 1, so that exposure and contrast do not count; a blank image is all 0."""
    # float32: images of thousands of rows in float64 would double the memory for digits that no ranking needs.
    centred = images.astype(np.float32) - images.mean(axis=1, keepdims=True, dtype=np.float32)
    # On rows of length 1 the Euclidean distance orders as the correlation does.
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # A blank image has length 0; the small bound leaves it at 0 instead of NaN.
    out: npt.NDArray[np.float32] = centred / np.maximum(length, 1e-6)
    return out


def _clinical_constant(texts: Sequence[str]) -> str:
    """Return of at most CHOICES sorted texts the one of the best macro clinical F1 if it is written for every image."""
    some = text_overlap.evenly_spread(texts, CHOICES)
    best: str = some[label_mentions.best_constant(clinical.stated(labeler.table(some), doubt=True))]
    return best
