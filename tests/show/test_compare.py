"""What may stand in one table, which seeds belong together, and when two variants can be told apart."""

import csv
import io

import pytest
from fake_runs import HOSTILE, SUBJECTS, classify_run, failed_run, report_run

from cxr_ft.errors import UsageError
from cxr_ft.run.record import results
from cxr_ft.score.metrics import text_overlap
from cxr_ft.show import phrasing
from cxr_ft.show.compare import compare
from cxr_ft.show.runs import load
from cxr_ft.show.tables import main_tables, pair_tables, subgroup_tables


def compared(*folders):
    good, _ = load(folders)
    return compare(good)


def test_seeds_of_one_variant_come_together(tmp_path):
    runs = [classify_run(tmp_path / f"{m}{s}", m, s) for m in ("full", "lora") for s in (1, 0)]
    (comparison,) = compared(*runs)
    assert [variant.name for variant in comparison.variants] == ["lora q,v r8", "full"]
    assert [run.result.seed for run in comparison.variants[0].runs] == [0, 1]
    assert comparison.subjects == SUBJECTS
    lora = comparison.variants[0]
    assert lora.value == pytest.approx(sum(run.result.primary("test") for run in lora.runs) / 2)
    assert lora.interval[0] < lora.value < lora.interval[1]


def test_runs_that_differ_in_batch_size_are_no_seeds_of_one_variant_and_are_told(tmp_path):
    four = classify_run(tmp_path / "a", "full", 0, batch_size=4)
    sixteen = classify_run(tmp_path / "b", "lora", 0, batch_size=16)
    again = classify_run(tmp_path / "c", "full", 1, batch_size=16)
    (comparison,) = compared(four, sixteen, again)
    names = {variant.name for variant in comparison.variants}
    assert names == {"full (train.batch_size 4)", "full (train.batch_size 16)", "lora q,v r8"}
    told = {finding.name: finding.told for finding in comparison.findings}
    assert "4 (full (train.batch_size 4))" in told["batch size"]
    answer = phrasing.answer(comparison, 0.01)
    assert "Memory: not comparable, since the runs differ in rows at a time." in answer
    assert "so that quality is not comparable: full" in answer


def test_where_the_data_lies_makes_no_variant(tmp_path):
    runs = [classify_run(tmp_path / str(seed), "full", seed) for seed in (0, 1)]
    moved = results.read(runs[1])
    results.write(runs[1], moved.replace(config={**moved.config, "data": {"splits": "elsewhere"}}))
    (comparison,) = compared(*runs)
    assert len(comparison.variants) == 1
    assert not [finding for finding in comparison.findings if finding.concerns]


def test_tasks_and_test_splits_have_tables_of_their_own(tmp_path):
    runs = [classify_run(tmp_path / "a"), classify_run(tmp_path / "b", "full", split="b"), report_run(tmp_path / "c")]
    found = compared(*runs)
    assert [(c.task, len(c.runs)) for c in found] == [("classify", 1), ("classify", 1), ("report", 1)]


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
    verdicts = {variant.name: phrasing.difference(comparison, variant)[1] for variant in comparison.variants}
    assert verdicts["zero_shot"] == "lower"
    assert sorted([verdicts["lora q,v r8"], verdicts["full"]]) == ["by point estimate", "cannot be told apart"]
    answer = phrasing.answer(comparison, 0.01)
    assert "Lower: zero_shot." in answer
    assert "Cannot be told apart from it:" in answer
    assert "not ranked" not in answer


def test_a_single_seed_is_never_ranked(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "a", "zero_shot", 0, 0.1), classify_run(tmp_path / "b", "full"))
    assert "One seed: intervals cover test sampling only; not ranked." in phrasing.answer(comparison, 0.01)
    assert phrasing.difference(comparison, comparison.variants[0])[1] == "apart, one seed"
    more, one = classify_run(tmp_path / "c", "full", 1), classify_run(tmp_path / "d", "last_layers", 0)
    (comparison,) = compared(tmp_path / "b", more, one)
    assert "One seed of last_layers n=1: intervals cover test sampling only; not ranked." in phrasing.answer(
        comparison, 0.01
    )


