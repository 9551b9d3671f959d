"""Predictions of other tools on the page: the numbers of a run that predicts the same, and what is not known said."""

import numpy as np
import pandas as pd
import pytest
from fake_runs import HOSTILE, IMAGES, LABELS, SUBJECTS, classify_run, report_run
from pages import Seen, draw_only, read

import cxr_ft
from cxr_ft.cli.compare import main
from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.metrics import classification, registry
from cxr_ft.score.statistics import pairs
from cxr_ft.show import page, phrasing, subgroup_gaps
from cxr_ft.show.charts import all_charts
from cxr_ft.show.compare import compare
from cxr_ft.show.recorded_runs import load, with_files
from cxr_ft.show.tables import split_table
from cxr_ft.show.verdicts import Outcome


def test_rows(folder):
    """The test predictions of a run, as another tool would write them."""
    rows = results.read_predictions(folder)
    names = {"subject_id": "subject", "dicom_id": "image"}
    return rows[rows["split"] == "test"].rename(columns=names).drop(columns=["split", "study_id"])


test_rows.__test__ = False


def worse(rows, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    return rows.assign(score=np.clip(rows["score"] + noise * rng.normal(size=len(rows)), 0, 1))


def written(rows, path):
    rows.to_csv(path, index=False)
    return path


def compared(folders=(), **files):
    return compare(with_files(load(folders)[0], files))


def test_a_file_has_the_numbers_of_the_run_that_predicted_it(tmp_path):
    runs = [classify_run(tmp_path / str(seed), "lora", seed, bias=0.0) for seed in (0, 1)]
    rows = pd.concat([test_rows(run).assign(seed=seed) for seed, run in enumerate(runs)])
    rows["sex"] = np.where(rows["subject"].astype(int) % 2, "F", "M")
    rows["subject"] = [f"{int(subject):06d}" for subject in rows["subject"]]
    (comparison,) = compared(runs, copy=written(rows.sample(frac=1, random_state=0), tmp_path / "a.csv"))
    own, copy = comparison.rows
    assert (own.name, copy.name, copy.seeds) == ("lora q,v r8", "copy", (0, 1))
    for one, other in ((own.estimate, copy.estimate), *zip(own.metrics, copy.metrics, strict=True)):
        assert one.interval and other.interval == pytest.approx(one.interval)
        assert other.value == pytest.approx(one.value)
    for label, one in own.labels.items():
        assert copy.labels[label].interval == pytest.approx(one.interval)
    (pair,) = comparison.pairs
    assert pair.gap == pytest.approx(0) and pair.outcome is Outcome.NO_DIFFERENCE
    parts = [[run.result.metrics["test"] for run in row.runs] for row in (own, copy)]
    for run, file in zip(*parts, strict=True):
        assert file["calibration"]["raw"]["slope"]["value"] == pytest.approx(
            run["calibration"]["raw"]["slope"]["value"]
        )
        for gap, same in zip(run["subgroups"]["sex"]["gaps"], file["subgroups"]["sex"]["gaps"], strict=True):
            assert (same["group"], same["metric"], same["label"]) == (gap["group"], gap["metric"], gap["label"])
            assert (same["difference"], same["p"]) == pytest.approx((gap["difference"], gap["p"]), abs=1e-6)
    # 4 metrics of 4 labels and of all together, for both variants.
    assert "Tested here: 40 differences" in subgroup_gaps.of_page([comparison])[0].tested


def test_texts_have_the_numbers_of_the_run_that_wrote_them(tmp_path):
    run = report_run(tmp_path / "r")
    rows = test_rows(run).drop(columns="image").sample(frac=1, random_state=0)
    (comparison,) = compared([run], copy=written(rows, tmp_path / "a.csv"))
    own, copy = comparison.rows
    assert copy.estimate.interval == pytest.approx(own.estimate.interval)
    assert copy.value == pytest.approx(own.value)
    (pair,) = comparison.pairs
    assert pair.gap == pytest.approx(0)
    # The constant report of the run is the bar for both.
    assert comparison.best_baseline[0].startswith("one constant report")
    rougher = rows.assign(generated="The lungs are clear .")
    (comparison,) = compared([run], poor=written(rougher, tmp_path / "b.csv"))
    assert comparison.pairs[0].gap > 0


def test_beside_runs_of_one_label_a_row_the_largest_score_is_the_answer(tmp_path):
    run = classify_run(tmp_path / "r")
    rng = np.random.default_rng(0)
    right = np.eye(len(LABELS))[np.random.default_rng(7).integers(0, len(LABELS), IMAGES * SUBJECTS)]
    table = results.read_predictions(run)
    table = table[table["split"] == "test"].sort_values(["subject_id", "dicom_id"], kind="stable")
    table = table.assign(truth=right.ravel(), score=rng.dirichlet(np.ones(len(LABELS)), len(right)).ravel())
    wide = table.pivot(index=["subject_id", "study_id", "dicom_id"], columns="label", values=["truth", "score"])
    parts = [wide[name][list(LABELS)].to_numpy() for name in ("truth", "score")]
    metrics = classification.evaluate(*parts, LABELS, None, multi_label=False)
    results.write_predictions(run, table)
    results.write(run, results.read(run).replace(metrics={"test": metrics}))
    saved = run / "model" / "labels.json"
    saved.write_text(saved.read_text().replace('"multi_label": true', '"multi_label": false'))
    (comparison,) = compared([run], copy=written(test_rows(run), tmp_path / "a.csv"))
    own, copy = comparison.rows
    for one, other in zip(own.metrics, copy.metrics, strict=True):
        assert one.interval and (other.value, *other.interval) == pytest.approx((one.value, *one.interval))
    assert "at 0.5" not in " ".join(split_table.warnings(comparison))


def test_files_alone_are_compared_by_the_tests_of_the_page(tmp_path):
    rows = test_rows(classify_run(tmp_path / "r"))
    files = {"good": written(rows, tmp_path / "a.csv"), "poor": written(worse(rows), tmp_path / "b.csv")}
    (comparison,) = compared(**files)
    good, poor = comparison.rows
    wide = [
        pd.read_csv(file).pivot(index=["subject", "image"], columns="label", values=["truth", "score"])
        for file in files.values()
    ]
    truth, subjects = wide[0]["truth"].to_numpy(), wide[0].index.get_level_values("subject").to_numpy()
    scores = [one["score"].to_numpy()[None] for one in wide]
    statistic = registry.primary("scores").statistic
    tested = pairs.compare_all(truth, scores, subjects, statistic, fixed=[False, False], level=0.95)[0, 1]
    (pair,) = comparison.pairs
    assert (pair.gap, pair.p) == pytest.approx((tested.gap, tested.p))
    assert pair.outcome is Outcome.NOT_RANKED and poor.value < good.value
    assert (comparison.test_subjects, comparison.test_rows) == (SUBJECTS, SUBJECTS * IMAGES)
    assert good.cost == poor.cost and not any(vars(good.cost).values())
    assert not comparison.mismatches and not comparison.not_comparable["quality"]
    assert "Leaks are not known" in split_table.splits(comparison)[1]
    for chart in all_charts().values():
        if "scores" in chart.outputs:
            chart.draw(comparison.runs)


def test_a_file_named_full_is_the_reference_of_the_margin(tmp_path):
    rows = test_rows(classify_run(tmp_path / "r"))
    parts = [
        pd.concat([worse(rows, seed + 10 * i, noise).assign(seed=seed) for seed in (0, 1, 2)])
        for i, noise in enumerate((0.02, 0.03))
    ]
    files = {name: written(part, tmp_path / f"{name}.csv") for name, part in zip(("full", "other"), parts, strict=True)}
    (comparison,) = compare(with_files([], files), {"": 0.1})
    assert comparison.reference.name == "full"
    assert comparison.rows[1].against_reference.outcome.value == "not worse by more than the margin"


def test_what_differs_from_runs_in_training_bars_nothing_and_is_said(tmp_path):
    run = classify_run(tmp_path / "r")
    (comparison,) = compared([run], other=written(worse(test_rows(run)), tmp_path / "a.csv"))
    assert not comparison.not_comparable["quality"]
    (sentence,) = [one.sentence for one in comparison.mismatches if one.name == "training"]
    assert "not known, predictions from a file (other)" in sentence
    (line,) = [line for line in split_table.warnings(comparison) if line.startswith("From a file:")]
    assert "leaks cannot be looked for" in line and "those of runs at the thresholds that val chose" in line
    assert "not known" not in phrasing.answer(comparison)


def test_other_rows_than_those_of_the_runs_are_refused_in_one_line(tmp_path, capsys):
    run = classify_run(tmp_path / "r")
    rows = test_rows(run)
    for change, words in (
        (rows[rows["image"] != "d3"], "lacks 1 of 120 and has 0 others"),
        (rows[rows["label"] != "Edema"], "lacks labels of the test split of lora q,v r8: Edema"),
        (rows.assign(truth=1 - rows["truth"]), "is not that of the test split of lora q,v r8"),
    ):
        file = written(change, tmp_path / "a.csv")
        assert main([str(run), "--predictions", f"other={file}", "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    with pytest.raises(UsageError, match="a run is named so"):
        compared([run], **{"lora q,v r8": written(rows, tmp_path / "a.csv")})


def test_the_command_writes_a_page_of_files_and_says_how_to_make_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    draw_only(monkeypatch, "per_label", "quality_vs_time")
    rows = test_rows(classify_run(tmp_path / "r"))
    one, other = written(rows, tmp_path / "a.csv"), written(worse(rows), tmp_path / "b.csv")
    texts = written(test_rows(report_run(tmp_path / "t")), tmp_path / "t.csv")
    flags = ["--predictions", f"{HOSTILE}={one}", f"b={other}", "--predictions", f"words={texts}"]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 0
    seen = Seen(read(tmp_path / "out"))
    assert HOSTILE in seen.text and read(tmp_path / "out").count("<script") == 1
    assert f"--predictions b={other}" in seen.text and "Repeat each run" not in seen.text
    assert page.HIDDEN not in seen.text
    assert "the report of best BLEU-4 on other subjects" in seen.text
    # A chart of cost has nothing to show.
    assert {path.name.split("-")[-1] for path in (tmp_path / "out" / "charts").glob("*.svg")} == {"per_label.svg"}
    csv = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert csv["variant"].tolist() == [HOSTILE, "b", "words"]
    secret = test_rows(tmp_path / "t")["reference"].iloc[0]
    assert secret not in seen.text


def test_neither_runs_nor_files_is_one_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_compare_takes_files_from_python(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    draw_only(monkeypatch, "per_label")
    run = classify_run(tmp_path / "r")
    file = written(worse(test_rows(run)), tmp_path / "a.csv")
    comparison = cxr_ft.compare(run, predictions={"other": str(file)})
    assert comparison.to_frame()["name"].tolist() == ["lora q,v r8", "other"]
    saved = comparison.save(tmp_path / "out")
    assert f"--predictions other={file}" in Seen(saved.read_text()).text
    assert cxr_ft.compare(predictions={"other": file}).to_frame()["trainable"].isna().all()
