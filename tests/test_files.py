"""Nothing half-written, whatever happens."""

import errno
import json
from pathlib import Path

import pytest

from cxr_ft import files
from cxr_ft.errors import UsageError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(UsageError, match=r"cannot write .*b\.txt: No space left") as caught,
        files.atomic(tmp_path / "b.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for check in (files.make_folder, files.check_writable):
        with pytest.raises(UsageError, match="cannot write"):
            check(tmp_path / "file" / "below")


def test_staged_files_come_together_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="No space left"), files.staged(out, last="b") as folder:
        (folder / "a").write_text("1")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not out.exists()
    with files.staged(out, last="a") as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert {p.name for p in out.iterdir()} == {"a", "b"}


def test_checking_makes_nothing(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "n.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_hash_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    files.write_text(tmp_path / "t", "é\nb\n")
    assert (tmp_path / "t").read_bytes() == "é\nb\n".encode()
    assert oct(Path(tmp_path / "t").stat().st_mode)[-2:] in {"44", "64", "40"}
