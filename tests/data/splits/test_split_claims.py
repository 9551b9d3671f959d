"""What the splits promise, each promise checked on the tables alone: disjoint, seeded, weighted, byte-identical."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_compiler import CARD, LABELS, SPLITS, compiled, toy

from cxr_ft.data import manifest
from cxr_ft.data.audit import confound_probe
from cxr_ft.data.audit.near_texts import groups
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.dataset.train_view import order, soft_targets
from cxr_ft.data.layouts import folder
from cxr_ft.data.pixels.image_decode import CheckedImages
from cxr_ft.data.records import Records, order_key, raw_labels
from cxr_ft.data.splits import compiler
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

# The seed.


def ids(out, side, column="dicom_id"):
    return set(out.tables[side][column])


def splits_by_name(self, chosen):
    """A side for each row that follows from its subject alone."""
    return self.subject % 3


def test_the_seed_decides_which_rows_are_chosen():
    one, other = (compiled(toy(), views="all", seed=seed) for seed in (0, 1))
    assert set.union(*(ids(one, side) for side in SPLITS)) != set.union(*(ids(other, side) for side in SPLITS))


def test_the_seed_decides_the_splits():
    """Where every row with a label is chosen, the seed still moves subjects from split to split."""
    one, other = (compiled(toy(), views="all", per_label=10_000, seed=seed) for seed in (0, 1))
    assert ids(one, "test", "subject_id") != ids(other, "test", "subject_id")


def test_the_seed_decides_the_natural_test_set(monkeypatch):
    """Under fixed splits two seeds draw other subjects, and not one seed more of the same than the other."""
    monkeypatch.setattr(compiler._Problem, "_assigned", splits_by_name)
    monkeypatch.setattr(compiler, "NATURAL", 10)
    one, other = (ids(compiled(toy(), views="all", per_label=6, seed=s), "test_natural", "subject_id") for s in (0, 1))
    assert one - other and other - one


def test_seed_and_epoch_decide_the_order_of_training_and_nothing_else_does():
    orders = {(seed, epoch): tuple(order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(tuple(order(50, *key)) == one and sorted(one) == [*range(50)] for key, one in orders.items())


# The splits.


def test_val_and_test_get_their_own_shares():
    out = compiled(toy(subjects=300), per_label=10**6, ratios=(60.0, 30.0, 10.0), views="all")
    for row in out.labels.values():
        shares = [row[split] / row["available"] for split in SPLITS]
        assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def official(names):
    """Records whose own split gives each subject one of `names`."""
    records = toy()
    records.table["official"] = records.table["subject_id"].map(lambda s: names[int(s[1:]) % len(names)])
    return records, records.table.set_index("dicom_id")["official"]


def test_an_official_split_without_val_gets_whole_subjects_of_its_train():
    records, was = official(("train", "train", "train", "train", "test"))
    out = compiled(records, official=True, views="all", per_label=10_000, ratios=(60.0, 20.0, 20.0))
    assert ids(out, "train", "subject_id").isdisjoint(ids(out, "val", "subject_id"))
    assert {was[one] for split in ("train", "val") for one in ids(out, split)} == {"train"}
    assert {was[one] for one in ids(out, "test")} == {"test"}
    val = len(ids(out, "val", "subject_id")) / records.table["subject_id"][was.to_numpy() == "train"].nunique()
    assert val == pytest.approx(20 / 80, abs=0.12)


def test_rows_that_the_official_split_leaves_out_are_in_no_table():
    records, was = official(("train", "", "val", "test"))
    out = compiled(records, official=True, views="all", per_label=10_000)
    assert {was[one] for table in out.tables.values() for one in table["dicom_id"]} == {"train", "val", "test"}


# The rows.


@pytest.mark.parametrize(
    ("views", "expected"),
    [("all", {"PA", "AP", "LATERAL"}), ("frontal", {"PA", "AP"}), ("PA", {"PA"}), ("LATERAL", {"LATERAL"})],
)
def test_only_the_views_wanted_are_in_the_tables(views, expected):
    out = compiled(toy(), views=views, per_label=10_000)
    assert {view for table in out.tables.values() for view in table["view"]} == expected


def test_a_study_counts_once():
    """Quotas, rows and what is available are studies, however many images one has."""
    records = toy()
    out = compiled(records, unit="study", views="all", per_label=10_000)
    first = records.table.drop_duplicates("study_id")
    for label in LABELS:
        assert out.labels[label]["available"] == out.labels[label]["achieved"] == int((first[label] == 1).sum())
    whole = pd.concat([out.tables[side] for side in SPLITS])
    assert whole["study_id"].is_unique


@pytest.mark.parametrize("unit", ["image", "study"])
def test_what_cannot_be_read_is_in_no_table(unit):
    """A study of which one image cannot be read is left out whole; the natural test set has none of them either."""
    records = toy()
    bad = set(records.table["path"].iloc[::7])

    def check(paths):
        return CheckedImages({path: ("truncated", "half a file") for path in paths if path in bad}, {})

    out = compiled(records, check=check, unit=unit, views="all")
    shown = {path for table in out.tables.values() for row in table["path"] for path in row.split("|")}
    assert shown and shown.isdisjoint(bad)
    assert {path for path, *_ in out.rejected} <= bad


def test_the_natural_test_set_is_whole_subjects_of_test_unweighted(monkeypatch):
    monkeypatch.setattr(compiler, "NATURAL", 10)
    records = toy()
    out = compiled(records, views="all", per_label=5)
    table = out.tables["test_natural"]
    assert (table["weight"] == 1).all()
    every = records.table[records.table["subject_id"].isin(table["subject_id"])]
    assert set(every["dicom_id"]) == set(table["dicom_id"])
    for side in ("train", "val"):
        assert set(table["subject_id"]).isdisjoint(out.tables[side]["subject_id"])
    assert len(table) < 80  # some subjects of the side, not all


def test_the_natural_test_set_is_not_drawn_by_the_number_that_gives_splits(monkeypatch):
    """Subjects who moved to test have the lowest of those numbers there, so they would all be in it."""
    monkeypatch.setattr(compiler._Problem, "_assigned", splits_by_name)
    monkeypatch.setattr(compiler, "NATURAL", 10)
    records = toy()
    drawn = ids(compiled(records, views="all", per_label=6), "test_natural", "subject_id")
    side = sorted(set(records.table["subject_id"]))[2::3]
    assert drawn < set(side)
    assert drawn != set(sorted(side, key=lambda name: order_key(0, name))[: len(drawn)])


# The weights: below NATURAL rows the natural test set is the whole side of test, so it says what weights must restore.


def weighted(table, label):
    return float(np.average(table[label] == 1, weights=table["weight"]))


def test_weights_restore_the_prevalences_and_the_rows_of_their_own_side():
    out = compiled(toy(subjects=400), views="all", per_label=120)
    test, side = out.tables["test"], out.tables["test_natural"]
    assert len(test) < len(side) < compiler.NATURAL
    assert test["weight"].sum() == pytest.approx(len(side), rel=1e-4)
    for label in LABELS:
        assert weighted(test, label) == pytest.approx((side[label] == 1).mean(), abs=1e-4)
        assert (test[label] == 1).mean() != pytest.approx((side[label] == 1).mean(), abs=1e-3)


def test_what_the_weights_miss_is_said_as_it_is():
    """So few rows that some prevalence cannot be met: the manifest's error is the one the tables show."""
    out = compiled(toy(), views="all", per_label=4)
    test, side = out.tables["test"], out.tables["test_natural"]
    missed = max(abs(weighted(test, label) - (side[label] == 1).mean()) for label in LABELS)
    assert missed > 0.01 and out.weights["test"]["prevalence_error"] == pytest.approx(missed, abs=1e-5)


