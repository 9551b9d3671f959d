"""One form of text, whatever the type and the kind of a source; and one meaning of a filter."""

import datetime as dt
from decimal import Decimal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.data.layouts import _rows
from cxr_ft.data.sources import csv_text, table_query, table_reader
from cxr_ft.errors import UsageError

CASES = [
    (pa.array([10000032, None, -1]), ["10000032", None, "-1"]),
    (pa.array([1.0, 0.0, -1.0, None, float("nan"), 0.5, -0.0]), ["1", "0", "-1", None, None, "0.5", "0"]),
    (pa.array([123456789012345.0, 2.0**52]), ["123456789012345", "4503599627370496"]),
    (pa.array([0.1, 0.25, 3], pa.float32()), ["0.1", "0.25", "3"]),
    (pa.array([1.5, 2], pa.float16()), ["1.5", "2"]),
    (pa.array([True, False, None]), ["1", "0", None]),
    (pa.array([Decimal("1.50"), Decimal("2.00"), Decimal("0.10"), Decimal("100")]), ["1.5", "2", "0.1", "100"]),
    (pa.array([Decimal("-0.00"), Decimal("0.01")]), ["0", "0.01"]),
    (pa.array(["a", "", None, " "]), ["a", None, None, " "]),
    (pa.array(["a", None, ""], pa.large_string()), ["a", None, None]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
    (pa.array([dt.date(2180, 5, 6)]), ["2180-05-06"]),
    (pa.array([dt.datetime(2180, 5, 6, 1, 2, 3)]), ["2180-05-06 01:02:03"]),
    (pa.array([dt.datetime(2180, 5, 6, 1, 2, 3, 450000)]), ["2180-05-06 01:02:03.45"]),
    (pa.array([dt.datetime(2180, 5, 6, 1, tzinfo=dt.UTC)]), ["2180-05-06 01:00:00+00:00"]),
    (pa.array([dt.datetime(2180, 1, 1, 1)], pa.timestamp("us", "Europe/Berlin")), ["2180-01-01 01:00:00+00:00"]),
    (pa.array([dt.time(1, 2, 3)]), ["01:02:03"]),
    (pa.nulls(2), [None, None]),
]


@pytest.mark.parametrize(("values", "wanted"), CASES, ids=lambda v: str(getattr(v, "type", "")))
def test_every_type_has_one_text(values, wanted):
    assert csv_text.column(pa.chunked_array([values]), "x").to_pylist() == wanted


@pytest.mark.parametrize(
    "values", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([dt.timedelta(1)])], ids=str
)
def test_what_no_csv_holds_is_refused(values):
    with pytest.raises(UsageError, match=r"column x is of type .* leave it out") as caught:
        csv_text.as_text(pa.table({"x": values}), "t")
    assert "\n" not in str(caught.value)


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_whole_number_is_the_same_in_every_type(number):
    kinds = [pa.int64(), pa.float64(), pa.decimal128(38, 9)]
    exact = [pa.array([Decimal(number) if pa.types.is_decimal(kind) else number], kind) for kind in kinds]
    assert {csv_text.column(pa.chunked_array([values]), "x")[0].as_py() for values in exact} == {str(number)}


CELLS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 10**9), CELLS, CELLS), min_size=1, max_size=6))
def test_text_comes_through_every_source_to_the_letter(tmp_path_factory, rows):
    """Quotes, commas, line ends and odd letters, written by DuckDB and read by us."""
    folder = tmp_path_factory.mktemp("t")
    ids, first, second = (list(column) for column in zip(*rows, strict=True))
    arrow = pa.table({"id": ids, "a b": pa.array(first, pa.string()), "c": pa.array(second, pa.string())})
    with duckdb.connect(str(folder / "t.db")) as connection:
        connection.register("arrow_rows", arrow)
        connection.execute("CREATE TABLE t AS SELECT * FROM arrow_rows")
        connection.execute(f"COPY t TO '{folder / 't.csv'}' (HEADER, FORCE_QUOTE *)")
    pq.write_table(arrow, folder / "t.parquet")
    wanted = pd.DataFrame({"id": [str(i) for i in ids], "a b": first, "c": second}, dtype="string")
    for name in ("t.csv", "t.parquet"):
        pd.testing.assert_frame_equal(table_reader.read_table(str(folder / name)), wanted)
    table = table_reader.read_table(f"duckdb://{folder / 't.db'}?table=t")
    pd.testing.assert_frame_equal(table, wanted)


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """One table in every local kind of source; the CSV knows text alone."""
    folder = tmp_path_factory.mktemp("everywhere")
    arrow = pa.table(
        {
            "id": pa.array(range(50)),
            "site": pa.array([None if i % 7 == 0 else "ABC"[i % 3] for i in range(50)]),
            "flag": pa.array([i % 2 == 0 for i in range(50)]),
            "score": pa.array([float("nan") if i % 11 == 0 else i / 2 for i in range(50)]),
            "day": pa.array([dt.date(2020, 1, 1 + i % 9) for i in range(50)]),
        }
    )
    arrow = arrow.append_column("kind", pa.array([["", "x"][i % 2] for i in range(50)]).dictionary_encode())
    pq.write_table(arrow, folder / "t.parquet", row_group_size=10)
    csv_text.as_text(arrow, "t").to_pandas().to_csv(folder / "t.csv", index=False)
    csv_text.as_text(arrow, "t").to_pandas().to_csv(folder / "t.tsv.gz", index=False, sep="\t")
    with duckdb.connect(str(folder / "t.db")) as connection:
        connection.register("arrow_rows", arrow)
        connection.execute("CREATE TABLE t AS SELECT * FROM arrow_rows")
    urls = [str(folder / name) for name in ("t.parquet", "t.csv", "t.tsv.gz")]
    return [*urls, f"duckdb://{folder / 't.db'}?table=t", f"duckdb://{folder / 't.db'}?sql=SELECT * FROM t;"]


