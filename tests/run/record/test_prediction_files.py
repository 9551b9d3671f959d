"""Files of predictions of other tools: any order of columns and lines, types, spellings; one line for what is wrong."""

import numpy as np
import pandas as pd
import pytest

from cxr_ft.errors import UsageError
from cxr_ft.run.record import imported_runs, prediction_files, results

LABELS = ("Edema", "Fracture")


def table(images=40, labels=LABELS, seed=0):
    """Scores of two images a subject, some truth not known."""
    rng = np.random.default_rng(seed)
    n = images * len(labels)
    rows = pd.DataFrame(
        {
            "subject": np.repeat(np.arange(images) // 2, len(labels)),
            "image": np.repeat([f"d{i}" for i in range(images)], len(labels)),
            "label": np.tile(labels, images),
            "truth": np.random.default_rng(9).integers(0, 2, n).astype(float),
            "score": rng.random(n),
        }
    )
    rows.loc[[3, 8], "truth"] = np.nan
    return rows


def texts():
    words = ["The lungs are clear.", "The heart is enlarged.", "There is edema."]
    return pd.DataFrame(
        {
            "subject": [i // 3 for i in range(60)],
            "reference": [words[i % 3] if i % 7 else words[0] for i in range(60)],
            "generated": [words[i % 2] for i in range(60)],
        }
    )


def written(rows, path):
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False)
    return path


def same(one, other):
    assert (one.labels, list(one.subjects), list(one.images)) == (
        other.labels,
        list(other.subjects),
        list(other.images),
    )
    np.testing.assert_array_equal(one.truth, other.truth)
    assert list(one.references) == list(other.references) and one.groups == other.groups
    for seed in one.seeds:
        if one.output == "scores":
            np.testing.assert_allclose(one.scores[seed], other.scores[seed], rtol=1e-12)
        else:
            assert list(one.generated[seed]) == list(other.generated[seed])


def test_scores_are_read_by_row_and_label(tmp_path):
    rows = table()
    read = prediction_files.read("a", written(rows, tmp_path / "a.csv"))
    assert (read.output, read.labels, read.seeds, read.seeded) == ("scores", LABELS, (0,), False)
    assert len(set(read.subjects)) == 20 and len(read.images) == 40
    where = read.images.index("d7")
    own = rows[rows["image"] == "d7"].set_index("label")
    np.testing.assert_array_equal(read.truth[where], own.loc[list(LABELS), "truth"])
    np.testing.assert_allclose(read.scores[0][where], own.loc[list(LABELS), "score"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("make", [table, texts])
def test_order_types_and_spellings_do_not_matter(make, kind, tmp_path):
    rows = make().assign(seed=0, Sex=["F", "M"] * (len(make()) // 2), path="/x/y")
    if make is table:
        rows["Sex"] = np.where(rows["subject"] % 2, "F", "M")
    plain = prediction_files.read("a", written(rows, tmp_path / f"a.{kind}"))
    other = rows.sample(frac=1, random_state=1) if make is table else rows
    other = other[sorted(other.columns, reverse=True)].rename(columns={"subject": " Subject_ID", "image": "dicom_id"})
    other[" Subject_ID"] = [f"{i:05d}" if i % 2 else f" {i}.0" for i in other[" Subject_ID"]]
    if make is table:
        other["truth"] = other["truth"].map({1.0: "True", 0.0: "false"}).fillna("")
        other["dicom_id"] = other["dicom_id"].str.upper() if kind == "csv" else other["dicom_id"].astype("category")
    same(prediction_files.read("a", written(other, tmp_path / f"b.{kind}")), plain)


def test_a_spreadsheets_semicolons_and_marks_are_read(tmp_path):
    path = tmp_path / "a.csv"
    table().to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    same(prediction_files.read("a", path), prediction_files.read("a", written(table(), tmp_path / "b.csv")))


def test_the_predictions_of_a_run_are_such_a_file(tmp_path):
    rows = table().rename(columns={"subject": "subject_id", "image": "dicom_id"}).assign(study_id="s", split="test")
    both = pd.concat([rows, rows.assign(split="val", score=0.5)])
    read = prediction_files.read("a", written(both, tmp_path / "a.parquet"))
    same(read, prediction_files.read("a", written(table(), tmp_path / "b.csv")))


def test_seeds_are_apart_and_have_the_same_rows(tmp_path):
    parts = [table(seed=seed).assign(seed=seed) for seed in (3, 1)]
    read = prediction_files.read("a", written(pd.concat(parts).sample(frac=1, random_state=0), tmp_path / "a.csv"))
    assert read.seeds == (1, 3) and read.seeded
    for part in parts:
        single = prediction_files.read("a", written(part.drop(columns="seed"), tmp_path / "b.csv"))
        np.testing.assert_allclose(read.scores[part["seed"].iloc[0]], single.scores[0])


def test_rows_without_a_subject_are_subjects_of_their_own(tmp_path):
    rows = table().astype({"subject": object})
    rows.loc[rows["image"].isin(["d0", "d1"]), "subject"] = None
    read = prediction_files.read("a", written(rows, tmp_path / "a.csv"))
    assert read.unknown_subjects == 2 and len(set(read.subjects)) == 21
    (run,) = imported_runs.read({"a": tmp_path / "a.csv"})
    assert "2 of 40 rows of a have no subject" in run.result.data.notes[0]


def test_equal_references_of_a_subject_stay_two_texts(tmp_path):
    read = prediction_files.read("a", written(texts(), tmp_path / "a.csv"))
    assert (read.output, len(read.references)) == ("text", 60)
    (run,) = imported_runs.read({"a": tmp_path / "a.csv"})
    assert run.predictions["generated"].tolist().count("The lungs are clear.") == 30
    assert run.result.metrics["test"]["n"] == 60


def test_groups_are_variables_by_name(tmp_path):
    rows = table()
    rows["age"] = 20 + rows["subject"]
    rows["group_scanner"] = np.where(rows["subject"] < 9, "one", "")
    rows["fold"] = rows.index
    read = prediction_files.read("a", written(rows, tmp_path / "a.csv"))
    assert set(read.groups) == {"age", "scanner"}
    assert set(read.groups["age"]) == {"20-39"} and set(read.groups["scanner"]) == {"one", "unknown"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop(columns="score"), "lacks the column score"),
        (lambda rows: rows.drop(columns=["image", "truth"]), "lacks the column image, truth"),
        (lambda rows: rows.iloc[:0], "has no rows"),
        (lambda rows: rows.assign(score=rows["score"] + 1), r"row 1: score 1\.\d+ lies outside \[0, 1\]"),
        (lambda rows: rows.assign(score=rows["score"].where(rows.index != 5)), "row 6: the score is missing"),
        (lambda rows: rows.assign(score=["high"] * len(rows)), "row 1: score is no number"),
        (lambda rows: rows.assign(truth=-1), "row 1: truth is -1"),
        (lambda rows: rows.assign(truth=np.nan), "truth is known in no row"),
        (lambda rows: rows.assign(image=rows["image"].where(rows.index != 2)), "row 3: no image"),
        (lambda rows: rows.assign(label=""), "row 1: no label"),
        (lambda rows: pd.concat([rows, rows.iloc[:3]]), "3 rows repeat the subject, image, label and seed"),
        (lambda rows: rows.assign(seed=0.5), "row 1: seed is no whole number"),
        (lambda rows: rows.assign(seed=rows.index % 3), "each seed needs the same subjects, images and labels"),
        (lambda rows: rows.assign(SCORE=1), "two columns score"),
        (lambda rows: rows.assign(sex=["F", "M"] * 40), "40 rows are in two groups of sex"),
        (lambda rows: rows.assign(site=rows["image"]), "site has 40 different values"),
    ],
)
def test_what_is_wrong_with_scores_is_one_line_without_ids(change, words, tmp_path):
    rows = table().assign(image=lambda rows: "secret-" + rows["image"])
    path = written(change(rows), tmp_path / "a.csv")
    with pytest.raises(UsageError, match=words) as told:
        prediction_files.read("a", path)
    assert "\n" not in str(told.value) and "secret" not in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"subject,reference\n1,x\n", "lacks the column generated"),
        ("a.csv", b"subject,generated\n1,x\n", "lacks the column reference"),
        ("a.csv", b"a\xff\xfe,b\n1,2\n", "not UTF-8"),
        ("a.csv", b'subject,reference,generated\n1,"x\n', "cannot be read"),
        ("a.csv", b"subject,reference,generated\n1,x,y\n2,x,y,z,w\n", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_files_that_are_no_table_are_one_line(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as told:
        prediction_files.read("a", path)
    assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="does not exist"):
        prediction_files.read("a", tmp_path / "missing.csv")


def test_arguments_name_each_file_once():
    assert prediction_files.parse(["a=x.csv", "b=y=z.csv"])["b"].name == "y=z.csv"
    for bad in (["x.csv"], ["=x.csv"], ["a="], ["a=x.csv", "a=y.csv"]):
        with pytest.raises(UsageError):
            prediction_files.parse(bad)


def test_files_with_other_rows_or_truth_are_refused_and_labels_of_one_left_out(tmp_path):
    first = written(table(), tmp_path / "a.csv")
    fewer = written(table().iloc[:-2], tmp_path / "fewer.csv")
    with pytest.raises(UsageError, match="lacks 1 of 40 and has 0 others"):
        imported_runs.read({"a": first, "b": fewer})
    turned = table().assign(truth=lambda rows: 1 - rows["truth"])
    with pytest.raises(UsageError, match="the truth of 78 of 80 cells"):
        imported_runs.read({"a": first, "b": written(turned, tmp_path / "turned.csv")})
    # The second label of each file is in that file alone; the truth of the first is the same in both.
    more = written(table(labels=("Edema", "Pneumonia")), tmp_path / "more.csv")
    for run in imported_runs.read({"a": first, "b": more}):
        assert list(run.result.metrics["test"]["labels"]) == ["Edema"] == list(run.labels.labels)
        assert run.result.data.notes == (
            "The label Fracture is in the predictions of a alone, and left out.",
            "The label Pneumonia is in the predictions of b alone, and left out.",
        )
    other = written(table(labels=("x", "y")), tmp_path / "other.csv")
    with pytest.raises(UsageError, match="no label in common"):
        imported_runs.read({"a": first, "b": other})


def test_a_result_holds_no_id_and_no_text(tmp_path):
    rows = texts().assign(
        reference=lambda rows: rows["reference"] + " zebra", subject=lambda rows: rows["subject"] + 77001
    )
    (run,) = imported_runs.read({"a": written(rows, tmp_path / "a.csv")})
    results.write(tmp_path / "out", run.result)
    record = (tmp_path / "out" / "result.json").read_text()
    assert "zebra" not in record and "7700" not in record


def test_a_constant_report_is_chosen_on_other_subjects(tmp_path):
    from cxr_ft.score.metrics import text_overlap

    rows = texts()
    half = {name: i % 2 for i, name in enumerate(sorted({str(subject) for subject in rows["subject"]}))}
    own = [half[str(subject)] for subject in rows["subject"]]
    # The halves have other usual reports: each is given the other's.
    usual = ("The lungs are clear and the heart is small.", "There is edema in both lungs.")
    rows["reference"] = [
        usual[h] if i % 3 else text for i, (h, text) in enumerate(zip(own, rows["reference"], strict=True))
    ]
    (run,) = imported_runs.read({"a": written(rows, tmp_path / "a.csv")})
    chosen = [
        text_overlap.constant_text(tuple(sorted(r for r, h in zip(rows["reference"], own, strict=True) if h != i)))
        for i in (0, 1)
    ]
    wanted = text_overlap.evaluate(rows["reference"].tolist(), [chosen[i] for i in own])
    assert run.result.metrics["test"]["baselines"]["constant_others"]["bleu_4"] == pytest.approx(wanted["bleu_4"])