# The files.


def table_of_films(place, step=1):
    """A table of 48 films of 24 patients with two labels of every kind of value; a `step` of -1 lists it backwards."""
    place.mkdir()
    listed = []
    for i in range(48):
        Image.new("L", (20, 20), 5 * i + 1).save(place / f"{i}.png")
        values = {"Edema": [1, 0, -1, None][i % 4], "Fracture": [0, 1, 1][i % 3]}
        listed.append({"path": f"{i}.png", "patient_id": f"p{i // 2}", **values})
    pd.DataFrame(listed[::step]).astype({"Edema": "Int64"}).to_csv(place / "labels.csv", index=False)
    return str(place)


def test_the_csvs_are_the_same_to_the_byte_in_any_order_of_the_source(tmp_path):
    for name, step in (("a", 1), ("b", -1)):
        source = table_of_films(tmp_path / name, step)
        make_splits(source, "folder", SplitRequest(per_label=8), tmp_path / f"{name}_out")
    for file in (tmp_path / "a_out").glob("*.csv"):
        assert file.read_bytes() == (tmp_path / "b_out" / file.name).read_bytes(), file.name


def test_films_of_one_patient_are_in_one_split(tmp_path):
    make_splits(table_of_films(tmp_path / "a"), "folder", SplitRequest(per_label=100), tmp_path / "out")
    tables = manifest.read(tmp_path / "out").tables
    owners = [set(tables[side]["path"].str.removesuffix(".png").astype(int) // 2) for side in SPLITS]
    assert all(owners) and sum(map(len, owners)) == len(set.union(*owners))


@pytest.mark.parametrize("side", manifest.FILES)
def test_a_change_of_any_csv_is_refused(tmp_path, side):
    make_splits(table_of_films(tmp_path / "a"), "folder", SplitRequest(per_label=8), tmp_path / "out")
    file = tmp_path / "out" / manifest.FILES[side]
    file.write_text(file.read_text().replace("p", "q"))
    head, _, body = file.read_text().partition("\n")
    file.write_text(f"{head.replace('q', 'p')}\n{body}")
    with pytest.raises(UsageError, match=f"{file.name} is not the file"):
        manifest.read(tmp_path / "out")


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("ignore", "negative", [1, 0, np.nan, 0]),
        ("ignore", "ignore", [1, 0, np.nan, np.nan]),
        ("positive", "ignore", [1, 0, 1, np.nan]),
        ("negative", "negative", [1, 0, 0, 0]),
    ],
)
def test_batches_have_the_targets_of_the_splits_own_policies(tmp_path, uncertain, blank, expected):
    """Film i has Edema 1, 0, -1 or blank by i modulo 4: what is masked stays NaN, and stays in its own column."""
    request = SplitRequest(per_label=100, uncertain=uncertain, blank=blank)
    make_splits(table_of_films(tmp_path / "a"), "folder", request, tmp_path / "out")
    data = open_split(manifest.read(tmp_path / "out"), "train", 8)
    film = [int(path.removesuffix(".png")) for path in data.table["path"]]
    assert {i % 4 for i in film} == {0, 1, 2, 3}
    goals = np.stack([data[i].targets for i in range(len(data))])
    np.testing.assert_array_equal(goals[:, 0], [expected[i % 4] for i in film])
    np.testing.assert_array_equal(goals[:, 1], [[0, 1, 1][i % 3] for i in film])


