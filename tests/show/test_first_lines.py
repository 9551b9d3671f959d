"""What may explain a result without learning is the first that a page says."""

import pytest
from fake_runs import classify_run
from pages import read

from cxr_ft.run.record import results
from cxr_ft.show.compare import compare
from cxr_ft.show.page import write_page
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import split_table

CONFOUND = {
    "label": "Edema <b>",
    "auroc": 0.971,
    "low": 0.946,
    "high": 0.991,
    "shuffled": 0.55,
    "by": {"file": 0.87, "thumbnail": 0.99},
    "signal": "file",
    "rows": 260,
    "positives": 130,
    "confounded": True,
}


def with_data(run, **changes):
    record = results.read(run)
    card = {**record.data["card"], **changes.pop("card", {})}
    results.write(run, record.replace(data={**record.data, "card": card, **changes}))
    return run


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_what_explains_a_result_without_learning_is_said_first(tmp_path):
    run = classify_run(tmp_path / "a")
    harmless = {**CONFOUND, "label": "Fracture", "confounded": False}
    with_data(run, confounds=[CONFOUND, harmless], leaks={"subject": 0, "image": 0}, card={"group": "unknown"})
    write_page([run], tmp_path / "out")
    html = read(tmp_path / "out")
    first, _, rest = html.partition("<body>")[2].partition('<p class="answer">')
    assert "Edema &lt;b&gt; can be predicted without the content of the image" in first and "0.971" in first
    assert "file alone 0.870; a thumbnail of 32 x 32 pixels alone 0.990" in first
    assert "<strong>CONFOUND:</strong>" in first and "Fracture" not in first
    assert "<strong>Subjects unknown:</strong>" in first
    assert "evaluated on 120 test images (subjects unknown)" in rest and "40 test subjects" not in html
    assert "No image is in two splits" in rest and "No subject" not in rest


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_where_nothing_explains_the_result_nothing_is_said_first(tmp_path):
    run = with_data(classify_run(tmp_path / "a"), confounds=[{**CONFOUND, "confounded": False}], leaks={"subject": 0})
    write_page([run], tmp_path / "out")
    html = read(tmp_path / "out")
    assert 'class="warn"' not in html.partition('<p class="answer">')[0].partition("<body>")[2]
    assert "40 test subjects" in html and "No label of the 1 that were audited" in html


def test_leaks_come_first_and_an_audit_that_was_not_made_is_said(tmp_path):
    run = with_data(classify_run(tmp_path / "a"), leaks={"subject": 3})
    (comparison,) = compare(load([run])[0])
    assert split_table.warnings(comparison)[0].startswith("LEAK: Leaks, the same in two splits")
    assert split_table.NOT_AUDITED in split_table.splits(comparison)[1]
