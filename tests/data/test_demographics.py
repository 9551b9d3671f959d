"""Sex and age as tables write them: read by a table of words, or missing and counted; never guessed."""

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.data import demographics
from cxr_ft.data.demographics import ages, bands, sexes, years


def column(*values):
    return pd.Series(values, dtype="string")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120))
def test_ages_in_every_spelling(age):
    written = column(f"{age}", f"{age:03}Y", f"{age}.0", f" {age}y ", f"{age}.7", f"{age} years", f"{age}\u00a0Yrs.")
    notes = []
    assert set(ages(written, notes)) == {str(age)} and notes == []
    band = bands(written).iloc[0]
    low = int(re.match(r"\d+", band)[0])
    assert low <= age <= low + 9 or (band == "90+" and age >= 90)


def test_ages_that_are_none_are_missing_and_counted():
    written = column("411Y", "", "old", None, "-3", "010M", "003W", "1e2", "unknown", "58 patients")
    notes = []
    assert ages(written, notes).fillna("").tolist() == ["", "", "", "", "", "0", "0", "", "", ""]
    assert bands(written).fillna("").tolist() == ["", "", "", "", "", "0-9", "0-9", "", "", ""]
    (note,) = notes
    assert note.startswith("5 of 10 rows have an age")


def test_open_ends_are_their_least_year():
    assert ages(column("58", "90+", ">89", ">=90", "\u226590", "over 89", "> 89"), []).tolist() == ["58", *["90"] * 6]
    assert years(column("90+")).isna().all()


def test_ranges_stay_ranges_beside_open_ends():
    assert ages(column("50-59", "50 - 59", "90+", ">89", "47"), []).tolist() == ["50-59", "50-59", "90+", "90+", "47"]


@pytest.mark.parametrize("word", ["Mujer", "mujer ", "FEMENINO", "Frau", "weiblich", "femme", "donna", "F", "\u5973"])
def test_women_in_other_languages(word):
    assert sexes(column(word), []).tolist() == ["F"]


@pytest.mark.parametrize("word", ["Hombre", "masculino", "Mann", "uomo", "homme", "M", "male", "\u7537", "\uff2d"])
def test_men_in_other_languages(word):
    assert sexes(column(word), []).tolist() == ["M"]


def test_a_word_that_is_not_known_is_missing_and_counted():
    notes = []
    read = sexes(column("F", "M", "Mxyz", "Frigate", "unknown", None, "", "O"), notes)
    assert read.fillna("").tolist() == ["F", "M", "", "", "", "", "", "O"]
    (note,) = notes
    assert note.startswith("2 of 8 rows have a sex") and "Frigate" not in note


def test_m_is_not_male_beside_the_letter_of_hombre():
    notes = []
    assert sexes(column("H", "M", "mujer"), notes).fillna("").tolist() == ["", "", "F"] and "2 of 3" in notes[0]


def test_no_word_has_two_meanings():
    words = [*demographics.FEMALE, *demographics.MALE, *demographics.OTHER, *demographics.UNKNOWN]
    assert len(words) == len(set(words))
