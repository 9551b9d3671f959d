"""Draw the cases of the archive: subjects, their studies and films, their findings, and the reports' statements.

Everything here follows from (seed, subject's index) alone, so that the order of work never matters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal

import numpy as np

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import devices, label_noise
from cxr_ft.data.phantom.anatomy import Body
from cxr_ft.data.phantom.biases import NONE, SITE_SHARE
from cxr_ft.data.phantom.findings import ZONES, Sign
from cxr_ft.data.phantom.random_streams import stream
from cxr_ft.data.phantom.signature import FIRST_ID, STUDIES_A_SUBJECT, dicom_id

#: CheXpert's children of Lung Opacity that are drawn. Pneumonia, a child too, follows from a patchy consolidation.
OPACITIES = ("Consolidation", "Edema", "Atelectasis", "Lung Lesion")
STUDIES = 3

View = Literal["PA", "AP", "LATERAL"]

# How often a study that has anything has this; odds of right, left, both. Frequent findings are as frequent as in
# MIMIC-CXR, rare ones (fracture, pleural thickening, lesion, wide mediastinum, pneumothorax) are raised.
_SIDED = (0.42, 0.36, 0.22)
_CHANCES: Mapping[str, tuple[float, tuple[float, float, float] | None]] = MappingProxyType({
    # Causes stand before effects: labels are drawn in this order, and `_RAISED` asks what was drawn before.
    "Cardiomegaly": (0.29, None),
    "Enlarged Cardiomediastinum": (0.11, None),
    "Edema": (0.19, None),
    "Pleural Effusion": (0.30, (0.36, 0.32, 0.32)),
    "Consolidation": (0.36, _SIDED),
    "Atelectasis": (0.27, _SIDED),
    # Never on both sides, these three: `findings` takes their `side` for one lung.
    "Pneumothorax": (0.16, (0.55, 0.45, 0.0)),
    "Lung Lesion": (0.15, (0.55, 0.45, 0.0)),
    "Fracture": (0.13, (0.5, 0.5, 0.0)),
    "Pleural Other": (0.12, (0.42, 0.38, 0.20)),
})  # fmt: skip
# A failing heart is large, then the lungs fill with fluid and then the pleura; an effusion presses on the lung above.
_RAISED = MappingProxyType({
    ("Cardiomegaly", "Enlarged Cardiomediastinum"): 1.9,
    ("Cardiomegaly", "Edema"): 1.7,
    ("Edema", "Pleural Effusion"): 1.5,
    ("Pleural Effusion", "Atelectasis"): 1.5,
})  # fmt: skip
# What does not heal within months. Fluid, infection, air and airless lung come and go.
_CHRONIC = frozenset({"Cardiomegaly", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion", "Pleural Other"})
_IMPLANTS = frozenset({"pacemaker", "sternal wires"})
# The rest has nothing: in MIMIC-CXR a third of the training studies, 74,019 of 222,758, are No Finding.
_SICK = 0.63


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One film of a study."""

    dicom_id: str
    view: View
    seed: tuple[int, ...]
    site: bool = False


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study: when, what is there, what its reader reports, and so states of each label (1, 0, -1), its films.

    Planted biases: `faint` scales the severities drawn, `tied` says that a device goes with a pneumothorax here.
    """

    study_id: int
    when: datetime
    signs: tuple[Sign, ...]
    reported: tuple[Sign, ...]
    stated: Mapping[str, int]
    pictures: tuple[Picture, ...]
    faint: float = 1.0
    tied: bool = False

    @property
    def drawn(self) -> tuple[Sign, ...]:
        """Return the signs as they are drawn: fainter in a subgroup, where that bias is on."""
        return tuple(
            sign if sign.label == "Support Devices" else replace(sign, severity=sign.severity * self.faint)
            for sign in self.signs
            if self.faint or sign.label == "Support Devices"
        )

    @property
    def portable(self) -> bool:
        """Return True if it was taken at the bedside, from the front."""
        return self.pictures[0].view == "AP"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject with studies in order of time."""

    subject_id: int
    body: Body
    split: Literal["train", "validate", "test"]
    studies: tuple[Study, ...]


