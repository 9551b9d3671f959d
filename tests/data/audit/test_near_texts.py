"""Texts that are nearly the same: found, grouped, never in two splits."""

import re
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ft.data.audit.leak_audit import audit, compare
from cxr_ft.data.audit.near_texts import NEAR, Alike, group_names, groups, pieces, shared_texts
from cxr_ft.data.card import DatasetCard
from cxr_ft.data.layouts import _texts
from cxr_ft.data.pixels.image_decode import NOT_CHECKED
from cxr_ft.data.sameness import text_key
from cxr_ft.data.splits.compiler import compile_splits
from cxr_ft.data.splits.request import SplitRequest

WORDS = [f"w{i}" for i in range(40)]
CARD = DatasetCard(name="toy", multi_label=False, sensitivity="synthetic")


def plain_pieces(text):
    """The definition in `near_texts`, word by word."""
    parts = set()
    for sentence in re.split(r"(?<=[.!?])\s+", text_key(text)):
        words = re.findall(r"\w+", sentence)
        parts |= set(pairwise(words)) if len(words) > 1 else set(words)
    return parts


def jaccard(a, b):
    a, b = plain_pieces(a), plain_pieces(b)
    return len(a & b) / len(a | b) if a | b else 0.0


sentence = st.lists(st.sampled_from(WORDS), min_size=0, max_size=30).map(" ".join)
EDITS = ("same", "capitals", "spaces", "signs", "word", "end")


def edited(text, edit, at):
    words = text.split()
    if edit == "word" and words:
        words[at % len(words)] = "changed"
    if edit == "end":
        words += ["more"]
    joined = ("  " if edit == "spaces" else " ").join(words)
    return {"capitals": joined.upper(), "signs": f"({joined}!)"}.get(edit, joined)


@st.composite
def corpora(draw):
    """Random texts, with edited copies of some among them."""
    texts = draw(st.lists(sentence, min_size=3, max_size=15))
    copies = draw(st.lists(st.tuples(st.integers(0, 14), st.sampled_from(EDITS), st.integers(0, 29)), max_size=10))
    return texts + [edited(texts[i % len(texts)], edit, at) for i, edit, at in copies]


# The same examples each time: one pair in 6,600 at the very edge may be missed.
@settings(max_examples=50, deadline=None, derandomize=True)
@given(corpora())
def test_groups_are_the_components_of_all_pairs_looked_at_one_by_one(texts):
    label = list(range(len(texts)))
    for a, b in combinations(range(len(texts)), 2):
        if text_key(texts[a]) == text_key(texts[b]) or jaccard(texts[a], texts[b]) >= NEAR:
            label = [label[a] if one == label[b] else one for one in label]
    group = groups(texts)
    for a, b in combinations(range(len(texts)), 2):
        assert (group[a] == group[b]) == (label[a] == label[b])


@settings(max_examples=30, deadline=None)
@given(corpora(), st.randoms())
def test_groups_and_their_names_do_not_depend_on_the_order(texts, random):
    order = list(range(len(texts)))
    random.shuffle(order)
    names = group_names(texts)
    assert group_names([texts[i] for i in order]) == [names[i] for i in order]


@settings(max_examples=30, deadline=None)
@given(st.lists(sentence, max_size=12))
def test_pieces_are_those_of_the_definition(texts):
    hashed = pieces([text_key(text) for text in texts])
    assert hashed.sizes.tolist() == [len(plain_pieces(text)) for text in texts]


@settings(max_examples=10, deadline=None)
@given(corpora(), st.integers(0, 3))
def test_a_planted_copy_never_crosses_our_splits_and_is_found_in_others(texts, seed):
    texts = [text for text in texts if text] + [" ".join(WORDS[i : i + 20]) for i in range(0, 20, 4)]
    table = pd.DataFrame({"text": texts, "label": ["ab"[i % 2] for i in range(len(texts))]})
    records = _texts.assemble(table, "toy", CARD, [])
    if records.table["subject_id"].nunique() < 12:
        return
    out = compile_splits(records, SplitRequest(per_label=100, seed=seed), lambda _: NOT_CHECKED)
    splits = {name: out.tables[name] for name in ("train", "val", "test")}
    assert compare({name: table[["text"]] for name, table in splits.items()}) == (["text"], [])
    for (_, left), (_, right) in combinations(splits.items(), 2):
        assert not {text_key(t) for t in left["text"]} & {text_key(t) for t in right["text"]}
        assert all(jaccard(a, b) < NEAR for a in left["text"] for b in right["text"])
    copy = edited(" ".join(WORDS[:20]), "word", 7)
    planted = {"a": pd.DataFrame({"text": [" ".join(WORDS[:20])]}), "b": pd.DataFrame({"text": ["other", copy]})}
    assert [(leak.kind, leak.count) for leak in compare(planted)[1]] == [("near-identical text", 1)]