def test_what_trains_nothing_needs_no_second_seed(tmp_path):
    runs = [classify_run(tmp_path / "a", "zero_shot", 0)]
    runs += [classify_run(tmp_path / f"full{seed}", "full", seed) for seed in (0, 1)]
    (comparison,) = compared(*runs)
    assert comparison.ranked and "not ranked" not in phrasing.answer(comparison, 0.01)
    (comparison,) = compared(runs[0])
    assert not comparison.ranked


def test_what_beats_neither_chance_nor_a_constant_report_is_told(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "a", "full", 0, 0.0))
    assert "Not shown to be better than chance (0.5)." in phrasing.answer(comparison, 0.01)
    (comparison,) = compared(classify_run(tmp_path / "b", "full", 0, 1.0))
    assert "Not shown" not in phrasing.answer(comparison, 0.01)
    (comparison,) = compared(report_run(tmp_path / "c", "full", 0, 0.05))
    assert "Not shown to be better than one constant report for all (0." in phrasing.answer(comparison, 0.01)
    (comparison,) = compared(report_run(tmp_path / "d", "full", 0, 0.9))
    assert "Not shown" not in phrasing.answer(comparison, 0.01)


def test_without_predictions_there_is_no_interval_and_nothing_is_paired(tmp_path):
    runs = [classify_run(tmp_path / "a", "lora"), classify_run(tmp_path / "b", "full", 0, 0.5)]
    (runs[0] / "predictions.parquet").unlink()
    (comparison,) = compared(*runs)
    assert comparison.best.name == "lora q,v r8"
    assert comparison.best.interval is None
    assert "(no interval)" in phrasing.lead(comparison)
    assert "Not comparable subject by subject: full." in phrasing.answer(comparison, 0.01)


def test_runs_judged_on_other_rows_are_not_paired(tmp_path):
    runs = [classify_run(tmp_path / "a", "lora"), classify_run(tmp_path / "b", "full", 0, 0.5)]
    table = results.read_predictions(runs[1])
    results.write_predictions(runs[1], table.assign(dicom_id="other-" + table["dicom_id"]))
    (comparison,) = compared(*runs)
    assert all(variant.interval for variant in comparison.variants)
    assert "Not comparable subject by subject: full." in phrasing.answer(comparison, 0.01)


def test_predictions_that_do_not_give_the_recorded_value_give_no_interval(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    test = record.metrics["test"]
    better = {**test, "macro": {**test["macro"], "auroc": 0.999}}
    results.write(run, record.replace(metrics={**record.metrics, "test": better}))
    (comparison,) = compared(run)
    assert comparison.variants[0].interval is None


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
    rows = main_tables.main(comparison).rows
    assert [row.kind for row in rows] == ["", "best", "baseline"]
    assert rows[2].cells[0].text == "one report for all"
    baseline = full.runs[0].result.metrics["test"]["constant_baseline"]
    assert rows[2].cells[1].text == phrasing.decimal(baseline["bleu_4"])
    assert all(len(row.cells) == len(main_tables.main(comparison).head) for row in rows)


def test_how_the_data_is_read_makes_a_variant(tmp_path):
    runs = [classify_run(tmp_path / how, data={"augment": how}) for how in ("none", "mild")]
    (comparison,) = compared(*runs)
    assert {variant.name for variant in comparison.variants} == {
        "lora q,v r8 (data.augment none)",
        "lora q,v r8 (data.augment mild)",
    }
    assert "data.augment" in {finding.name for finding in comparison.findings}


def test_variants_share_a_letter_exactly_when_they_are_not_told_apart(tmp_path):
    quality = {"zero_shot": 0.1, "last_layers": 0.8, "lora": 1.5, "full": 1.5}
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, q) for m, q in quality.items() for s in (0, 1, 2)]
    (comparison,) = compared(*runs)
    assert len(comparison.tested) == 6
    for (a, b), tested in comparison.tested.items():
        assert bool(set(comparison.letters[a]) & set(comparison.letters[b])) == (not tested.apart)
        assert tested.pair.p <= tested.adjusted
        back = comparison.pair(tested.second, tested.first)
        assert back.pair.gap == -tested.pair.gap
        assert back.pair.interval == (-tested.pair.interval[1], -tested.pair.interval[0])
    names = [row.cells[2].text for row in main_tables.main(comparison).rows]
    assert names == [comparison.letters[variant.name] for variant in comparison.variants]


