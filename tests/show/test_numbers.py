"""Every number stands where it is named, every verdict follows from its numbers: records whose numbers all differ."""

import csv
import io
import math
from functools import partial

import numpy as np
import pytest
from number_records import one, run, scores
from scipy.special import ndtr
from scipy.stats import norm

from cxr_ft.score.statistics import intervals, multiple_comparisons, variance_components
from cxr_ft.score.statistics.estimates import Estimate
from cxr_ft.score.statistics.pairs import Pair
from cxr_ft.score.statistics.variance_components import VarianceComponents
from cxr_ft.show import compare, number_format, phrasing, subgroup_gaps
from cxr_ft.show.decide import AdjustedPair, decide
from cxr_ft.show.prediction_rows import EvaluationRows, PredictionBook
from cxr_ft.show.recorded_runs import RecordedRun
from cxr_ft.show.tables import calibration_table, pair_table, quality_table
from cxr_ft.show.variant_estimates import VariantEstimates
from cxr_ft.show.variants import Variant
from cxr_ft.show.verdicts import Outcome


def pair(low, high, p=0.01, fixed=(False, False)):
    spread = VarianceComponents(0.001, (0.0, 0.0), (0.0, 0.0), (2, 2))
    return Pair((low + high) / 2, (low, high), p, "made up", 100, spread, fixed)


def pairs_of(base, methods, tested, seeds=2, test=None, margin=0.01):
    """A comparison of methods whose pairs are as given: (first, second) to (pair, p of all pairs together)."""
    variants = []
    for method in methods:
        value = (test or {}).get(method, 0.8)
        metrics = {"test": {"macro": {"auroc": value}}, "val": {"macro": {"auroc": 0.7}}}
        count = seeds[method] if isinstance(seeds, dict) else seeds
        runs = [run(base, method, seed, metrics=metrics) for seed in range(count)]
        variants.append(Variant(method, runs, "rows"))
    adjusted = {names: AdjustedPair(*values) for names, values in tested.items()}
    return decide("classify", "abc", variants, adjusted, margin=margin, test_subjects=100, test_rows=300)


def test_each_column_holds_the_metric_and_the_split_of_its_title(base):
    comparison = one(base, {"val": scores(0.1), "test": scores(0), "test_natural": scores(-0.2)})
    table = quality_table.quality(comparison)
    shown = {title: cell.text for title, cell in zip(table.head, table.rows[0].cells, strict=True)}
    assert shown["Macro AUROC, test"] == "0.810" and shown["Macro AUROC, val"] == "0.910"
    assert [shown[name] for name in ("Accuracy", "F1", "Precision", "Recall")] == ["0.850", "0.820", "0.830", "0.840"]
    natural = quality_table.natural(comparison)
    shown = {title: cell.text for title, cell in zip(natural.head, natural.rows[0].cells, strict=True)}
    columns = ("Balanced test", "Natural test", "Natural minus balanced")
    assert tuple(shown[column] for column in columns) == ("0.810", "0.610", "−0.200")
    assert "macro AUROC 0.810" in phrasing.lead(comparison)


def test_each_column_of_reports_and_of_their_baselines_is_the_metric_of_its_title(base):
    def metrics(shift):
        clinical = {"14_positive": {"macro": {"f1": 0.4 + shift}}, "14_negative": {"macro": {"f1": 0.9}}}
        words_ = {"bleu_1": 0.9, "bleu_4": 0.1 + shift, "rouge_l": 0.3 + shift, "label_f1": 0.5 + shift}
        return {**words_, "clinical": clinical, "distinct": 0.6 + shift}

    baseline = {"bleu_1": 0.7, "bleu_4": 0.11, "rouge_l": 0.31, "clinical_f1_14_positive": 0.41, "label_f1": 0.51}
    test = metrics(0) | {"baselines": {"random": baseline}}
    comparison = one(base, {"val": metrics(0.2), "test": test}, plan={"output": "text"})
    table = quality_table.quality(comparison)
    own, others = ({t: c.text for t, c in zip(table.head, row.cells, strict=True)} for row in table.rows)
    titles = ["BLEU-4, test", "Clinical F1", "Label F1", "ROUGE-L"]
    assert [own[title] for title in titles] == ["0.100", "0.400", "0.500", "0.300"]
    assert [others[title] for title in titles] == ["0.110", "0.410", "0.510", "0.310"]
    assert (own["BLEU-4, val"], own["Distinct"]) == ("0.300", "0.600")


