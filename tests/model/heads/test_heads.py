"""Heads: what the layer reads, weights, soft and masked labels, both tasks in one run, and how texts are searched."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git
from cxr_ft.model.heads import both, classify, report
from cxr_ft.model.protocols import trainable

LABELS = ("Edema", "Fracture", "No Finding")
NAN = float("nan")


@pytest.fixture
def base():
    tiny = git.tiny()
    tiny.lm.eval()
    return tiny


def examples(base, targets=((1.0, 0.0, NAN), (NAN, 0.3, 1.0)), weights=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(targets), base.image_size, base.image_size), dtype=np.uint8)
    texts = ("no finding.", "there is a large left effusion. no edema.")
    return [
        Example(image, np.array(t), texts[i % 2], None if weights is None else np.array(weights[i]))
        for i, (image, t) in enumerate(zip(images, targets, strict=True))
    ]


@pytest.mark.parametrize("method", ["full", "lora", "last_layers"])
@pytest.mark.parametrize("pool", ["query", "mean", "cls"])
def test_every_pool_trains_exactly_what_is_declared(pool, method):
    resolved = config.resolve({"head": {"name": "classify", "pool": pool}, "tuning": {"name": method}})
    apply = plugins.load(plugins.TUNING, method).apply
    parts = assembly.assemble(git.tiny(), resolved, LABELS, True, apply)
    loss, count = parts.head.loss(parts.model, parts.head.collate(examples(parts.base)))
    (loss / count).backward()
    reached = {name for name, p in parts.model.named_parameters() if p.grad is not None}
    assert reached == set(trainable(parts.model))


def test_pools_are_what_transformers_gives(base):
    """Mean and class token against the towers' own forward; the image tokens read no text."""
    batch = {"pixel_values": base.pixel_values(np.stack([e.image for e in examples(base)]))}
    start = torch.full((2, 1), base.tokenizer.cls_token_id)
    states = base.lm.git(input_ids=start, pixel_values=batch["pixel_values"]).last_hidden_state
    tower = base.lm.git.image_encoder(batch["pixel_values"]).last_hidden_state
    vectors = {}
    for pool, width in base.pools.items():
        tiny = git.tiny()
        vectors[pool] = tiny.pooled(tiny.encoder(pool).eval(), batch, pool)
        assert vectors[pool].shape == (2, width)
    torch.testing.assert_close(vectors["query"], states[:, -1])
    torch.testing.assert_close(vectors["mean"], states[:, :-1].mean(1))
    torch.testing.assert_close(vectors["cls"], tower[:, 0])


def test_a_pool_the_base_does_not_have_is_named(base):
    with pytest.raises(UsageError, match=r"head\.pool.*git.*cls, mean, query"):
        classify.attach(base, classify.Config(pool="maen"), LABELS, True, True)


def test_soft_and_masked_labels_in_the_loss(base):
    """By hand: -y log s - (1 - y) log(1 - s) over what is known; weights on each part; none of it in `predict`."""
    weights = ((2.0, 0.5, 9.0), (9.0, 3.0, 1.0))
    head = classify.attach(base, classify.Config(), LABELS, True, True)
    batch = head.collate(examples(base, weights=weights))
    s = head.model.classifier(base.pooled(head.model, batch)).sigmoid().detach().numpy().astype(float)
    parts = {
        (0, 0): -np.log(s[0, 0]),
        (0, 1): -np.log(1 - s[0, 1]),
        (1, 1): -0.3 * np.log(s[1, 1]) - 0.7 * np.log(1 - s[1, 1]),
        (1, 2): -np.log(s[1, 2]),
    }
    loss, count = head.loss(head.model, batch)
    assert count == len(parts)
    assert loss.item() == pytest.approx(sum(weights[i][j] * part for (i, j), part in parts.items()), rel=1e-5)
    assert head.predict(head.model, batch).loss == pytest.approx(sum(parts.values()), rel=1e-5)


def test_single_label_soft_weighted_and_masked(base):
    targets = ((0.0, 1.0, 0.0), (0.25, 0.0, 0.75), (NAN, NAN, NAN))
    weights = ((0.5, 2.0, 1.0),) * 3
    head = classify.attach(base, classify.Config(), LABELS, False, True)
    batch = head.collate(examples(base, targets, weights))
    logits = head.model.classifier(base.pooled(head.model, batch))
    loss, count = head.loss(head.model, batch)
    assert count == 2
    expected = F.cross_entropy(logits[:2], batch["targets"][:2], weight=torch.tensor(weights[0]), reduction="sum")
    torch.testing.assert_close(loss, expected)
    plain = F.cross_entropy(logits[:2], batch["targets"][:2], reduction="sum").item()
    assert head.predict(head.model, batch).loss == pytest.approx(plain, rel=1e-5)


