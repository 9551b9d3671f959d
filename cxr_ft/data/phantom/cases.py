"""Who is in the archive: subjects, their studies and films, what they have, and what the reports say of it.

Everything here follows from (seed, subject's index) alone, so that the order of work never matters.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal

import numpy as np

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import devices
from cxr_ft.data.phantom.anatomy import Body
from cxr_ft.data.phantom.chance import stream
from cxr_ft.data.phantom.findings import ZONES, Sign

OPACITIES = ("Consolidation", "Edema", "Atelectasis", "Lung Lesion")
FIRST_ID = 90_000_000
STUDIES = 3

View = Literal["PA", "AP", "LATERAL"]

# How often a study that has anything has this; odds of right, left, both; how often a report denies it when absent.
_SIDED = (0.42, 0.36, 0.22)
_CHANCES: Mapping[str, tuple[float, tuple[float, float, float] | None, float]] = MappingProxyType({
    "Cardiomegaly": (0.29, None, 0.45),
    "Enlarged Cardiomediastinum": (0.13, None, 0.25),
    "Edema": (0.19, None, 0.35),
    "Pleural Effusion": (0.29, (0.36, 0.32, 0.32), 0.65),
    "Consolidation": (0.35, _SIDED, 0.45),
    "Atelectasis": (0.24, _SIDED, 0.06),
    "Pneumothorax": (0.22, (0.55, 0.45, 0.0), 0.70),
    "Lung Lesion": (0.21, (0.55, 0.45, 0.0), 0.08),
    "Fracture": (0.19, (0.5, 0.5, 0.0), 0.15),
    "Pleural Other": (0.19, (0.42, 0.38, 0.20), 0.05),
})  # fmt: skip
_RAISED = MappingProxyType({
    ("Cardiomegaly", "Enlarged Cardiomediastinum"): 1.9,
    ("Cardiomegaly", "Edema"): 1.7,
    ("Edema", "Pleural Effusion"): 1.5,
    ("Pleural Effusion", "Atelectasis"): 1.5,
})  # fmt: skip
_CHRONIC = frozenset({"Cardiomegaly", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion", "Pleural Other"})
_IMPLANTS = frozenset({"pacemaker", "sternal wires"})
_SICK = 0.66
_DENIED_ALSO = MappingProxyType({"Lung Opacity": 0.15, "Pneumonia": 0.30, "Support Devices": 0.02})


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One film of a study."""

    dicom_id: str
    view: View
    seed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study: when, what is there, what its report says of each label (1, 0, -1; absent: nothing), its films."""

    study_id: int
    when: datetime
    signs: tuple[Sign, ...]
    said: Mapping[str, int]
    pictures: tuple[Picture, ...]

    @property
    def portable(self) -> bool:
        """Whether it was taken at the bedside, from the front."""
        return self.pictures[0].view == "AP"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject with studies in order of time."""

    subject_id: int
    body: Body
    split: Literal["train", "validate", "test"]
    studies: tuple[Study, ...]


def subject(seed: int, index: int) -> Subject:
    """The subject `index` (from 0) of the archive of a seed."""
    rng = stream("subject", seed, index)
    body = Body.sample(rng)
    draw = rng.random()
    split: Literal["train", "validate", "test"] = "train" if draw < 0.80 else "validate" if draw < 0.88 else "test"
    inpatient = 0.85 if rng.random() < 0.45 else 0.2
    when = datetime(2110, 1, 1) + timedelta(days=int(rng.integers(80 * 365)), seconds=float(rng.uniform(0, 86400)))
    studies: list[Study] = []
    for number in range(int(rng.choice(STUDIES, p=(0.56, 0.28, 0.16))) + 1):
        study_id = FIRST_ID + 10 * index + number
        pictures = _pictures(rng, (seed, index, number), study_id, inpatient)
        before = studies[-1].signs if studies else ()
        signs = _signs(rng, before, number > 0, pictures[0].view == "AP")
        said = _said(rng, severities(signs))
        studies.append(Study(study_id=study_id, when=when, signs=signs, said=said, pictures=pictures))
        when += timedelta(days=float(rng.exponential(30)) + 0.3)
    return Subject(subject_id=FIRST_ID + index, body=body, split=split, studies=tuple(studies))


def severities(signs: Iterable[Sign]) -> dict[str, float]:
    """How much of each of the 14 labels is there, 0..1, parents and "No Finding" (0 or 1) included."""
    found = dict.fromkeys(CHEXPERT_14, 0.0)
    for sign in signs:
        names = [sign.label, *(["Lung Opacity"] if sign.label in OPACITIES else [])]
        for name in [*names, *(["Pneumonia"] if sign.kind == "patchy" else [])]:
            found[name] = max(found[name], sign.severity)
    found["No Finding"] = float(not any(value for name, value in found.items() if name != "Support Devices"))
    return found


