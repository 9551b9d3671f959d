"""Google's own client against a server that speaks BigQuery's REST protocol (`bigquery_server`), over the wire."""

import datetime as dt
import stat
import subprocess
import sys
from decimal import Decimal

import pyarrow as pa
import pytest

pytest.importorskip("google.cloud.bigquery")
pytest.importorskip("sqlglot")
from bigquery_server import Server, allow_this_machine, serve

from cxr_ft.data.sources import bigquery_client, locations, table_reader
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder

UTC = dt.UTC
#: Each type of BigQuery: its name, a value, and what it is in Arrow.
TYPES = {
    "whole": ("INTEGER", 10000032, pa.int64()),
    "number": ("FLOAT", 0.5, pa.float64()),
    "exact": ("NUMERIC", Decimal("1.500000000"), pa.decimal128(38, 9)),
    "long": ("BIGNUMERIC", Decimal("0.250000000000"), pa.decimal256(76, 38)),
    "truth": ("BOOLEAN", True, pa.bool_()),
    "words": ("STRING", 'a "quote", a\nline, ü', pa.string()),
    "raw": ("BYTES", b"\x00\xff", pa.binary()),
    "day": ("DATE", dt.date(2180, 5, 6), pa.date32()),
    "local": ("DATETIME", dt.datetime(2180, 5, 6, 1, 2, 3, 4), pa.timestamp("us")),
    "clock": ("TIME", dt.time(1, 2, 3), pa.time64("us")),
    "moment": ("TIMESTAMP", dt.datetime(2180, 5, 6, 1, 2, 3, 5, tzinfo=UTC), pa.timestamp("us", "UTC")),
    "place": ("GEOGRAPHY", "POINT(1 2)", pa.string()),
    "tree": ("JSON", '{"a": 1}', pa.string()),
    "several": ("ARRAY<INTEGER>", [1, 2], pa.list_(pa.int64())),
    "record": ("STRUCT<a INTEGER, b ARRAY<STRING>>", {"a": 1, "b": ["x"]}, None),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    allow_this_machine(monkeypatch)


@pytest.fixture
def server():
    """A hospital with a table of every type, and one of many rows."""
    here = Server()
    here.load(
        "cxr.types",
        {name: kind for name, (kind, _, _) in TYPES.items()},
        [[value for _, value, _ in TYPES.values()], [[] if n == "several" else None for n in TYPES]],
    )
    here.load(
        "cxr.many", {"id": "INTEGER", "fold": "INTEGER", "word": "STRING"}, [[i, i % 5, f"w{i}"] for i in range(40)]
    )
    http, url = serve(here)
    with bigquery_client.use_endpoint(url):
        here.url = url
        yield here
    http.shutdown()
    http.server_close()


MANY = "bigquery://hospital/cxr.many"


def jobs(server, dry=False):
    inserted = [body for verb, path, body in server.requests if verb == "POST" and path.endswith("/jobs")]
    return [body["configuration"]["query"] for body in inserted if body["configuration"].get("dryRun", False) == dry]


@pytest.mark.parametrize("name", TYPES)
def test_every_type_comes_through(server, name):
    _, value, kind = TYPES[name]
    table = table_reader.read_arrow("bigquery://hospital/cxr.types", [name])
    assert table.num_rows == 2 and table[name][0].as_py() == value
    assert kind is None or table.schema.field(name).type == kind
    again = table_reader.read_arrow("bigquery://hospital/cxr.types", [name])
    assert again.equals(table) and again.schema == table.schema and len(jobs(server)) == 1


def test_types_that_have_none_here_are_refused(server):
    server.load("cxr.odd", {"id": "INTEGER", "wait": "INTERVAL"}, [[1, dt.timedelta(days=1)]])
    with pytest.raises(UsageError, match="column wait is an INTERVAL"):
        table_reader.read_arrow("bigquery://hospital/cxr.odd")
    assert table_reader.read_arrow("bigquery://hospital/cxr.odd", ["id"]).num_rows == 1
    with pytest.raises(UsageError, match="column raw is of type binary"):
        table_reader.read_table("bigquery://hospital/cxr.types")


def test_as_text_it_is_what_a_csv_would_hold(server):
    names = [name for name in TYPES if name not in {"raw", "several", "record"}]
    table = table_reader.read_table("bigquery://hospital/cxr.types", names)
    wanted = ["10000032", "0.5", "1.5", "0.25", "1", TYPES["words"][1], "2180-05-06", "2180-05-06 01:02:03.000004"]
    wanted += ["01:02:03", "2180-05-06 01:02:03.000005+00:00", "POINT(1 2)", '{"a": 1}']
    assert table.iloc[0].tolist() == wanted and table.iloc[1].isna().all()


def test_an_answer_of_many_pages(server):
    server.polls = 2
    assert sorted(table_reader.read_arrow(MANY)["id"].to_pylist()) == list(range(40))
    pages = [path for verb, path, _ in server.requests if "/queries/" in path]
    assert len(pages) >= 40 / server.page


def test_rows_that_do_not_come_are_missed(server):
    server.sends = 5
    with pytest.raises(UsageError, match="sent 30 of 40 rows"):
        table_reader.read_arrow(MANY)


def test_an_empty_answer_has_its_columns(server):
    table = table_reader.read_arrow(MANY, ["id", "word"], where={"id": 1000})
    assert table.num_rows == 0 and table.schema.types == [pa.int64(), pa.string()]


def test_columns_and_filters_are_pushed_down_and_values_are_parameters(server):
    evil = "w1' OR '1'='1"
    table = table_reader.read_arrow(MANY, ["id"], where={"word": ["w3", "w7", evil], "fold": [3, None]})
    assert table.to_pydict() == {"id": [3]}
    (query,) = jobs(server)
    assert query["query"].startswith("SELECT `id` FROM `hospital.cxr.many` WHERE ") and "w3" not in query["query"]
    assert evil in str(query["queryParameters"]) and len(query["queryParameters"]) == 2


def test_a_query_in_place_of_a_table(server):
    source = "bigquery://hospital?sql=SELECT id + 1 AS next, word FROM cxr.many WHERE fold = 0;"
    assert sorted(table_reader.read_arrow(source, ["next"], where={"next": [1, 6, 7]})["next"].to_pylist()) == [1, 6]
    for wrong in ("SELECT 1; SELECT 2", "DELETE FROM cxr.many WHERE true", "DROP TABLE cxr.many"):
        with pytest.raises(UsageError, match="one SELECT statement"):
            table_reader.read_arrow(f"bigquery://hospital?sql={wrong}")
    assert len(jobs(server)) == 1


def test_a_server_that_tells_no_kind_of_statement(server):
    server.says_kind = False
    assert table_reader.read_arrow("bigquery://hospital?sql=WITH x AS (SELECT 1 AS a) SELECT a FROM x")[
        "a"
    ].to_pylist() == [1]
    for wrong in ("DROP TABLE cxr.many", "SELECT 1; DROP TABLE cxr.many"):
        with pytest.raises(UsageError, match="one SELECT statement"):
            table_reader.read_arrow(f"bigquery://hospital?sql={wrong}")
    assert "cxr.many" in server.tables


def test_it_is_tried_dry_and_says_what_it_reads(server, capsys):
    table_reader.read_arrow(MANY)
    assert capsys.readouterr().err == f"{MANY}: the query reads 960 bytes\n"
    assert jobs(server)[0]["maximumBytesBilled"] == "10000000000" and len(jobs(server, dry=True)) == 1


def test_too_much_is_refused_before_it_runs(server):
    with pytest.raises(UsageError, match=r"would read 960 bytes, more than 500 bytes.*maximum_bytes_billed=960"):
        table_reader.read_arrow(f"{MANY}?maximum_bytes_billed=500")
    assert not jobs(server)
    assert table_reader.read_arrow(f"{MANY}?maximum_bytes_billed=960").num_rows == 40
    assert jobs(server)[0]["maximumBytesBilled"] == "960"
    with pytest.raises(UsageError, match="is no number of bytes"):
        table_reader.read_arrow(f"{MANY}?maximum_bytes_billed=many")


def test_the_server_holds_the_limit_too(server, monkeypatch):
    """Where the table grew after the dry run."""
    monkeypatch.setattr("cxr_ft.data.sources.bigquery_table.BigQueryTable._check", lambda self, size: None)
    with pytest.raises(UsageError, match="bytesBilledLimitExceeded"):
        table_reader.read_arrow(f"{MANY}?maximum_bytes_billed=500")


# --- what is cached


def test_an_answer_is_kept_until_its_table_changes(server, capsys):
    first = table_reader.read_arrow(MANY, ["id"])
    assert table_reader.read_arrow(MANY, ["id"]).equals(first) and len(jobs(server)) == 1
    assert "no table has changed" in capsys.readouterr().err
    server.execute("DELETE FROM cxr.many WHERE id > 3")
    assert table_reader.read_arrow(MANY, ["id"]).num_rows == 4 and len(jobs(server)) == 2
    table_reader.read_arrow(MANY, ["id"], where={"fold": 1})
    table_reader.read_arrow(MANY, ["id"], where={"fold": 2})
    assert len(jobs(server)) == 4


def test_the_cache_is_its_users_alone_and_may_be_damaged(server):
    first = table_reader.read_arrow(MANY)
    (file,) = (cache_folder() / "bigquery").iterdir()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.write_bytes(b"spoilt")
    assert table_reader.read_arrow(MANY).equals(first) and len(jobs(server)) == 2
    assert table_reader.read_arrow(MANY).equals(first) and len(jobs(server)) == 2


@pytest.mark.parametrize(
    "source",
    [
        "bigquery://hospital/cxr.view",
        "bigquery://hospital/cxr.outside",
        "bigquery://hospital?sql=SELECT *, CURRENT_DATE() AS today FROM cxr.many",
        "bigquery://hospital?sql=SELECT *, RAND() AS dice FROM cxr.many",
        "bigquery://hospital?sql=SELECT 1 AS one",
    ],
)
def test_what_may_change_unseen_is_not_cached(server, source):
    server.load("cxr.view", {"id": "INTEGER"}, [[1]], kind="VIEW")
    server.load("cxr.outside", {"id": "INTEGER"}, [[1]], kind="EXTERNAL")
    table_reader.read_arrow(source)
    table_reader.read_arrow(source)
    assert len(jobs(server)) == 2 and not (cache_folder() / "bigquery").exists()


def test_two_servers_do_not_share_a_cache(server):
    table_reader.read_arrow(MANY)
    other = Server()
    other.load("cxr.many", {"id": "INTEGER", "fold": "INTEGER", "word": "STRING"})
    other.tables["cxr.many"] = server.tables["cxr.many"]
    http, url = serve(other)
    with bigquery_client.use_endpoint(url):
        assert table_reader.read_arrow(MANY).num_rows == 0
    http.shutdown()
    http.server_close()


# --- errors


def test_a_request_to_a_busy_server_is_repeated(server):
    server.fail = [(503, "backendError"), (429, "rateLimitExceeded")]
    assert table_reader.read_arrow(MANY).num_rows == 40


@pytest.mark.parametrize(
    ("code", "reason"), [(503, "backendError"), (429, "rateLimitExceeded"), (500, "internalError")]
)
def test_a_server_that_stays_busy_is_one_line(server, monkeypatch, code, reason):
    monkeypatch.setattr(bigquery_client, "RETRY_SECONDS", 0.5)
    server.fail = [(code, reason)] * 100
    with pytest.raises(UsageError, match="does not answer") as caught:
        table_reader.read_arrow(MANY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason", "why"),
    [(403, "accessDenied", "accessDenied: .*billing="), (404, "notFound", "notFound"), (400, "invalid", "invalid: ")],
)
def test_a_refusal_is_one_line(server, code, reason, why):
    server.fail = [(code, reason)] * 3
    with pytest.raises(UsageError, match=f"hospital/cxr.many cannot be read: {why}") as caught:
        table_reader.read_arrow(MANY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("bigquery://hospital/cxr.none", "Not found: Table hospital:cxr.none"),
        ("bigquery://clinic/cxr.many", "Not found: Table clinic:cxr.many"),
        ("bigquery://hospital/cxr", "is no table: its name must end with"),
        ("bigquery://hospital?table=many", "names no data set"),
        ("bigquery://hospital/cxr.many?table=types", "names two tables"),
        ("bigquery://hospital/cxr.many.more", "is no project, data set and table"),
        ("bigquery://Hospital/cxr.many", "is no project, data set and table"),
        ("bigquery://hospital/cxr.many`x", "is no project, data set and table"),
        ("bigquery://hospital?sql=SELEC 1", "one SELECT statement|invalidQuery"),
        ("bigquery://hospital?sql=SELECT nothing FROM cxr.many", "invalidQuery: .*nothing"),
    ],
)
def test_what_is_not_there_is_one_line(server, source, why):
    with pytest.raises(UsageError, match=why) as caught:
        table_reader.read_arrow(source)
    assert "\n" not in str(caught.value) and not jobs(server)


