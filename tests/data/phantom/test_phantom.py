import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from cxr_ft.cli import phantom as cli
from cxr_ft.data import phantom
from cxr_ft.data.dicom import read_xray
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import cases, label_noise, render
from cxr_ft.data.phantom.random_streams import stream
from cxr_ft.errors import UsageError

SIZE = 64
KEYS = ["subject_id", "study_id", "dicom_id"]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "archive"
    phantom.make_archive(out, subjects=40, seed=3, size=SIZE)
    return out


@pytest.fixture(scope="module")
def tables(archive):
    names = ("metadata", "chexpert", "negbio", "split")
    tables = {name: pd.read_csv(archive / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in names}
    tables["records"] = pd.read_csv(archive / "cxr-record-list.csv.gz")
    tables["studies"] = pd.read_csv(archive / "cxr-study-list.csv.gz")
    tables["truth"] = pd.read_csv(archive / "truth.csv")
    return tables


def test_bytes_follow_from_the_seed_alone(tmp_path):
    """Neither workers nor the hash seed nor what was made before leave a trace; another seed changes every file."""
    phantom.make_archive(tmp_path / "one", subjects=4, seed=0, size=SIZE)
    script = tmp_path / "make.py"
    script.write_text(
        "from cxr_ft.data.phantom import make_archive\nfrom pathlib import Path\n"
        f"if __name__ == '__main__': make_archive(Path({str(tmp_path / 'two')!r}), 4, 0, {SIZE}, workers=2)\n"
    )
    subprocess.run([sys.executable, script], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True)
    phantom.make_archive(tmp_path / "other", subjects=4, seed=1, size=SIZE)
    one, two, other = (tree(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert not {data for name, data in one.items() if name.endswith(".dcm")} & set(other.values())


def test_streams_of_different_keys_differ():
    keys = [(1, 2), (1, 2, 0), (12,), ("1", "20"), (1, 2, 0, 0)]
    assert len({stream(*key).integers(1 << 60) for key in keys}) == len(keys)
    assert stream("a", 1).random() == stream("a", 1).random()


def test_more_subjects_leave_the_first_ones_alone(tmp_path, archive):
    phantom.make_archive(tmp_path / "few", subjects=3, seed=3, size=SIZE)
    few, all_ = tree(tmp_path / "few"), tree(archive)
    files = [name for name in few if name.startswith("files/")]
    assert files
    assert all(few[name] == all_[name] for name in files)


def test_paths_and_ids_are_mimics(archive, tables):
    pattern = r"files/p90/p(90\d{6})/s(9\d{7})/((?:[0-9a-f]{8}-){4}[0-9a-f]{8})\.dcm"
    on_disk = {str(p.relative_to(archive)) for p in archive.rglob("*.dcm")}
    assert set(tables["records"]["path"]) == on_disk
    parts = tables["records"]["path"].str.extract(f"^{pattern}$")
    parts.columns = KEYS
    assert (parts == tables["records"][KEYS].astype(str)).all(axis=None)
    reports = {str(p.relative_to(archive)) for p in archive.glob("files/**/*.txt")}
    assert set(tables["studies"]["path"]) == reports
    study = tables["records"]["path"].str.rsplit("/", n=1).str[0] + ".txt"
    assert set(study) == reports
    assert {p.suffix for p in (archive / "files").rglob("*") if p.is_file()} == {".dcm", ".txt"}


def test_tables_agree_with_each_other(tables):
    films = tables["metadata"][KEYS]
    assert films["dicom_id"].is_unique
    for name in ("records", "split", "truth"):
        assert (tables[name][KEYS] == films).all(axis=None)
    studies = films[KEYS[:2]].drop_duplicates(ignore_index=True)
    assert studies["study_id"].is_unique
    for name in ("studies", "chexpert", "negbio"):
        assert (tables[name][KEYS[:2]] == studies).all(axis=None)
    for name in ("chexpert", "negbio"):
        assert set(tables[name].columns) == {*KEYS[:2], *CHEXPERT_14}
    assert set(tables["split"]["split"]) <= {"train", "validate", "test"}
    assert (tables["split"].groupby("subject_id")["split"].nunique() == 1).all()
    assert studies.groupby("subject_id").size().between(1, cases.STUDIES).all()


FINDINGS = [label for label in CHEXPERT_14 if label not in ("No Finding", "Support Devices")]


def test_truth_and_tables_are_whole(tables):
    truth = tables["truth"].drop_duplicates("study_id").set_index("study_id")[list(CHEXPERT_14)]
    assert (truth.max() <= 1).all() and (truth.min() >= 0).all()
    assert (truth["No Finding"] == (truth[FINDINGS] == 0).all(axis=1)).all()
    assert (truth["Lung Opacity"] == truth[list(cases.OPACITIES)].max(axis=1)).all()
    assert (truth["Pneumonia"] <= truth["Consolidation"]).all()
    for name in label_noise.SLIPS:
        labels = tables[name].set_index("study_id")[list(CHEXPERT_14)]
        assert set(np.unique(labels.to_numpy()[~labels.isna()])) == {-1.0, 0.0, 1.0}
        assert ((labels["No Finding"] == 1) == ~labels[FINDINGS].isin([1, -1]).any(axis=1)).all()


def test_headers_and_files_agree_with_metadata(archive, tables):
    paths = tables["records"].set_index("dicom_id")["path"]
    seen = set()
    for row in tables["metadata"].itertuples():
        data = pydicom.dcmread(archive / paths[row.dicom_id])
        assert (data.Rows, data.Columns) == (row.Rows, row.Columns) == data.pixel_array.shape
        assert min(data.Rows, data.Columns) == SIZE
        assert data.BitsStored in {10, 12, 14, 15} and data.HighBit == data.BitsStored - 1
        assert int(data.pixel_array.max()) < 1 << data.BitsStored
        assert data.StudyDate == str(row.StudyDate) and float(data.StudyTime) == pytest.approx(row.StudyTime)
        view = data.get("ViewPosition", "")
        assert (view or None) == (None if pd.isna(row.ViewPosition) else view)
        assert {"LL": "LATERAL"}.get(view, view) == ("" if pd.isna(row.ViewPosition) else row.ViewPosition)
        assert data.PatientName == "" and data.PatientID == ""
        assert data.SOPInstanceUID.startswith("2.25.") and data.SOPInstanceUID.is_valid
        assert data.SOPInstanceUID not in seen
        seen.add(data.SOPInstanceUID)


def test_air_is_dark_and_the_mediastinum_bright(archive, tables):
    truth = tables["truth"].set_index("dicom_id")["view"]
    for row in tables["records"].itertuples():
        image = read_xray(archive / row.path, size=SIZE).astype(float)
        height, width = image.shape
        middle = image[height // 2 : height // 2 + height // 5, round(0.46 * width) : round(0.54 * width)].mean()
        if truth[row.dicom_id] == "LATERAL":
            assert image[:, :3].mean() < image[-height // 4 :, width // 3 : -width // 3].mean() / 2
        else:
            lungs = np.percentile(image[height // 4 : height // 2, width // 5 : -width // 5], 10)
            assert lungs < 0.75 * middle
            assert middle > 110


def test_anatomy_stays_and_the_pose_changes(monkeypatch):
    """Two films of a subject in one pose agree in vessels and bones; a stranger's do not; real poses differ."""
    here, other = (cases.subject(2, index).body for index in (4, 5))
    pictures = [cases.Picture(dicom_id="x", view="PA", seed=(9, number)) for number in (1, 2)]
    posed = [render.render(here, (), picture, 128)[0] for picture in pictures]
    assert np.abs(posed[0] - posed[1]).mean() > 0.03
    monkeypatch.setattr(render, "_pose", lambda rng, shape, view: np.array([[64.0, 0, 64], [0, 64, 80]]))
    first, second = (render.render(here, (), picture, 128)[0] for picture in pictures)
    stranger = render.render(other, (), pictures[1], 128)[0]
    fine = [film - cv2.GaussianBlur(film, (0, 0), 6) for film in (first, second, stranger)]
    lung = (slice(40, 100), slice(25, 60))
    same, different = (np.corrcoef(fine[0][lung].ravel(), film[lung].ravel())[0, 1] for film in fine[1:])
    assert same > 0.5 and same > different + 0.3


def test_size_changes_the_grid_not_the_film():
    subject = cases.subject(2, 4)
    study = subject.studies[0]
    small, large = (render.render(subject.body, study.signs, study.pictures[0], size)[0] for size in (64, 128))
    halved = (
        large[: 2 * (large.shape[0] // 2), : 2 * (large.shape[1] // 2)]
        .reshape(large.shape[0] // 2, 2, -1, 2)
        .mean((1, 3))
    )
    rows, columns = min(small.shape[0], halved.shape[0]), min(small.shape[1], halved.shape[1])
    assert np.corrcoef(small[:rows, :columns].ravel(), halved[:rows, :columns].ravel())[0, 1] > 0.97


def test_ensure_makes_an_archive_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path))
    folder = phantom.ensure("phantom:subjects=2,size=64")
    assert folder.is_relative_to(tmp_path / "phantom")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert phantom.ensure("phantom:size=64,subjects=2,seed=0") == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert phantom.ensure("phantom:subjects=2,size=64,seed=1") != folder
    assert [p for p in (tmp_path / "phantom").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("phantom:people=3", "choose from: device, seed, site, size, subgroup, subjects"),
        ("phantom:subjects=many", "a whole number"),
        ("phantom:subjects=0", "choose from 1 to"),
        ("phantom:size=8", "choose from 32 to"),
        ("phantom:seed=-1", "a whole number"),
        ("phantom:seed", "a whole number"),
        ("mimic", "looks like phantom:"),
    ],
)
def test_a_bad_specification_is_refused(spec, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        phantom.ensure(spec)


def test_is_spec():
    assert phantom.is_spec("phantom:subjects=2") and phantom.is_spec("phantom") and phantom.is_spec("phantom:people=3")
    assert not phantom.is_spec("data/phantom") and not phantom.is_spec("phantoms/x")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["--out", str(tmp_path), "--subjects", "1", "--size", "64"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("cxr-phantom: error: ") and "not empty" in message
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="is a file"):
        phantom.make_archive(tmp_path / "mine.txt", subjects=1, size=64)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cxr_ft.data.phantom.archive_tables.write", full)
    with pytest.raises(UsageError, match="No space left"):
        phantom.make_archive(tmp_path / "out", subjects=1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_counts_and_repeats_for_nothing(tmp_path, capsys):
    argv = ["--out", str(tmp_path / "new" / "out"), "--subjects", "2", "--size", "64", "--seed", "4"]
    assert cli.main(argv) == 0
    line = capsys.readouterr().out
    images = len(list(Path(tmp_path / "new" / "out").rglob("*.dcm")))
    assert str(tmp_path) in line and "2 subjects" in line and f"{images} images" in line
    stamp = (tmp_path / "new" / "out" / "truth.csv").stat().st_mtime_ns
    assert cli.main(argv) == 0
    assert (tmp_path / "new" / "out" / "truth.csv").stat().st_mtime_ns == stamp
    assert cli.main([*argv, "--seed", "5"]) == 2
    assert "another phantom archive" in capsys.readouterr().err
    for bad in (["--workers", "0"], ["--size", "8"], ["--subjects", "many"], ["--people", "3"]):
        assert cli.main(["--out", str(tmp_path / "x"), *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_help_needs_no_heavy_import():
    code = "import sys; from cxr_ft.cli.phantom import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'numpy', 'cv2', 'pandas', 'pydicom', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