def test_lora_is_within_a_margin_of_full_or_it_is_not_said(tmp_path):
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, 1.5) for m in ("lora", "full") for s in (0, 1, 2)]
    runs += [classify_run(tmp_path / f"z{s}", "last_layers", s, 0.2) for s in (0, 1, 2)]
    (comparison,) = compared(*runs)
    wide = phrasing.answer(comparison, 0.2)
    assert "Within 0.200 (macro AUROC) of full: lora q,v r8." in wide
    assert "Not within 0.010 (macro AUROC) of full: last_layers n=1." in phrasing.answer(comparison, 0.01)
    assert {name: found for name, (found, _) in phrasing.margins(comparison, 0.001).items()}["lora q,v r8"] == "open"
    table = pair_tables.margin_table(comparison, 0.2)
    assert {row.cells[0].text: row.cells[1].text for row in table.rows}["lora q,v r8"] == "within margin"


def test_lora_needs_more_memory_than_full_at_other_batches_is_not_comparable_by_name(tmp_path):
    full = classify_run(tmp_path / "f", "full", batch_size=4, train={"gradient_checkpointing": True})
    lora = classify_run(tmp_path / "l", "lora", batch_size=16, train={"gradient_checkpointing": False})
    (comparison,) = compared(full, lora)
    (said,) = pair_tables.memory(comparison)
    assert said.startswith("lora q,v r8 and full: memory is not comparable: rows at a time 16 (lora q,v r8), 4 (full)")
    assert "gradient checkpointing off (lora q,v r8), on (full)" in said
    answer = phrasing.answer(comparison, 0.01)
    assert "rows at a time and gradient checkpointing" in answer and "not comparable" in answer
    assert "Lower" not in answer and "Within" not in answer
    assert list(comparison.letters) == [comparison.best.name]
    assert "not comparable: batch size" in pair_tables.pairs_csv([comparison])


def test_memory_of_equal_conditions_is_told_in_words(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "f", "full"), classify_run(tmp_path / "l", "lora"))
    (said,) = pair_tables.memory(comparison)
    assert said.startswith("lora q,v r8 trains 0.971 % of the parameters, and its peak memory is")


def test_an_open_pair_says_what_would_settle_it(tmp_path):
    one = [classify_run(tmp_path / f"one{m}", m, 0, q) for m, q in (("lora", 1.5), ("full", 1.499))]
    (open_pair,) = compared(*one)[0].tested.values()
    assert not open_pair.apart
    subjects, seeds = phrasing.needed(open_pair)
    assert int(subjects.replace(",", "")) > SUBJECTS
    assert seeds.startswith("one seed of a trained method")
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, q) for m, q in (("lora", 1.5), ("full", 0.2)) for s in (0, 1, 2)]
    (comparison,) = compared(*runs)
    (tested,) = comparison.tested.values()
    assert tested.apart and phrasing.needed(tested) == (phrasing.DASH, phrasing.DASH)
    (row,) = pair_tables.pair_table(comparison).rows
    assert len(row.cells) == len(pair_tables.PAIR_HEAD)
    lines = list(csv.DictReader(io.StringIO(pair_tables.pairs_csv([comparison]))))
    assert float(lines[0]["gap"]) == tested.pair.gap
    assert float(lines[0]["p_holm"]) == tested.adjusted


