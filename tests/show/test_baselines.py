"""What the page says of a variant against the baselines: is it better, is it not, and how often that is wrong."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_runs import LABELS, classify_run

from cxr_ft.api.comparison import RunComparison
from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.metrics import label_regression
from cxr_ft.score.statistics import intervals, multiple_comparisons, pairs
from cxr_ft.show import baselines, page, phrasing
from cxr_ft.show.compare import compare
from cxr_ft.show.prediction_rows import EvaluationRows, PredictionBook, SplitPredictions
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import baseline_table, quality_table


def compared(*folders):
    return compare(load(folders)[0])


def with_baselines(run, **quality):
    """Give a run of `classify_run` baselines whose scores are the truth, shifted by their quality, and noise."""
    predictions, result = results.read_predictions(run), results.read(run)
    table = predictions[predictions["split"] == "test"].drop(columns=["score"]).reset_index(drop=True)
    recorded = {}
    for number, (name, shift) in enumerate(quality.items()):
        logit = shift * table["truth"].fillna(0.5) + np.random.default_rng(number).normal(0, 1, len(table))
        table[name] = 0.5 if name == "majority" else 1 / (1 + np.exp(-logit))
        wide = table.pivot(index="dicom_id", columns="label", values=["truth", name])
        truth, scores = (wide[column][list(LABELS)].to_numpy(float) for column in ("truth", name))
        measured = label_regression.metrics(scores, truth, LABELS, None, multi_label=True)
        recorded[name] = {**measured, "thresholds": [0.5] * len(LABELS), "train_rows": 560}
    results.write_baselines(run, table)
    test = {**result.metrics["test"], "baselines": recorded}
    results.write(run, result.replace(metrics={**result.metrics, "test": test}))
    return run


def runs(place, quality, of_baselines, seeds=(0, 1)):
    return [
        with_baselines(classify_run(place / f"{method}{seed}", method, seed, shift), **of_baselines)
        for method, shift in quality.items()
        for seed in seeds
    ]


def test_a_variant_that_is_no_better_than_a_baseline_is_said_to_be_so_first(tmp_path, monkeypatch):
    """One is far better than the thumbnail, the other is not; nobody is better than the acquisition."""
    folders = runs(tmp_path, {"lora": 0.3, "full": 1.5}, {"majority": 0, "acquisition": 3.0, "thumbnail": 1.0})
    (comparison,) = compared(*folders)
    first, second, last, what = phrasing.against_baselines(comparison)
    assert what == phrasing.BASELINE
    value = {row.name: row.value for row in comparison.rows}
    words = [rf"{name} {value[name]:.3f} against 0\.9\d\d, adjusted p = 1\.000" for name in ("full", "lora q,v r8")]
    start = r"Not shown to beat acquisition data alone \(macro AUROC: "
    assert re.fullmatch(rf"{start}{'; '.join(words)}\)\.", first)
    assert (
        second.startswith("Not shown to beat a 32 x 32 thumbnail (macro AUROC: lora q,v r8 ") and "full" not in second
    )
    assert last == "Every variant is shown to beat the most frequent class of train."
    assert "chance" not in phrasing.answer(comparison)
    table = baseline_table.baseline_table(comparison)
    assert [row.cells[0].text for row in table.rows[::2]] == [
        "acquisition data alone",
        "a 32 x 32 thumbnail",
        "the most frequent class of train",
    ]
    assert [row.cells[7].text for row in table.rows].count("no") == 3
    monkeypatch.setattr(page, "all_charts", dict)
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    page.write_page(folders, tmp_path / "page")
    html = (tmp_path / "page" / "comparison.html").read_text()
    assert html.index("Not shown to beat acquisition data alone") < html.index("Best by point estimate")
    assert "Not shown to beat acquisition" in RunComparison((), {}, (comparison,))._repr_html_()


def test_variants_that_beat_every_baseline_are_said_to_in_one_sentence(tmp_path):
    (comparison,) = compared(*runs(tmp_path, {"lora": 1.5, "full": 1.6}, {"majority": 0, "thumbnail": 0.2}))
    (sentence,) = phrasing.against_baselines(comparison)
    assert sentence.startswith(
        "Every variant is shown to beat every baseline: a 32 x 32 thumbnail and the most frequent class of train (lar"
    )
    (comparison,) = compared(*runs(tmp_path / "one", {"full": 1.6}, {"thumbnail": 0.2}, seeds=(0,)))
    (sentence,) = phrasing.against_baselines(comparison)
    assert sentence.startswith("full is shown to beat every baseline: a 32 x 32 thumbnail (largest adjusted p")
    assert baseline_table.baseline_table(comparison).rows[0].cells[7].notes == (phrasing.THIS_TRAINING,)


def test_p_values_are_one_sided_and_adjusted_together(tmp_path):
    folders = runs(tmp_path, {"lora": 0.6, "full": 0.9}, {"acquisition": 0.8, "thumbnail": 0.6})
    (comparison,) = compared(*folders)
    tests = comparison.against_baselines
    assert len(tests) == 4
    assert [test.adjusted_p for test in tests] == pytest.approx(multiple_comparisons.holm([test.p for test in tests]))
    # Better than the baseline: p below a half, and worse: above.
    assert all((test.p < 0.5) == (test.value > test.baseline_value) for test in tests)
    # In all ways that a person can look at them, the baselines' rows have the intervals of their scores.
    rows = [row for row in quality_table.quality(comparison).rows if row.kind == "baseline"]
    for row, shown in zip(comparison.baselines, rows, strict=True):
        assert row.estimate.interval[0] < row.value < row.estimate.interval[1]
        assert shown.cells[1].notes[0] == f"{row.estimate.low:.3f} to {row.estimate.high:.3f}"
        assert all(metric.interval for metric in row.metrics if metric.value is not None)


def test_baselines_without_rows_keep_their_values_and_have_no_test(tmp_path):
    (folder,) = runs(tmp_path, {"full": 1.5}, {"majority": 0, "thumbnail": 0.2}, seeds=(0,))
    (folder / "baselines.parquet").unlink()
    (comparison,) = compared(folder)
    assert comparison.against_baselines == () and phrasing.against_baselines(comparison) == []
    assert [row.estimate.interval for row in comparison.baselines] == [None, None]
    (kept,) = runs(tmp_path / "kept", {"lora": 1.5}, {"acquisition": 0.1}, seeds=(0,))
    (comparison,) = compared(folder, kept)
    said = phrasing.against_baselines(comparison)
    assert said[0] == "Not tested against any baseline, for want of scores row by row: full."
    assert said[1] == "lora q,v r8 is shown to beat acquisition data alone."
    (folder / "baselines.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match=r"baselines\.parquet is not what cxr-train writes"):
        compared(folder)


def test_scores_of_another_baseline_than_the_recorded_one_make_no_test(tmp_path):
    (folder,) = runs(tmp_path, {"full": 1.5}, {"thumbnail": 0.2}, seeds=(0,))
    table = results.read_baselines(folder)
    results.write_baselines(folder, table.assign(thumbnail=1 - table["thumbnail"]))
    (comparison,) = compared(folder)
    assert comparison.against_baselines == ()


def test_each_variant_is_held_against_the_probe_of_its_own_base(tmp_path):
    folders = [
        with_baselines(classify_run(tmp_path / method, method, 0, 1.0), frozen_probe=shift)
        for method, shift in (("lora", 0.2), ("full", 0.9))
    ]
    result = results.read(folders[1])
    results.write(folders[1], result.replace(config={**result.config, "model": "elsewhere/git-large"}))
    (comparison,) = compared(*folders)
    tested = {(test.variant.split()[0], test.baseline) for test in comparison.against_baselines}
    assert tested == {
        ("lora", "the base before fine-tuning, git-tiny"),
        ("full", "the base before fine-tuning, git-large"),
    }


@pytest.mark.parametrize("subjects", [39, 240])
def test_a_model_without_an_error_is_shown_to_beat_the_same_answer_for_every_row(subjects):
    """Neither varies over subjects, so that a test by the variance would say nothing."""
    assert page_claims(0, 2, subjects, ("majority",), perfect=True)


def page_claims(*page, **kind):
    """Whether a variant of a simulated page is shown to beat a baseline."""
    return any(test.shown for test in baselines.tests(*simulated(*page, **kind)))


def simulated(number, seeds, subjects, names, perfect=False):
    """Two variants that are no better than the baselines `names`, their predictions, and the book that read them.

    Where they are `perfect` instead, the baselines give equal scores to all rows.
    """
    rng = np.random.default_rng([number, seeds])
    truth, ids = (rng.random((subjects, 2)) < 0.4).astype(float), np.arange(subjects).astype(str)
    scores = {name: truth + rng.normal(0, 1, truth.shape) for name in (*names, "p", "q")}
    if perfect:
        scores |= {"p": truth, "q": truth, **{name: np.full(truth.shape, 0.5) for name in names}}
    area = {name: float(intervals.macro_auroc(truth, scores[name], np.ones(subjects))) for name in names}
    recorded = {name: {"macro": {"auroc": value}} for name, value in area.items()}
    result = SimpleNamespace(output="scores", metrics={"test": {"baselines": recorded}}, config={"model": "m"})
    run = SimpleNamespace(folder=Path("run"), result=result)
    book = PredictionBook(rows={"d": EvaluationRows("d", ids, truth, intervals.macro_auroc)})
    book._baselines[Path("run")] = {
        name: SplitPredictions(digest="d", subjects=ids, labels=("a", "b"), truth=truth, scores=scores[name])
        for name in names
    }
    variants = [
        SimpleNamespace(name=name, runs=[run], digest="d", trains_nothing=False, enough_seeds=seeds > 1, value=0.8)
        for name in ("p", "q")
    ]
    # A training of its own for each seed, on the same subjects.
    trained = {
        name: scores[name] + rng.normal(0, 0.01 if perfect else 0.3, (seeds, *truth.shape)) for name in ("p", "q")
    }
    return variants, trained, book


def test_the_p_of_a_better_variant_is_half_of_the_two_sided_one():
    variants, trained, book = simulated(0, 1, 200, ("thumbnail",))
    (rows,), (scored,) = book.rows.values(), book._baselines.values()
    predictions = [*trained.values(), scored["thumbnail"].scores[None]]
    known = pairs.compare_all(rows.truth, predictions, rows.subjects, rows.statistic, fixed=[False, False, True])
    for test in baselines.tests(variants, trained, book):
        pair = known["pq".index(test.variant), 2]
        assert test.p == pytest.approx(pair.p / 2 if pair.gap > 0 else 1 - pair.p / 2)


def false_claims(seeds, subjects, pages, names):
    """The share of simulated pages with a false claim."""
    return np.mean([page_claims(number, seeds, subjects, names) for number in range(pages)])


def test_a_false_claim_of_a_beaten_baseline_is_as_rare_as_stated():
    """Two variants with two seeds, two baselines, all of one quality: any claim at all on one page of twenty."""
    assert false_claims(2, 60, 60, ("acquisition", "thumbnail")) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_same_over_more_pages_and_with_one_seed(seeds):
    assert false_claims(seeds, 320, 600, ("acquisition", "thumbnail")) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)