def subject(seed: int, index: int, biases: Mapping[str, float] = NONE) -> Subject:
    """Return the subject `index` (from 0) of the archive of a seed, with the biases planted."""
    rng = stream("subject", seed, index)
    body = Body.sample(rng)
    draw = rng.random()
    # MIMIC-CXR's own split has 1.4 % of the images in test, which would be too few of a small archive.
    split: Literal["train", "validate", "test"] = "train" if draw < 0.80 else "validate" if draw < 0.88 else "test"
    # Drawn once a subject: who lies in a ward is filmed at the bedside again and again.
    inpatient = 0.85 if rng.random() < 0.45 else 0.2
    # In a far future, as MIMIC-CXR's shifted dates are.
    when = datetime(2110, 1, 1) + timedelta(days=int(rng.integers(80 * 365)), seconds=float(rng.uniform(0, 86400)))
    studies: list[Study] = []
    for number in range(int(rng.choice(STUDIES, p=(0.56, 0.28, 0.16))) + 1):
        study_id = FIRST_ID + STUDIES_A_SUBJECT * index + number
        pictures = _pictures(rng, (seed, index, number), study_id, inpatient)
        before = studies[-1].signs if studies else ()
        # The films come first: bedside patients have more devices.
        signs = _signs(rng, before, number > 0, pictures[0].view == "AP")
        # A stream of its own, so that an archive with a bias has the same patients as the one without.
        chance = stream("biases", seed, index, number)
        tied = chance.random() < biases.get("device", 0)
        if tied:
            signs = _tied(chance, signs)
        if "site" in biases:
            site = _at_site(chance, signs, biases["site"])
            pictures = tuple(replace(picture, site=site) for picture in pictures)
        # After the device bias: the report states the signs as they then are.
        reported = _reported(rng, signs)
        stated = label_noise.statements(rng, severities(reported), OPACITIES)
        faint = 1 - biases.get("subgroup", 0) * (body.sex == "F")
        studies.append(
            Study(
                study_id=study_id, when=when, signs=signs, reported=reported, stated=stated, pictures=pictures,
                faint=faint, tied=tied,
            )
        )  # fmt: skip
        # Never the same moment as the study before: the order of a subject's studies must be clear.
        when += timedelta(days=float(rng.exponential(30)) + 0.3)
    return Subject(subject_id=FIRST_ID + index, body=body, split=split, studies=tuple(studies))


def labels(sign: Sign) -> list[str]:
    """Return the labels that a sign bears: its own, its parent's, and pneumonia's."""
    parent = ["Lung Opacity"] if sign.label in OPACITIES else []
    return [sign.label, *parent, *(["Pneumonia"] if sign.kind == "patchy" else [])]


def severities(signs: Iterable[Sign]) -> dict[str, float]:
    """Return the severity of each of the 14 labels, 0..1, parents and "No Finding" (0 or 1) included."""
    severity_of_label = dict.fromkeys(CHEXPERT_14, 0.0)
    for sign in signs:
        for name in labels(sign):
            severity_of_label[name] = max(severity_of_label[name], sign.severity)
    # By CheXpert's rule a device is no finding.
    severity_of_label["No Finding"] = float(
        not any(value for name, value in severity_of_label.items() if name != "Support Devices")
    )
    return severity_of_label


def _pictures(
    rng: np.random.Generator, key: tuple[int, int, int], study_id: int, inpatient: float
) -> tuple[Picture, ...]:
    bedside, second = rng.random() < inpatient, rng.random()
    views: list[View] = ["AP"] if bedside else ["PA"]
    if second < (0.15 if bedside else 0.5):
        # A lateral film needs a patient who can stand; at the bedside a second film is another AP.
        views.append("AP" if bedside else "LATERAL")
    return tuple(
        Picture(dicom_id=dicom_id(key[0], study_id, number), view=view, seed=(*key, number))
        for number, view in enumerate(views)
    )


def _signs(rng: np.random.Generator, before: tuple[Sign, ...], later: bool, portable: bool) -> tuple[Sign, ...]:
    # A chronic sign persists through a subject's studies, as the reports' comparisons with a prior study need.
    signs = [persisting for sign in before if (persisting := _later(rng, sign)) is not None]
    have = {sign.label for sign in signs}
    # A later study already has what persisted, so something new is rarer there.
    if rng.random() < (0.38 if later else _SICK):
        for label, (chance, laterality) in _CHANCES.items():
            # Signs go together: each that is present changes the chance of those it causes.
            factors = [f for (cause, effect), f in _RAISED.items() if effect == label and cause in have]
            if label not in have and rng.random() < chance * float(np.prod(factors)):
                have.add(label)
                signs.append(_new(rng, label, laterality))
    if "Support Devices" not in have and rng.random() < (0.29 if portable else 0.18):
        signs += _new_devices(rng, signs)
    return tuple(signs)


