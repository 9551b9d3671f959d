"""One patient in several spellings, one image under several names: always in one split, and the audit says so."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.cli.split import main
from cxr_ft.data import manifest, sameness
from cxr_ft.data.audit.leak_audit import audit
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits

#: How one number, and one name, may be written.
NUMBERS = (
    lambda i: f"{i}",
    lambda i: f"{i}.0",
    lambda i: f"{i:05}",
    lambda i: f" {i}",
    lambda i: f"{i}\u00a0",
    lambda i: "".join(chr(0x0660 + int(d)) for d in str(i)),
    lambda i: "".join(chr(0xFF10 + int(d)) for d in str(i)),
)
NAMES = (
    lambda i: f"P\u00e9{i}x",
    lambda i: f"p\u00e9{i}X",
    lambda i: f"Pe\u0301{i}x ",
    lambda i: f"P\u00c9{i}x",
    lambda i: f"\u200bP\u00e9{i}x",
)


def archive(folder, spell, patients=40, **columns):
    """Write three images of each patient with a table of them; return the table's path."""
    rng, choose = np.random.default_rng(0), random.Random(0)
    (folder / "img").mkdir(parents=True)
    rows = []
    for row in range(3 * patients):
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(folder / "img" / f"{row}.png")
        patient = row % patients + 1
        rows.append(
            {
                "path": f"img/{row}.png",
                "subject_id": choose.choice(spell)(patient),
                "label": ("normal", "opaque")[rng.integers(2)],
                "patient": patient,
            }
        )
    table = pd.DataFrame(rows).assign(**columns)
    table.to_csv(folder / "all.csv", index=False)
    return folder / "all.csv", table


def patients_in(out, table):
    """The true patients of each split."""
    of_path = dict(zip(table["path"], table["patient"], strict=True))
    tables = manifest.read(out).tables
    return {name: {of_path[path] for path in tables[name]["path"]} for name in ("train", "val", "test")}


def disjoint(sets):
    names = list(sets)
    return all(sets[a].isdisjoint(sets[b]) for i, a in enumerate(names) for b in names[i + 1 :])


@pytest.mark.parametrize("spell", [NUMBERS, NAMES, NUMBERS[:3]], ids=["numbers", "names", "plain numbers"])
def test_no_spelling_puts_a_patient_into_two_splits(tmp_path, spell):
    source, table = archive(tmp_path / "a", spell)
    made = make_splits(str(source), "folder", SplitRequest(per_label=60), tmp_path / "out")
    sets = patients_in(tmp_path / "out", table)
    assert disjoint(sets) and all(sets.values())
    assert sum(made["subjects"][name] for name in sets) == len(set.union(*sets.values()))
    (note,) = [note for note in made["notes"] if "--ids exact" in note]
    assert 10 < int(re.search(r"(\d+) subjects", note)[1]) <= 40
    assert set(made["leaks"].values()) == {0}


def test_other_ids_between_do_not_hide_them(tmp_path):
    source, table = archive(tmp_path / "a", NUMBERS[:3])
    table.loc[0, "subject_id"] = "unknown"
    table.to_csv(source, index=False)
    make_splits(str(source), "folder", SplitRequest(per_label=60), tmp_path / "out")
    assert disjoint(patients_in(tmp_path / "out", table.assign(patient=table["patient"].mask(table.index == 0, 0))))


@pytest.mark.parametrize("spell", [pytest.param(NUMBERS, marks=pytest.mark.slow), NAMES], ids=["numbers", "names"])
def test_the_audit_finds_them_in_others_splits(tmp_path, spell):
    source, table = archive(tmp_path / "a", spell)
    table["split"] = np.where(table.index < 60, "train", "test")
    table.loc[0, "subject_id"] = "unknown"
    table.to_csv(source, index=False)
    (leak,) = [leak for leak in audit([source]).leaks if leak.kind == "subject"]
    assert leak.count == 40
    exact = [leak for leak in audit([source], exact_ids=True).leaks if leak.kind == "subject"]
    assert not exact or exact[0].count < 40
    assert main(["--audit", str(source)]) == 1


