"""Tables and images by URL: on fsspec's memory file system, so without a network."""

import gzip
import logging
import stat
import subprocess
import sys
import threading

import fsspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.data.layouts import chexpert, folder, mimic_cxr, mimic_cxr_jpg, nih, openi, table
from cxr_ft.data.records import root_folder
from cxr_ft.data.sources import address, locations, remote_files, table_reader
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder


@pytest.fixture
def memory():
    """An empty bucket."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def upload(system, source, to):
    for name in locations.list_files(str(source)):
        system.pipe_file(f"{to}/{name}", (source / name).read_bytes())


@pytest.mark.parametrize("layout", [mimic_cxr, mimic_cxr_jpg, chexpert, nih, openi, folder, table])
def test_a_layout_by_url_gives_what_it_gives_on_disk(layout, memory, tmp_path):
    here = layout.demo(tmp_path)
    local = layout.records(here)
    upload(memory, tmp_path, "/bucket")
    url = f"memory://bucket/{here.removeprefix(str(tmp_path) + '/')}"
    remote = layout.records(url)
    same = local.table.columns
    pd.testing.assert_frame_equal(remote.table[same], local.table)
    assert remote.root.startswith("memory://bucket/") and remote.card == local.card and remote.notes == local.notes
    root = root_folder(remote.root)
    assert not root.exists() and locations.has_images(root, list(remote.table["path"]))
    path = remote.table["path"].iloc[0]
    assert locations.local_copy(root, path).read_bytes() == (root_folder(local.root) / path).read_bytes()


def test_an_image_is_fetched_once_and_for_its_user_alone(memory, monkeypatch):
    memory.pipe_file("/b/x/1.png", b"pixels")
    root = locations.mirror_folder("memory://b")
    file = locations.local_copy(root, "x/1.png")
    assert file.read_bytes() == b"pixels" and file.is_relative_to(cache_folder() / "remote")
    assert stat.S_IMODE((cache_folder() / "remote").stat().st_mode) == 0o700
    monkeypatch.setattr(remote_files, "file_system", None)
    assert locations.local_copy(root, "x/1.png") == file


def test_an_image_that_is_not_there(memory, tmp_path):
    memory.pipe_file("/b/x/1.png", b"pixels")
    assert not locations.local_copy(locations.mirror_folder("memory://b"), "x/2.png").exists()
    assert not locations.has_images(locations.mirror_folder("memory://b"), ["x/2.png", "x/3.png"])
    assert not locations.local_copy(tmp_path, "2.png").exists()
    assert not locations.has_images(tmp_path, ["2.png"])
    assert not locations.has_images(tmp_path / "no", ["2.png"])


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/hostname"])
def test_a_path_cannot_lead_out_of_the_cache(memory, path):
    with pytest.raises(UsageError, match="leads out"):
        locations.local_copy(locations.mirror_folder("memory://b"), path)
    with pytest.raises(UsageError, match="without"):
        locations.mirror_folder("memory://b/../../c")


@pytest.mark.parametrize("url", ["gs://bucket/dir", "s3://b", "https://x.org:8080/a/b", "memory://b/c d/e"])
def test_a_mirror_knows_its_url(url):
    assert locations.mirrored_url(locations.mirror_folder(url)) == url
    assert locations.mirrored_url(cache_folder() / "remote") is None
    assert locations.mirrored_url(cache_folder() / "pixels") is None


def test_a_web_server_has_no_folders_to_list():
    """So that a table from the web asks for nothing else."""
    assert locations.list_names("https://x.org/data") == locations.list_names("HTTP://x.org/data") == []


def test_a_folder_that_does_not_exist(tmp_path):
    for layout in (mimic_cxr, mimic_cxr_jpg, chexpert, nih, openi, folder):
        with pytest.raises(UsageError, match="nowhere does not exist"):
            layout.records(str(tmp_path / "nowhere"))


def test_file_urls_are_paths(tmp_path):
    (tmp_path / "a b").mkdir()
    url = (tmp_path / "a b").as_uri()
    assert not address.is_url(url) and root_folder(url) == tmp_path / "a b"
    assert locations.normalized(f"{tmp_path}/a b/") == str(tmp_path / "a b")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "t.parquet"])
@pytest.mark.parametrize("remote", [False, True])
def test_tables_of_every_kind(name, remote, memory, tmp_path):
    wanted = pd.DataFrame({"id": ["007", "8"], "class": ["None", "NA"], "x": [1.0, None]})
    wanted = wanted.astype({"id": "string", "class": "string"})
    where = tmp_path / name
    if name.endswith(".parquet"):
        wanted.to_parquet(where)
    else:
        wanted.to_csv(where, index=False, sep="\t" if ".tsv" in name else ",")
    if remote:
        memory.pipe_file(f"/b/{name}", where.read_bytes())
    place = f"memory://b/{name}" if remote else str(where)
    table = table_reader.read_table(place, ["id", "class", "x"], dtypes={"x": "float64"})
    pd.testing.assert_frame_equal(table, wanted)
    assert list(table_reader.read_table(place, ["x"], optional=["class", "y"])) == ["class", "x"]
    with pytest.raises(UsageError, match="has no column y; it has id, class, x"):
        table_reader.read_table(place, ["y"])


def test_whole_numbers_of_parquet_stay_whole(tmp_path):
    pd.DataFrame({"id": pd.array([10000032, None], dtype="Int64")}).to_parquet(tmp_path / "t.parquet")
    assert table_reader.read_table(str(tmp_path / "t.parquet"))["id"].tolist() == ["10000032", pd.NA]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", b"a,b\n1,2,3\n4,5,6\n", "row 2 has 3 cells, its header 2"),
        ("t.csv", b"a,b\n1,2\n4,5,6\n", "row 3 has 3 cells, its header 2"),
        ("t.csv", b"", "cannot be read"),
        ("t.csv", b"a\n\xff\xfe\n", "cannot be read"),
        ("t.csv.gz", b"not gzip", "cannot be read"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "cannot be read"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:20] + b"\xff" * 40, "cannot be read"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.xlsx", b"", "is no table"),
    ],
)
def test_a_spoilt_table_is_one_line(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=why) as caught:
        table_reader.read_table(str(tmp_path / name))
    assert "\n" not in str(caught.value) and name in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_line(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("t") / "t.csv"
    file.write_bytes(content)
    try:
        table_reader.read_table(str(file))
    except UsageError as error:
        assert str(file) in str(error)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory://b/none.csv", "does not exist"),
        ("nosuch://b/t.csv", "nosuch"),
        ("sftp://b/t.csv", "paramiko|sftp"),
    ],
)
def test_errors_from_afar_are_one_line(memory, url, why):
    with pytest.raises(UsageError, match=why) as caught:
        table_reader.read_table(url)
    assert "\n" not in str(caught.value) and url in str(caught.value)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs"), ("https", "aiohttp")])
def test_a_missing_package_is_named(monkeypatch, scheme, package):
    def lacking(where):
        raise ImportError("a module is missing\nas it is")

    monkeypatch.setattr(remote_files, "file_system", lacking)
    with pytest.raises(UsageError, match=f"{scheme}://b/x needs the package {package}: pip install {package}"):
        locations.exists(f"{scheme}://b/x")


def test_the_packages_behind_log_nothing(monkeypatch, caplog):
    def failing(where):
        logging.getLogger("gcsfs.retry").error("a traceback")
        raise OSError("no network")

    monkeypatch.setattr(remote_files, "file_system", failing)
    with pytest.raises(UsageError, match="no network"):
        locations.exists("gs://b/x")
    assert not caplog.records and logging.getLogger("gcsfs").level == logging.NOTSET


def test_who_pays(monkeypatch):
    """As gcsfs and s3fs want to be told."""
    assert remote_files._options("gs://b") == remote_files._options("memory://b") == {}
    monkeypatch.setenv("CXR_FT_REQUESTER_PAYS", "my-project")
    assert remote_files._options("gs://b") == {"requester_pays": "my-project"}
    assert remote_files._options("s3://b") == {"requester_pays": True}
    assert remote_files._options("memory://b") == {}


def test_two_at_once_get_a_whole_file(tmp_path, monkeypatch):
    (tmp_path / "1.png").write_bytes(bytes(3_000_000))
    local = fsspec.filesystem("file")
    # A file in memory has one place for all its readers, so this bucket is on disk.
    monkeypatch.setattr(remote_files, "file_system", lambda where: (local, where.replace("gs://b", str(tmp_path))))
    root = locations.mirror_folder("gs://b")
    sizes = []
    threads = [
        threading.Thread(target=lambda: sizes.append(locations.local_copy(root, "1.png").stat().st_size))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [3_000_000] * 8 and len(list(root.iterdir())) == 1


def test_a_local_source_loads_no_network_package(tmp_path):
    """Not even the code that could open a socket."""
    code = (
        "import sys\nfrom cxr_ft.data.layouts import folder\n"
        f"folder.records(folder.demo(__import__('pathlib').Path({str(tmp_path)!r})))\n"
        "assert not {'fsspec', 'aiohttp', 'gcsfs', 's3fs'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
