"""The films' files: headers as varied as real ones, the standard's bytes, and nothing in them that tells a label."""

import io

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.pixels.processing import apply_voi_lut
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_ft.data import phantom
from cxr_ft.data.dicom import read_xray
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import cases, dicom_elements, dicom_file, render

SIZE = 64


def test_headers_vary_as_real_ones_do():
    """Shares as in Open-I's 7,469 headers, but for ViewPosition, which MIMIC-CXR seldom lacks."""
    styles = pd.DataFrame([vars(dicom_file.Style.sample(np.random.default_rng(seed))) for seed in range(4000)])
    shares = {"inverse": 0.48, "has_view": 0.97, "rescale": 0.6, "body_part": 0.66, "orientation": 0.6, "spacing": 0.66}
    for name, share in shares.items():
        assert styles[name].mean() == pytest.approx(share, abs=0.03)
    for column, shares in (
        ("bits", {12: 0.79, 15: 0.198, 10: 0.008, 14: 0.004}),
        ("voi", {"window": 0.55, "lut": 0.41, "none": 0.05}),
        ("pack", {"": 0.92, **dicom_file.COMPRESSED}),
    ):
        frequency = styles[column].value_counts(normalize=True)
        assert set(frequency.index) == set(shares)
        assert all(frequency[name] == pytest.approx(share, abs=0.004 + 0.05 * share) for name, share in shares.items())


#: A quarter of all combinations in every commit, which holds each pair of values; the others are slow.
KINDS = [
    pytest.param(voi, inverse, pack, bits, marks=[] if (i + j + k + l) % 4 == 0 else [pytest.mark.slow])
    for i, voi in enumerate(("window", "lut", "none"))
    for j, inverse in enumerate((False, True))
    for k, pack in enumerate(("", *dicom_file.COMPRESSED))
    for l, bits in enumerate((10, 12, 14, 15))  # noqa: E741
]


@pytest.mark.parametrize(("voi", "inverse", "pack", "bits"), KINDS)
def test_every_kind_of_header_shows_the_film_that_was_drawn(tmp_path, voi, inverse, pack, bits):
    """Through pydicom's VOI and through our reader the film comes back, air dark, to the rounding of its bits."""
    top = (1 << bits) - 1
    style = dicom_file.Style(
        bits=bits, inverse=inverse, voi=voi, low=0 if voi == "none" else top // 13,
        high=top if voi == "none" else top - top // 7, curve=1.2, has_view=True, pack=pack, implicit=False,
        digital=inverse, rescale=bool(pack), body_part=True, orientation=True, spacing=True, burned_in=True,
        technique=True,
    )  # fmt: skip
    subject = cases.subject(0, 1)
    study = subject.studies[0]
    film, _ = render.render(subject.body, study.signs, study.pictures[0], SIZE)
    film = (film - film.min()) / (film.max() - film.min())
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom_file.encoded(film, 0, study, study.pictures[0], style))
    data = pydicom.dcmread(path)
    assert data.file_meta.TransferSyntaxUID.is_compressed == bool(pack)
    shown = apply_voi_lut(data.pixel_array, data).astype(float)
    full = 65535 if voi == "lut" else top
    shown = (full - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown) / full
    assert np.abs(shown - film).max() < 0.01
    assert np.abs(read_xray(path) / 255 - film).max() < 0.01


def test_pydicom_writes_the_same_bytes():
    """Every file, read and written again by pydicom, is the same file: explicit, implicit and compressed."""
    subject = cases.subject(0, 1)
    study = subject.studies[0]
    film, _ = render.render(subject.body, study.signs, study.pictures[0], 32)
    syntaxes = set()
    for seed in range(100):
        style = dicom_file.Style.sample(np.random.default_rng(seed))
        written = dicom_file.encoded(film, seed, study, study.pictures[0], style)
        data, again = pydicom.dcmread(io.BytesIO(written)), io.BytesIO()
        data.save_as(again, enforce_file_format=True)
        assert again.getvalue() == written
        syntaxes.add(data.file_meta.TransferSyntaxUID)
    assert len(syntaxes) >= 4


def test_a_keyword_that_is_none_is_refused():
    with pytest.raises(KeyError, match="PatientsShoeSize"):
        dicom_elements.encode({"PatientsShoeSize": "44"}, implicit=False)


def _flat(data, start=""):
    """Every element's value by keyword; sequences item by item, the pixels by their length."""
    values = {}
    for element in data:
        name, value = start + element.keyword, element.value
        if element.VR == "SQ":
            for number, item in enumerate(value):
                values |= _flat(item, f"{name}{number}.")
        elif isinstance(value, bytes):
            values[name] = len(value)
        else:
            several = value if isinstance(value, pydicom.multival.MultiValue) else [value]
            values |= {f"{name}.{number}": part for number, part in enumerate(several)}
    return values


def _row(path):
    data = pydicom.dcmread(path)
    shown = read_xray(path)
    sizes = {"file": path.stat().st_size, "mean": data.pixel_array.mean(), "shown": shown.mean()}
    return _flat(data) | _flat(data.file_meta, "meta.") | sizes


def _columns(rows):
    """Numbers as they are, few-valued texts as one column a value, and whether a value is there."""
    columns = {}
    for name, values in pd.DataFrame(rows).items():
        numbers = pd.to_numeric(values.astype(str), errors="coerce")
        if numbers.notna().any():
            columns[name] = numbers.fillna(numbers.median())
        elif values.nunique() <= 20:
            columns |= {f"{name}={value}": values == value for value in values.dropna().unique()}
        columns[f"{name}?"] = values.isna()
    table = pd.DataFrame(columns).astype(float)
    return table.loc[:, table.nunique() > 1]


def _auroc(columns, known, groups):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
    certain = (known != -1).to_numpy()
    positive = known[certain] == 1
    folds = GroupKFold(5)
    scores = cross_val_predict(
        probe, columns[certain], positive, groups=groups[certain], cv=folds, method="decision_function"
    )
    return roc_auc_score(positive, scores)


@pytest.mark.slow
def test_no_header_value_file_size_or_mean_intensity_tells_a_label(tmp_path):
    """A probe of every element that pydicom reads, over subjects it has not seen; it does see a planted one."""
    archive = tmp_path / "archive"
    phantom.make_archive(archive, subjects=250, seed=12, size=32)
    records = pd.read_csv(archive / "cxr-record-list.csv.gz")
    table = pd.read_csv(archive / "mimic-cxr-2.0.0-chexpert.csv.gz")
    known = records.merge(table, on=["subject_id", "study_id"], how="left")
    columns = _columns([_row(archive / path) for path in records["path"]])
    assert {"file", "mean", "shown"} <= set(columns) and len(columns.columns) > 50
    groups = records["subject_id"]
    areas = {label: _auroc(columns, known[label], groups) for label in CHEXPERT_14}
    assert max(areas.values()) < 0.65 and np.mean(list(areas.values())) < 0.54, areas
    leaky_columns = columns.assign(
        leak=(known["Fracture"] == 1).astype(float) + np.random.default_rng(0).normal(0, 0.4, len(known))
    )
    assert _auroc(leaky_columns, known["Fracture"], groups) > 0.7
