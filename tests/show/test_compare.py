"""Which runs are compared, which seeds belong together, and when two variants differ significantly."""

import re

import pandas as pd
import pytest
from fake_runs import HOSTILE, IMAGES, SUBJECTS, classify_run, failed_run, report_run

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.metrics import text_overlap
from cxr_ft.show import number_format, phrasing, subgroup_gaps
from cxr_ft.show.compare import compare
from cxr_ft.show.metric_columns import columns
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import pair_table, quality_table, subgroup_table
from cxr_ft.show.verdicts import Outcome


def compared(*folders, margin=None):
    good, _ = load(folders)
    return compare(good, {} if margin is None else {"": margin})


def test_seeds_of_one_variant_come_together(tmp_path):
    runs = [classify_run(tmp_path / f"{m}{s}", m, s) for m in ("full", "lora") for s in (1, 0)]
    (comparison,) = compared(*runs)
    assert [variant.name for variant in comparison.rows] == ["lora q,v r8", "full"]
    assert [run.result.seed for run in comparison.rows[0].runs] == [0, 1]
    assert (comparison.test_subjects, comparison.test_rows) == (SUBJECTS, SUBJECTS * IMAGES)
    lora = comparison.rows[0]
    assert lora.value == pytest.approx(sum(run.result.primary("test") for run in lora.runs) / 2)
    assert lora.interval[0] < lora.value < lora.interval[1]


def test_runs_that_differ_in_batch_size_are_no_seeds_of_one_variant_and_are_listed(tmp_path):
    four = classify_run(tmp_path / "a", "full", 0, batch_size=4)
    sixteen = classify_run(tmp_path / "b", "lora", 0, batch_size=16)
    again = classify_run(tmp_path / "c", "full", 1, batch_size=16)
    (comparison,) = compared(four, sixteen, again)
    names = {variant.name for variant in comparison.rows}
    assert names == {"full (train.batch_size 4)", "full (train.batch_size 16)", "lora q,v r8"}
    texts = {mismatch.name: mismatch.values_text for mismatch in comparison.mismatches}
    assert "4 (full (train.batch_size 4))" in texts["batch size"]
    answer = phrasing.answer(comparison)
    assert "Memory: not comparable, since the runs differ in rows at a time." in answer
    assert "so that quality is not comparable: full" in answer


def test_where_the_data_lies_makes_no_variant(tmp_path):
    runs = [classify_run(tmp_path / str(seed), "full", seed) for seed in (0, 1)]
    moved = results.read(runs[1])
    results.write(runs[1], moved.replace(config={**moved.config, "data": {"splits": "elsewhere"}}))
    (comparison,) = compared(*runs)
    assert len(comparison.rows) == 1
    assert not [mismatch for mismatch in comparison.mismatches if mismatch.concerns]


def test_tasks_and_test_splits_have_tables_of_their_own(tmp_path):
    runs = [classify_run(tmp_path / "a"), classify_run(tmp_path / "b", "full", split="b"), report_run(tmp_path / "c")]
    measured = compared(*runs)
    assert [(c.task, len(c.runs)) for c in measured] == [("classify", 1), ("classify", 1), ("report", 1)]


def test_a_copy_of_a_run_is_no_second_seed(tmp_path):
    good, other = load([classify_run(tmp_path / "a"), classify_run(tmp_path / "b"), failed_run(tmp_path / "c")])
    assert [run.folder.name for run in good] == ["a"]
    assert [reason for _, reason in other] == [
        f"the same run as {tmp_path / 'a'}, shown once",
        "CUDA out of memory at step 3",
    ]


