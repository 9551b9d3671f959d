"""Each published data set of texts in its release's own format, from files, archives and databases."""

import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout_checks import one_line
from real_data import REAL
from sklearn.model_selection import train_test_split
from text_layout_checks import made, same

from cxr_ft.data import manifest
from cxr_ft.data.audit.leak_audit import audit
from cxr_ft.data.layouts import imdb, mnli, openi, report_text, sst2, tweet_sentiment
from cxr_ft.errors import UsageError

# --- SST-2


def test_sst2_as_glue_writes_it(tmp_path):
    table = sst2.records(sst2.demo(tmp_path)).table
    assert table["official"].value_counts().to_dict() == {"train": 60, "test": 20}
    assert table["text"].str.endswith(' " ').all()  # a quote is a quote, not the beginning of a cell
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
    hidden = pd.DataFrame({"idx": [0], "sentence": ["not written"], "label": [-1]})
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
    subjects = sst2.records(str(tmp_path / "s.csv")).table.set_index("text")["subject_id"]
    assert subjects[rows[0]] == subjects[rows[1]] == subjects[rows[3]] != subjects[rows[2]]
    assert subjects.nunique() == len(rows) - 2


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
    records = imdb.records(archive)
    assert records.table["official"].value_counts().to_dict() == {"train": 48, "test": 24}
    assert "unsup" not in records.table["text"].str.cat() and "\u201c" in records.table["text"][0]
    shutil.unpack_archive(archive, tmp_path / "there")
    same(imdb.records(str(tmp_path / "there" / "aclImdb")), records)
    table = records.table.rename(columns={"text": "review", "label": "sentiment", "official": "split"})
    table[["review", "sentiment", "split"]].to_csv(tmp_path / "IMDB Dataset.csv", index=False)
    same(imdb.records(str(tmp_path / "IMDB Dataset.csv")), records)


def test_official_takes_val_from_train_by_groups(tmp_path):
    written = made(imdb.demo(tmp_path), "imdb", tmp_path / "out", official=True)
    splits = manifest.read(tmp_path / "out")
    official = imdb.records(str(tmp_path / "aclImdb_v1.tar.gz")).table.set_index("dicom_id")["official"]
    for split, wanted in (("train", "train"), ("val", "train"), ("test", "test")):
        assert set(official[splits.tables[split]["dicom_id"]]) == {wanted}
    assert not set(splits.tables["train"]["subject_id"]) & set(splits.tables["val"]["subject_id"])
    assert any("has no val" in note for note in written["notes"])
    # The demo's train and test reviews are alike: the data's own leaks are counted and said, not refused.
    assert written["leaks"]["subject"] > 0 and written["leaks"]["near-identical text"] > 0


def test_a_spoilt_archive_is_one_line(tmp_path):
    file = Path(imdb.demo(tmp_path))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError) as caught:
        imdb.records(str(file))
    one_line(caught, "cannot be read", "fetch it again")


# --- MultiNLI


def test_mnli_pairs_and_their_split(tmp_path):
    source = mnli.demo(tmp_path)
    records = mnli.records(source)
    assert records.table["official"].value_counts().to_dict() == {"train": 60, "val": 24, "test": 24}
    assert records.card.labels == ("entailment", "neutral", "contradiction")
    assert (records.table.groupby("text")["subject_id"].nunique() == 1).all()
    assert any("3 of 111 rows have no label" in note for note in records.notes)


def test_mnli_as_glue_writes_it(tmp_path):
    records = mnli.records(mnli.demo(tmp_path))
    (tmp_path / "MNLI").mkdir()
    for split, name in (("train", "train"), ("val", "dev_matched"), ("test", "dev_mismatched")):
        rows = records.table[records.table["official"] == split]
        lines = [f"{i}\tg\t{r.text}\t{r.text_pair}\t{r.label}" for i, r in enumerate(rows.itertuples())]
        text = "\n".join(["index\tgenre\tsentence1\tsentence2\tgold_label", *lines]) + "\n"
        (tmp_path / "MNLI" / f"{name}.tsv").write_text(text)
    ours = mnli.records(str(tmp_path / "MNLI"))
    columns = ["text", "text_pair", "label", "official", "subject_id"]
    a, b = (r.table[columns].sort_values(columns, ignore_index=True) for r in (ours, records))
    pd.testing.assert_frame_equal(a, b)


# --- tweets


