"""The truth of a film: each sign drawn has a severity, and boxes that hold what it changes."""

import json

import numpy as np
import pandas as pd
import pytest

from cxr_ft.data import phantom
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import cases, devices, findings, render

_KINDS = {
    "Consolidation": ("lobar", "patchy"),
    "Pleural Other": ("lateral", "apical"),
    "Support Devices": devices.KINDS,
}
SIGNS = [(label, kind) for label in findings.DRAW for kind in _KINDS.get(label, ("",))]
BOTH = ("Pleural Effusion", "Consolidation", "Atelectasis", "Pleural Other")


def inside(boxes, shape):
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
        mask[top:bottom, left:right] = True
    return mask


def drawn(label, kind, severity, number):
    choices = ("left", "right", "both") if label in BOTH else ("both",) if label == "Edema" else ("left", "right")
    return findings.Sign(
        label=label, severity=1.0 if label == "Support Devices" else severity, side=choices[number % len(choices)],
        zone=findings.ZONES[number % 3], kind=kind, seed=100 + number,
    )  # fmt: skip


@pytest.mark.parametrize("view", ["PA", pytest.param("AP", marks=pytest.mark.slow), "LATERAL"])
@pytest.mark.parametrize(("label", "kind"), SIGNS)
def test_what_a_sign_changes_lies_in_its_boxes(label, kind, view, monkeypatch):
    """In attenuation, since exposure spreads every change a little over the whole film; and the change grows."""
    monkeypatch.setattr(render, "expose", lambda canvas, attenuation, lung, exposure: attenuation)
    changes = []
    for number, severity in enumerate((0.1, 0.3, 0.6, 0.95)):
        body, picture = cases.subject(31, number).body, cases.Picture(dicom_id="x", view=view, seed=(8, number))
        without, none = render.render(body, (), picture, 128)
        with_, boxes = render.render(body, (drawn(label, kind, severity, number),), picture, 128)
        change = np.abs(with_ - without)
        assert none == {}
        if (kind, view) == ("chest tube", "LATERAL"):  # not drawn there
            assert not change.any() and not boxes
            continue
        held = inside(boxes[label], change.shape)
        strong = change > 0.3 * change.max()
        assert set(boxes) == {label} and change.max() > 0.03
        assert (strong & held).sum() > 0.9 * strong.sum()
        assert change[held].sum() > 0.6 * change.sum()
        assert change[held].mean() > 3 * change[~held].mean()
        changes.append(change[held].sum())
    assert not changes or label == "Support Devices" or changes[-1] > changes[0]


def test_a_sign_shows_on_the_finished_film_too():
    body, picture = cases.subject(0, 0).body, cases.Picture(dicom_id="x", view="PA", seed=(1, 2))
    clean, _ = render.render(body, (), picture, 128)
    for label, kind in SIGNS:
        film, boxes = render.render(body, (drawn(label, kind, 0.9, 0),), picture, 128)
        held = inside(boxes[label], film.shape)
        change = np.abs(film - clean)
        assert change[held].mean() > 1.5 * change[~held].mean(), label


def test_every_label_shown_has_a_severity_and_boxes_on_the_film(tmp_path):
    phantom.make_archive(tmp_path / "archive", subjects=60, seed=3, size=64)
    truth = pd.read_csv(tmp_path / "archive" / "truth.csv")
    sizes = pd.read_csv(tmp_path / "archive" / "mimic-cxr-2.0.0-metadata.csv.gz").set_index("dicom_id")
    seen = set()
    for row in truth.to_dict("records"):
        boxes = json.loads(row["boxes"])
        shape = tuple(sizes.loc[row["dicom_id"], ["Rows", "Columns"]])
        present = {label for label in CHEXPERT_14 if row[label] > 0} - {"No Finding"}
        assert set(boxes) <= present
        if row["view"] != "LATERAL":
            assert present - set(boxes) <= {"Support Devices", "Fracture"}  # these may lie beyond the film's edge
        for boxes_of_label in boxes.values():
            assert inside(boxes_of_label, shape).any()
        assert all(box in boxes["Lung Opacity"] for box in boxes.get("Pneumonia", ()))
        seen |= set(boxes)
    assert seen == set(CHEXPERT_14) - {"No Finding"}
