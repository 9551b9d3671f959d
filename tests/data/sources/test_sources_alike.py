"""The same rows from files, DuckDB and BigQuery give the same split CSVs, to the byte."""

import random

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("google.cloud.bigquery")
pytest.importorskip("sqlglot")
from bigquery_server import Server, allow_this_machine, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_data import REAL

from cxr_ft import plugins
from cxr_ft.cli import split
from cxr_ft.data import manifest
from cxr_ft.data.layouts import mimic_cxr, nih, table
from cxr_ft.data.sources import bigquery_client, table_reader
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    allow_this_machine(monkeypatch)


@pytest.fixture(scope="module")
def server():
    here = Server(page=200)
    http, here.url = serve(here)
    yield here
    http.shutdown()
    http.server_close()


def csvs(source, layout, out, url, **options):
    """The split CSVs of a source, by name."""
    with bigquery_client.use_endpoint(url):
        make_splits(str(source), layout, SplitRequest(**{"per_label": 4, "views": "all", **options}), out)
    return {file.name: file.read_bytes() for file in out.glob("*_split.csv")} | {
        "sampled": next(out.glob("sampled_*.csv")).read_bytes()
    }


def shuffled(arrow, seed):
    order = list(range(arrow.num_rows))
    random.Random(seed).shuffle(order)
    return arrow.take(order)