def test_a_batch_where_all_is_masked_has_no_loss(base):
    for head in (classify, both):
        attached = head.attach(git.tiny(), head.Config(), LABELS, True, True)
        rows = examples(base, ((NAN, NAN, NAN),))
        loss, _ = attached.loss(attached.model, attached.collate(rows))
        assert torch.isfinite(loss)
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in attached.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_both_is_the_two_heads_on_one_reading(base, weight):
    """The loss of `both` against the losses of the two heads, each by its own forward; texts and scores likewise."""
    head = both.attach(base, both.Config(weight=weight), LABELS, True, True)
    rows = examples(base)
    batch = head.collate(rows)
    written = report.attach(base, report.Config(), LABELS, True, True)
    tokens, n = written.loss(base.lm, written.collate(rows))
    alone = classify.attach(git.tiny(), classify.Config(), LABELS, True, True)
    alone.model.eval().classifier.load_state_dict(base.lm.classifier.state_dict())
    labels, known = alone.loss(alone.model, alone.collate(rows))
    loss, count = head.loss(base.lm, batch)
    assert count == n
    torch.testing.assert_close(loss / n, tokens / n + weight * labels / known)
    predicted = head.predict(base.lm, batch)
    assert predicted.answers == written.predict(base.lm, written.collate(rows)).answers
    np.testing.assert_allclose(predicted.scores, alone.predict(alone.model, alone.collate(rows)).answers, atol=1e-6)


def test_both_reads_a_prompt_no_report_in_its_scores(base):
    """The query token comes before prompt and report: neither changes the scores."""
    plain = both.attach(base, both.Config(), LABELS, True, True)
    rows = examples(base)
    scores = plain.predict(base.lm, plain.collate(rows)).scores
    other = [dataclasses.replace(row, text="another text") for row in rows]
    np.testing.assert_allclose(plain.predict(base.lm, plain.collate(other)).scores, scores, atol=1e-6)
    plain.text.prompt += base.tokenizer("report:", add_special_tokens=False).input_ids
    np.testing.assert_allclose(plain.predict(base.lm, plain.collate(rows)).scores, scores, atol=1e-6)


def test_both_by_transformers_own_forward(base):
    """A hook on the decoder sends `both` through transformers' forward: the same loss and scores."""
    head = both.attach(base, both.Config(), LABELS, True, True)
    batch = head.collate(examples(base))
    fast, quick = head.loss(base.lm, batch)[0], head.predict(base.lm, batch).scores
    handle = base.lm.git.encoder.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(head.loss(base.lm, batch)[0], fast, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(head.predict(base.lm, batch).scores, quick, atol=1e-5)
    handle.remove()


@pytest.mark.parametrize("options", [{"beams": 3}, {"beams": 2, "length_penalty": 2.0}])
def test_beams_are_transformers_own(base, options):
    head = report.attach(base, report.Config(max_tokens=8, **options), LABELS, True, True)
    batch = head.collate(examples(base))
    written = head.predict(base.lm, batch).answers
    ids = torch.tensor([head.text.prompt] * 2)
    names = {"beams": "num_beams", "length_penalty": "length_penalty"}
    expected = base.lm.generate(
        pixel_values=batch["pixel_values"],
        input_ids=ids,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=base.tokenizer.sep_token_id,
        pad_token_id=base.tokenizer.pad_token_id,
        **{names[key]: value for key, value in options.items()},
    )
    assert written == base.tokenizer.batch_decode(expected[:, ids.shape[1] :], skip_special_tokens=True)


def test_drawn_texts_are_the_same_each_time_and_leave_training_alone(base):
    head = report.attach(base, report.Config(max_tokens=8, temperature=2.0), LABELS, True, True)
    batch = head.collate(examples(base))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = head.predict(base.lm, batch).answers
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert head.predict(base.lm, batch).answers == first
    greedy = report.attach(base, report.Config(max_tokens=8), LABELS, True, True)
    assert greedy.predict(base.lm, batch).answers != first
    likeliest = report.attach(base, report.Config(max_tokens=8, temperature=2.0, top_k=1), LABELS, True, True)
    assert likeliest.predict(base.lm, batch).answers == greedy.predict(base.lm, batch).answers


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beams": 0}, "beams"),
        ({"temperature": -1.0}, "temperature"),
        ({"beams": 2, "temperature": 1.0}, "temperature"),
        ({"top_k": 5}, "top_k"),
        ({"top_p": 0.5}, "top_p"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"weight": 0.0}, "weight"),
        ({"weights": "blanced"}, "weights"),
        ({"present": "there is a finding."}, "present"),
    ],
)
def test_what_a_head_cannot_do_is_one_line(options, named):
    with pytest.raises(UsageError, match=rf"head\.{named}|in head\.{named}"):
        both.Config(**options)