def test_a_clear_and_an_open_difference(tmp_path):
    quality = {"zero_shot": 0.1, "lora": 1.5, "full": 1.5}
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, q) for m, q in quality.items() for s in (0, 1, 2)]
    (comparison,) = compared(*runs)
    verdicts = {row.name: phrasing.against_best(comparison, row)[1] for row in comparison.rows}
    assert verdicts["zero_shot"] == "lower"
    assert sorted([verdicts["lora q,v r8"], verdicts["full"]]) == ["by point estimate", "no significant difference"]
    answer = phrasing.answer(comparison)
    assert "Significantly lower: zero_shot." in answer
    assert "No significant difference from it:" in answer
    assert "trainings" not in answer
    assert {pair.test for pair in comparison.pairs} == {"t over seeds and subjects (DeLong, rows clustered by subject)"}


def test_a_single_seed_is_never_ranked(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "a", "zero_shot", 0, 0.1), classify_run(tmp_path / "b", "full"))
    assert "One seed: tests with it are of the trained models, not of the methods" in phrasing.answer(comparison)
    assert "Significantly lower, of these two trainings, not of the methods: zero_shot." in phrasing.answer(comparison)
    words = "differs (of these two trainings, not of the methods)"
    assert phrasing.against_best(comparison, comparison.rows[0])[1] == words
    assert pair_table.pair_table(comparison).rows[0].cells[5].text == words
    more, one = classify_run(tmp_path / "c", "full", 1), classify_run(tmp_path / "d", "last_layers", 0)
    (comparison,) = compared(tmp_path / "b", more, one)
    assert "One seed of last_layers n=1: tests with it" in phrasing.answer(comparison)
    # Full fine-tuning has two seeds, which is no help to the other.
    assert all(pair.of_trainings for pair in comparison.pairs)


def test_what_trains_nothing_needs_no_second_seed(tmp_path):
    runs = [classify_run(tmp_path / "a", "zero_shot", 0)]
    runs += [classify_run(tmp_path / f"full{seed}", "full", seed) for seed in (0, 1)]
    (comparison,) = compared(*runs)
    assert comparison.ranked and "trainings" not in phrasing.answer(comparison)
    (comparison,) = compared(runs[0])
    assert not comparison.ranked


def test_a_model_that_beats_neither_chance_nor_a_constant_report_is_reported(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "a", "full", 0, 0.0))
    assert "Not shown to be better than chance (0.5)." in phrasing.answer(comparison)
    (comparison,) = compared(classify_run(tmp_path / "b", "full", 0, 1.0))
    assert "Not shown" not in phrasing.answer(comparison)
    (comparison,) = compared(report_run(tmp_path / "c", "full", 0, 0.05))
    assert "Not shown to be better than one constant report for all (0." in phrasing.answer(comparison)
    (comparison,) = compared(report_run(tmp_path / "d", "full", 0, 0.9))
    assert "Not shown" not in phrasing.answer(comparison)


def test_without_predictions_there_is_no_interval_and_nothing_is_paired(tmp_path):
    runs = [classify_run(tmp_path / "a", "lora"), classify_run(tmp_path / "b", "full", 0, 0.5)]
    (runs[0] / "predictions.parquet").unlink()
    (comparison,) = compared(*runs)
    assert comparison.best.name == "lora q,v r8"
    assert comparison.best.interval is None
    assert "(no interval)" in phrasing.lead(comparison)
    assert "Not tested against it: full." in phrasing.answer(comparison)


def test_runs_evaluated_on_other_rows_are_not_paired(tmp_path):
    runs = [classify_run(tmp_path / "a", "lora"), classify_run(tmp_path / "b", "full", 0, 0.5)]
    table = results.read_predictions(runs[1])
    results.write_predictions(runs[1], table.assign(dicom_id="other-" + table["dicom_id"]))
    (comparison,) = compared(*runs)
    assert all(variant.interval for variant in comparison.rows)
    assert "Not tested against it: full." in phrasing.answer(comparison)