def test_a_report_of_several_films_is_read_once(tmp_path):
    """The two films of a patient are one study: as a text it counts once, and it is the text of the first film."""
    source = table_of_films(tmp_path / "a")
    table = pd.read_csv(f"{source}/labels.csv", dtype="string")
    table.assign(study_id="s" + table["patient_id"]).to_csv(f"{source}/labels.csv", index=False)
    make_splits(source, "folder", SplitRequest(per_label=100), tmp_path / "out")
    made = manifest.read(tmp_path / "out")
    data = open_split(made, "train", 8, text="mini_report")
    assert data.table["study_id"].is_unique and len(data) < len(made.tables["train"])
    first = made.tables["train"].drop_duplicates("study_id")
    assert data.texts == first["mini_report"].tolist()


def test_only_what_is_uncertain_gets_a_soft_target():
    """A blank that is masked stays masked, whatever an uncertain label counts as."""
    raw = np.array([[-1.0, np.nan, 1.0, 0.0]])
    goals = np.array([[np.nan, np.nan, 1.0, 0.0]])
    np.testing.assert_array_equal(soft_targets(raw, goals, 0.4, multi_label=True), [[0.4, np.nan, 1.0, 0.0]])


def test_labels_go_by_their_names_not_by_the_order_of_columns():
    """The card's order decides, also where it is not that of the letters or of the file."""
    table = toy().table
    turned = table[[*LABELS[::-1], *(name for name in table if name not in LABELS)]]
    np.testing.assert_array_equal(raw_labels(turned, CARD), table[list(LABELS)].to_numpy())
    card = type(CARD)(name="toy", labels=("C", "A", "Normal", "B"))
    np.testing.assert_array_equal(raw_labels(turned, card), table[["C", "A", "Normal", "B"]].to_numpy())


def test_the_class_is_the_first_folder_however_deep_the_film(tmp_path):
    for name in ("ill/east/1.png", "ill/west/2.png", "well/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 9).save(tmp_path / name)
    table = folder.records(str(tmp_path)).table
    assert table.set_index("path")["label"].to_dict() == {
        "ill/east/1.png": "ill",
        "ill/west/2.png": "ill",
        "well/3.png": "well",
    }


# What is near, and what is held out.


@pytest.mark.parametrize(("shared", "alike"), [(14, True), (13, False)])
def test_texts_are_near_from_seven_tenths_on(shared, alike):
    """Texts of 16 pairs of words each, `shared` of them the same: 14 of 18 are .78, 13 of 19 are .68."""
    words = [f"w{i}" for i in range(17)]
    same_words = shared + 1
    other = [*words[:same_words], *(f"x{i}" for i in range(17 - same_words))]
    pairs = [set(pairwise(text)) for text in (words, other)]
    assert (len(pairs[0] & pairs[1]) >= 0.7 * len(pairs[0] | pairs[1])) == alike
    one, two = groups([" ".join(words), " ".join(other)])
    assert (one == two) == alike


def test_the_confound_probe_judges_subjects_it_has_not_seen():
    """Each subject can be told by a column of its own and two rows: who has seen one of them knows the other."""
    subject = np.repeat(np.arange(40), 2)
    truth = np.random.default_rng(0).random(40)[subject] < 0.5
    score = confound_probe._held_out(np.eye(40)[subject], truth, subject)
    assert confound_probe._auroc(truth, score) < 0.7
    assert confound_probe._auroc(truth, confound_probe._held_out(truth[:, None].astype(float), truth, subject)) == 1.0


def test_a_study_of_two_subjects_is_refused():
    table = toy().table
    table.loc[0, "study_id"] = table["study_id"].iloc[-1]
    with pytest.raises(UsageError, match="belongs to two subjects"):
        Records(table=table, card=CARD, root=".")
