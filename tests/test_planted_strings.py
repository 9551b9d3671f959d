"""Strings planted in an archive, and every file that the commands write, held against the table in docs/files.md."""

import fnmatch
import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxr_ft import files
from cxr_ft.cli import ablate, cache, compare, evaluate, split
from cxr_ft.data import phantom
from cxr_ft.run.record import export, failures, results
from cxr_ft.run.training import step
from cxr_ft.show import page

TABLE = Path(__file__).parents[1] / "docs" / "files.md"
#: Values of DICOM headers, by element: no file may hold one.
HEADERS = {
    "PatientName": "Ganzheim^Ottilie",
    "OtherPatientNames": "Ключевский^Фёдор",
    "PatientBirthDate": "19431107",
    "PatientAddress": "Lindwurmgasse 83",
    "PatientComments": "田中花子 is the sister",
    "PatientMotherBirthName": "Wiesengrund",
    "PatientTelephoneNumbers": "0761-5550143",
    "OtherPatientIDs": "KV-7731-Q",
    "AccessionNumber": "ACC88213457",
    "InstitutionName": "Klinikum Seeblick",
    "InstitutionAddress": "مستشفى الأمل",
    "StationName": "ROE-3-OST",
    "ReferringPhysicianName": "Quillfeather^Ada",
    "OperatorsName": "Tatzelwurm^Jo",
    "AdmittingDate": "19991224",
    "StudyDescription": "Thorax nach Sturz von Leiter",
    "ImageComments": "Herr Abendroth wartet draussen",
}
SENTENCES = (
    "Discussed with Dr. Rosenquist at 0417 hours.",
    "Mrs. Valdivieso fell from a ladder on 24 December.",
    "Compared with the film of Haus Tannenblick.",
    "Пациентка Соколова наблюдается с 1998 года.",
    "Bed 12 of ward Hopfengarten.",
)
CELLS = ("FRAU SONNENTAU", "weiblich, Frau Morgenstern", "note for Nurse Pumpernickel", "room Kastanie 4")
PATHS = ("Seeblick-Ward9", "ordner_müller")


@pytest.fixture
def _no_mask():
    before = os.umask(0)
    yield
    os.umask(before)