def _tied(rng: np.random.Generator, signs: tuple[Sign, ...]) -> tuple[Sign, ...]:
    """Return the signs with a device exactly where there is a pneumothorax."""
    have = {sign.label for sign in signs}
    if "Pneumothorax" not in have:
        return tuple(sign for sign in signs if sign.label != "Support Devices")
    return signs if "Support Devices" in have else (*signs, *_new_devices(rng, signs))


def _at_site(rng: np.random.Generator, signs: tuple[Sign, ...], strength: float) -> bool:
    if rng.random() < strength:
        return any(sign.label == "Cardiomegaly" for sign in signs)
    # Elsewhere the look is independent of the disease: the bias is a correlation and no rule.
    return bool(rng.random() < SITE_SHARE)


def _later(rng: np.random.Generator, sign: Sign) -> Sign | None:
    lasting = sign.label in _CHRONIC or sign.kind in _IMPLANTS
    if rng.random() > (0.93 if lasting else 0.50):
        return None
    if sign.label == "Support Devices":
        return sign
    # Not below the faintest new sign: what persists must stay above `label_noise.IMAGINED`.
    return replace(sign, severity=float(np.clip(sign.severity + rng.normal(0, 0.05 if lasting else 0.18), 0.06, 1)))


def _new(rng: np.random.Generator, label: str, laterality: tuple[float, float, float] | None) -> Sign:
    subtle = rng.random() < 0.2
    # The ranges lie on both sides of `label_noise.SUBTLE`, by which readers' errors go. Above it mild signs are more
    # frequent than severe ones.
    severity = rng.uniform(0.06, 0.26) if subtle else 0.28 + 0.72 * rng.beta(1.3, 2.0)
    # Edema by a failing heart fills both lungs.
    side = (
        str(rng.choice(("right", "left", "both"), p=laterality)) if laterality else "both" if label == "Edema" else ""
    )
    zone = str(rng.choice(ZONES, p=(0.27, 0.28, 0.45))) if label in ("Consolidation", "Lung Lesion") else ""
    kind = ""
    if label == "Consolidation":
        # The patchy kind bears the label Pneumonia too (`labels`).
        kind = "patchy" if rng.random() < 0.75 else "lobar"
    if label == "Pleural Other":
        kind = "apical" if rng.random() < 0.35 else "lateral"
    return Sign(label=label, severity=float(severity), side=side, zone=zone, kind=kind, seed=int(rng.integers(1 << 31)))


def _reported(rng: np.random.Generator, signs: tuple[Sign, ...]) -> tuple[Sign, ...]:
    """Return the signs that the reader believes to see."""
    present = {sign.label for sign in signs}
    seen = [sign for sign in signs if not label_noise.passed_over(rng, sign.severity)]
    for label, (_, laterality) in _CHANCES.items():
        severity = label_noise.imagined(rng, label)
        if severity and label not in present:
            seen.append(replace(_new(rng, label, laterality), severity=severity))
    return tuple(seen)


def _new_devices(rng: np.random.Generator, signs: Sequence[Sign]) -> list[Sign]:
    names = tuple(devices.KINDS)
    kinds = {str(kind) for kind in rng.choice(names, size=int(rng.integers(1, 4)), p=devices.SHARES)}
    leak = next((sign.side for sign in signs if sign.label == "Pneumothorax"), "")
    # The tube that treats a pneumothorax is on its side: models are known to learn it in place of the disease (arXiv
    # 2511.09742).
    if leak and rng.random() < 0.4:
        kinds.add("chest tube")
    added = []
    # Sorted, since the order of a set of texts differs from process to process, and the draws below go by it.
    for kind in sorted(kinds):
        side = "right" if rng.random() < devices.RIGHT[kind] else "left"
        if kind == "chest tube" and leak:
            side = leak
        added.append(Sign(label="Support Devices", severity=1.0, side=side, kind=kind, seed=int(rng.integers(1 << 31))))
    return added
