"""Reading splits: only what the manifest certifies is read, and a run finds its splits after both were moved."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cxr_ft.data import manifest, phantom, records
from cxr_ft.data.audit import leak_audit
from cxr_ft.data.layouts import folder
from cxr_ft.data.pixels import cache
from cxr_ft.data.splits import write
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.errors import UsageError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder with an archive, its splits, and a run's folder: each test works on a copy."""
    place = tmp_path_factory.mktemp("archive")
    source = folder.demo(place)
    write.make_splits(source, "folder", SplitRequest(per_label=10), place / "data" / "splits")
    (place / "runs" / "x").mkdir(parents=True)
    return place


@pytest.fixture
def project(archive, tmp_path):
    """A copy of the archive, whose manifest names the original place: as if the project had been moved here."""
    shutil.copytree(archive, tmp_path / "project")
    return tmp_path / "project"


def test_a_changed_csv_is_refused(project):
    out = project / "data" / "splits"
    file = out / "val_split.csv"
    file.write_text(file.read_text().replace("opaque", "clear", 1))
    with pytest.raises(UsageError, match=r"val_split\.csv is not the file its manifest certifies"):
        manifest.read(out)


def test_a_csv_without_its_columns_is_refused(project):
    out = project / "data" / "splits"
    table = pd.read_csv(out / "test_split.csv").drop(columns=["label", "path"])
    table.to_csv(out / "test_split.csv", index=False)
    with pytest.raises(UsageError, match=r"test_split\.csv has no column path, label"):
        manifest.read(out)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"a": 1}'])
def test_a_folder_that_is_none_of_ours_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=r"manifest\.json|manifest of cxr-split"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../b.png", "a/../../b.png", "a.png|/etc/passwd", "a/b/../../../c"])
def test_a_path_that_leads_out_of_the_archive_is_refused(project, path):
    folder = project / "data" / "splits"
    table = pd.read_csv(folder / "val_split.csv", dtype=str)
    table.loc[1, "path"] = path
    table.to_csv(folder / "val_split.csv", index=False)
    with pytest.raises(UsageError, match=r"val_split\.csv: line 3: the path leads out of the archive \(1 rows\)"):
        manifest.read(folder)


def test_the_tracked_splits_can_be_read():
    tracked = manifest.read(Path(__file__).parents[2] / "data_splits" / "phantom")
    assert tracked.root == write.DEFAULT_SOURCE
    assert tracked.card.sensitivity == "synthetic"


def test_default_splits_are_made_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(write, "DEFAULT_SOURCE", "phantom:subjects=30,seed=0,size=64")
    monkeypatch.setattr(write, "DEFAULT_REQUEST", SplitRequest(per_label=8, text="all"))
    first = write.default_splits()
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert write.default_splits() == first and (first / "manifest.json").stat().st_mtime_ns == stamp
    assert manifest.read(first).root.startswith("phantom:")


def test_a_manifest_without_its_request_says_so(project):
    file = project / "data" / "splits" / "manifest.json"
    content = json.loads(file.read_text())
    del content["request"]
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="it has no request; make the splits again"):
        manifest.read(file.parent)


@pytest.mark.parametrize("source", ["phantom:subjects=2", "phantom", "data/phantom", "phantoms/x", "phantom:people=3"])
def test_a_synthetic_archive_is_known_without_loading_it(source):
    assert records.is_phantom(source) == phantom.is_spec(source)


# A run and its splits: result.json has the path as it was typed, and the hashes of the CSVs.


def hashes(splits):
    return manifest.read(splits).hashes


def test_splits_that_were_not_moved_are_where_they_were(project, tmp_path, monkeypatch):
    splits, run = project / "data" / "splits", project / "runs" / "x"
    assert manifest.locate(str(splits), run, hashes(splits)) == splits
    monkeypatch.chdir(project)
    assert manifest.locate("data/splits", Path("runs/x"), hashes(splits)) == Path("data/splits")
    (tmp_path / "elsewhere").mkdir()
    assert manifest.locate(str(splits), tmp_path / "elsewhere", hashes(splits)) == splits


@pytest.mark.parametrize("recorded", ["data/splits", "./data/splits", "../project/data/splits", "../../data/splits"])
def test_a_relative_path_is_found_from_another_working_folder(project, tmp_path, monkeypatch, recorded):
    monkeypatch.chdir(tmp_path)
    splits = project / "data" / "splits"
    assert manifest.locate(recorded, project / "runs" / "x", hashes(splits)).resolve() == splits
    assert manifest.locate(recorded, Path("project/runs/x"), hashes(splits)).resolve() == splits


@pytest.mark.parametrize("below", ["", "deeper/inside"])
def test_run_and_splits_moved_together_are_found(project, tmp_path, below):
    old, expected = str(project / "data" / "splits"), hashes(project / "data" / "splits")
    new = tmp_path / "new" / "home" / below
    new.parent.mkdir(parents=True, exist_ok=True)
    project.rename(new)
    assert manifest.locate(old, new / "runs" / "x", expected) == new / "data" / "splits"