def test_predictions_that_do_not_give_the_recorded_value_give_no_interval(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    test = record.metrics["test"]
    better = {**test, "macro": {**test["macro"], "auroc": 0.999}}
    results.write(run, record.replace(metrics={**record.metrics, "test": better}))
    (comparison,) = compared(run)
    assert comparison.rows[0].interval is None


def test_broken_predictions_are_named(tmp_path):
    run = classify_run(tmp_path / "a")
    (run / "predictions.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match=r"a/predictions\.parquet is not what cxr-train writes"):
        compared(run)
    table = results.read_predictions(classify_run(run)).drop(columns="score")
    results.write_predictions(run, table)
    with pytest.raises(UsageError, match="score"):
        compared(run)


def test_reports_have_intervals_of_corpus_bleu_and_their_baseline(tmp_path):
    runs = [report_run(tmp_path / f"{q}", m, 0, q) for m, q in (("zero_shot", 0.1), ("full", 0.7))]
    (comparison,) = compared(*runs)
    full = comparison.best
    assert full.name == "full"
    assert full.interval[0] < full.value < full.interval[1]
    table = results.read_predictions(runs[1]).query("split == 'test'")
    again = text_overlap.bleu(
        text_overlap.bleu_counts(table["reference"].tolist(), table["generated"].tolist()).sum(axis=0)
    )
    assert full.value == pytest.approx(float(again))
    rows = quality_table.quality(comparison).rows
    assert [row.kind for row in rows] == ["", "best", "baseline"]
    assert rows[2].cells[0].text == "one report for all"
    constant = full.runs[0].result.metrics["test"]["constant_baseline"]
    assert rows[2].cells[1].text == number_format.decimal(constant["bleu_4"])
    assert all(len(row.cells) == len(quality_table.quality(comparison).head) for row in rows)


@pytest.mark.parametrize("generated", ["", "The heart is enlarged ."])
@pytest.mark.parametrize("blank", ["", " \n", None])
def test_a_blank_reference_is_no_reference_in_the_interval_of_bleu(tmp_path, blank, generated):
    """To sacrebleu a segment of "" has no reference: value, resamples and subjects are those of the other rows."""
    folder = report_run(tmp_path / "run")
    (without,) = compared(folder)
    table = results.read_predictions(folder)
    unscored = table[table["split"] == "test"].head(8).assign(reference=blank, generated=generated)
    for key in ("subject_id", "study_id", "dicom_id"):
        unscored[key] = "x" + unscored[key].astype(str)
    results.write_predictions(folder, pd.concat([table, unscored], ignore_index=True))
    (comparison,) = compared(folder)
    assert comparison.best.interval == without.best.interval is not None
    assert comparison.test_subjects == comparison.test_rows == SUBJECTS


def test_every_number_of_the_table_has_an_interval_or_says_why_not(tmp_path):
    (comparison,) = compared(*(classify_run(tmp_path / str(seed), "full", seed) for seed in (0, 1)))
    table = quality_table.quality(comparison)
    cells = dict(zip(table.head, table.rows[0].cells, strict=True))
    for name in ("Macro AUROC, test", "Accuracy", "F1", "Precision", "Recall"):
        assert re.match(r"0\.\d{3} to 0\.\d{3}$", cells[name].notes[0]), name
        low, high = (float(end) for end in cells[name].notes[0].split(" to "))
        assert low < float(cells[name].text) < high
    assert cells["F1"].notes[1] == "mean of 4 labels"
    # The record of the natural split is there, but not its predictions.
    natural = quality_table.natural(comparison)
    assert natural.rows[0].cells[2].notes[0] == "no interval: no predictions"
    (tmp_path / "1" / "model" / "labels.json").unlink()
    (comparison,) = compared(tmp_path / "0", tmp_path / "1")
    assert [metric.note for metric in comparison.rows[0].metrics] == ["no interval: thresholds unknown"] * 4
    assert comparison.rows[0].interval is not None


def test_every_number_of_reports_has_an_interval_or_says_why_not(tmp_path):
    (comparison,) = compared(report_run(tmp_path / "r"))
    found = {name.name: one for name, one in zip(columns("text"), comparison.rows[0].metrics, strict=True)}
    assert found["rouge_l"].low < found["rouge_l"].value < found["rouge_l"].high
    assert found["clinical_f1_14_positive"].value is None or found["clinical_f1_14_positive"].interval
    assert found["distinct"].note.startswith("no interval: it falls with the number of texts")


def test_how_the_data_is_read_makes_a_variant(tmp_path):
    runs = [classify_run(tmp_path / how, data={"augment": how}) for how in ("none", "mild")]
    (comparison,) = compared(*runs)
    assert {variant.name for variant in comparison.rows} == {
        "lora q,v r8 (data.augment none)",
        "lora q,v r8 (data.augment mild)",
    }
    assert "data.augment" in {mismatch.name for mismatch in comparison.mismatches}


def test_variants_share_a_group_exactly_when_they_do_not_differ_significantly(tmp_path):
    quality = {"zero_shot": 0.1, "last_layers": 0.8, "lora": 1.5, "full": 1.5}
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, q) for m, q in quality.items() for s in (0, 1, 2)]
    (comparison,) = compared(*runs)
    assert len(comparison.pairs) == 6
    groups = {row.name: row.groups for row in comparison.rows}
    for pair in comparison.pairs:
        assert bool(set(groups[pair.first]) & set(groups[pair.second])) == (not pair.significant)
        assert pair.significant == pair.outcome.significant
        assert pair.p <= pair.adjusted_p
        assert pair.significant == (not pair.interval[0] < 0 < pair.interval[1])
        back = pair.reversed
        assert (back.first, back.second, back.gap) == (pair.second, pair.first, -pair.gap)
        assert back.interval == (-pair.interval[1], -pair.interval[0])
        assert back.reversed == pair
    assert [row.cells[2].text for row in quality_table.quality(comparison).rows] == list(groups.values())