def test_tweet_eval_and_its_broken_pairs(tmp_path):
    source = Path(tweet_sentiment.demo(tmp_path))
    records = tweet_sentiment.records(str(source))
    assert records.table["official"].value_counts().to_dict() == {"train": 45, "val": 15, "test": 15}
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
    records = tweet_sentiment.records(str(tmp_path))
    assert records.card.labels == ("negative", "neutral", "positive")
    assert 'tweet \xe9 3, "quoted" and so on' in set(records.table["text"])
    assert not records.table.astype(str).apply(lambda c: c.str.contains("user3")).any().any()
    assert tweet_sentiment.records(str(train)).card.labels == ("negative", "positive")


# --- reports


def test_open_i_reports_are_the_same_from_xml_and_from_a_table(tmp_path):
    folder = report_text.demo(tmp_path)
    records = report_text.records(folder)
    assert records.card.unit == "text" and records.card.group == "near-duplicate" and len(records.table) == 30
    base = openi.records(folder).table.drop_duplicates("study_id")
    mesh = ["|".join(f"{n}/left" for n in openi.CARD.labels if row[n]) for _, row in base.iterrows()]
    table = pd.DataFrame({"uid": base["study_id"], "findings": base["findings"], "impression": base["impression"]})
    table.assign(mesh=mesh).to_csv(tmp_path / "reports.csv", index=False)
    other = report_text.records(str(tmp_path / "reports.csv"))
    columns = [*records.card.labels, "text", "subject_id", "study_id"]
    a, b = (r.table[columns].sort_values("study_id", ignore_index=True) for r in (records, other))
    pd.testing.assert_frame_equal(a, b)
    table.assign(mesh="No Indexing").to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(UsageError, match="no row has both a text and a label"):
        report_text.records(str(tmp_path / "none.csv"))


def test_a_section_alone_is_read_and_grouped_anew(tmp_path):
    source = report_text.demo(tmp_path)
    written = made(source, "report_text", tmp_path / "out", text="findings")
    train = manifest.read(tmp_path / "out").tables["train"]
    assert train["text"].str.fullmatch(r"Film \d+\.").all() and written["request"]["text"] == "findings"
    with pytest.raises(UsageError, match=r"leaves nothing for|need one each"):
        made(source, "report_text", tmp_path / "other", text="impression")  # all impressions are the same


def test_mimic_reports_go_by_subject(tmp_path):
    from cxr_ft.data.labels import CHEXPERT_14
    from cxr_ft.data.layouts import mimic_cxr

    root = mimic_cxr.demo(tmp_path)
    records = report_text.records(root)
    images = mimic_cxr.records(root).table.drop_duplicates("study_id").set_index("study_id")
    assert records.card.group == "subject" and records.card.sensitivity == "synthetic"
    table = records.table.set_index("study_id")
    assert set(table["subject_id"]) <= set(images["subject_id"]) and not table.index.duplicated().any()
    np.testing.assert_array_equal(table[list(CHEXPERT_14)], images.loc[table.index, list(CHEXPERT_14)])
    # The same rows from a table of their own, and the stock report of many subjects ties none of them together.
    flat = records.table.assign(text="Lungs are clear. No effusion.")[["subject_id", "study_id", "text", *CHEXPERT_14]]
    flat.to_csv(tmp_path / "flat.csv", index=False)
    stock = report_text.records(str(tmp_path / "flat.csv"))
    assert stock.table["subject_id"].nunique() == records.table["subject_id"].nunique()
    written = made(tmp_path / "flat.csv", "report_text", tmp_path / "out")
    assert written["texts"]["distinct"] == 1
    assert written["texts"]["verbatim_in_train"]["test"] == written["rows"]["test"]
    assert any("are word for word in train" in note for note in written["notes"])


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
    written = made(REAL / "resumes.csv", "resumes", tmp_path / "out", per_label=40)
    assert written["texts"]["rows"] == 962 and written["texts"]["distinct"] == 166 and len(written["labels"]) == 25
    assert set(written["leaks"].values()) == {0}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real table is not at hand")
def test_the_real_reports(tmp_path):
    written = made(REAL / "openi_reports.csv", "report_text", tmp_path / "out", per_label=30)
    assert written["texts"]["rows"] == 1456 and set(written["leaks"].values()) == {0}
    assert written["texts"]["largest_group"] < 0.05 * written["texts"]["rows"]
    with gzip.open(tmp_path / "r.csv.gz", "wb") as file:
        file.write((REAL / "openi_reports.csv").read_bytes())
    same(report_text.records(str(tmp_path / "r.csv.gz")), report_text.records(str(REAL / "openi_reports.csv")))
