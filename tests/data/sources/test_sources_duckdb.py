"""DuckDB's files as sources: addresses, one SELECT and nothing else, and nothing beyond the file."""

import hashlib
from urllib.parse import quote, urlencode

import duckdb
import pytest

from cxr_ft.data.records import root_folder
from cxr_ft.data.sources import address, locations, table_reader
from cxr_ft.errors import UsageError


@pytest.fixture
def database(tmp_path):
    file = tmp_path / "a b.db"
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            """CREATE TABLE t AS SELECT i AS id, 'P' || i // 2 AS "a ""b", i % 3 AS fold FROM range(9) r(i)"""
        )
        connection.execute("CREATE VIEW half AS SELECT id FROM t WHERE id < 4")
        connection.execute("CREATE SCHEMA other")
        connection.execute("CREATE TABLE other.u AS SELECT 1 AS id")
    return f"duckdb://{file}"


def sql(database, text):
    return table_reader.read_table(f"{database}?sql={text}")


def test_a_database_is_a_folder_of_tables(database):
    assert locations.list_names(database) == table_reader.list_tables(database) == ["half", "other.u", "t"]
    assert table_reader.is_table(f"{database}?table=t") and not table_reader.is_table(database)
    where = locations.join(locations.normalized(database), "t")
    assert locations.split(where) == (locations.normalized(database), "t")
    assert locations.exists(where) and not locations.exists(
        locations.join(locations.normalized(database), "labels.yaml")
    )
    assert locations.list_files(database) == []
    assert table_reader.read_table(locations.join(database, "half"))["id"].tolist() == ["0", "1", "2", "3"]
    assert table_reader.read_table(locations.join(database, "other.u"))["id"].tolist() == ["1"]


def test_odd_names_of_columns(database):
    table = table_reader.read_table(f"{database}?table=t", ['a "b'], where={'a "b': "P3"})
    assert table['a "b'].tolist() == ["P3", "P3"]


def test_a_place_is_written_in_one_way(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ways = [database, "duckdb://a b.db", "duckdb:///a b.db", "duckdb://a%20b.db", f"duckdb:///{tmp_path}/a b.db"]
    assert {locations.normalized(f"{way}?table=t") for way in ways} == {
        f"duckdb://{quote(str(tmp_path))}/a%20b.db?table=t"
    }
    place = locations.normalized(f"{database}?table=t&root=/films/c d")
    assert locations.normalized(place) == place and table_reader.image_root(place) == "/films/c d"


QUERIES = [
    "SELECT id + 1 AS id FROM t WHERE id < 2",
    "FROM t SELECT id + 1 AS id WHERE id < 2",
    "WITH x AS (SELECT * FROM t) SELECT id+1 AS id FROM x WHERE id<2; ",
    "SELECT id+1 AS id FROM t WHERE id<2 -- the end",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("coded", ["not", "quoted", "form", "file"])
def test_a_query_however_it_is_written(database, tmp_path, query, coded):
    """A plus stays a plus, and a space that a form wrote as a plus is a space."""
    if coded == "file":
        (tmp_path / "q.sql").write_text(query + "\n")
        query = f"@{tmp_path / 'q.sql'}"
    option = {"quoted": f"sql={quote(query)}", "form": urlencode({"sql": query})}.get(coded, f"sql={query}")
    assert table_reader.read_table(f"{database}?{option}")["id"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT 1; SELECT 2", "one SELECT statement"),
        ("DELETE FROM t", "one SELECT statement"),
        ("COPY t TO '{out}'", "one SELECT statement"),
        ("ATTACH '{out}'", "one SELECT statement"),
        ("SET enable_external_access = true", "one SELECT statement"),
        ("INSTALL httpfs", "one SELECT statement"),
        ("SELECT 1) UNION SELECT (2", "Parser Error"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission Error"),
        ("SELECT * FROM read_csv('/etc/hostname')", "Permission Error"),
        ("SELECT * FROM '/etc/hostname'", "Catalog Error|Permission Error"),
        ("SELECT * FROM glob('/etc/*')", "Permission Error"),
        ("SELECT * FROM nothing", "Catalog Error"),
        ("SELECT nothing FROM t", "Binder Error"),
        ("SELECT CAST(id || 'secret' AS INT) AS id FROM t", "a value does not fit"),
        ("@/nowhere/q.sql", "sql file /nowhere/q.sql cannot be read"),
    ],
)
def test_sql_reads_the_file_and_nothing_else(database, tmp_path, query, why):
    file = tmp_path / "a b.db"
    before = hashlib.sha256(file.read_bytes()).digest()
    with pytest.raises(UsageError, match=why) as caught:
        sql(database, query.replace("{out}", str(tmp_path / "out")))
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert hashlib.sha256(file.read_bytes()).digest() == before and [f.name for f in tmp_path.iterdir()] == ["a b.db"]


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("", "is no table: its name must end with"),
        ("?table=none", "has no table none; it has half, other.u, t"),
        ("?table=t;drop", "is no table's name"),
        ("?table=t%22", "is no table's name"),
        ("?table=a.b.c", "is no table's name"),
        ("?table=t&table=t", "needs one value, once"),
        ("?table=", "needs one value, once"),
        ("?table=t&sql=SELECT 1", "names a table and has sql"),
        ("?tabel=t", "unknown option 'tabel' .*did you mean 'table'"),
        ("?sql=SELECT 1 & 2", "write & in SQL as %26"),
    ],
)
def test_a_wrong_address_is_one_line(database, rest, why):
    with pytest.raises(UsageError, match=why) as caught:
        table_reader.read_table(database + rest)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "t.db").write_text("no database")
    with pytest.raises(UsageError, match="cannot be read: IO Error"):
        locations.list_names(f"duckdb://{tmp_path}/t.db")
    with pytest.raises(UsageError, match="does not exist"):
        locations.list_names(f"duckdb://{tmp_path}/none.db")
    with pytest.raises(UsageError, match="names no file"):
        locations.list_names("duckdb:///")


def test_a_query_is_not_repeated_in_messages(database):
    one = address.parse(f"{database}?sql=SELECT 'John Doe'")
    assert "John" not in one.shown and one.is_table


def test_images_are_in_no_database(database, tmp_path):
    where = locations.normalized(f"{database}?table=t")
    root = root_folder(table_reader.image_root(where))
    assert not locations.has_images(root, ["1.png"])
    with pytest.raises(UsageError, match=r"a%20b\.db holds tables, no images"):
        locations.local_copy(root, "1.png")
    assert table_reader.image_root(table_reader.with_image_root(where, str(tmp_path))) == str(tmp_path)
    with pytest.raises(UsageError, match="--root goes with"):
        table_reader.with_image_root(str(tmp_path / "t.csv"), str(tmp_path))


def test_a_database_that_a_notebook_holds_open(database, tmp_path):
    with duckdb.connect(str(tmp_path / "a b.db"), read_only=True):
        assert len(table_reader.read_table(f"{database}?table=t", where={"fold": [0, 1]})) == 6