WANTED = {
    "id": [None, 3, 4, "5", 7.0],
    "site": ["A", None, "B", "none of them"],
    "flag": [True, "1", 0],
    "score": [None, 1, "2.5", 3.5],
    "day": ["2020-01-02", dt.date(2020, 1, 3)],
    "kind": [None, "x", ""],
}


@settings(deadline=None, max_examples=6)
@given(st.data())
def test_a_filter_means_the_same_everywhere(everywhere, data):
    """Against the same filter on the text of all rows."""
    names = data.draw(st.lists(st.sampled_from(sorted(WANTED)), unique=True, min_size=1, max_size=3))
    where = {name: data.draw(st.lists(st.sampled_from(WANTED[name]), min_size=1)) for name in names}
    for source in everywhere:
        whole = table_reader.read_table(source)
        keep = pd.Series(True, index=whole.index)
        for name, values in where.items():
            cells = [csv_text.cell(value) for value in values]
            keep &= whole[name].isin([c for c in cells if c]) | (whole[name].isna() & (None in cells))
        table = table_reader.read_table(source, ["id", "score"], where=where)
        pd.testing.assert_frame_equal(table, whole.loc[keep, ["id", "score"]].reset_index(drop=True))


def test_all_kinds_say_the_same(everywhere):
    first, *others = (table_reader.read_table(source) for source in everywhere)
    assert len(first) == 50 and first["score"].isna().sum() == 5
    for other in others:
        pd.testing.assert_frame_equal(other, first)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"nowhere": 1}, "has no column nowhere; it has id, site"),
        ({"id": "one"}, "column id is of type int64, and a value of its filter is not"),
        ({"id": []}, "the filter of column id has no value"),
        ({"site": {"a": 1}}, "of type struct"),
    ],
)
def test_a_filter_that_cannot_be_is_one_line(everywhere, where, why):
    for source in (everywhere[0], everywhere[3]):
        with pytest.raises(UsageError, match=why) as caught:
            table_reader.read_arrow(source, ["id"], where)
        assert "\n" not in str(caught.value)


def test_wanted_columns_alone_are_read(everywhere):
    for source in everywhere:
        assert table_reader.read_arrow(source, ["score", "id"]).column_names == ["id", "score"]
        assert table_reader.read_arrow(source, ["Score"]).column_names == ["Score"]
        with pytest.raises(UsageError, match="has no column x, y; it has id"):
            table_reader.read_arrow(source, ["x", "id", "y"])


def test_names_as_databases_write_them():
    there = ["No_Finding", "subject_id", "Age", "age "]
    assert (
        table_query.find_column(there, "No Finding") == "No_Finding"
        and table_query.find_column(there, "Subject_ID") == "subject_id"
    )
    assert table_query.find_column(there, "Age") == "Age" and table_query.find_column(["A B", "a_b"], "A.B") is None


def test_a_file_cut_inside_quotes_is_noticed(tmp_path):
    """As a download that stopped: without a look at its end the last row would hold the rest of the file."""
    (tmp_path / "t.csv").write_text('text,label\n"whole",1\n"half of a te')
    with pytest.raises(UsageError, match=r"ends inside quotes|row . has"):
        table_reader.read_table(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text('text,label\n"whole",1\n5" tube,0')
    assert table_reader.read_table(str(tmp_path / "t.csv"))["text"].tolist() == ["whole", '5" tube']


def test_no_row_stands_in_a_message(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nJohn Doe,1,2\n")
    with pytest.raises(UsageError, match="row 2 has 3 cells, its header 2") as caught:
        table_reader.read_table(str(tmp_path / "t.csv"))
    assert "John" not in str(caught.value)
    (tmp_path / "t.csv").write_text("a,b\nJohn Doe,x\n")
    with pytest.raises(UsageError, match="column a holds values that are no numbers") as caught:
        table_reader.read_table(str(tmp_path / "t.csv"), dtypes={"a": "float64"})
    assert "John" not in str(caught.value)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,a,b\n1,2,3\n")
    assert table_reader.read_table(str(tmp_path / "t.csv"), ["b"])["b"].tolist() == ["3"]
    with pytest.raises(UsageError, match="two columns a"):
        table_reader.read_table(str(tmp_path / "t.csv"), ["a"])


def test_a_row_longer_than_a_block_and_many_blocks(tmp_path):
    rows = ["x" * 3_000_000, *("y" * 10 for _ in range(5))] * 7
    pd.DataFrame({"id": range(len(rows)), "text": rows}).to_csv(tmp_path / "t.csv", index=False)
    table = table_reader.read_table(str(tmp_path / "t.csv"), where={"id": [1, 40]})
    assert table["text"].tolist() == ["y" * 10, "y" * 10]
    assert table_reader.read_table(str(tmp_path / "t.csv"))["text"].tolist() == rows


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1.0", "0.0", None], ["1", "0", None]),
        (["1", "0"], ["1", "0"]),
        (["true", "False", None], ["1", "0", None]),
        (["true", "maybe"], ["true", "maybe"]),
        (["1.0", "1.5"], ["1.0", "1.5"]),
        (["1.0", "x"], ["1.0", "x"]),
        ([None, None], [None, None]),
    ],
)
def test_classes_do_not_depend_on_their_type(values, wanted):
    values_as_classes = _rows.classes(pd.Series(values, dtype="string"))
    assert [None if value is pd.NA else value for value in values_as_classes] == wanted
