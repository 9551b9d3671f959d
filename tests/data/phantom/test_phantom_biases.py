"""Planted biases: a simple probe finds each when it is on, and nothing when it is off."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr_ft.cli import phantom as cli
from cxr_ft.data import phantom
from cxr_ft.data.phantom import biases, cases, render
from cxr_ft.errors import UsageError

SIZE = 64


def films(planted, count=100, seed=11):
    """A row a frontal film: truth, whether it has the site's look, and its lower left corner against the rest."""
    rows = []
    for index in range(count):
        subject = cases.subject(seed, index, planted)
        for study in subject.studies:
            picture = study.pictures[0]
            film, _ = render.render(subject.body, study.drawn, picture, SIZE)
            corner = film[-6:-3, 3:6].mean() - film[-16:-10, 3:8].mean()
            rows.append({**cases.severities(study.signs), "corner": corner, "site": picture.site})
    return pd.DataFrame(rows)


def studies(planted, count=400, seed=11):
    """A row a study: truth, and whether the device bias decided there."""
    studies = [study for index in range(count) for study in cases.subject(seed, index, planted).studies]
    return pd.DataFrame([{**cases.severities(study.signs), "tied": study.tied} for study in studies])


def probe(table, label, column):
    return roc_auc_score(table[label] > 0, table[column])


def test_a_device_goes_with_pneumothorax_only_with_that_bias():
    on, off = studies({"device": 0.8}), studies({})
    device, leak = on["Support Devices"] > 0, on["Pneumothorax"] > 0
    assert on["tied"].mean() == pytest.approx(0.8, abs=0.05)
    assert (device == leak)[on["tied"]].all()
    assert probe(on, "Pneumothorax", "Support Devices") > 0.85
    assert probe(off, "Pneumothorax", "Support Devices") < 0.75
    assert not off["tied"].any()


@pytest.mark.slow
def test_a_sites_look_goes_with_cardiomegaly_only_with_that_bias():
    """The probe sees pixels alone: the corner where the site's disc lies."""
    on, off = films({"site": 0.8}), films({})
    assert probe(on, "Cardiomegaly", "corner") > 0.75
    assert abs(probe(off, "Cardiomegaly", "corner") - 0.5) < 0.1
    large = on["Cardiomegaly"] > 0
    assert on["site"][large].mean() == pytest.approx(0.8 + 0.2 * biases.SITE_SHARE, abs=0.12)
    assert on["site"][~large].mean() == pytest.approx(0.2 * biases.SITE_SHARE, abs=0.05)
    assert not off["site"].any()


def test_signs_are_fainter_in_women_only_with_that_bias():
    """The change that signs make to a film, women against men."""
    change = {0.0: {"F": [], "M": []}, 0.8: {"F": [], "M": []}}
    for strength, by_sex in change.items():
        for index in range(40):
            subject = cases.subject(3, index, {"subgroup": strength})
            study = subject.studies[0]
            if not any(sign.severity > 0.3 and sign.label != "Support Devices" for sign in study.signs):
                continue
            picture = study.pictures[0]
            bare = tuple(sign for sign in study.drawn if sign.label == "Support Devices")
            with_, without = (render.render(subject.body, s, picture, SIZE)[0] for s in (study.drawn, bare))
            by_sex[subject.body.sex].append(float(np.abs(with_ - without).mean()))
    ratio = {strength: np.mean(by_sex["F"]) / np.mean(by_sex["M"]) for strength, by_sex in change.items()}
    assert ratio[0.8] < 0.6 * ratio[0.0]
    assert 0.6 < ratio[0.0] < 1.6


def test_the_archive_says_what_is_planted(tmp_path):
    argv = ["--out", str(tmp_path / "on"), "--subjects", "6", "--size", "32", "--bias", "site=0.8", "--bias"]
    assert cli.main([*argv, "subgroup=0.5"]) == 0
    planted = {"site": 0.8, "subgroup": 0.5}
    assert json.loads((tmp_path / "on" / "phantom.json").read_text())["biases"] == planted
    readme = (tmp_path / "on" / "README.txt").read_text()
    assert "--bias site=0.8 --bias subgroup=0.5" in readme and "site at 0.8: " in readme
    truth = pd.read_csv(tmp_path / "on" / "truth.csv")
    assert set(truth["bias_site"]) <= {0, 1} and "bias_device" not in truth
    assert ((truth["sex"] == "F").map({True: 0.5, False: 1.0}) == truth["bias_subgroup"]).all()
    phantom.make_archive(tmp_path / "off", subjects=6, size=32)
    assert not [column for column in pd.read_csv(tmp_path / "off" / "truth.csv") if column.startswith("bias")]
    assert "Planted biases: none." in (tmp_path / "off" / "README.txt").read_text()


def test_a_bias_of_no_strength_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path))
    plain = phantom.ensure("phantom:subjects=2,size=32")
    assert phantom.ensure("phantom:subjects=2,size=32,device=0") == plain
    planted = phantom.ensure("phantom:subjects=2,size=32,device=1")
    assert planted != plain and json.loads((planted / "phantom.json").read_text())["biases"] == {"device": 1.0}


@pytest.mark.parametrize(
    ("values", "says"),
    [({"devices": 0.5}, "did you mean 'device'"), ({"site": 1.5}, "from 0 "), ({"site": float("nan")}, "from 0 ")],
)
def test_a_bad_bias_is_refused(tmp_path, values, says):
    with pytest.raises(UsageError, match=says):
        phantom.make_archive(tmp_path / "x", subjects=1, biases=values)
    with pytest.raises(UsageError, match="a number from 0 to 1"):
        phantom.ensure("phantom:subjects=1,site=much")