def estimated(value, low, high, name="auroc"):
    """The estimates of a variant whose primary metric on test has this interval."""
    return VariantEstimates(metrics={"test": {name: Estimate(value=value, low=low, high=high)}})


def test_a_variant_is_the_mean_of_its_seeds(base):
    runs = [run(base, seed=seed, metrics={"test": scores(shift)}) for seed, shift in enumerate((0, 0.1))]
    variant = Variant("lora", runs, "rows", estimated(0.86, 0.8, 0.9))
    assert variant.value == pytest.approx(0.86)
    assert variant.interval == (0.8, 0.9)
    # Predictions that give another value than the record have no say in its interval.
    variant = Variant("lora", runs, "rows", estimated(0.85, 0.8, 0.9))
    assert variant.interval is None and variant.estimate.note == "no interval: the predictions give 0.850"


def test_the_bar_of_an_interval_is_drawn_at_its_numbers(base):
    """Intervals 0.5 to 0.7 and 0.6 to 0.9 on a scale of 0.5 to 0.9; the values are 0.61 and 0.81."""
    variants = []
    for method, shift, ends in (("lora", -0.2, (0.5, 0.7)), ("full", 0, (0.6, 0.9))):
        made = run(base, method, metrics={"test": scores(shift)})
        variants.append(Variant(method, [made], "rows", estimated(made.result.primary("test"), *ends)))
    rows = quality_table.quality(decide("classify", "abc", variants, {}, margin=0.01)).rows
    assert rows[0].cells[1].bar == pytest.approx((0, 0.5, 0.275), abs=1e-6)
    assert rows[1].cells[1].bar == pytest.approx((0.25, 1, 0.775), abs=1e-6)


def test_full_fine_tuning_is_chosen_by_its_mean_on_val(base):
    """Of two variants the one that is better on test, and has the best seed, has the lower mean on val."""
    runs = []
    for i, (vals, test) in enumerate((((0.1, 0.1), -0.1), ((0.12, -0.2), 0.1))):
        for seed, val in enumerate(vals):
            made = run(base, "full", seed, metrics={"val": scores(val), "test": scores(test)})
            config = {**made.result.config, "train": {**made.result.config["train"], "epochs": 3 + i}}
            runs.append(RecordedRun(made.folder, made.result.replace(config=config, config_hash=f"{i}{seed}")))
    (comparison,) = compare.compare(runs)
    assert comparison.reference.runs[0].result.config["train"]["epochs"] == 3
    assert comparison.best.runs[0].result.config["train"]["epochs"] == 4


@pytest.mark.parametrize(
    ("p", "adjusted", "significant"),
    [(0.01, 0.05, True), (0.01, 0.0501, False), (0.001, 0.09, False), (None, None, False)],
)
def test_two_variants_differ_by_the_two_sided_p_of_all_pairs_together(base, p, adjusted, significant):
    comparison = pairs_of(base, ["lora", "full"], {("lora", "full"): (pair(-0.08, -0.02, p), adjusted)})
    (tested,) = comparison.pairs
    assert tested.significant is significant
    assert len({row.groups for row in comparison.rows}) == (2 if significant else 1)
    assert phrasing.outcome(tested.outcome) == (
        "lower" if significant else "not tested" if adjusted is None else "no significant difference"
    )


def test_the_gap_is_the_variant_minus_the_best_whichever_was_first(base):
    values = {"lora": 0.75, "full": 0.8, "last_layers": 0.7}
    tested = {
        ("lora", "full"): (pair(-0.08, -0.02), 0.02),
        ("full", "last_layers"): (pair(0.04, 0.16), 0.02),
        ("lora", "last_layers"): (pair(0.01, 0.09), 0.02),
    }
    comparison = pairs_of(base, list(values), tested, test=values)
    lora, full, layers = comparison.rows
    assert phrasing.against_best(comparison, lora) == ("−0.080 to −0.020", "lower")
    assert phrasing.against_best(comparison, layers) == ("−0.160 to −0.040", "lower")
    assert phrasing.against_best(comparison, full) == ("best", "by point estimate")
    by_names = {(pair.first, pair.second): pair for pair in comparison.pairs}
    assert by_names["full", "last_layers"].outcome is Outcome.HIGHER
    assert by_names["full", "last_layers"].reversed.outcome is Outcome.LOWER
    assert layers.against_best.gap == pytest.approx(-0.1) and layers.against_best.adjusted_p == 0.02
    keys = [row.cells[3].key for row in quality_table.quality(comparison).rows[:3]]
    assert keys == pytest.approx([-0.05, 0.0, -0.1])
    assert sorted(row.groups for row in comparison.rows) == ["a", "b", "c"]


