"""What tests of the page share."""

import pytest
from fake_runs import classify_run
from pages import draw_only

from cxr_ft.run.record import results
from cxr_ft.show import page


@pytest.fixture
def no_pdf(monkeypatch):
    """The PDF costs a second or two; most tests do not look at it."""
    monkeypatch.setattr(page, "_pdf", lambda *_: [])


@pytest.fixture
def one_chart(monkeypatch):
    """Most pages here are about something else than charts."""
    draw_only(monkeypatch, "per_label")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return results.read(classify_run(tmp_path_factory.mktemp("numbers") / "run"))
