"""Clinical F1, sides, baselines, probes: scikit-learn as reference, closed cases, what a good metric must punish."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from cxr_ft.data.phantom import cases
from cxr_ft.data.phantom import report_writer as phantom
from cxr_ft.data.reports.text_columns import sections
from cxr_ft.score.metrics import clinical, labeler, laterality, probes, report_metrics


@pytest.fixture(scope="module")
def texts():
    collected = []
    for index in range(60):
        subject = cases.subject(5, index)
        for study in subject.studies:
            parts = sections(phantom.write(subject.body, study, None, np.random.default_rng(index)))
            collected.append(" ".join(parts.get(name) or "" for name in ("findings", "impression")))
    return collected


@pytest.mark.parametrize(("size", "names"), clinical.SETS.items())
@pytest.mark.parametrize(("doubt", "counts"), clinical.DOUBT.items())
def test_clinical_f1_is_scikit_learns_in_every_convention(texts, size, names, doubt, counts):
    generated = texts[7:] + texts[:7]
    result = clinical.evaluate(texts, generated)[f"{size}_{doubt}"]
    columns = [labeler.LABELS.index(name) for name in names]
    truth, written = (clinical.stated(labeler.table(t), counts)[:, columns] for t in (texts, generated))
    for name, judge in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert result["macro"][name] == pytest.approx(judge(truth, written, average="macro"))
        assert result["micro"][name] == pytest.approx(judge(truth, written, average="micro"))
    some = truth.any(axis=1) | written.any(axis=1)
    assert result["examples"]["f1"] == pytest.approx(
        f1_score(truth[some], written[some], average="samples", zero_division=0)
    )


def test_doubt_counts_as_the_convention_says():
    result = clinical.evaluate(["Possible edema."], ["Mild edema."])
    assert result["5_positive"]["micro"]["f1"] == 1.0
    assert result["5_negative"]["micro"]["f1"] is None
    assert result["undefined"] == dict.fromkeys(
        ("14_negative", "5_negative"), "no reference states any of these labels"
    )
    assert result["labels"]["Edema"]["positive"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "stated": 1}
    json.dumps(result, allow_nan=False)


def test_a_label_that_no_reference_states_is_none_and_its_false_alarms_count_in_micro():
    result = clinical.evaluate(["Mild edema.", ""], ["Mild edema. Fracture.", "Edema."])
    assert result["n"] == 1 and result["labels"]["Fracture"]["positive"]["f1"] is None
    assert result["14_positive"]["macro"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "labels": 1}
    assert result["14_positive"]["micro"]["f1"] == pytest.approx(2 / 3)


def test_nothing_to_judge_is_none_with_its_reason():
    for result in (clinical.evaluate([], []), clinical.evaluate([" "], ["Edema."])):
        assert result["14_positive"]["macro"]["f1"] is None and len(result["undefined"]) == 4
    assert laterality.evaluate([], [])["undefined"] == {"accuracy": "no reference states a side"}
    assert "both texts" in laterality.evaluate(["Left effusion."], ["Edema."])["undefined"]["accuracy"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Left lower lobe consolidation and right pleural effusion.",
         {"Consolidation": {"left"}, "Pleural Effusion": {"right"}}),
        ("Small bilateral effusions.", {"Pleural Effusion": {"left", "right"}}),
        ("Left effusion. Right effusion.", {"Pleural Effusion": {"left", "right"}}),
        ("No left effusion.", {}),
        ("Cardiomegaly with a left effusion.", {"Pleural Effusion": {"left"}}),
        ("Small right effusion and consolidation in the left base.",
         {"Pleural Effusion": {"right"}, "Consolidation": {"left"}}),
        ("Left effusion and atelectasis.", {"Pleural Effusion": {"left"}, "Atelectasis": {"left"}}),
        ("Effusion.", {}),
    ],
)  # fmt: skip
def test_sides_of_findings(text, wanted):
    assert {name: set(side) for name, side in laterality.sides(text).items()} == wanted


def test_side_accuracy_by_hand():
    result = laterality.evaluate(
        ["Left effusion. Right pneumothorax.", "Left effusion.", "Edema."],
        ["Left effusion. Left pneumothorax.", "No effusion.", "Left edema."],
    )
    assert (result["accuracy"], result["judged"], result["given"]) == (0.5, 2, 3)


def test_swapping_sides_twice_changes_nothing(texts):
    for text in texts:
        assert probes.swap_sides(probes.swap_sides(text)) == text
    assert probes.swap_sides("Left base; the right LEFT.") == "Right base; the left RIGHT."


def test_flipping_turns_each_statement_into_its_contrary(texts):
    before, after = labeler.table(texts), labeler.table([probes.flip_negation(text) for text in texts])
    findings = slice(1, None)  # "No Finding" follows from the others
    before, after = before[:, findings], after[:, findings]
    assert (after[before == 1] == 0).mean() > 0.85
    assert (after[before == 0] != 0).mean() > 0.95


def test_the_probes_are_punished_by_what_reads_findings_and_hardly_by_what_counts_words(texts):
    result = report_metrics.probed(texts)
    flipped, swapped = result["negation_flipped"], result["sides_swapped"]
    assert flipped["changed"] > 50 and flipped["rouge_l"] > 0.75
    assert flipped["clinical_f1_micro_14_positive"] < 0.3
    assert swapped["rouge_l"] > 0.8 and swapped["clinical_f1_14_positive"] == pytest.approx(1.0)
    assert swapped["sides"] < 0.4
    assert report_metrics.brief(texts, texts)["sides"] == 1.0
    json.dumps(result, allow_nan=False)


def test_baselines_are_taken_from_train_whatever_its_order(texts):
    train, test = texts[:50], texts[50:]
    near = list(range(len(test)))
    result = report_metrics.baselines(train, test, near)
    assert set(result) == {"constant", "constant_clinical", "random", "nearest", "undefined"}
    assert result["nearest"] == report_metrics.brief(test, [train[i] for i in near])
    other = report_metrics.baselines(train[::-1], test, [len(train) - 1 - i for i in near])
    assert result == other
    assert result["constant_clinical"]["clinical_f1_14_positive"] >= result["constant"]["clinical_f1_14_positive"]
    without = report_metrics.baselines(train, test, None, "the rows have no image")
    assert without["nearest"] is None and without["undefined"] == {"nearest": "the rows have no image"}
    assert report_metrics.baselines([" "], test)["undefined"] == {"all": "train has no text"}
    json.dumps(result, allow_nan=False)


def test_no_baseline_of_reports_sees_the_references_of_its_metrics():
    """Train says one thing only: whatever the references are, every baseline says that."""
    train, test = ["Mild edema."] * 4, ["Left effusion.", "Fracture.", "Left effusion."]
    result = report_metrics.baselines(train, test, [0, 1, 2])
    wanted = report_metrics.brief(test, ["Mild edema."] * 3)
    assert [result[name] for name in ("constant", "constant_clinical", "random", "nearest")] == [wanted] * 4
    assert wanted["clinical_f1_14_positive"] == 0


def test_a_probe_is_measured_on_the_texts_that_it_changes_alone():
    references, wrong = probes.changed(["Left effusion.", "Normal heart.", "Clear."], "sides_swapped")
    assert (references, wrong) == (["Left effusion."], ["Right effusion."])


def test_the_nearest_image_is_the_one_that_looks_alike_whatever_its_exposure():
    rng = np.random.default_rng(0)
    train = rng.integers(40, 120, (30, 256)).astype(np.uint8)
    darker = (train[[3, 17]] * 1.5 + 20).astype(np.uint8)
    assert report_metrics.nearest(train, darker).tolist() == [3, 17]
    assert report_metrics.nearest(train, np.zeros((1, 256), np.uint8)).shape == (1,)


def test_all_metrics_of_a_report_are_computed_together(texts):
    result = report_metrics.evaluate(texts, texts, section="findings")
    assert result["signature"]["section"] == "findings" and "labels:14,5" in result["signature"]["clinical"]
    assert result["clinical"]["14_positive"]["macro"]["f1"] == result["sides"]["accuracy"] == result["bleu_4"] == 1
