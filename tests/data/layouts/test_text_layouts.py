"""Each layout of texts on its release's own format, from files, tables, archives and databases; and their splits."""

import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import REAL
from sklearn.model_selection import train_test_split

from cxr_ft import plugins
from cxr_ft.cli.split import main
from cxr_ft.data import manifest
from cxr_ft.data.audit.leak_audit import audit
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.layouts import _texts, imdb, mnli, openi, report_text, resumes, sst2, text_table, tweet_sentiment
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

ALL = {name: plugins.load(plugins.LAYOUTS, name) for name in plugins.choices(plugins.LAYOUTS)}
LAYOUTS = {name: module for name, module in ALL.items() if module.CARD.unit == "text"}
#: Layouts that take a table whose columns are `text`, `text_pair` and `label`.
TABLES = ("imdb", "mnli", "resumes", "sst2", "text_table", "tweet_sentiment")


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in parts), text


def made(source, layout, out, **asked):
    return make_splits(str(source), layout, SplitRequest(**{"per_label": 10, **asked}), out)


def same(left, right):
    """The same rows, in whatever order."""
    a, b = (r.table.sort_values("dicom_id", ignore_index=True) for r in (left, right))
    pd.testing.assert_frame_equal(a[sorted(a.columns)], b[sorted(b.columns)])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_splits_of_every_layout(layout, tmp_path):
    source = LAYOUTS[layout].demo(tmp_path / "data")
    told = made(source, layout, tmp_path / "out")
    splits = manifest.read(tmp_path / "out")
    assert told["card"]["unit"] == "text" and set(told["leaks"].values()) == {0}
    records = LAYOUTS[layout].records(source)
    assert told["texts"]["groups"] == records.table["subject_id"].nunique()
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


@pytest.mark.parametrize("layout", TABLES)
def test_the_order_of_rows_changes_nothing(layout, tmp_path):
    source = LAYOUTS[layout].demo(tmp_path / "data")
    records = LAYOUTS[layout].records(source)
    said = [name for name in ("text", "text_pair", "label") if name in records.table]
    table = records.table.assign(split=records.table["official"])[["split", *said]]
    written = {}
    for seed in (0, 1):
        file = tmp_path / f"{seed}.csv"
        table.sample(frac=1, random_state=seed).to_csv(file, index=False)
        made(file, layout, tmp_path / f"out{seed}")
        written[seed] = {p.name: p.read_bytes() for p in (tmp_path / f"out{seed}").glob("*_split.csv")}
    assert written[0] == written[1]


# --- SST-2


def test_sst2_as_glue_writes_it(tmp_path):
    found = sst2.records(sst2.demo(tmp_path)).table
    assert found["official"].value_counts().to_dict() == {"train": 60, "test": 20}
    assert found["text"].str.endswith(' " ').all()  # a quote is a quote, not the beginning of a cell
    with zipfile.ZipFile(tmp_path / "SST-2.zip", "w") as archive:
        for file in (tmp_path / "SST-2").iterdir():
            archive.write(file, f"SST-2/{file.name}")
    same(sst2.records(str(tmp_path / "SST-2.zip")), sst2.records(str(tmp_path / "SST-2")))


def test_sst2_from_parquet_by_split_and_from_a_database(tmp_path):
    folder = sst2.demo(tmp_path)
    rows = sst2.records(folder).table
    raw = pd.DataFrame({"sentence": rows["text"], "label": (rows["label"] == "positive").astype(int)})
    (tmp_path / "copy" / "data").mkdir(parents=True)
    for split, name in (("train", "train-00000-of-00001"), ("test", "validation-00000-of-00001")):
        part = raw[rows["official"] == split].reset_index(names="idx")
        part.to_parquet(tmp_path / "copy" / "data" / f"{name}.parquet")
    hidden = pd.DataFrame({"idx": [0], "sentence": ["not told"], "label": [-1]})
    hidden.to_parquet(tmp_path / "copy" / "data" / "test-00000-of-00001.parquet")
    ours = sst2.records(str(tmp_path / "copy"))
    assert ours.table["official"].value_counts().to_dict() == {"train": 60, "test": 20}
    assert sorted(ours.table["text"]) == sorted(rows["text"])
    assert any("validation set is the test set" in note for note in ours.notes)
    duckdb = pytest.importorskip("duckdb")
    raw["split"] = rows["official"].replace("test", "dev")
    with duckdb.connect(str(tmp_path / "s.db")) as db:
        db.register("raw", raw.sample(frac=1, random_state=0))
        db.execute("create table sst2 as select * from raw")
    raw.to_csv(tmp_path / "s.csv", index=False)
    for name, source in (("db", f"duckdb://{tmp_path}/s.db?table=sst2"), ("csv", tmp_path / "s.csv")):
        made(source, "sst2", tmp_path / name)
    for file in ("train_split.csv", "val_split.csv", "test_split.csv", "test_natural_split.csv"):
        assert (tmp_path / "db" / file).read_bytes() == (tmp_path / "csv" / file).read_bytes()