def test_lora_needs_more_memory_than_full_at_other_batches_is_not_comparable_by_name(tmp_path):
    full = classify_run(tmp_path / "f", "full", batch_size=4, train={"gradient_checkpointing": True})
    lora = classify_run(tmp_path / "l", "lora", batch_size=16, train={"gradient_checkpointing": False})
    (comparison,) = compared(full, lora)
    (sentence,) = [row.memory_sentence for row in comparison.rows if row.memory_sentence]
    start = "lora q,v r8 and full: memory is not comparable: rows at a time 16 (lora q,v r8), 4 (full)"
    assert sentence.startswith(start)
    assert "gradient checkpointing off (lora q,v r8), on (full)" in sentence
    answer = phrasing.answer(comparison)
    assert "rows at a time and gradient checkpointing" in answer and "not comparable" in answer
    assert "lower" not in answer and "Within" not in answer
    assert [row.name for row in comparison.rows if row.groups] == [comparison.best.name]
    (other,) = [row for row in comparison.rows if not row.is_best]
    assert other.against_best.outcome is Outcome.NOT_COMPARABLE
    assert {mismatch.name for mismatch in other.mismatches} >= set(other.against_best.reasons) == {"batch size"}
    assert "not comparable: batch size" in pair_table.pairs_csv([comparison])


def test_memory_of_equal_conditions_is_compared_in_words(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "f", "full"), classify_run(tmp_path / "l", "lora"))
    (sentence,) = [row.memory_sentence for row in comparison.rows if row.memory_sentence]
    assert sentence.startswith("lora q,v r8 trains 0.971 % of the parameters, and its peak memory is")


