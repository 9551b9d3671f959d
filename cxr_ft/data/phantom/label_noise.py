"""Turn severities into labels with noise: a reader who misses, imagines and hedges, and two labelers who err.

The shares are those of MIMIC-CXR's training studies (mentions denied, mentions hedged as a part of those stated).
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from cxr_ft.data.labels import CHEXPERT_14

#: Up to this severity a sign is subtle; a reader's imagined ones have `IMAGINED`, less than any real one.
SUBTLE, IMAGINED = 0.28, 0.05
#: Chances that a reader passes over a subtle and a plain sign, and states plainly one that is not there.
MISSED, OVERCALLED = (0.15, 0.01), 0.004
#: Chances that a subtle and a plain sign are hedged; pneumonia, however plain, is hedged by this.
HEDGED, HEDGED_PNEUMONIA = (0.40, 0.02), 0.50
#: Chances that a labeler takes a mention for something else, and that NegBio's takes a hedged one for a plain one.
SLIPS: Mapping[str, float] = MappingProxyType({"chexpert": 0.02, "negbio": 0.03})
#: NegBio finds fewer of the uncertain mentions than CheXpert's labeler (Irvin et al., AAAI 2019).
PLAINER = 0.15
#: Of the studies without a sign: how many have it hedged, how many denied.
DOUBTED: Mapping[str, float] = MappingProxyType({
    "Atelectasis": 0.025, "Cardiomegaly": 0.012, "Consolidation": 0.02, "Edema": 0.05,
    "Enlarged Cardiomediastinum": 0.11, "Lung Lesion": 0.008, "Pleural Effusion": 0.005, "Pleural Other": 0.02,
})  # fmt: skip
DENIED: Mapping[str, float] = MappingProxyType({
    "Atelectasis": 0.006, "Cardiomegaly": 0.09, "Consolidation": 0.045, "Edema": 0.14,
    "Enlarged Cardiomediastinum": 0.03, "Fracture": 0.006, "Lung Lesion": 0.005, "Lung Opacity": 0.02,
    "Pleural Effusion": 0.155, "Pleural Other": 0.002, "Pneumonia": 0.13, "Pneumothorax": 0.21,
    "Support Devices": 0.019,
})  # fmt: skip
# MIMIC-CXR hedges a device in 95 training studies, of 64,000 that state one. Lung Opacity follows its children.
_NEVER_HEDGED = frozenset({"No Finding", "Support Devices", "Lung Opacity"})


def passed_over(rng: np.random.Generator, severity: float) -> bool:
    """Return True if the reader misses a sign."""
    return bool(rng.random() < MISSED[severity >= SUBTLE])


def imagined(rng: np.random.Generator, label: str) -> float:
    """Return the severity at which the reader mentions a sign that is not there; mostly 0, not at all."""
    # A doubt is below every real severity, so that `_doubt` knows and hedges it; an error is stated as a plain sign is,
    # hence above SUBTLE.
    draw, doubt = rng.random(), DOUBTED.get(label, 0.0)
    return IMAGINED if draw < doubt else 0.35 if draw < doubt + OVERCALLED else 0.0


def statements(
    rng: np.random.Generator, severities: Mapping[str, float], opacities: tuple[str, ...]
) -> Mapping[str, int]:
    """Return the report's statement of each label, 1, 0 or -1, from the severities that the reader saw.

    Subtle findings are often hedged, absent ones now and then denied, mostly passed over.
    """
    stated: dict[str, int] = {}
    for label in CHEXPERT_14:
        # One draw a label, whatever its severity: a sign leaves the chances of the other labels as they are.
        draw, severity = rng.random(), severities[label]
        if severity:
            stated[label] = -1 if label not in _NEVER_HEDGED and draw < _doubt(label, severity) else 1
        elif draw < DENIED.get(label, 0.0):
            stated[label] = 0
    # A report that describes a consolidation and denies pneumonia would need a sentence that `phrases` has not; it
    # states nothing of pneumonia.
    if severities["Consolidation"] and stated.get("Pneumonia") == 0:
        del stated["Pneumonia"]
    # A pneumonia is not more certain than the opacity that it is read from.
    if stated.get("Pneumonia") == 1 and stated["Consolidation"] == -1:
        stated["Pneumonia"] = -1
    # The parent is no more certain than the most certain of its children.
    if severities["Lung Opacity"] and all(stated[label] == -1 for label in opacities if severities[label]):
        stated["Lung Opacity"] = -1
    return stated


def labelled(rng: np.random.Generator, stated: Mapping[str, int], labeler: str) -> Mapping[str, int]:
    """Return a labeler's row for a report: its statements with some errors; "No Finding" follows from the others."""
    table: dict[str, int] = {}
    for label in CHEXPERT_14:
        # Always three draws, so that one label's outcome does not shift the chances of the next ones.
        slip, kind, plainer = rng.random(3)
        value = stated.get(label)
        if value is None or label == "No Finding":
            continue
        if slip < SLIPS[labeler]:
            # A negation or a doubt that is not seen, a doubt that is not there, or a mention that is not seen.
            value = None if kind < 0.5 else -1 if value == 1 else 1
        elif labeler == "negbio" and value == -1 and plainer < PLAINER:
            value = 1
        if value is not None:
            table[label] = value
    # CheXpert's rule (Irvin et al.): No Finding holds where nothing is positive or uncertain, devices aside.
    if not any(table.get(label, 0) for label in CHEXPERT_14 if label != "Support Devices"):
        table["No Finding"] = 1
    return table


def _doubt(label: str, severity: float) -> float:
    if severity <= IMAGINED:
        return 1.0
    return HEDGED_PNEUMONIA if label == "Pneumonia" else HEDGED[severity >= SUBTLE]
