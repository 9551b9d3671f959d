"""Reports state exactly what the tables hold, read by rules that know nothing of the templates."""

import re

import numpy as np
import pytest

from cxr_ft.data.phantom import cases, devices, findings, report_writer
from cxr_ft.data.reports.text_columns import sections

WORDS = {
    "Atelectasis": "atelecta",
    "Cardiomegaly": r"cardiomegaly|cardiac silhouette|heart size|the heart",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Enlarged Cardiomediastinum": "mediasti",
    "Fracture": "fracture",
    "Lung Lesion": "nodule|nodular",
    "Lung Opacity": "opacit",
    "Pleural Effusion": "effusion",
    "Pleural Other": "pleural (thickening|scarring)",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Support Devices": r"\btube|central line|picc|catheter|pacer|pacemaker|wires|devices",
}
DENIED = re.compile(r"\bno\b|\bnot\b|\bnormal\b", re.IGNORECASE)
HEDGED = re.compile(r"possible|may |cannot be excluded", re.IGNORECASE)


def stated(sentences, label):
    """What sentences say of a label: 1, 0, -1, or None where they do not speak of it."""
    about = [s for s in sentences if re.search(WORDS[label], s, re.IGNORECASE)]
    kinds = {0 if DENIED.search(s) else -1 if HEDGED.search(s) else 1 for s in about}
    if not kinds:
        return None
    assert not {0, 1} <= kinds, f"{label} both stated and denied: {about}"
    return 1 if 1 in kinds else -1 if -1 in kinds else 0


@pytest.mark.parametrize("seed", [0, 1])
def test_reports_say_what_the_label_table_says(seed):
    """Read by a few words and rules that know nothing of the templates."""
    checked = {-1: 0, 0: 0, 1: 0, None: 0}
    for index in range(250):
        subject = cases.subject(seed, index)
        for number, study in enumerate(subject.studies):
            prior = subject.studies[number - 1] if number else None
            text = report_writer.write(subject.body, study, prior, np.random.default_rng(index))
            assert text.lstrip().startswith("FINAL REPORT") and "___" in text
            assert all(line.startswith(" ") for line in text.splitlines())
            parts = sections(text)
            assert set(parts) == {"findings", "impression"}
            sentences = re.split(r"\.\s+(?:\d+\.\s+)?", f"{parts['findings']} {parts['impression']} ")
            for label in WORDS:
                value = study.stated.get(label)
                assert stated(sentences, label) == value, (label, value, text)
                checked[value] += 1
            for sign in study.reported:
                if sign.label in ("Pneumothorax", "Pleural Effusion", "Fracture"):
                    about = " ".join(s for s in sentences if re.search(WORDS[sign.label], s, re.IGNORECASE))
                    other = {"left": "right", "right": "left", "both": None}[sign.side]
                    assert other is None or other not in about.lower()
    assert min(checked.values()) > 50


def test_positive_devices_are_named():
    for kind in devices.KINDS:
        sign = findings.Sign(label="Support Devices", severity=1, side="left", kind=kind)
        assert re.search(WORDS["Support Devices"], report_writer._device(sign, np.random.default_rng(0)), re.IGNORECASE)
