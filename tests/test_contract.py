"""Every base x method x head on `tiny()` models: a new plug-in file is tested the moment it exists."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.protocols import trainable
from cxr_ft.model.targets import resolve
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

LABELS = ("Edema", "Fracture", "No Finding")
BASES, HEADS, METHODS = (plugins.choices(p) for p in (plugins.BASES, plugins.HEADS, plugins.TUNING))
ALL = list(itertools.product(BASES, HEADS, METHODS))


TINY = {base: plugins.load(plugins.BASES, base).tiny() for base in BASES}


def fits(base, head, method):
    """A base that writes no text takes no head that writes and no method that answers by sentences; one that reads none
    no method that learns words; one without biases no method that trains them."""
    tuning = plugins.load(plugins.TUNING, method)
    writes = TINY[base].writes_text
    asks = plugins.load(plugins.HEADS, head).OUTPUT == "text" or not tuning.TRAINS
    learns_words = getattr(tuning, "NEEDS_TEXT", False)
    has_biases = any(name.endswith("bias") for name, _ in TINY[base].lm.named_parameters())
    return (
        (writes or not asks)
        and (writes or TINY[base].reads_text or not learns_words)
        and (has_biases or method != "bitfit")
    )


CROSS = [cell for cell in ALL if fits(*cell)]
REFUSED = [cell for cell in ALL if cell not in CROSS]
LAYOUTS = plugins.choices(plugins.LAYOUTS)


def short(head):
    """A head's section of a configuration; one that writes stops after 12 tokens: random weights never end a text."""
    options = {field.name for field in dataclasses.fields(plugins.load(plugins.HEADS, head).Config)}
    return {"name": head, **({"max_tokens": 12} if "max_tokens" in options else {})}


def parts_of(base, head, method, seed=0):
    resolved = config.resolve({"model": base, "head": short(head), "tuning": {"name": method}})
    torch.manual_seed(seed)
    module = plugins.load(plugins.BASES, base)
    tuning = plugins.load(plugins.TUNING, method)
    return assembly.assemble(module.tiny(), resolved, LABELS, True, tuning.apply), resolved


def batch_of(parts, rows=6):
    rng = np.random.default_rng(1)
    side = parts.base.image_size
    texts = ["no edema.", "there is a fracture.", "no acute finding."]
    given = ["shortness of breath", "fell from a ladder", ""] if parts.base.reads_text else [""]
    examples = [
        Example(
            rng.integers(0, 256, (side, side), dtype=np.uint8),
            rng.integers(0, 2, 3).astype(float),
            texts[i % 3],
            given=given[i % len(given)],
        )
        for i in range(rows)
    ]
    return parts.head.collate(examples)


def train(parts, batch, steps, lr=3e-3):
    optimizer = torch.optim.AdamW([p for p in parts.model.parameters() if p.requires_grad], lr=lr)
    losses = []
    parts.model.eval()  # no dropout, so that the loss must fall
    for _ in range(steps):
        loss, count = parts.head.loss(parts.model, batch)
        (loss / count).backward()
        losses.append(float(loss.detach()) / count)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("base", BASES)
