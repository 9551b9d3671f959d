"""What the label tables hold: prevalence, readers' and labelers' errors; and what must not give the labels away."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import cases, dicom_file, label_noise, render
from cxr_ft.data.phantom.random_streams import stream

FINDINGS = [label for label in CHEXPERT_14 if label not in ("No Finding", "Support Devices")]


@pytest.fixture(scope="module")
def opinions():
    """The studies of 1,200 subjects: severities, what the reports say, and both labelers' tables, a row a study."""
    studies = [study for index in range(1200) for study in cases.subject(5, index).studies]
    rows = {
        "truth": [cases.severities(study.signs) for study in studies],
        "stated": [study.stated for study in studies],
    }
    for name in label_noise.SLIPS:
        rows[name] = [label_noise.labelled(stream(name, 5, study.study_id), study.stated, name) for study in studies]
    return {name: pd.DataFrame(label_rows, columns=list(CHEXPERT_14)) for name, label_rows in rows.items()}


def test_readers_err_as_often_as_stated(opinions):
    """Plain signs are reported, subtle ones missed and hedged at the stated rates, absent ones seldom asserted."""
    truth, stated = (opinions[name][FINDINGS] for name in ("truth", "stated"))
    signs = [label for label in FINDINGS if label not in ("Lung Opacity", "Pneumonia")]
    subtle = (truth > 0) & (truth < label_noise.SUBTLE)
    plain = truth >= label_noise.SUBTLE
    missed = ~stated.isin([1, -1])
    for kind, rate in zip((subtle, plain), label_noise.MISSED, strict=True):
        assert missed[signs].to_numpy()[kind[signs]].mean() == pytest.approx(rate, abs=0.01 + 0.2 * rate)
    for kind, rate in zip((subtle, plain), label_noise.HEDGED, strict=True):
        seen = (kind & ~missed)[signs].to_numpy()
        assert (stated[signs].to_numpy()[seen] == -1).mean() == pytest.approx(rate, abs=0.01 + 0.1 * rate)
    absent = (truth == 0)[signs].to_numpy()
    assert (stated[signs].to_numpy()[absent] == 1).mean() == pytest.approx(label_noise.OVERCALLED, abs=0.003)


def test_labelers_slip_as_often_as_stated(opinions):
    stated = opinions["stated"].drop(columns="No Finding")
    mentioned = stated.notna().to_numpy()
    for name, rate in label_noise.SLIPS.items():
        table = opinions[name].drop(columns="No Finding").to_numpy()
        plain = mentioned & (stated != -1).to_numpy()
        assert (table[plain] != stated.to_numpy()[plain]).mean() == pytest.approx(rate, abs=0.007)
        assert np.isnan(table[~mentioned]).all()
    ours, other = (opinions[name].fillna(9) for name in label_noise.SLIPS)
    assert 0.002 < (ours != other).to_numpy().mean() < 0.03


#: Shares of MIMIC-CXR's 222,758 training studies: stated, denied, hedged.
MIMIC = {
    "Atelectasis": (0.198, 0.004, 0.043),
    "Cardiomegaly": (0.171, 0.070, 0.026),
    "Consolidation": (0.046, 0.035, 0.013),
    "Edema": (0.115, 0.111, 0.051),
    "Enlarged Cardiomediastinum": (0.031, 0.023, 0.040),
    "Fracture": (0.016, 0.004, 0.001),
    "Lung Lesion": (0.027, 0.004, 0.004),
    "Pleural Effusion": (0.232, 0.119, 0.023),
    "Pleural Other": (0.008, 0.001, 0.003),
    "Pneumonia": (0.069, 0.107, 0.078),
    "Pneumothorax": (0.041, 0.185, 0.004),
    "Support Devices": (0.287, 0.014, 0.000),
}


@pytest.mark.parametrize("label", MIMIC)
def test_denials_and_hedges_are_mimics(opinions, label):
    """Denials as a part of all studies, hedges as a part of the statements; rare findings are raised on purpose."""
    column = opinions["chexpert"][label]
    positive, denied, hedged = ((column == value).mean() for value in (1, 0, -1))
    their_positive, their_denied, their_hedged = MIMIC[label]
    assert denied == pytest.approx(their_denied, abs=0.004 + 0.25 * their_denied)
    ratio = their_hedged / their_positive
    assert hedged / positive == pytest.approx(ratio, abs=0.05 + 0.35 * ratio)
    if their_positive > 0.1:
        assert positive == pytest.approx(their_positive, rel=0.25)


def test_prevalence_suits_balanced_splits():
    studies = [study for index in range(700) for study in cases.subject(5, index).studies]
    present = pd.DataFrame([cases.severities(study.signs) for study in studies]) > 0
    share = present.mean()
    assert 0.28 < share["No Finding"] < 0.42
    assert share.drop(["No Finding", "Lung Opacity"]).between(0.07, 0.30).all()
    assert 1.4 < len(studies) / 700 < 1.8
    splits = pd.Series([cases.subject(5, index).split for index in range(700)]).value_counts(normalize=True)
    assert splits["train"] == pytest.approx(0.80, abs=0.05)
    assert splits["validate"] == pytest.approx(0.08, abs=0.04)
    assert splits["test"] == pytest.approx(0.12, abs=0.04)


@pytest.mark.slow
def test_thumbnails_do_not_give_the_labels_away():
    """Logistic regression on 32 x 32 thumbnails of 700 subjects: macro AUROC below 0.70."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = []
    for index in range(700):
        subject = cases.subject(6, index)
        for study in subject.studies:
            film, _ = render.render(subject.body, study.drawn, study.pictures[0], 64)
            small = cv2.resize(film, (32, 32), interpolation=cv2.INTER_AREA)
            stated = label_noise.labelled(stream("chexpert", 6, study.study_id), study.stated, "chexpert")
            rows.append((small.ravel(), [stated.get(label, 0) for label in CHEXPERT_14], index % 3 == 0))
    images, labels, test = (np.array(column) for column in zip(*rows, strict=True))
    scores = []
    for known in labels.T:
        fit, held = (known != -1) & ~test, (known != -1) & test
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=500))
        probe.fit(images[fit], known[fit] == 1)
        scores.append(roc_auc_score(known[held] == 1, probe.decision_function(images[held])))
    assert np.mean(scores) < 0.70


def test_headers_do_not_give_the_labels_away():
    """The best single header value, by label, over 1,200 subjects: what is drawn for a study knows no label."""
    rows = []
    for index in range(1200):
        for study in cases.subject(7, index).studies:
            style = vars(dicom_file.Style.sample(stream("header", 7, study.study_id)))
            values = {**style, "voi": style["voi"] == "lut", "pack": style["pack"] != ""}
            values |= {"portable": study.portable, "films": len(study.pictures), "hour": study.when.hour}
            rows.append(({name: float(value) for name, value in values.items()}, cases.severities(study.signs)))
    values, truth = (pd.DataFrame(column) for column in zip(*rows, strict=True))
    for label in CHEXPERT_14:
        for name in values:
            ranks = values[name].rank()
            there = truth[label] > 0
            auroc = (ranks[there].sum() - there.sum() * (there.sum() + 1) / 2) / (there.sum() * (~there).sum())
            assert abs(auroc - 0.5) < 0.10, (label, name, auroc)
