"""The page as a whole: escaped, self-contained, honest about what is missing; and the command."""

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys

import pytest
from fake_runs import HOSTILE, LABELS, classify_run, failed_run, report_run
from pages import Seen, draw_only, read

from cxr_ft.cli.compare import main
from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.show import page
from cxr_ft.show.compare import compare
from cxr_ft.show.page import Options, write_page
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import split_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of two tasks, two seeds, a failed run and a hostile label, with three charts; its folder."""
    root = tmp_path_factory.mktemp("page")
    labels = (*LABELS[:3], HOSTILE)
    runs = [classify_run(root / f"{m}{s}", m, s, labels=labels) for m in ("lora", "full") for s in (0, 1)]
    runs += [report_run(root / "report"), failed_run(root / "f & <i>", error=f"out of memory {HOSTILE}")]
    with pytest.MonkeyPatch.context() as patch:
        draw_only(patch, "per_label", "learning_curves", "roc_curves", "modules")
        written = write_page(runs, root / "out", Options(include_data=True))
    assert all(path.is_file() for path in written)
    return root / "out"


def test_the_page_needs_nothing_else_and_runs_nothing(folder):
    seen = Seen(read(folder))
    names = {tag for tag, _ in seen.tags}
    assert not names & {"link", "iframe", "object", "embed", "base"}
    assert [tag for tag, _ in seen.tags if tag == "script"] == ["script"]  # ours, which the policy names by its digest
    (policy,) = [a["content"] for _, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy"]
    script = read(folder).partition("<script>")[2].partition("</script>")[0]
    assert policy.endswith(f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    assert "default-src 'none'" in policy
    for _, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
    assert not re.search(r"url\((?!#)|@import", read(folder))
    assert (folder / "comparison.html").stat().st_size < 5_000_000


def test_text_from_data_stays_text(folder):
    seen = Seen(read(folder))
    assert f"out of memory {HOSTILE}" in seen.text
    assert "f & <i>" in seen.text
    assert seen.text.count(HOSTILE) > 4  # in the chart, the examples, the failed run
    assert read(folder).count("<script") == 1


def test_ids_are_unique_in_spite_of_several_charts(folder):
    references = re.findall(r'(?:url\(#|href="#)([^)"]+)', read(folder))
    assert references
    definitions = [
        attributes["id"] for _, attributes in Seen(read(folder)).tags if "clip" in (attributes.get("id") or "")
    ]
    clips = [tag for tag, _ in Seen(read(folder)).tags if tag == "clippath"]
    assert len(definitions) == len(set(definitions))
    assert clips


def test_the_answer_comes_first_and_the_unfinished_are_listed(folder):
    text = Seen(read(folder)).text
    order = ["Best by point estimate:", "Quality and cost", "Charts", "Balanced and natural", "Examples from the test"]
    order += ["Report generation", "Runs that are not compared", "Where the numbers come from", "Repeat each run"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "full, seed 7: failed, out of memory" in text
    again = results.read(folder.parent / "lora0")
    assert again.config_hash[:8] in text
    assert f"cxr-train --config {folder.parent}/lora0/result.json" in text


def test_the_csv_has_one_row_a_run_with_the_recorded_numbers(folder):
    rows = list(csv.DictReader((folder / "comparison.csv").open(newline="")))
    assert [row["status"] for row in rows].count("success") == 5
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["error"].startswith("out of memory")
    assert failed["test macro auroc"] == ""
    first = results.read(folder.parent / "lora0")
    assert float(rows[0]["test macro auroc"]) == first.primary("test")
    assert float(rows[0]["parameters trainable"]) == 222_338


def test_charts_are_written_next_to_the_page_for_each_task(folder):
    names = {path.name.split("-", 1)[0] for path in (folder / "charts").iterdir()}
    assert names == {"classify", "report"}
    drawn = [{path.stem for path in (folder / "charts").glob(f"*.{kind}")} for kind in ("svg", "png")]
    assert drawn[0] == drawn[1]
    classify = {path.stem.split("-", 2)[2] for path in (folder / "charts").glob("classify*")}
    # Of those that the fixture draws; the modules of runs without named modules would be an empty chart.
    assert classify == {"per_label", "learning_curves", "roc_curves"}
    report = {path.stem.split("-", 2)[2] for path in (folder / "charts").glob("report*")}
    assert report == {"learning_curves"}


@pytest.mark.usefixtures("no_pdf")
def test_the_same_runs_make_the_same_page(tmp_path, monkeypatch):
    draw_only(monkeypatch, "per_label", "roc_curves", "quality_vs_time")
    run = classify_run(tmp_path / "r")
    for out in ("a", "b"):
        write_page([run], tmp_path / out)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert [path.name for path in (tmp_path / "a" / "charts").glob("*.svg")] != []


def test_the_pdf_says_what_the_page_says(folder):
    pytest.importorskip("weasyprint")
    assert (folder / "comparison.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("one_chart")
@pytest.mark.parametrize("missing", [ImportError, OSError])
def test_without_weasyprint_one_line_says_so(missing, tmp_path, monkeypatch, capsys):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "weasyprint":
                raise missing("libpango is not there")

    monkeypatch.delitem(sys.modules, "weasyprint", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    written = write_page([classify_run(tmp_path / "r")], tmp_path / "out")
    assert not [path for path in written if path.suffix == ".pdf"]
    assert capsys.readouterr().err == page.NO_PDF + "\n"


@pytest.mark.usefixtures("no_pdf", "one_chart")
@pytest.mark.parametrize("sensitivity", ["credentialed", "public", "synthetic"])
def test_images_texts_and_ids_stay_out_unless_they_are_included(tmp_path, sensitivity):
    run = report_run(tmp_path / "r", sensitivity=sensitivity)
    secret = json.loads((run / "gallery" / "gallery.json").read_text())[0]["truth"]
    write_page([run], tmp_path / "out")
    assert "data:image" not in read(tmp_path / "out")
    assert secret not in read(tmp_path / "out")
    assert "--include-data" in read(tmp_path / "out")
    write_page([run], tmp_path / "included", Options(include_data=True))
    assert "data:image/png;base64," in read(tmp_path / "included")
    assert secret in read(tmp_path / "included")
    assert page.HIDDEN not in Seen(read(tmp_path / "included")).text


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_a_gallery_cannot_reach_out_of_its_folder(tmp_path):
    run = classify_run(tmp_path / "r")
    path = run / "gallery" / "gallery.json"
    entries = json.loads(path.read_text())
    for bad, message in (("../result.json", "only files beside it"), ("gallery.json", "neither PNG nor JPEG")):
        path.write_text(json.dumps([{**entries[0], "file": bad}]))
        with pytest.raises(UsageError, match=message):
            write_page([run], tmp_path / "out", Options(include_data=True))
    path.write_text("{}x")
    with pytest.raises(UsageError, match=r"gallery\.json is no gallery"):
        write_page([run], tmp_path / "out", Options(include_data=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_no_cell_of_the_csvs_is_a_formula(tmp_path):
    runs = [classify_run(tmp_path / "a"), failed_run(tmp_path / "b", error="=HYPERLINK(1)")]
    write_page(runs, tmp_path / "out")
    for row in csv.DictReader((tmp_path / "out" / "comparison.csv").open(newline="")):
        assert row["error"] in ("", "'=HYPERLINK(1)")
        assert row["status"] == "success" or row["error"]


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_all_runs_are_shown_with_one_image(tmp_path):
    runs = [classify_run(tmp_path / m, m) for m in ("lora", "full")]
    write_page(runs, tmp_path / "out", Options(include_data=True))
    html = read(tmp_path / "out")
    assert html.count("data:image/png") == 4
    assert len(re.findall(r"<dt>lora q,v r8</dt>", html)) == len(re.findall(r"<dt>full</dt>", html)) == 4


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_the_command(tmp_path, capsys):
    runs = tmp_path / "runs"
    failed_run(runs / "a")
    failed_run(runs / "b", status="running", error=None)
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cxr-compare: error: no run to compare: of 2 runs found, 1 failed and 1 running")
    assert not (tmp_path / "out").exists()
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"cxr-compare: error: {tmp_path}/nowhere does not exist")
    classify_run(runs / "c")
    assert main([str(runs), str(runs / "c"), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "comparison.html") in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from cxr_ft.cli.compare import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'numpy', 'pandas', 'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--include-data" in done.stdout
    assert done.stdout.endswith("LOADED []\n")


def test_making_a_page_loads_no_torch():
    code = "import sys, cxr_ft.show.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_published_numbers_have_a_table_of_their_own_escaped_and_unranked(tmp_path):
    table = tmp_path / "others.csv"
    head = "source,method,targets,base,data,metric,value,n,protocol,url"
    row = f"{HOSTILE},lora,q,GIT,MIMIC,AUROC,0.999,,one seed,https://example.org/?a=1&b=2"
    table.write_text(f"{head}\n{row}\n")
    classify_run(tmp_path / "runs" / "a")
    command = [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--published", str(table), "--margin", "0.02"]
    assert main(command) == 0
    text = Seen(read(tmp_path / "out")).text
    assert text.index("Published by others") > text.index("Splits")
    assert HOSTILE in text and "0.999" in text and "one seed" in text
    assert "Best by point estimate" not in text.partition("Published by others")[2]
    assert f"cxr-compare {tmp_path}/runs --margin 0.02 --published CSV --out DIR" in text


@pytest.mark.usefixtures("no_pdf")
def test_a_margin_or_a_table_that_cannot_be_is_refused_before_anything_is_written(tmp_path, capsys):
    run = classify_run(tmp_path / "a")
    for margin in ("0", "-0.1", "1", "nan"):
        assert main([str(run), "--out", str(tmp_path / "out"), "--margin", margin]) == 2
        assert "--margin" in capsys.readouterr().err
    assert main([str(run), "--out", str(tmp_path / "out"), "--published", str(tmp_path / "no.csv")]) == 2
    assert "no.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_sort_by_numbers_and_are_readable_without_a_script(folder):
    html = read(folder)
    assert 'class="sortable"' in html
    keys = re.findall(r'data-key="([^"]*)"', html)
    assert keys and all(key == "" or float(key) == float(key) for key in keys)
    assert "<button" not in html.partition("<script>")[0]  # they are the script's own: without it there is none
    assert "aria-sort" in html.partition("<script>")[2]


def test_the_splits_are_shown_with_their_leaks(tmp_path):
    splits = tmp_path / "splits"
    splits.mkdir()
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    results.write(run, record.replace(data={**record.data, "splits": str(splits), "subjects": {"train": 279}}))
    message = {}
    for name, files, leaks in (
        ("clean", record.data["sha256"], {"subject": 0, "study": 0}),
        ("leaky", record.data["sha256"], {"subject": 3, "study": 0}),
        ("other", dict.fromkeys(record.data["sha256"], "0"), {"subject": 0}),
    ):
        (splits / "manifest.json").write_text(json.dumps({"files": files, "leaks": leaks}))
        (comparison,) = compare(load([run])[0])
        table, message[name] = split_table.splits(comparison)
    assert message["clean"].startswith("No subject or study is in two splits")
    assert "3 of subject" in message["leaky"]
    assert message["other"].startswith(split_table.ABSENT)
    (train,) = [row for row in table.rows if row.cells[0].text == "train"]
    assert [cell.text for cell in train.cells[1:3]] == ["560", "279"]


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_occlusion_maps_are_shown_with_the_predictions(tmp_path):
    runs = [classify_run(tmp_path / m, m) for m in ("lora", "full")]
    write_page(runs, tmp_path / "out", Options(include_data=True))
    assert read(tmp_path / "out").count("data:image/jpeg") == 8
    assert f"full: {HOSTILE}" in Seen(read(tmp_path / "out")).text
    path = runs[0] / "gallery" / "gallery.json"
    entries = json.loads(path.read_text())
    for looked in ({"at": "Edema"}, {"at": "", "map": []}, {"at": "", "map": [[1], [1, 2]]}, {"at": "", "map": "x"}):
        path.write_text(json.dumps([{**entries[0], "looked": looked}]))
        with pytest.raises(UsageError, match=r"gallery\.json is no gallery"):
            write_page(runs, tmp_path / "broken", Options(include_data=True))


@pytest.mark.usefixtures("no_pdf", "one_chart")
def test_a_row_of_text_has_no_image_and_shows_its_text(tmp_path):
    run = classify_run(tmp_path / "r")
    entry = {
        "file": None,
        "dicom_id": "t1",
        "given": f"a film {HOSTILE}",
        "truth": ["Edema"],
        "predicted": {"Edema": 1},
    }
    (run / "gallery" / "gallery.json").write_text(json.dumps([entry]))
    write_page([run], tmp_path / "out", Options(include_data=True))
    assert f"a film {HOSTILE}" in Seen(read(tmp_path / "out")).text
    assert "data:image" not in read(tmp_path / "out")


@pytest.mark.usefixtures("no_pdf")
def test_charts_of_cost_say_what_makes_runs_not_comparable(tmp_path, monkeypatch):
    draw_only(monkeypatch, "per_label", "quality_vs_time", "quality_vs_memory", "memory_by_kind")
    full = classify_run(tmp_path / "f", "full", batch_size=4, train={"gradient_checkpointing": True})
    lora = classify_run(tmp_path / "l", "lora", batch_size=16, train={"gradient_checkpointing": False})
    write_page([full, lora], tmp_path / "out")
    notes = re.findall(r'aria-label="([^"]*)">.*?</svg>\s*</div>(.*?)</figure>', read(tmp_path / "out"), re.DOTALL)
    message = {name: note for name, note in notes if "Not comparable" in note}
    assert set(message) == {"quality vs time", "quality vs memory", "memory by kind"}
    assert "the runs differ in rows at a time and gradient checkpointing." in message["memory by kind"]
    write_page([full], tmp_path / "alone")
    assert "Not comparable" not in read(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.usefixtures("no_pdf")
def test_a_page_of_54_runs_stays_below_5_mb(tmp_path):
    labels = tuple(f"Label {i} of fourteen" for i in range(14))
    ranks = range(1, 19)
    runs = [
        classify_run(tmp_path / f"{rank}-{seed}", "lora", seed, 0.4 + 0.05 * rank, labels, tuning={"rank": rank})
        for rank in ranks
        for seed in (0, 1, 2)
    ]
    written = write_page(runs, tmp_path / "out")
    assert written[0].stat().st_size < 5_000_000
    lines = list(csv.DictReader((tmp_path / "out" / "pairs.csv").open(newline="")))
    assert len(lines) == 18 * 17 // 2
    assert read(tmp_path / "out").count("lora q,v r18") > 4