def test_a_phrase_stays_with_its_sentence(tmp_path):
    long = "a gorgeous , witty , seductive movie that nobody of us will soon forget"
    rows = [
        long,
        "witty , seductive movie that nobody",
        "a gorgeous",
        long + " , ever",
        *(f"film {i}" for i in range(9)),
    ]
    table = pd.DataFrame({"sentence": rows, "label": [i % 2 for i in range(len(rows))]})
    table.to_csv(tmp_path / "s.csv", index=False)
    found = sst2.records(str(tmp_path / "s.csv")).table.set_index("text")["subject_id"]
    assert found[rows[0]] == found[rows[1]] == found[rows[3]] != found[rows[2]]
    assert found.nunique() == len(rows) - 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sentence\tlabel\na film\t0\textra\n", "line 2 has 3 cells"),
        ("sentence\tlabel\na film\t7\n", "unknown label '7'"),
    ],
)
def test_a_spoilt_release_is_one_line(tmp_path, text, why):
    sst2.demo(tmp_path)
    (tmp_path / "SST-2" / "train.tsv").write_text(text)
    with pytest.raises(UsageError) as caught:
        sst2.records(str(tmp_path / "SST-2"))
    one_line(caught, why)


# --- IMDB


def test_imdb_as_folder_archive_and_table(tmp_path):
    archive = imdb.demo(tmp_path)
    found = imdb.records(archive)
    assert found.table["official"].value_counts().to_dict() == {"train": 48, "test": 24}
    assert "unsup" not in found.table["text"].str.cat() and "\u201c" in found.table["text"][0]
    shutil.unpack_archive(archive, tmp_path / "there")
    same(imdb.records(str(tmp_path / "there" / "aclImdb")), found)
    table = found.table.rename(columns={"text": "review", "label": "sentiment", "official": "split"})
    table[["review", "sentiment", "split"]].to_csv(tmp_path / "IMDB Dataset.csv", index=False)
    same(imdb.records(str(tmp_path / "IMDB Dataset.csv")), found)


def test_official_takes_val_from_train_by_groups(tmp_path):
    told = made(imdb.demo(tmp_path), "imdb", tmp_path / "out", official=True)
    splits = manifest.read(tmp_path / "out")
    official = imdb.records(str(tmp_path / "aclImdb_v1.tar.gz")).table.set_index("dicom_id")["official"]
    for side, wanted in (("train", "train"), ("val", "train"), ("test", "test")):
        assert set(official[splits.tables[side]["dicom_id"]]) == {wanted}
    assert not set(splits.tables["train"]["subject_id"]) & set(splits.tables["val"]["subject_id"])
    assert any("has no val" in note for note in told["notes"])
    # The demo's train and test reviews are alike: the data's own leaks are counted and said, not refused.
    assert told["leaks"]["subject"] > 0 and told["leaks"]["near-identical text"] > 0


def test_a_spoilt_archive_is_one_line(tmp_path):
    file = Path(imdb.demo(tmp_path))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError) as caught:
        imdb.records(str(file))
    one_line(caught, "cannot be read", "fetch it again")


# --- MultiNLI


def test_mnli_pairs_and_their_split(tmp_path):
    source = mnli.demo(tmp_path)
    found = mnli.records(source)
    assert found.table["official"].value_counts().to_dict() == {"train": 60, "val": 24, "test": 24}
    assert found.card.labels == ("entailment", "neutral", "contradiction")
    assert (found.table.groupby("text")["subject_id"].nunique() == 1).all()
    assert any("3 of 111 rows have no label" in note for note in found.notes)


