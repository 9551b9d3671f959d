"""Several images of a study, a context before the report: against transformers, each row alone, and saved."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.bases.git import multi_view
from cxr_ft.model.heads import report
from cxr_ft.model.protocols import trainable
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.run.training.train import plan

LABELS = ("Edema", "Fracture")
METHODS = plugins.choices(plugins.TUNING)
OFTEN = {("classify", "full"), ("classify", "lora"), ("classify", "qlora"), ("classify", "prompt"), ("report", "lora")}
CLOSE = {"rtol": 0, "atol": 1e-5}


def of_two(places=True, seed=0):
    """A restless tiny GIT that reads two images; with `places` their embeddings are no zeros."""
    base = git.tiny()
    base.read_several(2)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in base.lm.named_parameters():
            if places or "img_temporal" not in name:
                p.add_(torch.randn_like(p) * 0.05)
    base.lm.eval()
    return base


def rows(counts=(2, 1, 2, 1), contexts=("", "", "", ""), side=32, seed=1):
    rng = np.random.default_rng(seed)
    texts = ("no edema.", "there is a large left effusion.", "no acute finding.", "there is edema. no fracture.")
    images = [[rng.integers(0, 256, (side, side), dtype=np.uint8) for _ in range(n)] for n in counts]
    return [
        Example(one, np.array([1.0, 0.0]), texts[i % 4], given=contexts[i % len(contexts)], further=tuple(others))
        for i, (one, *others) in enumerate(images)
    ]


def batch_of(base, examples, **options):
    return report.attach(base, report.Config(max_tokens=8, **options), LABELS, True, True).collate(examples)


def upstream_logits(base, example, ids):
    """Return transformers' own logits [T, V] of one row, with its number of images set in the model."""
    images = np.stack([example.image, *example.further])[None]
    lm = copy.deepcopy(base.lm)
    multi_view.count_tokens(lm.git, images.shape[1] * multi_view.tokens_per_image(lm))
    with torch.no_grad():
        out = lm(input_ids=ids[None], pixel_values=base.pixel_values(images)).logits
    return out[0, -len(ids) :]


def test_every_row_is_read_as_transformers_reads_it_alone():
    base = of_two()
    examples = rows()
    batch = batch_of(base, examples)
    assert batch["pixel_values"].shape == (4, 2, 3, 32, 32) and batch["views"].tolist() == [2, 1, 2, 1]
    with torch.no_grad():
        ours, counts = base.logits(base.lm, batch), batch["labels"] >= 0
        at, state = base.logits_and_pooled(base.lm, batch, counts)
    torch.testing.assert_close(at, ours[counts], **CLOSE)
    torch.testing.assert_close(base.logits(base.lm, batch, counts), ours[counts], **CLOSE)
    torch.testing.assert_close(state, base.pooled(base.lm, batch), **CLOSE)
    for i, example in enumerate(examples):
        n = int(batch["attention_mask"][i].sum())
        torch.testing.assert_close(ours[i, :n], upstream_logits(base, example, batch["input_ids"][i, :n]), **CLOSE)


def test_one_image_of_a_new_pair_of_places_is_read_as_before():
    """The embeddings begin at zero: with one image nothing has changed, to the last digits."""
    before, base = git.tiny(), git.tiny()
    base.read_several(2)
    before.lm.eval(), base.lm.eval()
    examples = rows((1, 1, 1))
    with torch.no_grad():
        one = before.logits(before.lm, batch_of(before, examples))
        torch.testing.assert_close(base.logits(base.lm, batch_of(base, examples)), one, **CLOSE)


def test_both_images_count_and_their_order_too():
    base, (example,) = of_two(), rows((2,))
    turned = dataclasses.replace(example, image=example.further[0], further=(example.image,))
    with torch.no_grad():
        both, other, one = (
            base.pooled(base.lm, batch_of(base, [e]))
            for e in (example, turned, dataclasses.replace(example, further=()))
        )
    assert (both - one).abs().max() > 1e-3
    assert (both - other).abs().max() > 1e-4


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_and_likelihoods_are_those_of_each_row_alone(beams, fused):
    base, examples = of_two(), rows(contexts=("cough and fever", "", "r/o edema", "fall"))
    if not fused:  # a hook sends it through transformers' own forward
        base.lm.git.encoder.register_forward_hook(lambda *_: None)
    head = report.attach(base, report.Config(max_tokens=8, beams=beams), LABELS, True, True)
    with torch.no_grad():
        together = head.predict(base.lm, head.collate(examples))
        alone = [head.predict(base.lm, head.collate([example])) for example in examples]
        assert together.answers == [one.answers[0] for one in alone]
        assert len(set(together.answers)) > 1
        assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-5)
        sentences = [base.tokenizer(s, add_special_tokens=False).input_ids for s in ("edema.", "no edema.")]
        scores = base.likelihood(base.lm, head.collate(examples), sentences)
        for i, example in enumerate(examples):
            torch.testing.assert_close(
                scores[i], base.likelihood(base.lm, head.collate([example]), sentences)[0], rtol=0, atol=1e-4
            )


