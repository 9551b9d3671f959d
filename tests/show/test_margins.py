"""Verdicts of a stated margin, and what would settle a pair that is open."""

import csv
import io

import pytest
from fake_runs import SUBJECTS, classify_run, report_run

from cxr_ft.errors import UsageError
from cxr_ft.show import number_format, phrasing
from cxr_ft.show.compare import compare
from cxr_ft.show.recorded_runs import load
from cxr_ft.show.tables import pair_table
from cxr_ft.show.verdicts import MarginOutcome


def compared(*folders, margin=None):
    good, _ = load(folders)
    return compare(good, {} if margin is None else {"": margin})


def test_a_margin_is_tested_only_where_it_was_stated(tmp_path):
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, 1.5) for m in ("lora", "full") for s in (0, 1, 2)]
    runs += [classify_run(tmp_path / f"z{s}", "last_layers", s, 0.2) for s in (0, 1, 2)]
    (none,), (narrow,), (wide,), (tiny,) = (compared(*runs, margin=margin) for margin in (None, 0.01, 0.2, 0.001))
    assert all(row.against_reference is None for row in none.rows) and pair_table.margin_table(none) is None
    assert "worse than full" not in phrasing.answer(none)
    assert "Not worse than full by more than 0.200 (macro AUROC): lora q,v r8." in phrasing.answer(wide)
    assert "Worse than full by more than 0.010 (macro AUROC): last_layers n=1." in phrasing.answer(narrow)
    (lora,) = [row for row in tiny.rows if row.name == "lora q,v r8"]
    assert lora.against_reference.outcome is MarginOutcome.UNDECIDED
    words = "Undecided whether worse than full by more than 0.001 (macro AUROC): lora q,v r8."
    assert words in phrasing.answer(tiny)
    shown = {row.cells[0].text: row.cells[1].text for row in pair_table.margin_table(wide).rows}
    assert shown["lora q,v r8"] == "not worse than full by more than 0.200"


def test_a_single_seed_gets_no_verdict_of_the_margin(tmp_path):
    (comparison,) = compared(classify_run(tmp_path / "a", "lora"), classify_run(tmp_path / "b", "full"), margin=0.2)
    (lora,) = [row for row in comparison.rows if row.against_reference]
    assert lora.against_reference.outcome is MarginOutcome.NOT_TESTED
    assert "of these two trainings, not of the methods" in lora.against_reference.reason
    assert "by more than" not in phrasing.answer(comparison)


def test_a_margin_of_auroc_is_none_of_bleu(tmp_path):
    runs = [classify_run(tmp_path / "a"), report_run(tmp_path / "b")]
    good, _ = load(runs)
    with pytest.raises(UsageError, match="--margin auroc=M --margin bleu_4=M"):
        compare(good, {"": 0.01})
    stated = {comparison.output: comparison.margin for comparison in compare(good, {"auroc": 0.01})}
    assert stated == {"scores": 0.01, "text": None}
    with pytest.raises(UsageError, match="rouge"):
        compare(good, {"rouge": 0.01})


def test_an_open_pair_says_what_it_could_detect_and_what_would_settle_a_stated_margin(tmp_path):
    one = [classify_run(tmp_path / f"one{m}", m, 0, q) for m, q in (("lora", 1.5), ("full", 1.499))]
    (without,) = compared(*one)
    (open_pair,) = without.pairs
    assert not open_pair.significant and open_pair.needed is None
    assert 0 < open_pair.detectable < 0.2
    assert pair_table.pair_table(without).head[-1] == "Detectable difference"
    (stated,) = compared(*one, margin=0.01)[0].pairs
    subjects, seeds = phrasing.needed(stated)
    assert stated.needed.subjects > SUBJECTS and subjects.startswith(f"{stated.needed.subjects:,} (")
    assert seeds.startswith("one seed of a trained method")
    # It is of the margin, not of the difference that was seen.
    assert compared(*one, margin=0.02)[0].pairs[0].needed.subjects < stated.needed.subjects
    runs = [classify_run(tmp_path / f"{m}{s}", m, s, q) for m, q in (("lora", 1.5), ("full", 0.2)) for s in (0, 1, 2)]
    (comparison,) = compared(*runs, margin=0.01)
    (pair,) = comparison.pairs
    assert pair.significant and phrasing.needed(pair) == (number_format.DASH, number_format.DASH)
    (row,) = pair_table.pair_table(comparison).rows
    assert len(row.cells) == len(pair_table.pair_table(comparison).head)
    lines = list(csv.DictReader(io.StringIO(pair_table.pairs_csv([comparison]))))
    assert float(lines[0]["gap"]) == pair.gap
    assert float(lines[0]["p_holm"]) == pair.adjusted_p