def test_mnli_as_glue_writes_it(tmp_path):
    found = mnli.records(mnli.demo(tmp_path))
    (tmp_path / "MNLI").mkdir()
    for split, name in (("train", "train"), ("val", "dev_matched"), ("test", "dev_mismatched")):
        rows = found.table[found.table["official"] == split]
        lines = [f"{i}\tg\t{r.text}\t{r.text_pair}\t{r.label}" for i, r in enumerate(rows.itertuples())]
        text = "\n".join(["index\tgenre\tsentence1\tsentence2\tgold_label", *lines]) + "\n"
        (tmp_path / "MNLI" / f"{name}.tsv").write_text(text)
    ours = mnli.records(str(tmp_path / "MNLI"))
    columns = ["text", "text_pair", "label", "official", "subject_id"]
    a, b = (r.table[columns].sort_values(columns, ignore_index=True) for r in (ours, found))
    pd.testing.assert_frame_equal(a, b)


# --- tweets


def test_tweet_eval_and_its_broken_pairs(tmp_path):
    source = Path(tweet_sentiment.demo(tmp_path))
    found = tweet_sentiment.records(str(source))
    assert found.table["official"].value_counts().to_dict() == {"train": 45, "val": 15, "test": 15}
    (source / "val_labels.txt").write_text("0\n")
    with pytest.raises(UsageError) as caught:
        tweet_sentiment.records(str(source))
    one_line(caught, "val_text.txt has 15 lines", "val_labels.txt 1")


def test_sentiment140(tmp_path):
    rows = [
        f'"{4 * (i % 2)}","{i}","Mon Apr 06","NO_QUERY","user{i}","tweet \xe9 {i}, ""quoted"" and so on"'
        for i in range(12)
    ]
    train = tmp_path / "training.1600000.processed.noemoticon.csv"
    train.write_bytes("\n".join(rows).encode("latin-1"))
    test = '"2","3","d","q","u","a neutral one"\n"4","4","d","q","u","a fine one"\n'
    (tmp_path / "testdata.manual.2009.06.14.csv").write_text(test)
    found = tweet_sentiment.records(str(tmp_path))
    assert found.card.labels == ("negative", "neutral", "positive")
    assert 'tweet \xe9 3, "quoted" and so on' in set(found.table["text"])
    assert not found.table.astype(str).apply(lambda c: c.str.contains("user3")).any().any()
    assert tweet_sentiment.records(str(train)).card.labels == ("negative", "positive")


# --- reports


def test_open_i_reports_are_the_same_from_xml_and_from_a_table(tmp_path):
    folder = report_text.demo(tmp_path)
    found = report_text.records(folder)
    assert found.card.unit == "text" and found.card.group == "near-duplicate" and len(found.table) == 30
    base = openi.records(folder).table.drop_duplicates("study_id")
    mesh = ["|".join(f"{n}/left" for n in openi.CARD.labels if row[n]) for _, row in base.iterrows()]
    table = pd.DataFrame({"uid": base["study_id"], "findings": base["findings"], "impression": base["impression"]})
    table.assign(mesh=mesh).to_csv(tmp_path / "reports.csv", index=False)
    other = report_text.records(str(tmp_path / "reports.csv"))
    columns = [*found.card.labels, "text", "subject_id", "study_id"]
    a, b = (r.table[columns].sort_values("study_id", ignore_index=True) for r in (found, other))
    pd.testing.assert_frame_equal(a, b)
    table.assign(mesh="No Indexing").to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(UsageError, match="no row has both a text and a label"):
        report_text.records(str(tmp_path / "none.csv"))


def test_a_section_alone_is_read_and_grouped_anew(tmp_path):
    source = report_text.demo(tmp_path)
    told = made(source, "report_text", tmp_path / "out", text="findings")
    train = manifest.read(tmp_path / "out").tables["train"]
    assert train["text"].str.fullmatch(r"Film \d+\.").all() and told["request"]["text"] == "findings"
    with pytest.raises(UsageError, match=r"leaves nothing for|need one each"):
        made(source, "report_text", tmp_path / "other", text="impression")  # all impressions are the same