def seeds_pair(gap, se, level=0.95):
    """A pair with a normal distribution around its gap, over seeds and subjects."""
    spread = VarianceComponents(se**2, (0.0, 0.0), (0.0, 0.0), (2, 2))
    ends = variance_components.interval(gap, se**2, math.inf, level)
    tail = partial(variance_components.tail, gap, se**2, math.inf)
    p = variance_components.p_value(gap, se**2, math.inf)
    return Pair(gap, ends, p, "made up", 100, spread, level=level, tail=tail)


@pytest.mark.parametrize(
    ("gap", "se", "outcome", "p"),
    [
        (0.021, 0.0145, "not worse than full by more than 0.010", norm.sf(0.031 / 0.0145)),
        (-0.035, 0.0075, "worse than full by more than 0.010", norm.sf(0.025 / 0.0075)),
        (-0.021, 0.0145, "undecided whether worse than full by more than 0.010", norm.sf(-0.011 / 0.0145)),
        (0.09, 0.01, "not worse than full by more than 0.010", norm.sf(10)),
    ],
)
def test_the_margin_is_compared_with_the_variant_minus_full(base, gap, se, outcome, p):
    pair_ = seeds_pair(gap, se)
    for first, second, given_ in (("lora", "full", pair_), ("full", "lora", pair_.reversed)):
        comparison = pairs_of(base, ["lora", "full"], {(first, second): (given_, 0.02)})
        lora, full = comparison.rows
        assert full.against_reference is None
        assert lora.against_reference.adjusted_p == pytest.approx(p)
        assert phrasing.margin(comparison, lora.against_reference)[0] == outcome


def test_margins_are_adjusted_for_their_number(base):
    """Each alone is decided at one-sided p = .02; two together are not."""
    z = norm.isf(0.02)
    tested = {(name, "full"): (seeds_pair(-0.01 + z * 0.01, 0.01), 1.0) for name in ("lora", "last_layers")}
    one = pairs_of(base, ["lora", "full"], {("lora", "full"): tested["lora", "full"]})
    two = pairs_of(base, ["lora", "last_layers", "full"], tested)
    assert [row.against_reference.outcome.name for row in one.rows if row.against_reference] == ["NOT_WORSE"]
    verdicts = [row.against_reference for row in two.rows if row.against_reference]
    assert [verdict.outcome.name for verdict in verdicts] == ["UNDECIDED", "UNDECIDED"]
    assert verdicts[0].adjusted_p == pytest.approx(0.04)


@pytest.mark.parametrize(("adjusted", "ends"), [(0.05, (-0.09, 0.0)), (0.051, (-0.09, 0.01))])
def test_an_interval_that_is_shown_says_what_the_verdict_says(base, adjusted, ends):
    """Bonferroni's interval holds 0; where Holm's p is at most 0.05 it ends there."""
    comparison = pairs_of(base, ["lora", "full"], {("lora", "full"): (pair(-0.09, 0.01), adjusted)})
    assert comparison.pairs[0].interval == ends
    assert comparison.pairs[0].reversed.interval == (-ends[1], 0.09)


def test_an_order_needs_a_second_seed_of_every_variant(base):
    tested = {("lora", "full"): (pair(-0.08, -0.02), 0.02)}
    whole = pairs_of(base, ["lora", "full"], tested)
    assert whole.ranked
    alone = VarianceComponents(0.001, (0.0, 0.0), (None, None), (2, 1))
    tested = {("lora", "full"): (pair(-0.08, -0.02)._replace(spread=alone), 0.02)}
    half = pairs_of(base, ["lora", "full"], tested, seeds={"lora": 2, "full": 1})
    assert not half.ranked
    assert [pair.outcome for pair in half.pairs] == [Outcome.NOT_RANKED]


