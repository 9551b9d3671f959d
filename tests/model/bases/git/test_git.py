"""GIT against transformers' own processor, forward, generation, and against hand-written losses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.model.heads import classify, report

LABELS = ("Edema", "Fracture", "No Finding")
NAN = float("nan")


@pytest.fixture
def base():
    tiny = git.tiny()
    tiny.lm.eval()
    return tiny


def examples(base, texts=("no finding.", "there is a large left effusion. no edema."), targets=None):
    rng = np.random.default_rng(0)
    side = base.image_size
    targets = targets or [[0.0] * len(LABELS)] * len(texts)
    images = rng.integers(0, 256, (len(texts), side, side), dtype=np.uint8)
    return [Example(i, np.array(t), text) for i, t, text in zip(images, targets, texts, strict=True)]


def test_pixels_are_those_of_the_processor(base):
    """The processor in the saved model makes of a grey square image what the model reads."""
    (example,) = examples(base, texts=("",))
    settings = {"size": {"shortest_edge": base.image_size}, "crop_size": base.image_size}
    upstream = base.processor.image_processor(np.stack([example.image] * 3, axis=-1), return_tensors="pt", **settings)
    ours = base.pixel_values(example.image[None])
    torch.testing.assert_close(ours, upstream["pixel_values"], rtol=0, atol=1e-6)


def test_report_loss_is_hand_written_next_token_cross_entropy(base):
    """One row at a time, unpadded, from transformers' own forward: -log p(token t + 1 | image, tokens to t)."""
    head = report.attach(base, report.Config(prompt="report:"), LABELS, True, True)
    rows = examples(base)
    prompt = base.tokenizer("report:", add_special_tokens=False).input_ids
    total, count = 0.0, 0
    for row in rows:
        target = [*base.tokenizer(row.text, add_special_tokens=False).input_ids, base.tokenizer.sep_token_id]
        ids = torch.tensor([[base.tokenizer.cls_token_id, *prompt, *target]])
        logits = base.lm(input_ids=ids, pixel_values=base.pixel_values(row.image[None])).logits
        text = logits[0, -ids.shape[1] :].log_softmax(-1)
        for position in range(len(prompt) + 1, ids.shape[1]):
            total -= text[position - 1, ids[0, position]].item()
            count += 1
    loss, n = head.loss(base.lm, head.collate(rows))
    assert n == count
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_report_loss_equals_transformers_own(base):
    """transformers >= 5.15 shifts labels once; 4.49 to 5.14.1 shifted them twice (huggingface/transformers#47394)."""
    head = report.attach(base, report.Config(), LABELS, True, True)
    batch = head.collate(examples(base))
    row = 1  # the longer one has no padding
    ids = torch.cat([batch["input_ids"][row], torch.tensor([base.tokenizer.sep_token_id])])[None]
    labels = ids.clone()
    labels[0, 0] = -100
    upstream = base.lm(input_ids=ids, labels=labels, pixel_values=batch["pixel_values"][row : row + 1]).loss
    one = {key: value[row : row + 1] for key, value in batch.items()}
    loss, count = head.loss(base.lm, one)
    torch.testing.assert_close(loss / count, upstream, rtol=1e-5, atol=1e-6)


def test_misaligned_labels_give_another_loss(base):
    """The published study fed the prompt as input and the report as labels at the same positions."""
    head = report.attach(base, report.Config(), LABELS, True, True)
    batch = head.collate(examples(base))
    right, _ = head.loss(base.lm, batch)
    wrong, _ = head.loss(base.lm, {**batch, "labels": torch.where(batch["labels"] >= 0, batch["input_ids"], -100)})
    assert abs((right - wrong).item()) > 1e-3


def test_padding_and_prompt_do_not_count(base):
    head = report.attach(base, report.Config(prompt="a b c"), LABELS, True, True)
    rows = examples(base)
    together = head.collate(rows)
    alone = [head.collate([row]) for row in rows]
    loss, count = head.loss(base.lm, together)
    losses = [head.loss(base.lm, batch) for batch in alone]
    assert count == sum(n for _, n in losses)
    torch.testing.assert_close(loss, torch.stack([value for value, _ in losses]).sum(), rtol=1e-5, atol=1e-5)


def test_no_image_no_answer(base):
    """The logits depend on the image: it is attended to."""
    head = report.attach(base, report.Config(), LABELS, True, True)
    batch = head.collate(examples(base))
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.allclose(base.logits(base.lm, batch), base.logits(base.lm, other))


def test_generation_is_greedy_decoding_without_cache(base):
    pixels = head_pixels = base.pixel_values(np.stack([e.image for e in examples(base)]))
    start = base.tokenizer.cls_token_id
    texts = base.generate(base.lm, {"pixel_values": head_pixels}, [start], max_new_tokens=6)
    for i in range(len(pixels)):
        ids = [start]
        while len(ids) < 7 and (len(ids) == 1 or ids[-1] != base.tokenizer.sep_token_id):
            logits = base.lm(input_ids=torch.tensor([ids]), pixel_values=pixels[i : i + 1]).logits
            ids.append(int(logits[0, -1].argmax()))
        assert texts[i] == base.tokenizer.decode(ids[1:], skip_special_tokens=True)