@pytest.mark.parametrize("pool", ["query", "mean", "cls"])
def test_every_pool_reads_what_is_there(pool):
    base, examples = of_two(), rows()
    model = base.encoder(pool)
    assert bool(base.new_modules(model)) == (pool != "cls")
    with torch.no_grad():
        together = base.pooled(model, base.inputs(examples), pool)
        alone = torch.cat([base.pooled(model, base.inputs([one]), pool) for one in examples])
        first = base.pooled(model, base.inputs([dataclasses.replace(one, further=()) for one in examples]), pool)
    torch.testing.assert_close(together, alone, **CLOSE)
    assert ((together - first).abs().amax(1) > 1e-4).tolist() == [True, False, True, False]


@pytest.mark.parametrize("stored", ["tower_states", "image_states", "image_tokens"])
def test_stored_outputs_replace_pixels(stored):
    from cxr_ft.model.bases.git import vision

    base = of_two()
    batch = batch_of(base, rows())
    with torch.no_grad():
        plain = base.logits(base.lm, batch)
        states = vision.image_states(base.lm.git, batch["pixel_values"])
        output = {
            "tower_states": vision.tower_states(base.lm.git, batch["pixel_values"]),
            "image_states": states,
            "image_tokens": vision.image_tokens(base.lm.git, states),
        }[stored]
        replaced = {name: value for name, value in batch.items() if name != "pixel_values"} | {stored: output}
        torch.testing.assert_close(base.logits(base.lm, replaced), plain, **CLOSE)


@pytest.mark.parametrize(("method", "key"), [("lora", "tower_states"), ("zero_shot", "image_tokens"), ("full", None)])
def test_what_can_be_stored_while_the_places_are_trained(method, key):
    options = {"targets": ["text.q"]} if method == "lora" else {}
    resolved = config.resolve({"data": {"views": 2}, "tuning": {"name": method, **options}, "head": {"name": "report"}})
    parts = assembly.assemble(git.tiny(), resolved, LABELS, True, plugins.load(plugins.TUNING, method).apply)
    prefix = parts.base.prefix(parts.model)
    assert (prefix and prefix.key) == key
    if prefix is not None:
        batch = parts.head.collate(rows())
        with torch.no_grad():
            plain = parts.head.loss(parts.model.eval(), batch)[0]
            replaced = {name: value for name, value in batch.items() if name != "pixel_values"}
            again = parts.head.loss(parts.model, {**replaced, key: prefix.compute(batch["pixel_values"])})[0]
        torch.testing.assert_close(again, plain, **CLOSE)


def test_a_git_of_videos_keeps_the_places_it_was_pretrained_with(tmp_path):
    from transformers import GitConfig, GitForCausalLM

    tiny = git.tiny()
    videos = GitForCausalLM(GitConfig(**{**tiny.lm.config.to_dict(), "num_image_with_embedding": 3})).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in videos.git.img_temporal_embedding:
            p.copy_(torch.randn_like(p))
    tiny.save(tmp_path, videos)
    base = git.load(str(tmp_path))
    base.read_several(3)
    base.lm.eval()
    (example,) = rows((3,))
    ids = torch.tensor([base.tokenizer.cls_token_id, 7, 8])
    batch = {**base.inputs([example]), "input_ids": ids[None], "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    images = base.pixel_values(np.stack([example.image, *example.further])[None])
    with torch.no_grad():
        whole = videos(input_ids=ids[None], pixel_values=images).logits[:, -3:]
        torch.testing.assert_close(base.logits(base.lm, batch), whole, **CLOSE)
    again = git.load(str(tmp_path))
    again.read_several(5)
    table = again.lm.git.img_temporal_embedding.table.weight
    assert torch.equal(table[:3], base.lm.git.img_temporal_embedding.table.weight) and not table[3:].any()


@pytest.mark.parametrize(
    ("task", "method"),
    # What differs in kind in every commit: all weights, an adapter, four bits, learnt prompts; the rest are slow.
    [
        pytest.param(task, method, marks=[] if (task, method) in OFTEN else [pytest.mark.slow])
        for task in ("classify", "report")
        for method in METHODS
    ],
)
def test_every_method_trains_saves_and_reloads_the_places(task, method, tmp_path):
    tiny = git.tiny()
    tiny.save(tmp_path / "base", tiny.lm)
    resolved = config.resolve(
        {
            "model": str(tmp_path / "base"),
            "data": {"views": 2},
            "head": {"name": task, **({"max_tokens": 8} if task == "report" else {})},
            "tuning": {"name": method},
        }
    )
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    batch = parts.head.collate(rows())
    chosen = trainable(parts.model)
    table = [name for name in chosen if "img_temporal_embedding" in name]
    assert len(table) == (1 if saved_model.trains(method) else 0)
    counted = plan(resolved, LABELS, True).parameters
    assert counted.trainable == sum(p.numel() for p in chosen.values())
    if table:
        optimizer = torch.optim.AdamW(chosen.values(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            loss, count = parts.head.loss(parts.model.eval(), batch)
            (loss / count).backward()
            assert {name for name, p in parts.model.named_parameters() if p.grad is not None} == set(chosen)
            optimizer.step()
        assert chosen[table[0]].abs().min() > 0
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5,) * 2))
    again, _, _ = saved_model.load(run)
    with torch.no_grad():
        before, after = (p.head.predict(p.model.eval(), batch) for p in (parts, again))
    assert before.loss == pytest.approx(after.loss, abs=1e-5)
    if task == "report":
        assert before.answers == after.answers