def test_a_planted_bias_stands_in_the_subgroup_table_and_is_said(tmp_path):
    fair, biased = classify_run(tmp_path / "a", "full"), classify_run(tmp_path / "b", "lora", bias=0.6)
    (comparison,) = compared(fair, biased)
    (said,) = subgroup_tables.gaps(comparison)
    assert said.startswith("Recall is worse for sex F than for M: lora q,v r8 (0.")
    assert "full" not in said
    (table,) = subgroup_tables.subgroups(comparison)
    recall = {(row.cells[0].text, row.cells[1].text): row.cells[5].key for row in table.rows}
    assert recall["lora q,v r8", "F"] < 0.6 * recall["lora q,v r8", "M"]
    assert all(len(row.cells) == len(table.head) for row in table.rows)


def test_a_group_that_is_not_judged_says_why(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    found = {"n": 4, "subjects": 2, "auroc": None, "recall": None, "ece": None}
    few = {"sex": {"labels": [], "groups": {HOSTILE: found}, "undefined": {HOSTILE: "2 subjects: not judged"}}}
    results.write(run, record.replace(metrics={"test": {**record.metrics["test"], "subgroups": few}}))
    (comparison,) = compared(run)
    ((row,),) = [table.rows for table in subgroup_tables.subgroups(comparison)]
    assert row.cells[4].notes == ("2 subjects: not judged",)
    assert subgroup_tables.gaps(comparison) == []


def test_an_undefined_metric_is_a_dash_with_its_reason(tmp_path):
    run = classify_run(tmp_path / "a")
    record = results.read(run)
    none = {"macro": {"auroc": None, "labels": 0}, "labels": {}, "undefined": {"macro": "no label has both classes"}}
    results.write(run, record.replace(metrics={"test": none}))
    (comparison,) = compared(run)
    assert "no answer yet" in phrasing.lead(comparison)
    assert main_tables.main(comparison).rows[0].cells[1].text == phrasing.DASH
    assert main_tables.undefined(comparison) == ["macro: no label has both classes"]


def test_numbers_in_words():
    assert (phrasing.brief(222_338), phrasing.brief(0), phrasing.brief(999.6)) == ("222 k", "0", "1 k")
    assert (phrasing.size(1_700_000), phrasing.size(999)) == ("1.7 MB", "999 B")
    assert (phrasing.seconds(12.34), phrasing.seconds(119), phrasing.seconds(247.1)) == ("12.3 s", "119 s", "4.12 min")
    assert (phrasing.decimal(-0.01234), phrasing.percent(1, 400), phrasing.count(22_713_986)) == (
        "−0.012",
        "0.25 %",
        "22,713,986",
    )
    assert phrasing.listed(["a"]) == "a"
    assert phrasing.listed(["a", "b", "c"]) == "a, b and c"
    for form in (phrasing.brief, phrasing.size, phrasing.seconds, phrasing.decimal, phrasing.count, phrasing.span):
        assert form(None) == phrasing.DASH
    assert phrasing.percent(None, 3) == phrasing.percent(1, 0) == phrasing.DASH


def test_a_model_of_texts_stands_beside_its_baselines(tmp_path):
    """Counted words that score as much as the best variant are a row of the table, and the first thing said."""
    run = classify_run(tmp_path / "lora", "lora")
    result = results.read(run)
    found = {"macro": {"auroc": 0.999, "f1": 0.7, "precision": 0.6, "recall": 0.8}, "accuracy": 0.75}
    test = {**result.metrics["test"], "baselines": {"tfidf_logreg": found}}
    results.write(run, result.replace(metrics={**result.metrics, "test": test}))
    (comparison,) = compared(run)
    (row,) = [row for row in main_tables.main(comparison).rows if row.kind == "baseline"]
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
    assert "Not shown to be better than TF-IDF with logistic regression (0.999)." in phrasing.answer(comparison, 0.01)