def test_a_planted_bias_is_in_the_subgroup_table_and_in_a_sentence(tmp_path):
    fair, biased = classify_run(tmp_path / "a", "full"), classify_run(tmp_path / "b", "lora", bias=0.6)
    (comparison,) = compared(fair, biased)
    (found,) = subgroup_gaps.of_page([comparison])
    (sentence,) = found.stated
    assert sentence.startswith("Recall is lower for sex F than for sex M: lora q,v r8 (all labels: 0.")
    assert "full" not in sentence
    (table,) = subgroup_table.subgroups(comparison)
    recall = {(row.cells[0].text, row.cells[1].text): row.cells[5].key for row in table.rows}
    assert recall["lora q,v r8", "F"] < 0.6 * recall["lora q,v r8", "M"]
    assert all(len(row.cells) == len(table.head) for row in table.rows)


def test_a_group_without_metrics_shows_the_reason(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    measured = {"n": 4, "subjects": 2, "auroc": None, "recall": None, "calibration_slope": None}
    few = {"sex": {"labels": [], "groups": {HOSTILE: measured}, "undefined": {HOSTILE: "2 subjects: not measured"}}}
    results.write(run, record.replace(metrics={"test": {**record.metrics["test"], "subgroups": few}}))
    (comparison,) = compared(run)
    ((row,),) = [table.rows for table in subgroup_table.subgroups(comparison)]
    assert row.cells[4].notes == row.cells[-1].notes == ("2 subjects: not measured",)
    (found,) = subgroup_gaps.of_page([comparison])
    assert found.stated == [] and found.tested == subgroup_gaps.NOT_RECORDED


def test_an_undefined_metric_is_a_dash_with_its_reason(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    none = {"macro": {"auroc": None, "labels": 0}, "labels": {}, "undefined": {"macro": "no label has both classes"}}
    results.write(run, record.replace(metrics={"test": none}))
    (comparison,) = compared(run)
    assert "no answer yet" in phrasing.lead(comparison)
    assert quality_table.quality(comparison).rows[0].cells[1].text == number_format.DASH
    assert quality_table.undefined(comparison) == ["macro: no label has both classes"]


def test_numbers_in_words():
    assert (number_format.brief(222_338), number_format.brief(0), number_format.brief(999.6)) == ("222 k", "0", "1 k")
    assert (number_format.size(1_700_000), number_format.size(999)) == ("1.7 MB", "999 B")
    assert (number_format.seconds(12.34), number_format.seconds(119), number_format.seconds(247.1)) == (
        "12.3 s",
        "119 s",
        "4.12 min",
    )
    assert (number_format.decimal(-0.01234), number_format.percent(1, 400), number_format.count(22_713_986)) == (
        "−0.012",
        "0.25 %",
        "22,713,986",
    )
    assert number_format.listed(["a"]) == "a"
    assert number_format.listed(["a", "b", "c"]) == "a, b and c"
    for form in (
        number_format.brief,
        number_format.size,
        number_format.seconds,
        number_format.decimal,
        number_format.count,
        number_format.span,
    ):
        assert form(None) == number_format.DASH
    assert number_format.percent(None, 3) == number_format.percent(1, 0) == number_format.DASH


def test_a_model_of_texts_is_shown_with_its_baselines(tmp_path):
    """Counted words that score as much as the best variant are a row of the table, and the first thing said."""
    run = classify_run(tmp_path / "lora", "lora")
    result = results.read(run)
    measured = {"macro": {"auroc": 0.999, "f1": 0.7, "precision": 0.6, "recall": 0.8}, "accuracy": 0.75}
    test = {**result.metrics["test"], "baselines": {"tfidf_logreg": measured}}
    results.write(run, result.replace(metrics={**result.metrics, "test": test}))
    (comparison,) = compared(run)
    (row,) = [row for row in quality_table.quality(comparison).rows if row.kind == "baseline"]
    assert [cell.text for cell in row.cells[:9]] == [
        "TF-IDF with logistic regression",
        "0.999",
        "–",
        "–",
        "–",
        "0.750",
        "0.700",
        "0.600",
        "0.800",
    ]
    assert "Not shown to be better than TF-IDF with logistic regression (0.999)." in phrasing.answer(comparison)