def test_no_row_stands_in_a_message(server):
    """What a query says of a value while it runs may be a patient's."""
    with pytest.raises(UsageError, match="a value does not fit") as caught:
        table_reader.read_arrow("bigquery://hospital?sql=SELECT CAST(word AS INT64) AS n FROM cxr.many")
    assert "w0" not in str(caught.value)


def test_no_server_at_all_is_one_line(monkeypatch):
    monkeypatch.setattr(bigquery_client, "RETRY_SECONDS", 0.5)
    with (
        bigquery_client.use_endpoint("http://127.0.0.1:1"),
        pytest.raises(UsageError, match="does not answer") as caught,
    ):
        table_reader.read_arrow(MANY)
    assert "\n" not in str(caught.value)


# --- which server, and which credentials


def test_credentials_are_shown_to_google_alone(server, monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert table_reader.read_arrow(MANY).num_rows == 40
    assert server.headers and not [h for h in server.headers if "authorization" in {name.lower() for name in h}]
    assert bigquery_client.is_google(None) and bigquery_client.is_google(
        "https://bigquery.europe-west3.rep.googleapis.com"
    )
    assert not any(map(bigquery_client.is_google, ("http://localhost:9050", "https://googleapis.com.example.org")))


def test_without_credentials_one_line_says_what_to_do(monkeypatch, tmp_path):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "BIGQUERY_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UsageError, match="gcloud auth application-default login") as caught:
        table_reader.read_arrow("bigquery://physionet-data/mimic_cxr.chexpert")
    assert "\n" not in str(caught.value)


def test_an_endpoint_is_named_by_flag_or_variable(server, monkeypatch):
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:1")
    assert locations.list_names("bigquery://hospital/cxr") == ["many", "types"]
    with bigquery_client.use_endpoint(None):
        assert bigquery_client.endpoint() == "http://127.0.0.1:1"
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST")
    with bigquery_client.use_endpoint(None):
        assert bigquery_client.endpoint() is None
    with pytest.raises(UsageError, match="write it as http"), bigquery_client.use_endpoint("localhost:9050"):
        pass


def test_who_pays_may_be_another(server):
    with pytest.raises(UsageError, match="sql file /nowhere cannot be read"):
        table_reader.read_arrow("bigquery://hospital?sql=@/nowhere")
    table_reader.read_arrow(f"{MANY}?billing=my-project")
    posted = {path for verb, path, _ in server.requests if verb == "POST"}
    assert posted == {"projects/my-project/jobs"}


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", None)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(UsageError, match=r"pip install cxr_ft\[bigquery\]"):
        locations.list_names("bigquery://hospital/cxr")


def test_a_local_table_loads_no_client(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    code = (
        "import sys\nfrom cxr_ft.data.sources.table_reader import read_table\n"
        f"read_table({str(tmp_path / 't.csv')!r})\n"
        "assert not {'google.cloud.bigquery', 'duckdb', 'requests'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
