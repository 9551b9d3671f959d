"""`cxr_ft.evaluate`: scikit-learn's values, the page's intervals and tests of gaps, one line for bad input."""

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import cxr_ft
from cxr_ft.errors import UsageError
from cxr_ft.score.metrics import calibration, registry
from cxr_ft.score.statistics import estimates, gaps

LABELS = ("x", "y", "z")


def predictions(rows=300, labels=3, seed=0, subjects=120):
    """Truth with masked cells, overlapping scores, and subjects of several rows."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, labels)) < 0.3).astype(float)
    scores = expit(1.5 * truth - 1 + rng.normal(size=truth.shape))
    truth[rng.random(truth.shape) < 0.04] = np.nan
    return truth, scores, rng.integers(0, subjects, rows)


def indexed(evaluation):
    return evaluation.to_frame().set_index(["label", "metric"])


def test_values_are_scikit_learns_at_a_threshold_that_is_said():
    from sklearn import metrics

    truth, scores, subjects = predictions()
    frame = indexed(cxr_ft.evaluate(truth, scores, subjects, labels=LABELS))
    assert list(cxr_ft.evaluate(truth, scores, subjects).to_frame()) == [
        *("label", "metric", "value", "low", "high", "note")
    ]
    every = []
    for i, label in enumerate(LABELS):
        known = ~np.isnan(truth[:, i])
        right, score = truth[known, i], scores[known, i]
        decided = score >= 0.5
        wanted = {
            "auroc": metrics.roc_auc_score(right, score),
            "ap": metrics.average_precision_score(right, score),
            "f1": metrics.f1_score(right, decided),
            "precision": metrics.precision_score(right, decided),
            "recall": metrics.recall_score(right, decided),
            "accuracy": metrics.accuracy_score(right, decided),
            "brier": metrics.brier_score_loss(right, score),
        }
        for name, value in wanted.items():
            assert frame.loc[(label, name), "value"] == pytest.approx(value), name
        every.append(wanted)
        assert "threshold 0.5" in frame.loc[(label, "f1"), "note"]
        assert not frame.loc[(label, "auroc"), "note"]
    for name in every[0]:
        mean = np.mean([values[name] for values in every])
        assert frame.loc[("macro", name), "value"] == pytest.approx(mean), name
    known = ~np.isnan(truth)
    assert frame.loc[("all labels", "overall_accuracy"), "value"] == pytest.approx(
        metrics.accuracy_score(truth[known], scores[known] >= 0.5)
    )


def test_values_have_the_intervals_of_the_page_or_the_reason():
    rng = np.random.default_rng(4)
    truth = np.column_stack([rng.random(200) < 0.3, np.arange(200) < 5, np.zeros(200)]).astype(float)
    scores = np.clip(0.4 * truth + 0.6 * rng.random((200, 3)), 0, 1)
    subjects = np.arange(200) // 2
    frame = indexed(cxr_ft.evaluate(truth, scores, subjects, labels=["usual", "rare", "absent"]))
    rows = estimates.Answers(truth=truth, scores=scores[None], predicted=scores[None] >= 0.5, subjects=subjects)
    for metric in registry.all_metrics("scores"):
        if metric.interval is not None and not metric.over_cells:
            page = estimates.by_label(metric.interval, rows.labels())[0]
            own = tuple(frame.loc[("usual", metric.name), ["value", "low", "high"]])
            assert own == pytest.approx((page.value, page.low, page.high), abs=1e-6)
            macro = estimates.macro(metric.interval, rows.labels())
            assert frame.loc[("macro", metric.name), "low"] == pytest.approx(macro.low, abs=1e-6)
    for metric in ("auroc", "ap"):
        assert frame.loc[("rare", metric), "note"] == "no interval: 3 positive subjects"
        assert frame.loc[("absent", metric), "note"] == "no value: 0 positive subjects"
        assert frame.loc[("macro", metric), "note"] == "mean of 2 of 3 labels"
    found = calibration.corrections(truth, scores, subjects)
    assert frame.loc[("all labels", "calibration_error"), "value"] == pytest.approx(found["debiased_error"])
    slope = frame.loc[("all labels", "calibration_slope"), ["value", "low", "high"]]
    assert tuple(slope) == pytest.approx(tuple(found["slope"].values()))
    assert "5 are needed in each class" in frame.loc[("absent", "calibration_slope"), "note"]


def test_rows_of_a_subject_are_no_more_evidence():
    truth, scores, _ = predictions(labels=1)
    alone = indexed(cxr_ft.evaluate(truth, scores, np.arange(300)))
    four = indexed(cxr_ft.evaluate(np.tile(truth, (4, 1)), np.tile(scores, (4, 1)), np.tile(np.arange(300), 4)))
    for metric in ("auroc", "ap", "f1", "brier"):
        width = [frame.loc[("0", metric), "high"] - frame.loc[("0", metric), "low"] for frame in (alone, four)]
        assert width[1] == pytest.approx(width[0], rel=0.05)


def test_gaps_are_the_pages_and_each_is_seen_from_both_sides():
    rng = np.random.default_rng(0)
    truth = (rng.random((900, 3)) < 0.3).astype(float)
    sex = rng.choice(["F", "M"], 900)
    scores = expit(truth * np.where(sex == "F", 2.5, 0.3)[:, None] + rng.normal(size=(900, 3)))
    subjects = rng.integers(0, 300, 900)
    groups = {"sex": sex, "age": rng.choice(["old", "young", "mid"], 900), "few": ["a"] * 5 + ["b"] * 895}
    groups["one"] = ["only"] * 800 + [None] * 100
    evaluation = cxr_ft.evaluate(truth, scores, subjects, groups=groups, labels=LABELS)
    assert list(evaluation.gaps)[:7] == ["group", "metric", "difference", "low", "high", "p", "stated"]
    found = evaluation.gaps.set_index(["group", "metric"])
    assert found.index.is_unique
    page = gaps.gaps(
        truth, scores, scores >= 0.5, subjects, {k: list(map(str, groups[k])) for k in list(groups)[:3]}, LABELS
    )
    for gap in page:
        name = gap.metric if gap.label == gaps.ALL else f"{gap.metric}: {gap.label}"
        one = found.loc[(gap.group, name)]
        assert bool(one["stated"]) is gap.stated
        if gap.p is not None:
            assert tuple(one[["difference", "low", "high", "p"]]) == pytest.approx(
                (gap.difference, gap.low, gap.high, gap.p), rel=1e-6, abs=1e-9
            )
    assert found.loc[("sex=F", "auroc"), "stated"] and found.loc[("sex=F", "auroc"), "low"] > 0.1
    mirrored = found.loc[("sex=M", "auroc")]
    assert mirrored["difference"] == -found.loc[("sex=F", "auroc"), "difference"]
    assert (mirrored["low"], mirrored["high"]) == tuple(-found.loc[("sex=F", "auroc"), ["high", "low"]])
    assert not found.loc[["age=old", "age=young", "age=mid"], "stated"].any()
    assert "few=a: 5 subjects, fewer than 10" in found.loc[("few=a", "auroc"), "note"]
    assert "no other known group" in found.loc[("one=only", "auroc"), "note"]


def test_subjects_are_the_same_by_the_rule_of_the_splits():
    truth, scores, _ = predictions(60, labels=1)
    spelled = [["7", 7.0, "00007", " 7"][i % 4] if i < 12 else f"p{i}" for i in range(60)]
    plain = [7 if i < 12 else f"P{i}" for i in range(60)]
    pair = [cxr_ft.evaluate(truth, scores, subjects) for subjects in (spelled, plain)]
    assert pair[0].subjects == pair[1].subjects == 49
    low = [indexed(evaluation).loc[("0", "auroc"), "low"] for evaluation in pair]
    assert low[0] == pytest.approx(low[1], abs=1e-6)


def test_a_row_without_a_subject_is_one_of_its_own_and_that_is_said():
    truth, scores, _ = predictions(60, labels=1)
    evaluation = cxr_ft.evaluate(truth, scores, [None, float("nan"), " ", *range(57)])
    assert evaluation.subjects == 60
    assert evaluation.notes == ("3 rows have no subject: each counts as a subject of its own",)
    assert evaluation.to_frame()["note"].str.contains("3 rows have no subject").all()
    assert cxr_ft.evaluate(truth, scores, None).subjects == 60


def test_seeds_are_averaged_and_widen_the_intervals():
    truth, _, subjects = predictions(200, labels=2)
    rng = np.random.default_rng(3)
    scores = [expit(np.nan_to_num(truth) * shift + rng.normal(size=truth.shape)) for shift in (1.0, 2.5)]
    order = rng.permutation(400)
    seed = np.repeat([5, 9], 200)[order]
    # Rows of both seeds mixed, each seed's in the same order.
    place = np.where(seed == 5, np.cumsum(seed == 5), np.cumsum(seed == 9)) - 1
    mixed = np.where((seed == 5)[:, None], scores[0][place], scores[1][place])
    sex = np.where(subjects % 2, "F", "M")
    both = cxr_ft.evaluate(truth[place], mixed, subjects[place], {"sex": sex[place]}, seed=seed)
    each = [indexed(cxr_ft.evaluate(truth, one, subjects)) for one in scores]
    frame = indexed(both)
    assert both.rows == 200
    for metric in ("auroc", "f1", "brier"):
        mean = np.mean([one.loc[("macro", metric), "value"] for one in each])
        assert frame.loc[("macro", metric), "value"] == pytest.approx(mean)
    width = [one.loc[("macro", "auroc"), "high"] - one.loc[("macro", "auroc"), "low"] for one in (frame, *each)]
    assert width[0] > max(width[1:])
    single = [cxr_ft.evaluate(truth, one, subjects, {"sex": sex}).gaps for one in scores]
    assert both.gaps["difference"][0] == pytest.approx(np.mean([one["difference"][0] for one in single]))
    with pytest.raises(UsageError, match="each seed needs the same rows"):
        cxr_ft.evaluate(truth[place], mixed, rng.permutation(subjects[place]), seed=seed)
    # A single number changes nothing, since nothing is drawn.
    pair = [cxr_ft.evaluate(truth, scores[0], subjects, seed=number).to_frame() for number in (None, 7)]
    pd.testing.assert_frame_equal(*pair)


def test_data_frames_go_by_the_names_of_their_columns():
    truth, scores, subjects = predictions()
    tables = pd.DataFrame(truth, columns=list(LABELS)), pd.DataFrame(scores, columns=list(LABELS))
    plain = cxr_ft.evaluate(truth, scores, subjects, labels=LABELS).to_frame()
    named = cxr_ft.evaluate(tables[0].convert_dtypes(), tables[1][["z", "x", "y"]], subjects).to_frame()
    pd.testing.assert_frame_equal(named, plain)
    with pytest.raises(UsageError, match="other columns: w, z"):
        cxr_ft.evaluate(tables[0], tables[1].rename(columns={"z": "w"}), subjects)


REFERENCES = ["The heart is enlarged .", "There is a pleural effusion .", "The lungs are clear .", "There is edema ."]


def texts(rows=48):
    rng = np.random.default_rng(2)
    references = [" ".join(rng.choice(REFERENCES, 2, replace=False)) for _ in range(rows)]
    return references, [one if rng.random() < 0.5 else " ".join(rng.choice(REFERENCES, 2)) for one in references]


def test_texts_have_sacrebleus_values_and_the_pages_intervals():
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    references, generated = texts()
    subjects = np.arange(48) // 2
    evaluation = cxr_ft.evaluate([*references, None, " "], [*generated, "x", "y"], [*subjects, 90, 91])
    frame = evaluation.to_frame().set_index("metric")
    bleu = BLEU(lowercase=True).corpus_score(generated, [references]).score / 100
    assert frame.loc["bleu_4", "value"] == pytest.approx(bleu)
    scorer = RougeScorer(["rougeL"])
    rouge = np.mean([scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(references, generated, strict=True)])
    assert frame.loc["rouge_l", "value"] == pytest.approx(rouge)
    for name in ("bleu_4", "rouge_l", "label_f1"):
        metric = registry.metric(name, "text")
        labels = ("Edema", "Pleural Effusion")
        own = cxr_ft.evaluate(references, generated, subjects, labels=labels).to_frame().set_index("metric").loc[name]
        counts = metric.row_counts(references, generated, labels)
        page = estimates.of_texts(metric.of_sums, counts[None], subjects)
        assert (own["value"], own["low"], own["high"]) == pytest.approx((page.value, page.low, page.high))
    assert evaluation.rows == 48 and evaluation.subjects == 24
    assert frame["note"].str.contains("2 of 50 references are blank").all()
    assert "it falls with the number of texts" in frame.loc["distinct", "note"]
    nothing = cxr_ft.evaluate(["", None], ["a", "b"], [1, 2]).to_frame()
    assert nothing["value"].isna().all() and nothing["note"].str.contains("no reference has any text").all()
    grouped = cxr_ft.evaluate(references, generated, subjects, {"sex": ["F", "M"] * 24}).gaps
    assert grouped["group"].tolist() == ["sex=F", "sex=M"] and grouped["note"].str.contains("scores alone").all()


@pytest.mark.parametrize(
    ("truth", "scores", "subjects", "words"),
    [
        ([0, 1], [0.1], ["a", "b"], "do not fit"),
        ([[0], [1]], [0.1, 0.2], ["a", "b"], "do not fit"),
        ([0, 1], [0.1, 0.2], ["a"], "give a subject a row"),
        ([0, 1], [0.1, 0.2], "ab", "give one for each row"),
        ([0, 2], [0.1, 0.2], ["a", "b"], "give 1 (positive), 0 (negative) or NaN"),
        ([0, -1], [0.1, 0.2], ["a", "b"], "give 1 (positive), 0 (negative) or NaN"),
        ([0, 1], [0.1, np.nan], ["a", "b"], "no finite numbers"),
        ([0, 1], [0.1, np.inf], ["a", "b"], "no finite numbers"),
        ([0, 1], [0.1, 1.5], ["a", "b"], "outside [0, 1], as 1.5"),
        ([0, 1], [-0.1, 0.5], ["a", "b"], "outside [0, 1], as -0.1"),
        ([0, 1], ["a", "b"], ["a", "b"], "one holds texts, the other numbers"),
        (["no edema"], ["no edema", "edema"], ["a", "b"], "1 references"),
        ([[0, 1], [0]], [[0, 1], [0]], ["a", "b"], "each row as long as the others"),
        ([], [], [], "no rows"),
    ],
)
def test_bad_predictions_are_one_line(truth, scores, subjects, words):
    with pytest.raises(UsageError) as told:
        cxr_ft.evaluate(truth, scores, subjects)
    assert words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["x", "x", "y"]}, "2 different names for 3 columns"),
        ({"labels": ["x"]}, "1 different names for 3 columns"),
        ({"groups": {"sex": ["F"]}}, "sex has 1 values for 300 rows"),
        ({"groups": {"sex": "F"}}, "give the group of each row"),
        ({"seed": [1, 2]}, "2 seeds of training for 300 rows"),
        ({"seed": "one"}, "give the seed of training of each row"),
    ],
)
def test_bad_options_are_one_line(change, words):
    with pytest.raises(UsageError, match=words) as told:
        cxr_ft.evaluate(*predictions(), **change)
    assert "\n" not in str(told.value)


def test_scores_that_rounding_brought_out_of_the_unit_interval_are_taken():
    scores = np.array([1.0000001, -1e-8, 0.5, 0.4], np.float32)
    frame = indexed(cxr_ft.evaluate([1, 0, 1, 0], scores, range(4)))
    assert frame.loc[("0", "auroc"), "value"] == 1


def test_the_example_of_the_docs_runs():
    page = Path(__file__).parents[2] / "docs" / "predictions.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert (failed, tried) == (0, 11)