def test_likelihood_is_the_sum_of_log_probabilities(base):
    """The shared prefill against one plain forward a sentence and image."""
    sentences = [base.tokenizer(s, add_special_tokens=False).input_ids for s in ("edema.", "there is no edema.", "a")]
    pixels = base.pixel_values(np.stack([e.image for e in examples(base)]))
    ours = base.likelihood(base.lm, {"pixel_values": pixels}, sentences)
    for i, image in enumerate(pixels):
        for j, sentence in enumerate(sentences):
            ids = torch.tensor([[base.tokenizer.cls_token_id, *sentence]])
            logits = base.lm(input_ids=ids, pixel_values=image[None]).logits[0, -ids.shape[1] :].log_softmax(-1)
            plain = sum(logits[t, token].item() for t, token in enumerate(sentence))
            assert ours[i, j].item() == pytest.approx(plain, abs=1e-4)


def test_zero_shot_scores_follow_the_sentences(base):
    head = classify.attach(base, classify.Config(), LABELS, True, trains=False)
    assert head.new_modules == ()
    scores = head.predict(base.lm, head.collate(examples(base))).answers
    swapped = classify.Config(present="there is no {label}.", absent="there is {label}.")
    other = classify.attach(base, swapped, LABELS, True, trains=False)
    np.testing.assert_allclose(scores, 1 - other.predict(base.lm, other.collate(examples(base))).answers, atol=1e-6)


def test_pooled_is_the_start_tokens_state_after_the_image(base):
    pixels = base.pixel_values(np.stack([e.image for e in examples(base)]))
    encoder = base.encoder()
    states = encoder(input_ids=torch.full((2, 1), base.tokenizer.cls_token_id), pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(base.pooled(encoder, {"pixel_values": pixels}), states[:, -1])
    assert states.shape[1] == (base.image_size // 16) ** 2 + 2  # patches, class token, start token


@pytest.mark.parametrize("targets", [[[1.0, 0.0, NAN], [NAN, NAN, 1.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
def test_multi_label_loss_masks_unknown_labels(base, targets):
    head = classify.attach(base, classify.Config(), LABELS, True, True)
    batch = head.collate(examples(base, targets=targets))
    logits = head.model.classifier(base.pooled(head.model, batch))
    known = ~np.isnan(np.array(targets))
    expected = F.binary_cross_entropy_with_logits(
        logits[torch.tensor(known)], torch.tensor(np.array(targets)[known]).float(), reduction="sum"
    )
    loss, count = head.loss(head.model, batch)
    assert count == known.sum()
    torch.testing.assert_close(loss, expected)


def test_single_label_loss_is_softmax_cross_entropy(base):
    head = classify.attach(base, classify.Config(), LABELS, False, True)
    batch = head.collate(examples(base, targets=[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    logits = head.model.classifier(base.pooled(head.model, batch))
    loss, count = head.loss(head.model, batch)
    assert count == 2
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([1, 0]), reduction="sum"))
    np.testing.assert_allclose(head.predict(head.model, batch).answers.sum(1), 1)


def test_git_base_shape_is_the_published_one():
    base = git.load("microsoft/git-base", weights=False)
    assert sum(p.numel() for p in base.lm.parameters()) == 176_619_066
    assert len(base.blocks(base.lm)) == 18


def test_blocks_are_in_order(base):
    assert base.blocks(base.lm) == [
        *(f"git.image_encoder.vision_model.encoder.layers.{i}" for i in range(2)),
        *(f"git.encoder.layer.{i}" for i in range(2)),
    ]


def test_the_shipped_vocabulary_spells_any_text(base):
    text = "zq'7; unheard-of (word)"
    ids = base.tokenizer(text, add_special_tokens=False).input_ids
    assert base.tokenizer.unk_token_id not in ids
    assert base.tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_a_folder_without_a_model_is_one_line(tmp_path):
    from cxr_ft.model.assembly import family

    with pytest.raises(UsageError, match=r"config\.json"):
        family(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UsageError, match="no base reads"):
        family(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "git"}')
    with pytest.raises(UsageError, match="no complete GIT folder"):
        git.load(str(tmp_path))


def test_an_unknown_name_lists_what_ships():
    from cxr_ft.model.assembly import family

    with pytest.raises(UsageError, match="git-tiny-random"):
        family("git-tiny-rndom")


def test_a_local_folder_loads(tmp_path, base):
    base.save(tmp_path, base.lm)
    again = git.load(str(tmp_path))
    batch = {"pixel_values": base.pixel_values(np.stack([e.image for e in examples(base)]))}
    again.lm.eval()
    torch.testing.assert_close(again.pooled(again.encoder(), batch), base.pooled(base.encoder(), batch), rtol=0, atol=0)
