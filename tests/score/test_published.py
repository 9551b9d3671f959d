"""Published numbers: what is read, what is refused in one line, and that they are never put in an order by value."""

from pathlib import Path

import pytest

from cxr_ft.errors import UsageError
from cxr_ft.score import published

EXAMPLE = Path(__file__).parents[2] / "configs" / "published.csv"
HEAD = ",".join(published.COLUMNS)
GOOD = 'A 2020,full,,BERT,SST-2,accuracy %,94.80,872,"dev set, one seed",https://example.org/a'


def table(tmp_path, *lines, encoding="utf-8"):
    path = tmp_path / "published.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_the_example_is_read():
    rows = published.read(EXAMPLE)
    assert {row.method for row in rows} >= {"full", "lora"}
    assert all(row.url.startswith("https://") and row.protocol for row in rows)
    assert rows[0].n == 1319
    assert rows[0].value == pytest.approx(47.2)


def test_a_number_keeps_its_digits_and_what_is_empty_stays_so(tmp_path):
    (row,) = published.read(table(tmp_path, HEAD, GOOD, "", encoding="utf-8-sig"))
    assert (row.value, row.printed, row.n) == (94.8, "94.80", 872)
    bare = published.read(table(tmp_path, HEAD, "A,lora,,,D,BLEU-4,-.127,,as printed,"))[0]
    assert (bare.value, bare.n, bare.url, bare.targets) == (-0.127, None, "", "")
    assert published.cells([bare]) == [("A", "lora", "", "", "D", "BLEU-4", "-.127", "", "as printed")]
    assert len(published.cells([row])[0]) == len(published.HEAD)


def test_columns_may_be_in_any_order(tmp_path):
    backwards = list(reversed(published.COLUMNS))
    cells = ["", "p", "10", "0.5", "AUROC", "MIMIC", "GIT", "q", "lora", "B"]
    (row,) = published.read(table(tmp_path, ",".join(backwards), ",".join(cells)))
    assert (row.source, row.method, row.metric, row.value) == ("B", "lora", "AUROC", 0.5)


def test_comparable_numbers_are_neighbours_and_values_decide_no_order(tmp_path):
    lines = [
        f"{who},m,,,{data},AUROC,{value},,p," for who, data, value in (("A", "x", 1), ("B", "y", 2), ("C", "x", 3))
    ]
    rows = published.read(table(tmp_path, HEAD, *lines))
    assert [cells[0] for cells in published.cells(rows)] == ["A", "C", "B"]
    assert [cells[0] for cells in published.cells(rows[::-1])] == ["C", "A", "B"]
    assert published.read(table(tmp_path, HEAD)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("94.80", "94.8 %"), "line 2: value '94.8 %' is no number"),
        (GOOD.replace("94.80", "nan"), "is no number"),
        (GOOD.replace("94.80", "inf"), "is no number"),
        (GOOD.replace("94.80", ""), "line 2: value is empty"),
        (GOOD.replace("A 2020", "  "), "source is empty"),
        (GOOD.replace('"dev set, one seed"', ""), "protocol is empty"),
        (GOOD.replace("872", "0"), "n '0'"),
        (GOOD.replace("872", "1e3"), "n '1e3'"),
        (GOOD.replace("872", "٣"), "no whole number"),
        (GOOD.replace("https://example.org/a", "javascript:alert(1)"), "no http or https address"),
        (GOOD.replace("https://example.org/a", "https://"), "no http or https address"),
        (GOOD.replace("https://example.org/a", "http://[x"), "no http or https address"),
        (GOOD.replace('"', ""), "quote a cell that holds a comma"),
        ("A,full", "quote a cell that holds a comma"),
        ('A,"full', "is no CSV"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, line, message):
    with pytest.raises(UsageError) as error:
        published.read(table(tmp_path, HEAD, line))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace(",url", ""), "lacks the column 'url'"),
        (HEAD + ",rank", "unknown column 'rank'"),
        (HEAD + ",url", "a column twice"),
        ("", "lacks the column 'source'"),
    ],
)
def test_a_bad_head_is_refused(tmp_path, head, message):
    with pytest.raises(UsageError, match=message):
        published.read(table(tmp_path, head, GOOD))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        published.read(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="cannot read"):
        published.read(tmp_path)
    with pytest.raises(UsageError, match="not UTF-8"):
        published.read(table(tmp_path, HEAD, GOOD.replace("A 2020", "Müller"), encoding="latin-1"))