def everywhere(folder, server, name, typed):
    """The places of one table, in another order in each: {kind: URL}.

    Args:
        typed: {kind: Arrow table}; the values are the same, the types may differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    typed["csv"].to_pandas().to_csv(folder / f"{name}.csv", index=False)
    pq.write_table(shuffled(typed["parquet"], 1), folder / f"{name}.parquet")
    with duckdb.connect(str(folder / "all.db")) as connection:
        connection.register("arrow_rows", shuffled(typed["duckdb"], 2))
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arrow_rows")
    server.load_arrow(f"hospital.{name}", shuffled(typed["bigquery"], 3))
    return {
        "csv": folder / f"{name}.csv",
        "parquet": folder / f"{name}.parquet",
        "duckdb": f"duckdb://{folder}/all.db?table={name}",
        "sql": f"duckdb://{folder}/all.db?sql=SELECT * FROM {name} ORDER BY 1",
        "bigquery": f"bigquery://hospital/hospital.{name}",
    }


# --- any table of images


def label(values, kind):
    """A column of 1, 0 and nothing (and -1, where the type has it) as it may be stored."""
    words = {1: "1", 0: "0", -1: "-1", None: None}
    made = {
        "int": lambda: pa.array(values, pa.int64()),
        "float": lambda: pa.array(values, pa.float64()),
        "bool": lambda: pa.array([None if v is None else v == 1 for v in values]),
        "text": lambda: pa.array([words[v] for v in values], pa.string()),
        "text.0": lambda: pa.array([None if v is None else f"{v}.0" for v in values], pa.string()),
        "decimal": lambda: pa.array(values, pa.int64()).cast(pa.decimal128(38, 9)),
        "true": lambda: pa.array([None if v is None else str(v == 1) for v in values], pa.string()),
    }
    return made[kind]()


WHOLE = ("int", "float", "text", "text.0", "decimal")
TRUTH = (*WHOLE, "bool", "true")
KINDS = ("csv", "parquet", "duckdb", "bigquery")


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mapped_table_whatever_its_types(tmp_path_factory, server, data):
    """Its records, in the order of their ids, which is what splits are made of; the CSVs are compared below."""
    count = 60
    chance = random.Random(data.draw(st.integers(0, 999)))
    subjects = [1000 + i // 3 for i in range(count)]
    edema = [chance.choice([1, 0, None]) for _ in range(count)]
    nodule = [chance.choice([1, 0, -1, None]) for _ in range(count)]
    texts = [chance.choice([None, "a, b", 'no "sign"', "two\nlines", "ü"]) for _ in range(count)]
    typed = {}
    for kind in KINDS:
        ids = data.draw(st.sampled_from(WHOLE if kind != "csv" else ("int", "text")))
        typed[kind] = pa.table(
            {
                "File": pa.array([f"f{i}" for i in range(count)]),
                "Patient": label(subjects, ids) if ids != "text" else pa.array(list(map(str, subjects))),
                "Edema flag": label(edema, data.draw(st.sampled_from(TRUTH))),
                "nodule": label(nodule, data.draw(st.sampled_from(WHOLE))),
                "age": pa.array([40 + i % 30 for i in range(count)]),
                "note": pa.array(texts, pa.string()),
                "site": pa.array(["AB"[i % 2] for i in range(count)]),
            }
        )
    folder = tmp_path_factory.mktemp("mapped")
    by_kind = {}
    for kind, where in everywhere(folder, server, "films", typed).items():
        (folder / f"{kind}.yaml").write_text(
            f"table: {where!s}\nroot: {folder}\nwhere: {{site: A}}\n"
            'columns: {path: "{File}.png", subject_id: Patient, age: age, findings: note}\n'
            "labels: {Edema: Edema flag, Nodule: nodule}\n"
        )
        with bigquery_client.use_endpoint(server.url):
            records = table.records(str(folder / f"{kind}.yaml")).table
        by_kind[kind] = records.sort_values("dicom_id", ignore_index=True)
    assert len(by_kind["csv"]) == count / 2 and by_kind["csv"]["subject_id"].iloc[0] == "1000"
    for kind, records in by_kind.items():
        pd.testing.assert_frame_equal(records, by_kind["csv"], obj=kind)


def test_a_mapped_table_to_the_byte(tmp_path, server):
    count = 60
    edema, nodule = [[1, 0, None][i % 3] for i in range(count)], [[-1, 1, 0, None][i % 4] for i in range(count)]
    stored = {"csv": ("int", "float"), "parquet": ("bool", "text"), "duckdb": ("true", "decimal")}
    stored["bigquery"] = ("float", "text.0")
    typed = {
        kind: pa.table(
            {
                "path": [f"{i}.png" for i in range(count)],
                "subject_id": label([7 + i // 2 for i in range(count)], "int" if kind == "csv" else "float"),
                "Edema": label(edema, first),
                "Nodule": label(nodule, second),
            }
        )
        for kind, (first, second) in stored.items()
    }
    by_kind = {}
    for kind, where in everywhere(tmp_path, server, "bytes", typed).items():
        (tmp_path / f"{kind}.yaml").write_text(
            f"table: {where!s}\nroot: {tmp_path}\ncolumns: {{path: path, subject_id: subject_id}}\n"
            "labels: [Edema, Nodule]\n"
        )
        by_kind[kind] = csvs(tmp_path / f"{kind}.yaml", "table", tmp_path / f"out_{kind}", server.url)
    assert all(files == by_kind["csv"] for files in by_kind.values())


@pytest.mark.parametrize("kinds", [("int", "float", "text.0", "decimal"), ("true", "bool", "int", "bool")])
def test_one_class_an_image_whatever_its_type(tmp_path, server, kinds):
    count = 40
    values = [i % 2 for i in range(count)]
    typed = {
        kind: pa.table({"path": [f"{i}.png" for i in range(count)], "patient_id": [i // 2 for i in range(count)]})
        for kind in KINDS
    }
    typed = {k: t.append_column("label", label(values, one)) for (k, t), one in zip(typed.items(), kinds, strict=True)}
    (tmp_path / "0.png").write_bytes(b"")
    places = everywhere(tmp_path, server, "classes", typed)
    # Nothing reads the images: a database without root= has none, and a file's are looked for in vain.
    (tmp_path / "0.png").unlink()
    databases = {
        kind: csvs(places[kind], "folder", tmp_path / kind, server.url) for kind in ("duckdb", "bigquery", "sql")
    }
    assert databases["duckdb"] == databases["bigquery"] == databases["sql"]
    assert b"0.png" in databases["sql"]["sampled"]


# --- MIMIC-CXR's tables


@pytest.fixture(scope="module")
def mimic(tmp_path_factory, server):
    """A phantom archive; its tables in DuckDB, of the types that DuckDB reads them as; and in BigQuery."""
    folder = tmp_path_factory.mktemp("mimic")
    tree = folder / "mimic_cxr"
    mimic_cxr.demo(folder)
    names = {
        "metadata": "mimic-cxr-2.0.0-metadata",
        "chexpert": "mimic-cxr-2.0.0-chexpert",
        "split": "mimic-cxr-2.0.0-split",
        "record_list": "cxr-record-list",
    }
    (tree / "patients.csv").write_text(
        "subject_id,gender,anchor_age,anchor_year\n"
        + "".join(
            f"{p.name[1:]},{'MF'[i % 2]},{50 + i},2150\n" for i, p in enumerate(sorted((tree / "files").glob("*/p*")))
        )
    )
    reports = [(int(file.stem[1:]), file.read_text()) for file in sorted(tree.rglob("s*.txt"))]
    with duckdb.connect(str(folder / "cxr.db")) as connection:
        for name, file in names.items():
            connection.execute(
                f"CREATE TABLE {name} AS SELECT * FROM read_csv('{tree / file}.csv.gz') ORDER BY random()"
            )
        connection.execute(f"CREATE TABLE patients AS SELECT * FROM read_csv('{tree / 'patients.csv'}')")
        connection.register("arrow_rows", pd.DataFrame(reports, columns=["study_id", "text"]))
        connection.execute("CREATE TABLE reports AS SELECT * FROM arrow_rows ORDER BY random()")
        for name in (*names, "patients", "reports"):
            arrow = connection.sql(f"SELECT * FROM {name} ORDER BY random()").to_arrow_table()
            plain = [column.replace(" ", "_") for column in arrow.column_names]
            server.load_arrow(f"mimic_cxr.{name}", arrow.rename_columns(plain))
    return tree, f"duckdb://{folder / 'cxr.db'}", "bigquery://hospital/mimic_cxr"


@pytest.mark.parametrize(
    "options",
    [
        {"text": "all", "unit": "study"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"uncertain": "positive", "views": "frontal"}, marks=pytest.mark.slow),
    ],
)
def test_mimic_cxr_from_its_tables(mimic, server, tmp_path, options):
    tree, *databases = mimic
    wanted = csvs(tree, "mimic_cxr", tmp_path / "tree", server.url, **options)
    for place, rooted in zip(databases, (True, False), strict=True):
        source = table_reader.with_image_root(place, str(tree)) if rooted else place
        out = tmp_path / place.partition(":")[0]
        assert csvs(source, "mimic_cxr", out, server.url, **options) == wanted
        splits = manifest.read(out)
        assert splits.root == (str(tree) if rooted else place)
        assert any("images are not at hand" in note for note in splits.manifest["notes"]) != rooted


def test_mimic_cxr_from_physionets_table_of_headers(mimic, server, tmp_path):
    """dicom_metadata_string holds text alone, by the names of DICOM; taken from code that reads it, never seen here."""
    _, database, _ = mimic
    columns = "dicom_id AS dicom, subject_id::VARCHAR AS PatientID, study_id::VARCHAR AS StudyID"
    with duckdb.connect(database.removeprefix("duckdb://"), read_only=True) as connection:
        sql = f"SELECT {columns}, ViewPosition, StudyDate::VARCHAR AS StudyDate FROM metadata"
        server.load_arrow("published.dicom_metadata_string", connection.sql(sql).to_arrow_table())
        for name in ("chexpert", "record_list"):
            server.load_arrow(f"published.{name}", connection.sql(f"SELECT * FROM {name}").to_arrow_table())
    written = csvs("bigquery://hospital/published", "mimic_cxr", tmp_path / "a", server.url)
    with duckdb.connect(str(tmp_path / "less.db")) as connection:
        connection.execute(f"ATTACH '{database.removeprefix('duckdb://')}' AS whole (READ_ONLY)")
        for name in ("metadata", "chexpert", "record_list"):
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM whole.{name}")
    assert written == csvs(f"duckdb://{tmp_path / 'less.db'}", "mimic_cxr", tmp_path / "b", server.url)


def test_the_command_takes_a_database(mimic, server, tmp_path, capsys):
    tree, duck, big = mimic
    flags = ["--layout", "mimic_cxr", "--per-label", "4", "--views", "all"]
    assert split.main([duck, *flags, "--root", str(tree), "--out", str(tmp_path / "a")]) == 0
    code = split.main(
        [big, *flags, "--bigquery-endpoint", server.url, "--root", str(tree), "--out", str(tmp_path / "b")]
    )
    captured = capsys.readouterr()
    assert code == 0 and "the query reads" in captured.err and "not at hand" not in captured.out
    for name in manifest.FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert split.main([str(tree), *flags, "--root", str(tree), "--out", str(tmp_path / "c")]) == 2
    assert "--root goes with" in capsys.readouterr().err


def test_nih_from_a_table(server, tmp_path):
    file = f"{nih.demo(tmp_path)}/Data_Entry_2017.csv"
    raw = pd.read_csv(file, usecols=["Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"])
    plain = raw.rename(columns=lambda name: name.replace(" ", "_"))
    server.load_arrow("nih.Data_Entry_2017", pa.Table.from_pandas(plain, preserve_index=False))
    wanted = csvs(tmp_path / "nih", "nih", tmp_path / "a", server.url, text="none")
    source = f"bigquery://hospital/nih?root={tmp_path / 'nih'}"
    rest = csvs(source, "nih", tmp_path / "b", server.url, text="none")
    assert [len(text.splitlines()) for text in rest.values()] == [len(text.splitlines()) for text in wanted.values()]
    for name in wanted:  # without the column of sex, which the table above leaves out
        frames = [pd.read_csv(tmp_path / folder / name) for folder in "ab" if name != "sampled"]
        assert not frames or frames[0].drop(columns="sex").equals(frames[1])


# --- texts


def films(word, count=40):
    return [f'The {word} number {i} was {["dull", "warm"][i % 2]}, "they" said.\nTwice {i * 7}.' for i in range(count)]


SPLITS = ["train"] * 24 + ["validation"] * 8 + ["test"] * 8
TEXTS = {
    "sst2": {"sentence": films("play"), "label": [i % 2 for i in range(40)]},
    "imdb": {"review": films("film"), "sentiment": [i % 2 for i in range(40)]},
    "mnli": {"premise": films("hall"), "hypothesis": films("day"), "label": [i % 3 for i in range(40)]},
    "tweet_sentiment": {"text": films("tweet"), "label": [i % 3 for i in range(40)]},
    "text_table": {"text": films("note"), "label": [i % 2 for i in range(40)]},
}


#: Each type once in every commit; every layout with every type is slow.
CELLS = [(layout, kind) for layout in sorted(TEXTS) for kind in ("int", "float", "text")]
OFTEN = {("mnli", "int"), ("sst2", "float"), ("text_table", "text")}


@pytest.mark.parametrize(
    ("layout", "kind"),
    [pytest.param(*cell, marks=[] if cell in OFTEN else [pytest.mark.slow]) for cell in CELLS],
)
def test_texts_whatever_the_type_of_their_label(layout, kind, server, tmp_path):
    columns = {"split": SPLITS, **TEXTS[layout]}
    name = next(name for name in columns if name in {"label", "sentiment"})
    typed = {k: pa.table(columns) for k in KINDS}
    stored = {
        "int": pa.array,
        "float": lambda v: pa.array(v, pa.float64()),
        "text": lambda v: pa.array([str(i) for i in v]),
    }[kind](columns[name])
    for k in ("parquet", "duckdb", "bigquery"):
        typed[k] = typed[k].set_column(typed[k].column_names.index(name), name, stored)
    assert layout in plugins.choices(plugins.LAYOUTS)
    places = everywhere(tmp_path, server, layout, typed)
    by_kind = {k: csvs(where, layout, tmp_path / f"out_{k}", server.url, text="none") for k, where in places.items()}
    assert all(files == by_kind["csv"] for files in by_kind.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "file", "columns"),
    [
        ("resumes", "resumes.csv", None),
        ("report_text", "openi_reports.csv", ["uid", "findings", "impression", "mesh"]),
    ],
)
def test_real_texts_in_three_sources(layout, file, columns, server, tmp_path):
    if REAL is None or not (REAL / file).is_file():
        pytest.skip(f"{file} is not at hand")
    frame = pd.read_csv(REAL / file, usecols=columns, dtype=str, keep_default_na=False, na_values=[""])
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    places = everywhere(tmp_path, server, layout, dict.fromkeys(KINDS, arrow))
    by_kind = {
        k: csvs(places[k], layout, tmp_path / f"out_{k}", server.url, text="none")
        for k in ("csv", "duckdb", "bigquery")
    }
    assert all(files == by_kind["csv"] for files in by_kind.values())