def test_p_values_of_a_table_are_adjusted_together_and_know_what_was_not_trained(base):
    rng = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], 30)[:, None]
    rows = EvaluationRows("rows", np.arange(60), truth, intervals.macro_auroc)
    variants, answers = [], {}
    for method, shift in (("zero_shot", 0.9), ("lora", 1.3), ("full", 2.2)):
        variants.append(Variant(method, [run(base, method, metrics={"test": scores(0)})], "rows"))
        answers[method] = (shift * truth + rng.normal(0, 1, (60, 1)))[None]
    tested = compare.paired_tests(variants, answers, PredictionBook(rows={"rows": rows}))
    ps = [one_.pair.p for one_ in tested.values()]
    assert [one_.adjusted_p for one_ in tested.values()] == pytest.approx(multiple_comparisons.holm(ps))
    assert max(ps) < 1 and ps != [one_.adjusted_p for one_ in tested.values()]
    assert tested["zero_shot", "full"].pair.fixed == (True, False)
    assert tested["lora", "full"].pair.fixed == (False, False)


@pytest.mark.parametrize(
    ("output", "baseline", "hidden"),
    [
        ("scores", {"baselines": {"tfidf_logreg": {"macro": {"auroc": 0.7, "f1": 0.99}, "accuracy": 0.99}}}, True),
        ("scores", {"baselines": {"tfidf_logreg": {"macro": {"auroc": 0.8, "f1": 0.1}, "accuracy": 0.1}}}, False),
        ("text", {"constant_baseline": {"bleu_4": 0.7, "rouge_l": 0.99, "bleu_1": 0.99}}, True),
        ("text", {"constant_baseline": {"bleu_4": 0.8, "rouge_l": 0.1, "bleu_1": 0.1}}, False),
    ],
)
def test_the_baseline_is_compared_with_the_low_end_of_the_interval_in_the_same_metric(base, output, baseline, hidden):
    """The interval is 0.75 to 0.85: a baseline of 0.7 is beaten, one of 0.8 is not."""
    metrics = {"test": scores(0) | {"bleu_4": 0.8} | baseline}
    made = run(base, metrics=metrics, plan={"output": output})
    name, value = ("auroc", 0.81) if output == "scores" else ("bleu_4", 0.8)
    variant = Variant("lora", [made], "rows", estimated(value, 0.75, 0.85, name))
    answer = phrasing.answer(decide("task", "abc", [variant], {}, margin=0.01))
    assert ("Not shown to be better" in answer) is not hidden
    assert hidden or "(0.800)." in answer


def test_pairs_csv_holds_the_low_end_before_the_high_one(base):
    comparison = pairs_of(base, ["lora", "full"], {("lora", "full"): (pair(-0.08, -0.02, 0.011), 0.022)})
    (line,) = csv.DictReader(io.StringIO(pair_table.pairs_csv([comparison])))
    wanted = {"first": "lora", "second": "full", "low": "-0.08", "high": "-0.02", "p": "0.011", "p_holm": "0.022"}
    assert {key: line[key] for key in wanted} == wanted
    assert float(line["gap"]) == pytest.approx(-0.05)


def test_memory_savings_are_relative_to_full_fine_tuning(base):
    """A memory of 100 + 300 MB against one of 100 + 600 + 300 MB."""
    memory = {
        "lora": {"weights": 100_000_000, "optimizer": 0, "activations": 300_000_000},
        "full": {"weights": 100_000_000, "optimizer": 600_000_000, "activations": 300_000_000},
    }
    runs = [
        run(base, method, metrics={"test": scores(0)}, cost={**base.cost, "memory": kinds})
        for method, kinds in memory.items()
    ]
    (comparison,) = compare.compare(runs)
    (sentence,) = [row.memory_sentence for row in comparison.rows if row.memory_sentence]
    assert "its peak memory is 40 % of full fine-tuning's (400 MB against 1 GB): most of the difference" in sentence
    assert sentence.endswith("is the optimizer's states (600 MB less).")
    (lora,) = [row for row in quality_table.quality(comparison).rows if row.cells[0].text.startswith("lora")]
    assert "400 MB" in [cell.text for cell in lora.cells]