def test_bases(base):
    module = plugins.load(plugins.BASES, base)
    tiny = module.tiny()
    assert tiny.family == base
    names = [name for name, _ in tiny.lm.named_modules()]
    for tower, roles in tiny.targets.items():
        for role in roles:
            assert resolve([f"{tower}.{role}"], names, tiny.targets, base)
    blocks = tiny.blocks(tiny.lm)
    assert blocks and len(blocks) == len(set(blocks))
    same, _ = module.tiny(), torch.rand(1)
    assert all(
        torch.equal(a, b) for a, b in zip(tiny.lm.state_dict().values(), same.lm.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("base", BASES)
def test_what_a_card_says_of_each_pool_is_that_pool(base):
    module = plugins.load(plugins.BASES, base)
    assert module.tiny().code.keys() == module.tiny().pools.keys()
    for pool in module.tiny().pools:
        tiny = module.tiny()
        side = tiny.image_size
        image = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
        batch = tiny.inputs([Example(image, np.zeros(1), "", given="" if side else "no edema.")])
        model = tiny.encoder(pool).eval()
        known = {"model": model, "pixels": batch.get("pixel_values")}
        known["start"] = torch.tensor([[getattr(tiny, "start", 0)]])
        if not side:
            known["tokens"] = tiny.tokenizer("no edema.", return_tensors="pt")
            known["mask"] = known["tokens"]["attention_mask"][..., None]
        with torch.no_grad():
            told = eval(tiny.code[pool], known)  # noqa: S307
            torch.testing.assert_close(told, tiny.pooled(model, batch, pool), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    module = plugins.load(plugins.TUNING, method)
    assert dataclasses.is_dataclass(module.Config) and module.Config.__dataclass_params__.frozen
    assert module.__doc__
    for field in dataclasses.fields(module.Config):
        assert field.kw_only and field.metadata.get("help"), f"{method}.{field.name} has no help"
        assert field.name not in {"splits", "model", "task", "config", "set", "method", "seed", "out", "plan"}


@pytest.mark.parametrize(("base", "head", "method"), REFUSED)
def test_what_a_base_cannot_do_is_refused_by_name(base, head, method):
    with pytest.raises(UsageError, match=rf"{base}.*(writes no text|reads none|has none)"):
        parts_of(base, head, method)


def check_answers(parts, batch):
    with torch.no_grad():
        answers, loss, count, scores = parts.head.predict(parts.model.eval(), batch)
        summed, n = parts.head.loss(parts.model, batch)
    assert count == n > 0
    assert loss == pytest.approx(float(summed), rel=1e-6)
    assert len(answers) == 6
    assert (scores is not None) == parts.head.scored
    cut = parts.head.count_cut(["no edema. " * 20, ""])
    assert cut == (1 if parts.head.output == "text" else 0), "count_cut: texts too long to be learnt whole"
    if scores is not None:
        assert scores.shape == (6, len(LABELS)) and (scores >= 0).all() and (scores <= 1).all()
    if parts.head.output == "scores":
        assert answers is scores
    else:
        assert all(isinstance(text, str) for text in answers)


def check_training(parts, batch, method):
    chosen = trainable(parts.model)
    if not saved_model.trains(method):
        assert not chosen, f"{method}: TRAINS is False, and yet {sorted(chosen)[:3]} require gradients"
        return
    assert chosen, f"{method}: apply() left nothing to train; set requires_grad on what it trains, or TRAINS = False"
    before = {name: p.detach().clone() for name, p in parts.model.named_parameters()}
    loss, count = parts.head.loss(parts.model.train(), batch)
    (loss / count).backward()
    assert {name for name, p in parts.model.named_parameters() if p.grad is not None} == set(chosen)
    assert all(torch.isfinite(p.grad).all() for p in chosen.values())
    parts.model.zero_grad()
    losses = train(parts, batch, 8)
    assert losses[-1] < losses[0]
    after = dict(parts.model.named_parameters())
    frozen = [name for name in before if name not in chosen]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in chosen if not torch.equal(before[name], after[name])]
    # A word that no text of the batch holds does not move; whole tensors must.
    assert set(moved) == set(chosen)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of each base's tiny model: a saved run names a model to load anew."""
    folders = {}
    for base, tiny in TINY.items():
        folders[base] = tmp_path_factory.mktemp(base)
        tiny.save(folders[base], tiny.lm)
    return folders


def check_saving(parts, batch, resolved, run):
    from cxr_ft.run.record import results

    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5,) * 3))
    assert not list(run.rglob("*.bin")) and not list(run.rglob("*.pkl"))
    if (adapter := run / "model" / "adapter_config.json").exists():
        # The same on every machine and in every process: no path of this one, names in order.
        raw = json.loads(adapter.read_text())
        assert raw["base_model_name_or_path"] == Path(resolved.model).name and list(raw) == sorted(raw)
        assert raw.get("target_modules") in (None, sorted(raw.get("target_modules") or []))
    again, _, saved = saved_model.load(run)
    assert saved.labels == LABELS
    with torch.no_grad():
        before, loss, _, scores = parts.head.predict(parts.model.eval(), batch)
        after, same, _, scores_again = again.head.predict(again.model, batch)
    assert loss == pytest.approx(same, abs=1e-6)
    if parts.head.scored:
        np.testing.assert_allclose(scores, scores_again, rtol=0, atol=1e-6)
    if parts.head.output == "text":
        assert before == after


