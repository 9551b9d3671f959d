"""Private and open files: their modes under any umask, and nothing but `files` creates one."""

import ast
import os
import stat
from pathlib import Path

import pytest

from cxr_ft import files
from cxr_ft.run.record import results
from cxr_ft.run.record.results import Result

PACKAGE = Path(files.__file__).parent
UMASKS = (0o000, 0o022, 0o027, 0o077)
#: Calls that create a file or folder, by the name of what is called.
CREATORS = {
    *("mkdir", "makedirs", "mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "touch", "write_bytes"),
    *("copytree", "copyfile", "copy2", "symlink_to", "link", "to_csv", "to_parquet", "savefig", "save_pretrained"),
    *("write_table", "OSFile", "save_file", "save_model", "write_pdf", "FileHandler", "SummaryWriter"),
}
#: Functions that write into a folder or file which `files` made before, and who calls them so.
GIVEN = {
    "data/phantom/archive.py": "into the temporary folder of the archive, which is renamed as a whole",
    "data/phantom/archive_tables.py": "likewise",
    "data/phantom/texts.py": "into the temporary file of `ensure`",
    "model/bases/git/__init__.py": "into the temporary folder of saved_model.save and export",
    "model/bases/timm_vision.py": "likewise",
    "model/bases/_text.py": "likewise",
    "model/tuning/lora_scratch.py": "likewise",
    "model/tuning/adapter.py": "likewise",
    "model/tuning/qlora.py": "likewise",
    "show/charts/_style.py": "into a temporary file of `atomic`, or into memory",
    "show/charts/_distribution.py": "into a file in the folder of `staged`",
    "run/trackers/tensorboard.py": "into the private folder `tracking`",
}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=UMASKS, ids=lambda mask: f"umask {mask:03o}")
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_both_kinds_keep_their_modes_under_any_umask(mask, tmp_path):
    files.write_json(tmp_path / "open" / "a.json", 1)
    files.write_json(tmp_path / "private" / "a.json", 1, private=True)
    files.open_for_appending(tmp_path / "private" / "log", private=True).close()
    with files.staged(tmp_path / "staged", last="b", private=True) as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert mode(tmp_path / "open") == 0o777 & ~mask
    assert mode(tmp_path / "open" / "a.json") == 0o666 & ~mask
    for folder in (tmp_path / "private", tmp_path / "staged"):
        assert mode(folder) == 0o700
        assert {mode(path) for path in folder.iterdir()} == {0o600}


def test_a_private_file_is_private_before_it_is_whole(mask, tmp_path):
    with files.atomic(tmp_path / "new" / "a", private=True) as temporary:
        assert (mode(temporary), mode(temporary.parent)) == (0o600, 0o700)
        temporary.unlink()
        temporary.write_text("a library that puts its own file there")
    assert mode(tmp_path / "new" / "a") == 0o600


def test_what_a_library_wrote_gets_the_mode_of_its_kind(mask, tmp_path):
    """safetensors makes its files 0600 whatever the umask is; weights follow the umask."""
    (tmp_path / "model" / "part").mkdir(parents=True)
    for name in ("a", "part/b"):
        (tmp_path / "model" / name).write_text("")
        (tmp_path / "model" / name).chmod(0o600)
    files.set_kind(tmp_path / "model", private=False)
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o666 & ~mask}
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["a", "part"]
    files.set_kind(tmp_path / "model", private=True)
    assert mode(tmp_path / "model" / "part") == 0o700 and mode(tmp_path / "model" / "a") == 0o600


def test_a_folder_of_the_users_own_keeps_its_mode_and_one_of_ours_does_not(tmp_path):
    for name in ("theirs", "gallery"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
        files.make_folder(tmp_path / name, private=True, own=name == "gallery")
    assert (mode(tmp_path / "theirs"), mode(tmp_path / "gallery")) == (0o755, 0o700)


def test_every_part_of_the_cache_is_private_and_made_so_again(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CXR_FT_CACHE", str(cache))
    files.write_text(cache / "pixels" / "key" / "0.arrow", "", private=True)
    (cache / "pixels").chmod(0o755)
    files.write_text(cache / "pixels" / "key" / "1.arrow", "", private=True)
    assert {mode(path) for path in (cache, *cache.rglob("*")) if path.is_dir()} == {0o700}
    # What else a user keeps in the folder that $CXR_FT_CACHE names is theirs.
    (cache / "runs").mkdir(mode=0o755)
    files.make_folder(cache / "runs", private=True)
    assert mode(cache / "runs") == 0o755


def test_the_folder_of_a_run_is_private_and_its_record_is_open(mask, tmp_path):
    import pandas as pd

    raw = {"head": {"name": "classify"}, "tuning": {"name": "lora"}, "train": {"seed": 0}}
    results.write(tmp_path / "run", Result(status="failed", config=raw, config_hash=""))
    results.write_predictions(tmp_path / "run", pd.DataFrame({"subject_id": ["1"]}))
    assert mode(tmp_path / "run") == 0o700
    assert mode(tmp_path / "run" / "predictions.parquet") == 0o600
    assert mode(tmp_path / "run" / "result.json") == 0o666 & ~mask


def test_the_first_of_two_writers_of_a_key_wins(mask, tmp_path):
    files.write_once(tmp_path / "config" / "key", "first")
    files.write_once(tmp_path / "config" / "key", "second")
    assert (tmp_path / "config" / "key").read_text() == "first"
    assert mode(tmp_path / "config" / "key") == 0o600 and mode(tmp_path / "config") == 0o700
    assert [path.name for path in (tmp_path / "config").iterdir()] == ["key"]


def _creations(tree):
    """Yield the line of each call that creates a file or folder, outside `demo` and blocks that `files` opened."""

    def visit(node, inside):
        if isinstance(node, ast.FunctionDef) and node.name == "demo":
            return
        if isinstance(node, ast.With):
            opened = {ast.unparse(item.context_expr).split("(")[0].split(".")[-1] for item in node.items}
            inside = inside or bool(opened & {"atomic", "staged", "temporary_folder"})
        if isinstance(node, ast.Call) and not inside and _creates(node):
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(tree, False)


def _creates(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name in CREATORS:
        return True
    if name == "write_text":  # a path's own; `write_text(path, text)` is that of `files`
        return isinstance(call.func, ast.Attribute) and owner != "files"
    if name == "save" and owner in ("torch", "np", "numpy", "image", "figure"):
        return True
    words = [arg.value for arg in (*call.args, *(k.value for k in call.keywords)) if isinstance(arg, ast.Constant)]
    return name == "open" and any(
        isinstance(word, str) and word[:1] in ("w", "a", "x") and len(word) < 4 for word in words
    )


def test_nothing_but_files_creates_a_file_or_folder():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "files.py" and (lines := list(_creations(ast.parse(path.read_text(encoding="utf-8"))))):
            found[name] = lines
    assert not {name: lines for name, lines in found.items() if name not in GIVEN}
    assert GIVEN.keys() <= found.keys(), "of a file that creates nothing any more"
