"""What a reader asks first: learning rates and how they were found, what differs, data, base, dates, version."""

import re
from html.parser import HTMLParser

import pytest
from fake_runs import HOSTILE, classify_run, failed_run

import cxr_ft
from cxr_ft.run.record import results
from cxr_ft.run.record.result_parts import BaseRecord, RateSearch
from cxr_ft.show import origin, page
from cxr_ft.show.charts import all_charts
from cxr_ft.show.compare import compare
from cxr_ft.show.page import Options, write_page
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import difference_table, rate_table

RATES = (1e-4, 1e-3, 1e-2)
#: The largest rate is best, and one try failed.
EDGE = RateSearch(tries=3, rates=RATES, val=(None, 0.7, 0.8), metric="auroc", seconds=(None, 30.0, 40.0), chosen=1e-2)
MIDDLE = RateSearch(tries=3, rates=RATES, val=(0.5, 0.8, 0.7), metric="auroc", seconds=(9.0, 9.0, 9.0), chosen=1e-3)


def run(folder, method="lora", seed=0, search=None, began=None, digest=None, model=None, **changes):
    """A run with a record of its search, its date and the weights of its base."""
    rate = {} if search is None else {"lr": search.chosen}
    classify_run(folder, method, seed, tuning={**rate, **changes.pop("tuning", {})}, **changes)
    (folder / "predictions.parquet").unlink()  # no pair is tested here
    record = results.read(folder)
    base = BaseRecord(digest=digest, revision="0123456789" if digest else None)
    config = {**record.config, "model": model or record.config["model"]}
    results.write(folder, record.replace(config=config, search=search or RateSearch(), began=began, base=base))
    return folder


def compared(*folders):
    (comparison,) = compare(load(folders)[0])
    return comparison