def test_a_whole_model_of_two_images_is_one_of_transformers(tmp_path):
    """Saved by its own names: transformers alone reads it, to the same logits."""
    from transformers import GitForCausalLM

    base, (example,) = of_two(), rows((2,))
    base.save(tmp_path, base.lm)
    alone = GitForCausalLM.from_pretrained(tmp_path).eval()
    batch = batch_of(base, [example])
    inputs = {name: batch[name] for name in ("input_ids", "pixel_values")}
    with torch.no_grad():
        logits = alone(**inputs).logits[:, -batch["input_ids"].shape[1] :]
        torch.testing.assert_close(base.logits(base.lm, batch), logits, **CLOSE)


def test_who_reads_one_image_says_so():
    with pytest.raises(UsageError, match=r"data\.views: .*timm_vision.* one image"):
        assembly.assemble(
            timm_vision.tiny(),
            config.resolve({"data": {"views": 2}}),
            LABELS,
            True,
            plugins.load(plugins.TUNING, "full").apply,
        )
    with pytest.raises(UsageError, match=r"data\.views: 0"):
        config.resolve({"data": {"views": 0}})


def test_context_is_read_and_not_learnt():
    """By hand, a row alone: -log p of the report's tokens and its end, behind prompt and context."""
    base = git.tiny()
    base.lm.eval()
    head = report.attach(base, report.Config(prompt="report:", max_context=3), LABELS, True, True)
    examples = rows((1, 1), contexts=("cough, fever, fall and more", ""))
    total, count = 0.0, 0
    for example in examples:
        prompt, context, text = (
            base.tokenizer(words, add_special_tokens=False).input_ids
            for words in ("report:", example.given, example.text)
        )
        prefix_ids = [base.tokenizer.cls_token_id, *prompt, *context[:3]]
        ids = torch.tensor([[*prefix_ids, *text, base.tokenizer.sep_token_id]])
        logits = base.lm(input_ids=ids, pixel_values=base.pixel_values(example.image[None])).logits[0, -ids.shape[1] :]
        total += F.cross_entropy(logits[len(prefix_ids) - 1 : -1], ids[0, len(prefix_ids) :], reduction="sum").item()
        count += len(text) + 1
    batch = head.collate(examples)
    loss, n = head.loss(base.lm, batch)
    assert n == count
    assert loss.item() == pytest.approx(total, rel=1e-5)
    other = head.collate([dataclasses.replace(example, given="no history") for example in examples])
    assert not math.isclose(head.loss(base.lm, other)[0].item(), loss.item(), rel_tol=1e-4)


def test_a_context_fits_the_positions():
    base = git.tiny()
    room = base.longest - 1 - 8
    head = report.attach(base, report.Config(max_tokens=8, max_context=10_000), LABELS, True, True)
    assert head.text.room == room
    (example,) = rows((1,), contexts=("word " * 2000,))
    batch = head.collate([example])
    assert batch["input_ids"].shape[1] <= base.longest
    assert len(head.predict(base.lm.eval(), batch).answers) == 1


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
@pytest.mark.parametrize("beams", [1, 2])
def test_left_padded_prompts_write_what_each_row_alone_does(method, beams):
    """Learnt prompts go by PEFT and transformers' generation; the others by the fused path."""
    resolved = config.resolve({"head": {"name": "report", "max_tokens": 8, "beams": beams}, "tuning": {"name": method}})
    torch.manual_seed(0)
    base = git.tiny()
    with torch.no_grad():
        for p in base.lm.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    parts = assembly.assemble(base, resolved, LABELS, True, plugins.load(plugins.TUNING, method).apply)
    parts.model.eval()
    examples = rows((1, 1, 1, 1), contexts=("cough and fever and a fall", "", "r/o edema", "fall"))
    with torch.no_grad():
        together = parts.head.predict(parts.model, parts.head.collate(examples)).answers
        alone = [parts.head.predict(parts.model, parts.head.collate([one])).answers[0] for one in examples]
    assert together == alone and len(set(alone)) > 1


def test_a_task_without_text_takes_no_context():
    apply = plugins.load(plugins.TUNING, "full").apply
    with pytest.raises(UsageError, match=r"data\.context: classify"):
        assembly.assemble(git.tiny(), config.resolve({"data": {"context": "indication"}}), LABELS, True, apply)