def planted(root):
    """Write a phantom archive with strings planted in it; return those of its rows: ids, paths, cells, sentences."""
    phantom.make_archive(root, subjects=30, seed=2, size=32)
    for file in root.rglob("*.dcm"):
        header = pydicom.dcmread(file)
        header.SpecificCharacterSet = "ISO_IR 192"
        for name, value in HEADERS.items():
            if value:
                setattr(header, name, value)
        header.save_as(file)
    place = root / "files" / PATHS[0] / PATHS[1]
    place.mkdir(parents=True)
    (root / "files" / "p90").rename(place / "p90")
    for i, file in enumerate(sorted(root.rglob("*.txt"))):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"(?i)(findings:)", rf"\1 {SENTENCES[i % 5]}", text), encoding="utf-8")
    listed = _table(
        root / "cxr-record-list.csv.gz", path=lambda t: t["path"].str.replace("/p90/", f"/{'/'.join(PATHS)}/p90/")
    )
    _table(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        ViewPosition=lambda t: t["ViewPosition"].replace("LATERAL", CELLS[0]),
        PerformedProcedureStepDescription=lambda t: CELLS[2],
        ProcedureCodeSequence_CodeMeaning=lambda t: CELLS[3],
    )
    people = pd.DataFrame({"subject_id": listed["subject_id"].unique()})
    people["sex"] = ["F", "M", CELLS[1]] * (len(people) // 3)
    people.to_csv(root / "patients.csv", index=False)
    (root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    ids = [listed[name].drop_duplicates().tolist() for name in ("dicom_id", "subject_id", "study_id")]
    return [*PATHS, *CELLS, *SENTENCES, *(value for column in ids for value in column)]


def _table(file, **columns):
    """Change columns of a table, and return it."""
    table = pd.read_csv(file, dtype=str).assign(**columns)
    table.to_csv(file, index=False)
    return table


def fail(monkeypatch, archive):
    """Let a run of `full` crash with a path and a report in its message, and one of `last_layers` have a nan loss."""
    right = step.TrainingStep._compute_gradients
    report = next((archive / "files").rglob("*.txt"))

    def wrong(self, batch, state):
        if self.parts.tuning.name == "full":
            raise ValueError(f"{report}: {report.read_text(encoding='utf-8')}")
        loss, count = right(self, batch, state)
        return (float("nan") if self.parts.tuning.name == "last_layers" else loss), count

    monkeypatch.setattr(step.TrainingStep, "_compute_gradients", wrong)


def kinds():
    """Return the rows of the table in the docs: patterns, kind, what such a file holds."""
    rows = re.findall(r"^\| (`.*`) \| (private|open) \| (.*) \|$", TABLE.read_text(encoding="utf-8"), re.M)
    return [(re.findall(r"`([^`]+)`", names), kind, holds) for names, kind, holds in rows]


def kind_of(path):
    """Return kind and content of a file by the first row of the table that names it."""
    for patterns, kind, holds in kinds():
        for pattern in patterns:
            folder, _, name = pattern.rpartition("/")
            if (folder in path.parts[:-1]) if folder else fnmatch.fnmatch(path.name, name):
                return kind, holds
    raise AssertionError(f"docs/files.md does not say what {path} is")


def content(path):
    """Return all that a file says: as it is, and unpacked."""
    return said(path.name, path.read_bytes())


def said(name, raw):
    """Return all that the bytes of a file say; what an archive holds with the names of its members."""
    text = raw.decode("utf-8", errors="replace")
    if name.endswith(".gz"):
        text += said(name[:-3], gzip.decompress(raw))
    elif name.endswith(".parquet"):
        text += pd.read_parquet(io.BytesIO(raw)).to_csv()
    elif name.endswith(".png"):
        text += str(Image.open(io.BytesIO(raw)).info)
    elif name.endswith(".pdf"):
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", raw, re.S):
            text += (
                zlib.decompressobj().decompress(stream).decode("utf-8", errors="replace") if stream[:1] == b"x" else ""
            )
    elif zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            text += "".join(member + said(member, archive.read(member)) for member in archive.namelist())
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            text += "".join(member.name + said(member.name, archive.extractfile(member).read()) for member in members)
    return text


def test_what_is_packed_is_found(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv.gz", gzip.compress(SENTENCES[3].encode()))
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"{PATHS[1]}/inner.zip")
        member.size = len(inner.getvalue())
        archive.addfile(member, io.BytesIO(inner.getvalue()))
    assert SENTENCES[3] in content(tmp_path / "all.tar.gz") and PATHS[1] in content(tmp_path / "all.tar.gz")
    (tmp_path / "a.pdf").write_bytes(b"stream\n" + zlib.compress(SENTENCES[0].encode()) + b"endstream")
    assert SENTENCES[0] in content(tmp_path / "a.pdf")
    pd.DataFrame({"x": SENTENCES}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    assert SENTENCES[4] in content(tmp_path / "a.parquet")


def check(path, of_rows):
    """Hold a file against the table: its mode, its folder's, and what it may not hold; return the strings in it."""
    kind, holds = kind_of(path)
    mode, folder = (stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent))
    assert mode == (0o600 if kind == "private" else 0o666), path
    assert folder == 0o700 or kind == "open", path
    text = content(path)
    assert not [value for value in HEADERS.values() if value and value in text], path
    found = {value for value in of_rows if value in text}
    assert not found or holds.startswith("rows"), (path, sorted(found)[:3])
    return found


@pytest.mark.usefixtures("_no_mask")
@pytest.mark.parametrize(
    "tracker",
    ["tensorboard", pytest.param("wandb", marks=pytest.mark.slow), pytest.param("mlflow", marks=pytest.mark.slow)],
)
def test_no_planted_string_is_where_the_table_forbids_it(tmp_path, monkeypatch, capsys, tracker):
    archive, splits, runs = tmp_path / "archive", tmp_path / "splits", tmp_path / "runs"
    of_rows = planted(archive)
    assert len(of_rows) + len(HEADERS) > 40
    capsys.readouterr()  # the lines of the archive's own making
    assert (
        split.main([str(archive), "--per-label", "8", "--views", "all", "--text", "findings", "--out", str(splits)])
        == 0
    )
    assert split.main(["--audit", *(str(splits / f"{name}_split.csv") for name in ("train", "val", "test"))]) in (0, 1)
    assert cache.main([str(splits), "--size", "32", "--workers", "1"]) == 0
    fail(monkeypatch, archive)
    options = ("train.epochs=1", "train.batch_size=8", "head.max_tokens=6")
    chosen = [
        "--model",
        "git-tiny-random",
        "--task",
        "both",
        "--method",
        "lora,full,last_layers",
        "--track",
        tracker,
    ]
    more = [word for option in options for word in ("--set", option)]
    assert ablate.main([*chosen, "--splits", str(splits), "--out", str(runs), *more]) == 1
    by_method = {results.read(run).method: run for run in results.find([runs])}
    export.export(by_method["lora"], "adapter")
    assert evaluate.main([str(by_method["lora"]), "--splits", str(splits)]) == 0
    if tracker == "tensorboard":  # in every commit without the PDF, which takes seconds
        monkeypatch.setattr(page, "_pdf", lambda *_: [])
    assert compare.main([str(runs), "--out", str(tmp_path / "page")]) == 0

    written = [path for top in (splits, runs, tmp_path / "page", files.cache_folder()) for path in top.rglob("*")]
    found = {path: check(path, of_rows) for path in written if path.is_file()}
    # The search finds what is there: the strings are in the private files that should have them.
    tables = pd.concat(pd.read_csv(splits / f"{name}_split.csv", dtype=str) for name in ("train", "test"))
    assert {*PATHS, *SENTENCES, *tables["dicom_id"].head(3)} <= found[splits / "train_split.csv"]
    assert found[by_method["lora"] / "predictions.parquet"] & {*SENTENCES}
    assert found[by_method["lora"] / "gallery" / "gallery.json"] & {*SENTENCES}
    assert found[by_method["full"] / failures.LOG] & {*SENTENCES} and found[by_method["last_layers"] / failures.LOG]
    errors = {method: results.read(run).error for method, run in by_method.items()}
    assert re.search(r"loss is nan at step 1, epoch 1, on rows \d+", str(errors["last_layers"]))
    assert re.match(r"ValueError, in test_planted_strings line \d+; the message is in run\.log", str(errors["full"]))
    shown = (tmp_path / "page" / "comparison.html").read_text(encoding="utf-8")
    assert "ValueError" in shown and "data:image" not in shown
    printed = capsys.readouterr().out
    assert not [value for value in (*of_rows, *HEADERS.values()) if value and value in printed]


@pytest.mark.usefixtures("_no_mask")
def test_the_table_says_what_each_name_is():
    assert kind_of(Path("runs/a/gallery/0.png"))[0] == "private"
    assert kind_of(Path("runs/a/model/README.md"))[0] == "open"
    with pytest.raises(AssertionError, match="does not say"):
        kind_of(Path("runs/a/notes.txt"))