def texts(table):
    """The cells of a table as text, by the first one of each row."""
    return {row.cells[0].text: [" | ".join([cell.text, *cell.notes]) for cell in row.cells[1:]] for row in table.rows}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Full and LoRA with searches of their own, a set of targets that inherits, one as configured, one untrained."""
    root = tmp_path_factory.mktemp("mixed")
    of = {"on": "x-s0", "variant": "lora q,v r8", "seed": 0}
    inherited = RateSearch(**{**EDGE.to_json(), **of, "rates": RATES, "val": EDGE.val, "inherited": True})
    days = [f"2026-11-{day}T23:59:59+00:00" for day in (27, 29)]
    return [
        run(root / "f", "full", 0, RateSearch(**{**vars(MIDDLE), "seed": 4}), days[0], digest="ab" * 32),
        run(root / "l0", "lora", 0, RateSearch(**{**vars(EDGE), **of}), days[1], digest="ab" * 32),
        run(root / "l1", "lora", 1, RateSearch(**{**vars(EDGE), **of}), days[0], digest="ab" * 32),
        run(root / "k", "lora", 0, inherited, days[0], digest="ab" * 32, tuning={"targets": ["k"]}),
        run(root / "h", "last_layers", 0, None, days[0], digest="ab" * 32, tuning={"lr": 0.003}, batch_size=32),
        run(root / "z", "zero_shot", 0, None, days[0], digest="ab" * 32),
    ]


def test_each_rate_is_shown_with_how_it_was_found(mixed):
    table = texts(rate_table.rates(compared(*mixed)))
    assert table == {
        "zero_shot": ["–", "trains nothing", "–", "–"],
        "lora q,v r8": [
            "0.01 | the largest that finished: a better one may lie beyond",
            "searched: best of 2 finished tries of 3 on val, with seed 0",
            "0.0001: failed, 0.001: 0.700, 0.01: 0.800 (chosen) | macro AUROC",
            "3 runs, 70 s",
        ],
        "lora k r8": [
            "0.01 | the largest that finished: a better one may lie beyond",
            "inherited from lora q,v r8: best of 2 finished tries of 3 on val for that variant",
            "0.0001: failed, 0.001: 0.700, 0.01: 0.800 (chosen) | macro AUROC",
            "as of that variant",
        ],
        "last_layers n=1": ["0.003", "as configured; no search was recorded", "–", "–"],
        "full": [
            "0.001",
            "searched: best of 3 on val, with seed 4",
            "0.0001: 0.500, 0.001: 0.800 (chosen), 0.01: 0.700 | macro AUROC",
            "3 runs, 27 s",
        ],
    }


def test_the_facts_are_those_of_the_records(mixed):
    facts = dict(origin.facts(compared(*mixed)))
    assert facts["Base"] == "git-tiny (weights abababab, revision 01234567)"
    assert facts["Trained"] == "2026-11-27 to 2026-11-29 (UTC)"
    assert facts["Trained with"] == "cxr_ft 0.1.0, commit abc1234"
    assert facts["Data set"].startswith("phantom; test split ")
    assert facts["Learning rates"] == (
        "searched on val, for lora q,v r8 and full; inherited from another variant, for lora k r8; as configured, "
        "without a search, for last_layers n=1; not settled for lora k r8 and lora q,v r8: the best was the "
        "smallest or largest tried"
    )


def test_what_differs_is_listed_once_and_says_what_follows(mixed):
    table = texts(difference_table.differences(compared(*mixed)))
    assert table["target modules"] == ["k: lora k r8 | q,v: lora q,v r8", difference_table.INTENDED]
    assert table["learning rate"][1] == difference_table.TUNED
    assert table["batch size"][0].startswith("32: last_layers n=1 | 16: ")
    assert table["batch size"][1] == "may explain a difference: quality and time are not comparable"
    assert table["learning rates tried"][1] == "may explain a difference: quality is not comparable"
    assert table["learning rate searched"][0].startswith("for lora q,v r8: lora k r8 | for itself: ")
    assert table["finished tries of learning rates"] == [
        "3: full | 2: lora k r8 and lora q,v r8",
        difference_table.LISTED,
    ]
    assert table["seeds"][0].startswith("0, 1: lora q,v r8 | 0: ")
    assert "epochs" not in table and "device" not in table and "rank" not in table


def test_many_variants_of_one_value_are_counted(tmp_path):
    ranks = [run(tmp_path / str(rank), tuning={"rank": rank, "alpha": 4.0}) for rank in range(2, 8)]
    table = texts(difference_table.differences(compared(*ranks, run(tmp_path / "f", "full", batch_size=4))))
    assert table["batch size"][0] == "4: full | 16: lora q,v r2, lora q,v r3, lora q,v r4 and 3 others"
    assert table["options that other methods lack"][0].endswith("lora q,v r2, lora q,v r3, lora q,v r4 and 3 others")
    assert "alpha 4" in table["options that other methods lack"][0]


def test_where_nothing_differs_there_is_no_table_and_without_a_search_no_column_of_it(tmp_path):
    searched = RateSearch(**{**vars(MIDDLE), "rates": (), "val": ()})
    comparison = compared(run(tmp_path / "a", search=searched))
    assert difference_table.differences(comparison) is None
    assert rate_table.rates(comparison).head == ["Variant", "Learning rate", "How it was found"]
    assert dict(origin.facts(comparison))["Learning rates"] == "as configured, without a search, for every variant"


def test_a_run_made_by_hand_beside_a_searched_one_is_told_apart(tmp_path):
    one = run(tmp_path / "a", "full", 0, MIDDLE)
    hand = run(tmp_path / "b", "full", 7, None, tuning={"lr": 1e-3})
    (row,) = texts(rate_table.rates(compared(one, hand))).values()
    assert row[1] == "searched: best of 3 on val (seed 0) | as configured; no search was recorded (seed 7)"


def test_old_records_say_what_they_do_not_hold(tmp_path):
    facts = dict(origin.facts(compared(run(tmp_path / "a"))))
    assert facts["Base"] == "git-tiny (weights not recorded)" and facts["Trained"] == "date not recorded"
    (row,) = texts(rate_table.rates(compared(tmp_path / "a"))).values()
    assert row[0] == "not recorded"


class Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_data(self, data):
        self.text += data


def test_the_page_says_it_all_and_names_no_user(tmp_path, monkeypatch):
    """A home folder, a base in it and a hostile name: none of them is on the page as it is."""
    monkeypatch.setattr(page, "_pdf", lambda *_: [])
    monkeypatch.setattr(page, "all_charts", lambda: {"per_label": all_charts()["per_label"]})
    home = tmp_path / "home" / "Valdivieso_Ottilie"
    monkeypatch.setenv("HOME", str(home))
    runs = home / "my runs"
    bases = [str(home / "bases" / f"base{i}") for i in (1, 2)]
    run(runs / "a", "full", 0, MIDDLE, "2026-11-28T10:00:00+00:00", digest="ab" * 32, model=bases[0])
    lost = RateSearch(**{**vars(EDGE), "variant": HOSTILE, "inherited": True})
    run(runs / "b", "lora", 0, lost, "2026-11-29T10:00:00+00:00", digest="cd" * 32, model=bases[1])
    failed_run(runs / "c")
    for i, status in enumerate(("trained", "failed", "success")):
        folder = run(runs / "tries" / str(i), "lora", 0, None, tuning={"lr": 0.1 + i})
        results.write(folder, results.read(folder).replace(status=status, search=RateSearch(try_for="b")))
    write_page(
        [*sorted(runs.glob("?")), *sorted(runs.glob("tries/*"))], tmp_path / "out", Options(arguments=[str(runs)])
    )
    html = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    text = Text(html).text
    assert "Valdivieso" not in html and str(tmp_path) not in html
    assert "cxr-compare ~/'my runs' --out DIR" in text and "cxr-train --config ~/'my runs/a/result.json'" in text
    assert "base1 (weights abababab" in text and "base2 (weights cdcdcdcd" in text
    assert f"Made by cxr_ft {cxr_ft.__version__}" in text and "2026-11-28 to 2026-11-29 (UTC)" in text
    assert f"inherited from {HOSTILE}" in text and html.count("<script") == 1
    assert "3 tries of learning rates" in text and "lora q,v r8 (" not in text
    places = [
        text.index(part) for part in ("Data set:", "Quality and cost", "How it was found", "What differs", "Charts")
    ]
    assert places == sorted(places)
    # Cells that can be long are wrapped and not cut.
    assert len(re.findall(r'<div class="small wrap">', html)) == 2
