"""A second plug-in of each kind in one file, nothing else edited."""

import importlib
import shutil

import pytest

from cxr_ft import plugins
from cxr_ft.errors import UsageError

KINDS = {plugins.LAYOUTS: "folder", plugins.BASES: "git", plugins.HEADS: "classify", plugins.TUNING: "lora"}


@pytest.mark.parametrize(("package", "known"), KINDS.items())
def test_one_more_file_is_one_more_choice(package, known, tmp_path, monkeypatch):
    source = importlib.import_module(f"{package}.{known}").__file__
    shutil.copy(source, tmp_path / "mine.py")
    (tmp_path / "_helper.py").write_text("")
    parent = importlib.import_module(package)
    monkeypatch.setattr(parent, "__path__", [*parent.__path__, str(tmp_path)])
    monkeypatch.setattr(parent.__spec__, "submodule_search_locations", parent.__path__)
    plugins.choices.cache_clear()
    try:
        assert "mine" in plugins.choices(package)
        assert "_helper" not in plugins.choices(package)
        assert plugins.load(package, "mine").__name__ == f"{package}.mine"
    finally:
        plugins.choices.cache_clear()


@pytest.mark.parametrize("package", [*KINDS, plugins.TRACKERS, plugins.CHARTS])
def test_a_file_that_declares_too_little_is_one_line(package, tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text('"""Nothing yet."""\n')
    parent = importlib.import_module(package)
    monkeypatch.setattr(parent, "__path__", [*parent.__path__, str(tmp_path)])
    monkeypatch.setattr(parent.__spec__, "submodule_search_locations", parent.__path__)
    plugins.choices.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"half\.py declares no .*CONTRIBUTING\.md"):
            plugins.load(package, "half")
    finally:
        plugins.choices.cache_clear()


@pytest.mark.parametrize("package", KINDS)
def test_an_unknown_name_lists_the_known(package):
    with pytest.raises(UsageError, match="choose from: "):
        plugins.load(package, "nothing_of_the_kind")
    with pytest.raises(UsageError):
        plugins.load(package, "../errors")


def test_listing_imports_nothing():
    import subprocess
    import sys

    code = (
        "import sys; from cxr_ft import plugins; print(plugins.choices(plugins.TUNING));"
        "assert 'cxr_ft.model.tuning.lora' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lora" in done.stdout