def test_splits_inside_the_run_and_beside_it_are_found(project, tmp_path):
    old, expected = "/gone/data/splits", hashes(project / "data" / "splits")
    inside = project / "runs" / "x" / "splits"
    shutil.copytree(project / "data" / "splits", inside)
    shutil.rmtree(project / "data")
    assert manifest.locate(old, project / "runs" / "x", expected) == inside
    inside.rename(project / "runs" / "splits")
    assert manifest.locate(old, project / "runs" / "x", expected) == project / "runs" / "splits"


def test_a_run_behind_a_symbolic_link_finds_splits_on_both_ways(project, tmp_path):
    expected = hashes(project / "data" / "splits")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "x"
    link.symlink_to(project / "runs" / "x")
    assert manifest.locate("/gone/data/splits", link, expected) == project / "data" / "splits"
    (tmp_path / "links" / "data").symlink_to(project / "data")
    assert manifest.locate("/gone/data/splits", link, expected) == tmp_path / "links" / "data" / "splits"


def test_another_folder_of_the_same_name_is_passed_over(project, tmp_path, monkeypatch):
    """The working folder has splits of the same name with other rows; the run's own are nearer to the run."""
    splits = project / "data" / "splits"
    other = tmp_path / "data" / "splits"
    write.make_splits(str(project / "classes"), "folder", SplitRequest(per_label=9, seed=1), other)
    assert hashes(other) != hashes(splits)
    monkeypatch.chdir(tmp_path)
    assert manifest.locate("data/splits", project / "runs" / "x", hashes(splits)) == splits
    assert manifest.locate(str(other), project / "runs" / "x", hashes(splits)) == splits


def test_deleted_splits_are_one_line(project):
    expected = hashes(project / "data" / "splits")
    shutil.rmtree(project / "data")
    with pytest.raises(
        UsageError, match=r"its splits data/splits are neither at that path.*put them back.*cxr-evaluate"
    ) as no:
        manifest.locate("data/splits", project / "runs" / "x", expected)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("how", ["changed", "missing", "no hashes"])
def test_splits_with_other_content_are_one_line(project, how):
    splits = project / "data" / "splits"
    expected = hashes(splits)
    if how == "changed":
        with (splits / "val_split.csv").open("a") as file:
            file.write("\n")
    if how == "missing":
        (splits / "val_split.csv").unlink()
    expected = {} if how == "no hashes" else expected
    name = "manifest.json" if how == "no hashes" else "val_split.csv"
    with pytest.raises(UsageError, match=rf"changed since it was trained \({name} differs\).*cxr-evaluate") as no:
        manifest.locate(str(splits), project / "runs" / "x", expected)
    assert str(splits) in str(no.value) and "\n" not in str(no.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_passed_over(project, tmp_path):
    expected = hashes(project / "data" / "splits")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        located = manifest.locate(closed / "data" / "splits", project / "runs" / "x", expected)
    finally:
        closed.chmod(0o700)
    assert located == project / "data" / "splits"


# The images: the manifest names their folder, and its position relative to the splits.


def test_images_moved_together_with_the_splits_are_found(archive, project, tmp_path):
    recorded = manifest.read(archive / "data" / "splits").root
    assert recorded == str(archive / "classes") and Path(recorded).is_dir()
    # The place of the manifest counts as long as it exists; a copy elsewhere does not change that.
    assert manifest.read(project / "data" / "splits").root == recorded
    content = json.loads((project / "data" / "splits" / "manifest.json").read_text())
    assert content["root_from_splits"] == "../../classes"
    content["root"] = "/gone/classes"
    (project / "data" / "splits" / "manifest.json").write_text(json.dumps(content))
    moved = manifest.read(project / "data" / "splits")
    assert moved.root == str(project / "classes")
    assert cache.source_folder(moved) == project / "classes"
    link = tmp_path / "link"
    link.symlink_to(project / "data" / "splits")
    assert manifest.read(link).root == str(project / "classes")


def test_the_audit_finds_moved_images_too(project):
    out = project / "data" / "splits"
    content = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**content, "root": "/gone/classes"}))
    assert "pixels" in leak_audit.audit([out / f"{name}_split.csv" for name in ("train", "val", "test")]).compared


@pytest.mark.parametrize("position", [None, "../../not/there"])
def test_images_that_are_gone_are_named_as_recorded(project, position):
    out = project / "data" / "splits"
    content = json.loads((out / "manifest.json").read_text())
    content |= {"root": "/gone/classes", "root_from_splits": position}
    if position is None:
        del content["root_from_splits"]
    (out / "manifest.json").write_text(json.dumps(content))
    splits = manifest.read(out)
    assert splits.root == "/gone/classes"
    with pytest.raises(UsageError, match="/gone/classes does not exist: was the archive moved"):
        cache.source_folder(splits)


def test_a_synthetic_archive_has_no_position():
    tracked = manifest.read(Path(__file__).parents[2] / "data_splits" / "phantom")
    assert "root_from_splits" not in tracked.manifest and tracked.root.startswith("phantom:")
