"""`import cxr_ft`: what it offers, how fast, and that each function's example runs as it stands."""

import doctest
import importlib
import subprocess
import sys
import tempfile

import pytest

import cxr_ft


def test_it_offers_its_functions_and_loads_nothing_for_that():
    code = (
        "import sys, cxr_ft\n"
        "assert set(cxr_ft.__all__) < set(dir(cxr_ft))\n"
        "heavy = [m for m in ('numpy', 'pandas', 'torch', 'matplotlib') if m in sys.modules]; assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(callable(getattr(cxr_ft, name)) for name in cxr_ft.__all__)
    with pytest.raises(AttributeError, match="it offers ablate, audit"):
        _ = cxr_ft.fit


#: Examples that train and verify runs: half a minute each, so they run in `make test-all`.
SLOW = ("ablate", "compare", "load_run")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in cxr_ft.__all__]
)
def test_an_example_runs_as_written(name, tmp_path, monkeypatch):
    # The module keeps the folder it once found: setting TMPDIR alone would leave the examples' folders in /tmp.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    function = getattr(cxr_ft, name)
    module = importlib.import_module(function.__module__)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, module, globs={})
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example)
    assert runner.failures == 0
    assert not any(doctest.SKIP in one.options for one in example.examples), f"{name}: an example that never runs"