@pytest.mark.parametrize(("base", "head", "method"), CROSS)
def test_answers_trains_what_it_declares_and_reloads(base, head, method, tmp_path, pretrained):
    """In the order of a run: it answers before it trains, since some quantised layers repack their weights for it, and
    the saved model is loaded on the base's weights anew."""
    resolved = config.resolve({"model": str(pretrained[base]), "head": short(head), "tuning": {"name": method}})
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    batch = batch_of(parts)
    check_answers(parts, batch)
    check_training(parts, batch, method)
    check_saving(parts, batch, resolved, tmp_path)


#: Values of options of which the type tells no other value than the default.
OTHER = {"alpha": 3.0, "start": 20, "quantise": "int8", "targets": ("v",)}


def other_value(option):
    """Return a value of a method's option that is not its default."""
    if option.name in OTHER:
        return OTHER[option.name]
    default = option.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default // 2 if default > 1 else 2
    assert isinstance(default, float), f"{option.name}: add another value than {default!r} to OTHER in {__file__}"
    return default / 2 if default else 0.1


OPTIONS = [
    (method, option.name, other_value(option))
    for method in METHODS
    for option in dataclasses.fields(plugins.load(plugins.TUNING, method).Config)
]


@pytest.mark.parametrize(("method", "option", "value"), OPTIONS)
def test_every_option_is_planned_and_trained(method, option, value, pretrained):
    """Of a plan nothing but names and shapes exists, which an option may not ask more of."""
    raw = {"model": str(pretrained["git"]), "tuning": {"name": method, option: value}}
    resolved = config.resolve(raw)
    planned = trainable(assembly.build(resolved, LABELS, True, weights=False).model)
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    assert {name: p.shape for name, p in planned.items()} == {
        name: p.shape for name, p in trainable(parts.model).items()
    }
    losses = train(parts, batch_of(parts), 3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("head", "method"), list(itertools.product(HEADS, METHODS)))
def test_plan_counts_what_is_trained(head, method):
    """On the meta device, before anything is loaded, and on the real thing: the same."""
    from cxr_ft.run.training.train import plan

    raw = {"head": {"name": head}, "tuning": {"name": method}}
    resolved = config.resolve(raw)
    counted = plan(resolved, LABELS, True).parameters
    real = assembly.build(resolved, LABELS, True)
    assert counted.trainable == sum(p.numel() for p in trainable(real.model).values())
    assert counted.adapter + counted.head == counted.trainable


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    from cxr_ft.data.records import COLUMNS, root_folder

    module = plugins.load(plugins.LAYOUTS, layout)
    source = module.demo(tmp_path)
    records = module.records(source)
    assert records.card.labels
    assert set(COLUMNS) <= set(records.table.columns)
    assert not records.table[["subject_id", "study_id", "dicom_id", "path"]].isna().any().any()
    assert (records.table.groupby("study_id")["subject_id"].nunique() == 1).all()
    if records.card.unit == "text":
        assert (records.table["path"] == "").all() and (records.table["text"] != "").all()
    else:
        root = root_folder(records.root)
        assert all((root / path).is_file() for path in records.table["path"])
    assert module.records(source).table.equals(records.table)
