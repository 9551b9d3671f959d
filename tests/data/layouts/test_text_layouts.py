"""What all layouts of texts have in common, and tables of texts of a user's own."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_checks import one_line
from text_layout_checks import LAYOUTS, TABLES, made, same

from cxr_ft.cli.split import main
from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.layouts import _texts, resumes, sst2, text_table
from cxr_ft.errors import UsageError


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_splits_of_every_layout(layout, tmp_path):
    source = LAYOUTS[layout].demo(tmp_path / "data")
    written = made(source, layout, tmp_path / "out")
    splits = manifest.read(tmp_path / "out")
    assert written["card"]["unit"] == "text" and set(written["leaks"].values()) == {0}
    records = LAYOUTS[layout].records(source)
    assert written["texts"]["groups"] == records.table["subject_id"].nunique()
    for name, table in splits.tables.items():
        assert (table["path"] == "").all() and (table["view"] == "").all()
        merged = table.merge(records.table, on="dicom_id", suffixes=("", "_was"))
        assert (merged["text"] == merged["text_was"]).all() and len(merged) == len(table), name
    rows = open_split(splits, "test", 0)
    example = rows[0]
    assert example.image.shape == (0, 0) and example.given == splits.tables["test"]["text"][0] and example.text == ""
    assert example.pair == (splits.tables["test"]["text_pair"][0] if "text_pair" in splits.tables["test"] else "")
    assert example.targets.shape == (len(splits.card.labels),) and rows.images.shape == (len(rows), 0, 0)
    with pytest.raises(UsageError, match="holds texts alone"):
        open_split(splits, "test", 224)
    assert rows.images.digest != open_split(splits, "train", 0).images.digest


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name == "text_table" else [pytest.mark.slow]) for name in TABLES]
)
def test_the_order_of_rows_changes_nothing(layout, tmp_path):
    source = LAYOUTS[layout].demo(tmp_path / "data")
    records = LAYOUTS[layout].records(source)
    content = [name for name in ("text", "text_pair", "label") if name in records.table]
    table = records.table.assign(split=records.table["official"])[["split", *content]]
    written = {}
    for seed in (0, 1):
        file = tmp_path / f"{seed}.csv"
        table.sample(frac=1, random_state=seed).to_csv(file, index=False)
        made(file, layout, tmp_path / f"out{seed}")
        written[seed] = {p.name: p.read_bytes() for p in (tmp_path / f"out{seed}").glob("*_split.csv")}
    assert written[0] == written[1]


# --- any table


def test_text_table_by_known_names_and_by_a_map(tmp_path):
    source = Path(text_table.demo(tmp_path))
    records = text_table.records(str(source))
    assert records.card.labels == ("network", "printer") and records.card.sensitivity == "credentialed"
    (tmp_path / "map.yaml").write_text(
        "table: tickets.csv\ncolumns: {text: Text, label: Category}\ncard: {name: t, sensitivity: public}\n"
    )
    mapped = text_table.records(str(tmp_path / "map.yaml"))
    same(mapped, records)
    assert mapped.card.name == "t" and mapped.card.sensitivity == "public"
    (tmp_path / "map.yaml").write_text("table: tickets.csv\ncolumns: {text: Text, path: Text, label: Category}\n")
    with pytest.raises(UsageError, match="unknown column 'path'"):
        text_table.records(str(tmp_path / "map.yaml"))


def test_text_table_of_several_labels_and_of_subjects(tmp_path):
    rows = pd.DataFrame(
        {
            "text": [f"message {i} of {i // 2}" for i in range(20)],
            "patient_id": [float(i // 2) for i in range(20)],
            "Rude": [i % 2 for i in range(20)],
            "Funny": [(-1, 0, 1, None)[i % 4] for i in range(20)],
            "length": range(5, 25),
        }
    )
    rows.to_parquet(tmp_path / "t.parquet")
    records = text_table.records(str(tmp_path / "t.parquet"))
    assert records.card.labels == ("Rude", "Funny") and records.card.multi_label and records.card.group == "subject"
    assert set(records.table["subject_id"]) == {str(i) for i in range(10)}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from("ab")), min_size=1, max_size=20))
def test_any_text_comes_back_as_it_was(tmp_path_factory, rows):
    """Through records, CSV and back: but for line ends and NUL, which no table holds."""
    folder = tmp_path_factory.mktemp("t")
    rows = [*rows, *((f"plain {i} {word}", label) for i in range(6) for word, label in (("x", "a"), ("y", "b")))]
    records = _texts.assemble(pd.DataFrame(rows, columns=["text", "label"]), "here", text_table.CARD, [])
    clean = (t.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ") for t, _ in rows)
    wanted = sorted(t for t in clean if t.strip())
    records.table[["text", "label"]].to_csv(folder / "x.csv", index=False, lineterminator="\n")
    again = pd.read_csv(folder / "x.csv", dtype="string", keep_default_na=False)
    assert sorted(again["text"]) == sorted(records.table["text"]) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("words,label\nx,a\n", "no column text"),
        ("text,why\nx,a\ny,b\n", "no column label"),
        ("text,label\nx,a\ny,a\n", "all texts have one class"),
        ("text,label\n ,a\n,b\n", "no row has both"),
        ("text,label,subject_id\nx,a,\ny,b,1\n", "1 of 2 rows have no subject_id"),
        ("text,label,text_id\nx,a,1\ny,b,1\n", "text id 1 is in two rows"),
        ("text,label,subject_id,study_id\nx,a,1,7\ny,b,2,7\n", "study 7 belongs to two subjects"),
    ],
)
def test_what_is_no_table_of_texts_is_one_line(tmp_path, text, why):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        text_table.records(str(tmp_path / "t.csv"))
    one_line(caught, why)


def test_a_study_of_several_texts_stays_together(tmp_path):
    rows = [f"{word} {i},{'ab'[i % 2]},{i // 2},M,{'3' * (1 + i % 3)}" for i, word in enumerate(["one", "two"] * 6)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label,study_id,sex,age", *rows]) + "\n")
    table = text_table.records(str(tmp_path / "t.csv")).table
    assert (table.groupby("study_id")["subject_id"].nunique() == 1).all() and table["subject_id"].nunique() == 6
    assert set(table["sex"]) == {"M"} and table["age"].fillna("").tolist() == ["3", "33", ""] * 4


def test_several_tables_that_are_no_splits_are_not_mixed(tmp_path):
    for name in ("train", "other"):
        (tmp_path / f"{name}.csv").write_text("text,label\nx,a\ny,b\n")
    with pytest.raises(UsageError) as caught:
        text_table.records(str(tmp_path))
    one_line(caught, "holds 2 tables", "other.csv")


@pytest.mark.parametrize("layout", ["sst2", "imdb", "mnli", "tweet_sentiment", "resumes"])
def test_a_table_without_the_columns_is_one_line(layout, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as caught:
        LAYOUTS[layout].records(str(tmp_path / "t.csv"))
    one_line(caught, "no column of the text")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_place_that_is_not_there_is_one_line(layout, tmp_path):
    for source in (tmp_path / "none", tmp_path / "none.zip", tmp_path / "none.csv"):
        with pytest.raises(UsageError) as caught:
            LAYOUTS[layout].records(str(source))
        one_line(caught, "none")


def test_what_texts_do_not_have_is_refused(tmp_path):
    source = text_table.demo(tmp_path)
    for options in ({"views": "PA"}, {"unit": "study"}, {"text": "findings"}):
        with pytest.raises(UsageError, match="leave it out"):
            made(source, "text_table", tmp_path / "out", **options)
    made(source, "text_table", tmp_path / "out")
    with pytest.raises(UsageError, match=r"data\.views counts images"):
        open_split(manifest.read(tmp_path / "out"), "test", 0, views=2)


def test_the_hub_is_named_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        sst2.records("hub://nobody/nothing")
    one_line(caught, "hub://nobody/nothing", "give the release's folder or a table")


def test_the_command_says_groups_and_finds_nothing_in_its_own(tmp_path, capsys):
    source = resumes.demo(tmp_path / "data")
    command = [source, "--layout", "resumes", "--per-label", "12", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "60 texts, 24 of them distinct, are 24 groups that stay together" in printed
    # But for the few texts of a label, which sixty texts cannot help.
    assert main(["--audit", *(str(tmp_path / "out" / f"{s}_split.csv") for s in ("train", "val", "test"))]) == 1
    assert "no leaks found, no labels confounded, 1 other finding\n" in capsys.readouterr().out


def test_every_layout_of_texts_is_tried_here():
    assert {*TABLES, "report_text"} <= set(LAYOUTS)