def test_the_audit_finds_it_in_files(tmp_path):
    left, right = tmp_path / "train.csv", tmp_path / "test.csv"
    text = " ".join(WORDS[:25])
    pd.DataFrame({"sentence": [text, "x y"], "label": "a"}).to_csv(left, index=False)
    pd.DataFrame({"sentence": [text.replace("w9 ", "v9 "), "X  y", "z"], "label": "a"}).to_csv(right, index=False)
    counts = {leak.kind: leak.count for leak in audit([left, right]).leaks}
    assert counts == {"text": 1, "near-identical text": 1}


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9])
def test_how_many_of_the_pairs_at_a_likeness_are_found(share):
    """The recall stated in `near_texts`, measured on pairs whose Jaccard is just above `share`."""
    rng = np.random.default_rng(0)
    texts, want = [], 300
    for i in range(want):
        words = [f"t{i}x{j}" for j in range(200)]
        changed = next(k for k in range(100, 0, -1) if (199 - 2 * k) / (199 + 2 * k) >= share)
        other = list(words)
        for at in rng.choice(np.arange(1, 199, 2), changed, replace=False):
            other[at] = f"o{i}x{at}"
        assert jaccard(" ".join(words), " ".join(other)) >= share
        texts += [" ".join(words), " ".join(other)]
    group_pairs = groups(texts).reshape(-1, 2)
    assert (group_pairs[:, 0] == group_pairs[:, 1]).sum() >= want - (share < 0.8)
    separate = (group_pairs[:, 0] != group_pairs[:, 1]).sum()
    assert len(np.unique(group_pairs)) == len(np.unique(group_pairs[:, 0])) + separate


def test_subjects_are_joined_by_what_no_third_one_has():
    copied = "A nodule of 7 mm projects over the third rib on the right."
    texts = ["Lungs are clear."] * 4 + [copied, copied + " Lungs are clear.", "Another one altogether.", "Yet another."]
    owners = ["a", "b", "c", "d", "e", "f", "a", "g"]
    names = dict(zip(owners, group_names(texts, owners), strict=True))
    assert names["e"] == names["f"] == "e"
    assert [names[name] for name in "abcdg"] == list("abcdg")


def test_texts_without_words_are_only_alike_where_they_are_the_same():
    group = groups(["!!!", "???", "!!!", "", "..."])
    assert group[0] == group[2] and len(set(group.tolist())) == 4


def test_rows_that_must_stay_together_do():
    group = groups(["one two", "three four", "five six"], together=[(0, 2)])
    assert group[0] == group[2] != group[1]


def test_a_great_many_alike_are_not_all_compared():
    stem, looked, label = " ".join(f"s{i}" for i in range(40)), [], np.arange(3000)

    def wanted(a, b):
        looked.append(len(a))
        return label[a] != label[b]

    for a, b in Alike([f"{stem} number {i}" for i in range(3000)]).pairs(wanted, lambda which: label[which]):
        for one, other in zip(a, b, strict=True):
            label[label == label[other]] = label[one]
    assert len(set(label.tolist())) == 1
    assert sum(looked) < 20 * len(label)  # of 4.5 million pairs


def test_splits_are_compared_pair_by_pair():
    splits = {
        name: (pd.Series(texts), None) for name, texts in {"a": ["x y z"], "b": ["x y z", "q"], "c": ["q"]}.items()
    }
    shared = shared_texts(splits, list(combinations(splits, 2)))
    assert {pair: kinds["text"] for pair, kinds in shared.items()} == {
        ("a", "b"): {"x y z"},
        ("a", "c"): set(),
        ("b", "c"): {"q"},
    }


def test_alike_gives_the_pairs_themselves():
    texts = [text_key(t) for t in (" ".join(WORDS[:30]), " ".join(WORDS[:30]) + " end", "nothing of it")]
    alike = Alike(texts)
    candidates = alike.pairs(lambda a, b: a != b, lambda t: t)
    alike_pairs = {tuple(sorted(p)) for a, b in candidates for p in zip(a, b, strict=True)}
    assert alike_pairs == {(0, 1)}
