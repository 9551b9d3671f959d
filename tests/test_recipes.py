"""Every recipe: its header, its commands, what it would train, and its tiny form; and every notebook."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cxr_ft import plugins
from cxr_ft.cli import ablate as ablate_command
from cxr_ft.cli import compare as compare_command
from cxr_ft.cli import split as split_command
from cxr_ft.data import manifest
from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import texts
from cxr_ft.errors import UsageError
from cxr_ft.run.ablation import grid, recipe
from cxr_ft.run.training import train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEADINGS = ("Command", "Hardware", "Minutes", "Expected", "Tiny")
PARSERS = {
    "cxr-split": split_command.parser,
    "cxr-ablate": ablate_command.parser,
    "cxr-compare": compare_command.parser,
}
names = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def header(path):
    """The lines of each heading in a recipe's comment."""
    found, at = {}, None
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        head = re.match(r"# (\w+): +(.*)", line)
        if head and head[1] in HEADINGS:
            at = head[1]
            found[at] = [head[2]]
        elif at and line.startswith("#  "):
            found[at].append(line[1:].strip())
        else:
            at = None
    return found


def commands(lines):
    """Command lines, those that go on joined."""
    return [shlex.split(line) for line in " \n".join(lines).replace("\\ \n", "").split("\n") if line.strip()]


@names
def test_a_recipe_is_headed_by_what_one_must_know(path):
    found = header(path)
    assert tuple(found) == HEADINGS, f"{path.name} is headed by {list(found)}"
    assert all(" ".join(lines).strip() for lines in found.values())
    assert max(map(len, path.read_text().splitlines())) <= 120


@names
def test_its_commands_are_commands(path):
    parsed = [command for heading in ("Command", "Tiny") for command in commands(header(path)[heading])]
    programs = [command[0] for command in parsed]
    assert programs.count("cxr-ablate") >= 2
    for program, *rest in parsed:
        if program == "python":
            assert (ROOT / rest[0]).is_file()
            continue
        if program in ("make", "cxr-phantom"):
            continue
        args = PARSERS[program]().parse_args(rest)
        if program == "cxr-ablate":
            assert Path(args.grid) == path.relative_to(ROOT)
            assert args.tiny or args.splits
        if program == "cxr-split":
            assert args.layout in plugins.choices(plugins.LAYOUTS)
    assert parsed[-1][:4] == ["cxr-ablate", f"configs/{path.name}", "--tiny", "--out"]


@names
@pytest.mark.parametrize("tiny", [False, True], ids=["real", "tiny"])
def test_every_cell_can_be_put_together_without_weights_or_network(path, tiny):
    raw = recipe.read(path, tiny=tiny, splits=False)
    varied = raw.pop("grid")
    assert varied.pop("tries", 1) >= 1
    cells = grid.cells(raw, varied)
    assert len(cells) >= 1
    for cell in {c.tuning: c for c in cells.values()}.values():
        if cell.tuning.name in ("zero_shot", "qlora") and cell.model.startswith("mistralai"):
            continue  # seconds each at 7 billion parameters; their tiny form is put together
        planned = train.plan(cell, CHEXPERT_14, True)
        assert planned.parameters.trainable > 0 or cell.tuning.name == "zero_shot"


@names
def test_a_tiny_form_is_embedded_and_changes_scale_alone(path):
    raw, tiny = yaml.safe_load(path.read_text()), recipe.read(path, tiny=True, splits=False)
    assert tiny.keys() <= {*raw, "data"} and "tiny" not in tiny
    of = {form: {_name(m) for m in whole["grid"]["method"]} for form, whole in (("real", raw), ("tiny", tiny))}
    assert of["tiny"] == of["real"], "the tiny form compares other methods"
    assert tiny["model"].endswith(("-tiny-random", "-phantom-tiny"))


def _name(method):
    return method if isinstance(method, str) else method["name"]


def test_without_tiny_the_section_is_no_part_of_the_runs(tmp_path):
    raw = recipe.read(ROOT / "configs" / "imdb.yaml")
    assert "tiny" not in raw and raw["model"].startswith("sentence-transformers/")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: x\n", "has no key tiny"),
        ("tiny: {model: x}\n", "tiny.splits: source is missing"),
        ("tiny: {splits: {source: /data, per_label: 3}}\n", "/data is not embedded"),
        ("tiny: {splits: {source: 'texts:reviews', per_lable: 3, per_label: 3}}\n", "did you mean 'per_label'"),
        ("tiny: {splits: {source: 'texts:novels', layout: imdb, per_label: 3}}\n", "unknown kind of texts 'novels'"),
        ("tiny: [1]\n", "tiny must be a mapping"),
    ],
)
def test_what_is_no_tiny_form_is_refused(tmp_path, text, words):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(words)):
        recipe.read(file, tiny=True)


def test_tiny_needs_a_recipe(capsys):
    assert ablate_command.main(["--tiny", "--method", "lora", "--out", "unused"]) == 2
    assert "--tiny needs the file of a recipe" in capsys.readouterr().err


def test_tiny_takes_splits_that_are_given(monkeypatch, capsys):
    def refuse(wanted):
        raise AssertionError("splits were made")

    monkeypatch.setattr(recipe, "ensure_splits", refuse)
    assert (
        ablate_command.main([str(ROOT / "configs" / "imdb.yaml"), "--tiny", "--splits", "nowhere", "--out", "o"]) == 2
    )
    assert "nowhere holds no manifest.json" in capsys.readouterr().err


