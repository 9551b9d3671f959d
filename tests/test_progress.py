"""Progress is shown where somebody looks: a moving bar on a terminal and in a notebook, lines in a log."""

import sys
from types import SimpleNamespace

from cxr_ft import progress


class ZMQInteractiveShell:
    """What IPython's `get_ipython` returns in a notebook's kernel, by name."""


def test_a_notebook_is_distinguished_from_a_terminal_of_ipython(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))
    assert progress.in_notebook()


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    with progress.bar("decoding", 2) as bar:
        bar.advance(note="a.dcm")
    assert capsys.readouterr().err.startswith("decoding: 1/2, ETA ")