def _pictures(
    rng: np.random.Generator, key: tuple[int, int, int], study_id: int, inpatient: float
) -> tuple[Picture, ...]:
    bedside, second = rng.random() < inpatient, rng.random()
    views: list[View] = ["AP"] if bedside else ["PA"]
    if second < (0.15 if bedside else 0.5):
        views.append("AP" if bedside else "LATERAL")
    return tuple(
        Picture(dicom_id=_dicom_id(key[0], study_id, number), view=view, seed=(*key, number))
        for number, view in enumerate(views)
    )


def _dicom_id(seed: int, study_id: int, number: int) -> str:
    digest = hashlib.blake2b(f"{seed}/{study_id}/{number}".encode(), digest_size=20).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def _signs(rng: np.random.Generator, before: tuple[Sign, ...], later: bool, portable: bool) -> tuple[Sign, ...]:
    signs = [kept for sign in before if (kept := _later(rng, sign)) is not None]
    have = {sign.label for sign in signs}
    if rng.random() < (0.42 if later else _SICK):
        for label, (chance, sides, _) in _CHANCES.items():
            factors = [f for (cause, effect), f in _RAISED.items() if effect == label and cause in have]
            if label not in have and rng.random() < chance * float(np.prod(factors)):
                have.add(label)
                signs.append(_new(rng, label, sides))
    if "Support Devices" not in have and rng.random() < (0.32 if portable else 0.12):
        signs += _new_devices(rng, signs)
    return tuple(signs)


def _later(rng: np.random.Generator, sign: Sign) -> Sign | None:
    lasting = sign.label in _CHRONIC or sign.kind in _IMPLANTS
    if rng.random() > (0.93 if lasting else 0.50):
        return None
    if sign.label == "Support Devices":
        return sign
    return replace(sign, severity=float(np.clip(sign.severity + rng.normal(0, 0.05 if lasting else 0.18), 0.06, 1)))


def _new(rng: np.random.Generator, label: str, sides: tuple[float, float, float] | None) -> Sign:
    subtle = rng.random() < 0.2
    severity = rng.uniform(0.06, 0.26) if subtle else 0.28 + 0.72 * rng.beta(1.3, 2.0)
    side = str(rng.choice(("right", "left", "both"), p=sides)) if sides else "both" if label == "Edema" else ""
    zone = str(rng.choice(ZONES, p=(0.27, 0.28, 0.45))) if label in ("Consolidation", "Lung Lesion") else ""
    kind = ""
    if label == "Consolidation":
        kind = "patchy" if rng.random() < 0.7 else "lobar"
    if label == "Pleural Other":
        kind = "apical" if rng.random() < 0.35 else "lateral"
    return Sign(label=label, severity=float(severity), side=side, zone=zone, kind=kind, seed=int(rng.integers(1 << 31)))


def _new_devices(rng: np.random.Generator, signs: Sequence[Sign]) -> list[Sign]:
    names = tuple(devices.KINDS)
    kinds = {str(kind) for kind in rng.choice(names, size=int(rng.integers(1, 4)), p=devices.SHARES)}
    leak = next((sign.side for sign in signs if sign.label == "Pneumothorax"), "")
    if leak and rng.random() < 0.4:
        kinds.add("chest tube")
    found = []
    for kind in sorted(kinds):
        side = "right" if rng.random() < devices.RIGHT[kind] else "left"
        if kind == "chest tube" and leak:
            side = leak
        found.append(Sign(label="Support Devices", severity=1.0, side=side, kind=kind, seed=int(rng.integers(1 << 31))))
    return found


def _said(rng: np.random.Generator, found: Mapping[str, float]) -> Mapping[str, int]:
    """What the report states of each label. Subtle findings are often hedged, absent ones denied or passed over."""
    said: dict[str, int] = {}
    denied = {label: chance for label, (_, _, chance) in _CHANCES.items()} | dict(_DENIED_ALSO)
    for label in CHEXPERT_14:
        draw, severity = rng.random(), found[label]
        if severity:
            unsure = label not in ("No Finding", "Support Devices", "Lung Opacity")
            said[label] = -1 if unsure and draw < (0.5 if severity < 0.28 else 0.04) else 1
        elif draw < denied.get(label, 0.0):
            said[label] = 0
    if found["Consolidation"] and said.get("Pneumonia") == 0:
        del said["Pneumonia"]
    if said.get("Pneumonia") == 1 and said["Consolidation"] == -1:
        said["Pneumonia"] = -1
    if found["Lung Opacity"] and all(said[label] == -1 for label in OPACITIES if found[label]):
        said["Lung Opacity"] = -1
    return said