def test_git_base_has_as_many_parameters_on_each_side():
    raw = recipe.read(ROOT / "configs" / "mimic_git.yaml")
    varied = {key: value for key, value in raw.pop("grid").items() if key != "tries"}
    options = [cell.tuning.options for cell in grid.cells(raw, varied).values() if cell.tuning.name == "lora"]
    assert {(o.targets, o.rank) for o in options} == {
        (("text.q", "text.v"), 24),
        (("vision.q", "vision.v"), 12),
        (("q", "v"), 8),
    }


def test_tiny_splits_are_made_once_and_say_where_they_are_from():
    wanted = recipe.TinySplits(source="texts:reviews,rows=120", layout="imdb", per_label=40)
    folder = recipe.ensure_splits(wanted)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert recipe.ensure_splits(wanted) == folder and (folder / "manifest.json").stat().st_mtime_ns == before
    assert (
        recipe.ensure_splits(recipe.TinySplits(source="texts:reviews,rows=120", layout="imdb", per_label=30)) != folder
    )
    splits = manifest.read(folder)
    assert set(splits.manifest["leaks"].values()) == {0}
    assert splits.card.labels == ("negative", "positive")


# What the texts say


@pytest.mark.parametrize("kind", texts.KINDS)
def test_texts_follow_from_their_seed(kind):
    one = texts.rows(kind, 100, 3)
    assert one == texts.rows(kind, 100, 3) and len(one) == 100
    assert one != texts.rows(kind, 100, 4)
    label = "Category" if kind == "resumes" else "label"
    assert len({row[label] for row in one}) >= 2


def test_a_review_has_the_label_of_most_of_its_opinions():
    for row in texts.rows("reviews", 300, 0):
        good, bad = (sum(row["text"].count(word) for word in words) for words in (texts._GOOD, texts._BAD))
        assert good + bad == 3 and row["label"] == ("positive" if good > bad else "negative")


def test_resumes_stand_there_several_times_and_their_own_split_leaks():
    table = pd.DataFrame(texts.rows("resumes", 600, 0))
    assert table["Resume"].value_counts().unique().tolist() == [texts.COPIES]
    train_texts = set(table.loc[table["split"] == "train", "Resume"])
    assert table.loc[table["split"] == "test", "Resume"].isin(train_texts).mean() > 0.9


def test_a_csv_and_duckdb_say_the_same():
    pytest.importorskip("duckdb")
    from cxr_ft.data.sources import table_reader

    tables = [table_reader.read_table(texts.ensure(f"texts:pairs,rows=60{end}")) for end in ("", ",as=duckdb")]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("spec", "words"),
    [("texts:reviews,rows=2", "rows=2"), ("texts:reviews,as=xls", "as=xls"), ("texts:", "unknown kind"),
     ("texts:reviews,size=3", "size=3"), ("texts:reviews,rows=x", "rows=x")],
)  # fmt: skip
def test_a_wrong_specification_is_refused(spec, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        texts.ensure(spec)


# Runs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One cache folder, so that archives are made once."""
    return tmp_path_factory.mktemp("kept")


@pytest.mark.slow
@names
def test_the_tiny_form_runs_and_beats_chance(path, tmp_path, kept, monkeypatch):
    monkeypatch.setenv("CXR_FT_CACHE", str(kept))
    assert ablate_command.main([str(path), "--tiny", "--out", str(tmp_path / "runs")]) == 0
    runs = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/result.json")]
    raw = recipe.read(path, tiny=True, splits=False)
    varied = raw.pop("grid")
    varied.pop("tries", 1)
    assert len(runs) == len(grid.cells(raw, varied))
    assert {run["status"] for run in runs} == {"success"}
    trained = [run for run in runs if run["config"]["tuning"]["name"] != "zero_shot"]
    assert max(better(run) for run in trained) > 0.03


def better(run):
    """By how much a run is above chance on test: accuracy over the most frequent class of train, or macro AUROC over a
    half. Reports are no better than a constant one after a minute: the share of the loss that later epochs took off."""
    test = run["metrics"]["test"]
    if "bleu_4" in test:
        losses = [epoch["val_loss"] for epoch in run["history"]]
        return 1 - losses[-1] / losses[0]
    if "accuracy" in test:
        return test["accuracy"] - test["baselines"]["majority"]["accuracy"]
    return test["macro"]["auroc"] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, kept, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # In a process of its own: this one refuses the sockets by which a kernel is spoken to.
    code = "from nbclient.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--timeout=1800", "--startup_timeout=300", str(path)],
        env={**os.environ, "CXR_FT_CACHE": str(kept), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("cxr_ft-*/runs"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_holds_no_output(path):
    book = json.loads(path.read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert len(code) <= 10 and sum(len("".join(cell["source"]).splitlines()) for cell in code) <= 80
    headings = re.findall(r"^## (.+)$", "\n".join("".join(c["source"]) for c in book["cells"]), flags=re.MULTILINE)
    assert [h for h in headings if h in ("Data", "Baseline", "Methods", "Comparison")] == [
        "Data", "Baseline", "Methods", "Comparison",
    ]  # fmt: skip
    for cell in code:
        compile("".join(cell["source"]), str(path), "exec")


def test_every_study_has_a_notebook():
    assert len(NOTEBOOKS) == 5
    used = set(re.findall(r"\w+\.yaml", "".join(path.read_text() for path in NOTEBOOKS)))
    assert used <= {path.name for path in RECIPES}