def values(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def recorded(metric, difference, error=0.02, label="all labels"):
    p = float(2 * ndtr(-abs(difference) / error))
    of = {"group": "sex=F", "against": "sex=M", "metric": metric, "label": label}
    return of | {"difference": difference, "error": error, "freedom": 500.0, "p": p}


def test_a_gap_names_the_group_of_the_lower_value_first(base):
    records = [recorded("auroc", 0.2), recorded("recall", -0.3), recorded("calibration_slope", -0.5, 0.1)]
    records += [recorded("calibration_intercept", 0.01), recorded("recall", -0.4, label="Edema")]
    sex = {"groups": {}, "undefined": {}, "labels": [], "gaps": records}
    (found,) = subgroup_gaps.of_page([one(base, {"test": scores(0, subgroups={"sex": sex})})])
    assert [line.partition(":")[0] for line in found.stated] == [
        "AUROC is lower for sex M than for sex F",
        "Recall is lower for sex F than for sex M",
        "Calibration differs",
    ]
    assert "(all labels: 0.200, 0.1" in found.stated[0] and "; Edema: 0.400, 0.3" in found.stated[1]
    assert "scores are too extreme for sex F compared with sex M (lower slope)" in found.stated[2]
    assert "Tested here: 5 differences" in found.tested and "at most 5 %, over all 5 tests of the page" in found.tested
    assert "No gap is shown" not in found.tested and "Not tested" not in found.tested


def test_the_error_is_that_of_all_comparisons_of_a_page(base):
    """A p of .03 is stated alone and not among others; a group too small for a test costs them nothing."""

    def made(*records):
        sex = {"groups": {}, "undefined": {}, "labels": [], "gaps": list(records)}
        return one(base, {"test": scores(0, subgroups={"sex": sex})})

    small = {"group": "age=0-19", "against": "all others", "metric": "auroc", "label": "all labels", "reason": "few"}
    border = made(recorded("auroc", -2.2, 1.0), small)
    (alone,) = subgroup_gaps.of_page([border])
    assert len(alone.stated) == 1 and "Not tested: 1," in alone.tested
    first, second = subgroup_gaps.of_page([border, made(recorded("recall", 0.1, 1.0))])
    assert first.stated == second.stated == []
    assert "over all 2 tests of the page" in first.tested and "which is not the same as no gap" in first.tested
    (before,) = subgroup_gaps.of_page([made()])
    assert before.stated == [] and before.tested == subgroup_gaps.NOT_RECORDED


def test_each_column_of_the_calibration_table_is_the_error_of_its_title(base):
    def of(shift):
        estimates = {"slope": values(0.8 + shift, 0.1), "intercept": values(0.2 + shift, 0.1)}
        kinds = {
            kind: {"debiased_error": 0.1 * i + shift, "ece": 0.9, "brier": 0.77, **estimates}
            for i, kind in enumerate(("raw", "scaled", "corrected"))
        }
        return {"calibration": {**kinds, "temperature": 1.5 + shift}}

    metrics = {split: scores(0) | of(shift) for split, shift in (("test", 0.3), ("test_natural", 0.05), ("val", 0.6))}
    table = calibration_table.calibration(one(base, metrics))
    shown = {title: cell.text for title, cell in zip(table.head, table.rows[0].cells, strict=True)}
    del shown["Variant"]
    assert shown == {
        "Debiased error, test": "0.300",
        "Debiased error, test, scaled": "0.400",
        "Debiased error, natural test": "0.050",
        "Debiased error, natural test, corrected": "0.250",
        "Slope, test": "1.100",
        "Intercept, test": "0.500",
        "Brier score, test": "0.770",
        "Temperature": "1.80",
    }
    assert table.rows[0].cells[table.head.index("Slope, test")].notes == ("1.000 to 1.200",)
    few = {"raw": {"debiased_error": 0.1, "slope": None, "intercept": None, "reason": "few subjects"}}
    (row,) = calibration_table.calibration(one(base, {"test": scores(0) | {"calibration": few}})).rows
    assert row.cells[table.head.index("Intercept, test")].notes == ("few subjects",)


def test_a_small_p_keeps_its_digits():
    assert [number_format.p_value(p) for p in (0.0009, 0.001, 0.005, 0.05)] == [
        "below 0.001",
        "0.001",
        "0.005",
        "0.050",
    ]