def test_mimic_reports_go_by_subject(tmp_path):
    from cxr_ft.data.labels import CHEXPERT_14
    from cxr_ft.data.layouts import mimic_cxr

    root = mimic_cxr.demo(tmp_path)
    found = report_text.records(root)
    images = mimic_cxr.records(root).table.drop_duplicates("study_id").set_index("study_id")
    assert found.card.group == "subject" and found.card.sensitivity == "synthetic"
    table = found.table.set_index("study_id")
    assert set(table["subject_id"]) <= set(images["subject_id"]) and not table.index.duplicated().any()
    np.testing.assert_array_equal(table[list(CHEXPERT_14)], images.loc[table.index, list(CHEXPERT_14)])
    # The same rows from a table of their own, and the stock report of many subjects ties none of them together.
    flat = found.table.assign(text="Lungs are clear. No effusion.")[["subject_id", "study_id", "text", *CHEXPERT_14]]
    flat.to_csv(tmp_path / "flat.csv", index=False)
    stock = report_text.records(str(tmp_path / "flat.csv"))
    assert stock.table["subject_id"].nunique() == found.table["subject_id"].nunique()
    told = made(tmp_path / "flat.csv", "report_text", tmp_path / "out")
    assert told["texts"]["distinct"] == 1
    assert told["texts"]["verbatim_in_train"]["test"] == told["rows"]["test"]
    assert any("are word for word in train" in note for note in told["notes"])


# --- any table


def test_text_table_by_known_names_and_by_a_map(tmp_path):
    source = Path(text_table.demo(tmp_path))
    found = text_table.records(str(source))
    assert found.card.labels == ("network", "printer") and found.card.sensitivity == "credentialed"
    (tmp_path / "map.yaml").write_text(
        "table: tickets.csv\ncolumns: {text: Text, label: Category}\ncard: {name: t, sensitivity: public}\n"
    )
    mapped = text_table.records(str(tmp_path / "map.yaml"))
    same(mapped, found)
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
    found = text_table.records(str(tmp_path / "t.parquet"))
    assert found.card.labels == ("Rude", "Funny") and found.card.multi_label and found.card.group == "subject"
    assert set(found.table["subject_id"]) == {str(i) for i in range(10)}


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
        ("text,label,text_id\nx,a,1\ny,b,1\n", "text id 1 stands in two rows"),
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
    found = text_table.records(str(tmp_path / "t.csv")).table
    assert (found.groupby("study_id")["subject_id"].nunique() == 1).all() and found["subject_id"].nunique() == 6
    assert set(found["sex"]) == {"M"} and found["age"].fillna("").tolist() == ["3", "33", ""] * 4


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
    for asked in ({"views": "PA"}, {"unit": "study"}, {"text": "findings"}):
        with pytest.raises(UsageError, match="leave it out"):
            made(source, "text_table", tmp_path / "out", **asked)
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
    said = " ".join(capsys.readouterr().out.split())
    assert "60 texts, 24 of them distinct, are 24 groups that stay together" in said
    assert main(["--audit", *(str(tmp_path / "out" / f"{s}_split.csv") for s in ("train", "val", "test"))]) == 0


def test_every_layout_of_texts_is_tried_here():
    assert {*TABLES, "report_text"} <= set(LAYOUTS)


# --- what was published


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_resumes_and_their_published_split(tmp_path):
    raw = pd.read_csv(REAL / "resumes.csv")
    train, rest = train_test_split(raw, test_size=0.3, random_state=42, stratify=raw["Category"])
    _, test = train_test_split(rest, test_size=0.5, random_state=42, stratify=rest["Category"])
    for name, part in (("train", train), ("test", test)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    (leak,) = audit([tmp_path / "train.csv", tmp_path / "test.csv"]).leaks
    assert (leak.kind, leak.rows, leak.total) == ("text", 137, 145)
    told = made(REAL / "resumes.csv", "resumes", tmp_path / "out", per_label=40)
    assert told["texts"]["rows"] == 962 and told["texts"]["distinct"] == 166 and len(told["labels"]) == 25
    assert set(told["leaks"].values()) == {0}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_real_reports(tmp_path):
    told = made(REAL / "openi_reports.csv", "report_text", tmp_path / "out", per_label=30)
    assert told["texts"]["rows"] == 1456 and set(told["leaks"].values()) == {0}
    assert told["texts"]["largest_group"] < 0.05 * told["texts"]["rows"]
    with gzip.open(tmp_path / "r.csv.gz", "wb") as file:
        file.write((REAL / "openi_reports.csv").read_bytes())
    same(report_text.records(str(tmp_path / "r.csv.gz")), report_text.records(str(REAL / "openi_reports.csv")))