def test_exact_ids_keep_them_apart(tmp_path, capsys):
    source, table = archive(tmp_path / "a", NUMBERS[:3])
    assert (
        main([str(source), "--layout", "folder", "--per-label", "60", "--ids", "exact", "--out", str(tmp_path / "o")])
        == 0
    )
    made = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert made["request"]["ids"] == "exact" and set(made["leaks"].values()) == {0}
    assert sum(made["subjects"][name] for name in ("train", "val", "test")) > 40
    assert not disjoint(patients_in(tmp_path / "o", table))
    assert "--ids" not in capsys.readouterr().out
    assert main([str(source), "--layout", "folder", "--ids", "alike", "--out", str(tmp_path / "p")]) == 2
    assert "--ids value 'alike'" in capsys.readouterr().err


def test_a_spelling_changes_no_split(tmp_path):
    _, plain = archive(tmp_path / "a", NUMBERS[:1])
    source, table = archive(tmp_path / "b", NUMBERS)
    make_splits(str(tmp_path / "a" / "all.csv"), "folder", SplitRequest(per_label=60), tmp_path / "oa")
    make_splits(str(source), "folder", SplitRequest(per_label=60), tmp_path / "ob")
    assert (plain["patient"] == table["patient"]).all()
    left, right = patients_in(tmp_path / "oa", plain), patients_in(tmp_path / "ob", table)
    assert left == right


def test_one_image_under_several_paths_is_in_one_split(tmp_path):
    source, table = archive(tmp_path / "a", NUMBERS[:1], patients=40)
    ways = ("img/{}", "./img/{}", "img//{}", "img/../img/{}", "link/{}")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "img")
    # Without subjects: a file is its own.
    rows = [
        {"path": way.format(f"{i}.png"), "label": ("normal", "opaque")[i % 2], "patient": i}
        for i in range(40)
        for way in ways
    ]
    table = pd.DataFrame(rows)
    table.to_csv(source, index=False)
    made = make_splits(str(source), "folder", SplitRequest(per_label=100), tmp_path / "out")
    assert disjoint(patients_in(tmp_path / "out", table))
    assert set(made["leaks"].values()) == {0} and made["leaks"]["pixels"] == 0
    assert any("rows name a file that another row names too" in note for note in made["notes"])


def test_other_images_whose_names_differ_in_case_are_two(tmp_path):
    source, table = archive(tmp_path / "a", NUMBERS[:1])
    (tmp_path / "a" / "img" / "0.png").rename(tmp_path / "a" / "img" / "img (1).png")
    (tmp_path / "a" / "img" / "1.png").rename(tmp_path / "a" / "img" / "IMG (1).png")
    table.loc[0, "path"], table.loc[1, "path"] = "img/img (1).png", "img/IMG (1).png"
    table.to_csv(source, index=False)
    make_splits(str(source), "folder", SplitRequest(per_label=200), tmp_path / "out")
    tables = manifest.read(tmp_path / "out").tables
    shown = [path for name in ("train", "val", "test") for path in tables[name]["path"]]
    assert {"img/img (1).png", "img/IMG (1).png"} <= set(shown) and len(shown) == len(set(shown))


def test_one_image_under_two_patients_joins_them(tmp_path):
    source, table = archive(tmp_path / "a", NUMBERS[:1])
    folder = tmp_path / "a" / "img"
    for i in range(0, 20, 2):
        (folder / f"{i}.png").write_bytes((folder / f"{i + 1}.png").read_bytes())
    made = make_splits(str(source), "folder", SplitRequest(per_label=200), tmp_path / "out")
    sets = patients_in(tmp_path / "out", table)
    for i in range(0, 20, 2):
        assert any({i + 1, i + 2} <= patients for patients in sets.values())
    assert any("have the same pixels" in note for note in made["notes"])
    table["split"] = np.where(table.index % 2, "train", "test")
    table.to_csv(source, index=False)
    assert {"pixels"} <= {leak.kind for leak in audit([source]).leaks}


@pytest.mark.parametrize("character", ["\t", "\x07", "\x85"])
def test_a_control_character_in_an_id_is_one_line_that_names_the_row(tmp_path, capsys, character):
    source, table = archive(tmp_path / "a", NUMBERS[:1])
    table["subject_id"] = table["subject_id"].astype(object)
    table.loc[6, "subject_id"] = f"4{character}2"
    table.to_csv(source, index=False)
    assert main([str(source), "--layout", "folder", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"row 7: subject_id has the control character {sameness.control_character(character)}" in message
    assert message.count("\n") == 1 and not (tmp_path / "out").exists()
