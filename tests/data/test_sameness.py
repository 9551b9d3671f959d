"""One rule of sameness: what it makes equal, what it keeps apart, and that it is a rule (idempotent, symmetric)."""

import random
import unicodedata

import numpy as np
import pandas as pd
import pytest

from cxr_ft.data import sameness

SAME_IDS = [
    ("7", "7.0", "00007", "7.", "007.00", " 7", "\u00a07\u2009", "\uff17", "\u0667", "\u09ed", "\u200b7"),
    ("P1", "P1 ", "p1", "\tp1", "\uff301", "p\u200d1", "\ufeffP1"),
    ("STRASSE", "stra\u00dfe", "Stra\u1e9ee"),
    ("\u03a3\u03b1\u03c2", "\u03c3\u03b1\u03c3"),
    ("e\u0301", "\u00c9", "\u00e9"),
    ("\ufb01lm", "FILM"),
    ("0", "000", "0.0", "-0"),
    ("-7", "-07.0"),
]
OTHER_IDS = ["7", "70", "7.5", "-7", "P1", "P 1", "P01", "P1.0", "e", "\u00e9", "1e3", "1000", "0x7", "", "."]


@pytest.mark.parametrize("spellings", SAME_IDS, ids=lambda names: names[0])
def test_spellings_of_one_id_have_one_key(spellings):
    assert {sameness.id_key(value) for value in spellings} == {sameness.id_key(spellings[0])}
    assert set(sameness.id_keys(pd.Series(spellings, dtype="string"))) == {sameness.id_key(spellings[0])}


def test_other_ids_stay_apart():
    assert len({sameness.id_key(value) for value in OTHER_IDS}) == len(OTHER_IDS)


def test_the_short_way_of_plain_ids_gives_what_the_general_one_gives():
    rng = random.Random(0)
    alphabet = "aZ07.- _/\u00a0\u0667\u00df\u200b"
    for _ in range(1000):
        value = "".join(rng.choices(alphabet, k=rng.randint(0, 6)))
        assert sameness.id_keys(pd.Series([value, "q"], dtype="string"))[0] == sameness.id_key(value), repr(value)
        # A character that prints nothing sends a value the general way, and counts for nothing.
        assert sameness.id_key(value) == sameness.id_key(f"{value}\u200b"), repr(value)
        assert sameness.id_key(sameness.id_key(value)) == sameness.id_key(value), repr(value)
        assert sameness.id_key(sameness.tidy_id(value)) == sameness.id_key(value), repr(value)
        assert sameness.text_key(sameness.text_key(value)) == sameness.text_key(value), repr(value)


def test_every_letter_is_one_with_its_capital():
    for code in range(0x250):
        letter = chr(code)
        # Turkish dotless i has the capital of i: Unicode's folding keeps the two small letters apart.
        if unicodedata.category(letter) in {"Ll", "Lu"} and letter != "\u0131":
            assert sameness.id_key(f"x{letter}") == sameness.id_key(f"X{letter.upper()}"), hex(code)
            assert sameness.text_key(f"x{letter}") == sameness.text_key(f"X{letter.upper()}"), hex(code)


def test_one_spelling_does_not_depend_on_the_order_of_rows():
    values = pd.Series(["00007", "7.0", "P1 ", "p1", "Q", "7", None, "q2"], dtype="string")
    spelled, several = sameness.one_spelling(values)
    assert spelled.fillna("-").tolist() == ["7", "7", "P1", "P1", "Q", "7", "-", "q2"]
    assert several == 2
    turned, count = sameness.one_spelling(values[::-1])
    assert turned[::-1].equals(spelled) and count == 2


def test_a_tidy_id_keeps_case_and_zeros():
    for value, tidy in {"P1 ": "P1", "007": "007", "7.0": "7", "\u00a0Ab\u200b": "Ab", "1.2.0": "1.2.0"}.items():
        assert sameness.tidy_id(value) == tidy


def test_control_characters_are_named():
    assert sameness.control_character("P\t1") == "U+0009"
    assert sameness.control_character("P\u00851") == "U+0085"
    assert sameness.control_character("\u00c91 \u200b") == ""


def test_paths_are_the_real_file(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "1.png").write_bytes(b"1")
    (tmp_path / "img" / "IMG.png").write_bytes(b"2")
    (tmp_path / "link").symlink_to(tmp_path / "img")
    (tmp_path / "other.png").symlink_to(tmp_path / "img" / "1.png")
    spellings = ["img/1.png", "./img/1.png", "img//1.png", "img/../img/1.png", "img/./1.png"]
    assert {sameness.path_key(path) for path in spellings} == {"img/1.png"}
    real = {sameness.path_key(path, tmp_path) for path in [*spellings, "link/1.png", "other.png"]}
    assert len(real) == 1
    for path in [*spellings, "img/", ".img/1.png", "./1.png", "img/.."]:
        assert sameness.path_keys(["b.png", path]) == ["b.png", sameness.path_key(path)]
    assert sameness.path_key("img/1.PNG") != sameness.path_key("img/1.png")
    assert sameness.path_key("", tmp_path) == sameness.path_key("") == ""


def test_texts_are_the_same_whatever_their_white_space_and_case():
    texts = ["No  acute\nfinding.", "no acute finding.", "NO\u00a0ACUTE FINDING.", " no acute \uff46inding. "]
    assert {sameness.text_key(text) for text in texts} == {"no acute finding."}
    assert sameness.text_key("no acute findings.") != sameness.text_key("no acute finding.")


def test_labels_keep_their_case():
    assert sameness.label_key(" Normal ") == "Normal" != sameness.label_key("normal")


def test_groups_are_the_connected_rows():
    rng = np.random.default_rng(0)
    for _ in range(20):
        columns = [[str(v) if v else "" for v in rng.integers(0, 30, 40)] for _ in range(3)]
        group = sameness.groups(columns)
        # The plain way: join until nothing changes.
        plain = np.arange(40)
        while True:
            before = plain.copy()
            for i in range(40):
                for j in range(40):
                    if any(column[i] and column[i] == column[j] for column in columns):
                        plain[i] = plain[j] = min(plain[i], plain[j])
            if (plain == before).all():
                break
        assert ((group[:, None] == group) == (plain[:, None] == plain)).all()
