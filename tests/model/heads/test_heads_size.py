"""Larger images: positions interpolated once, the same as transformers' at each forward, and saved so."""

import numpy as np
import pytest
import torch

from cxr_ft import config
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.heads import report
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.run.training.train import plan

LABELS = ("Edema", "Fracture")


def pixels_of(base, rows=2):
    side = base.image_size
    return base.pixel_values(np.random.default_rng(0).integers(0, 256, (rows, side, side), dtype=np.uint8))


@pytest.mark.parametrize("size", [16, 48, 96])
def test_positions_are_what_transformers_interpolates(size):
    reference, ours = git.tiny(), git.tiny()
    reference.lm.eval(), ours.lm.eval()
    ours.resize(size)
    assert ours.image_size == size
    pixels = pixels_of(ours)
    ids = torch.full((2, 1), ours.tokenizer.cls_token_id)
    with torch.no_grad():
        states = reference.lm.git.image_encoder(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(ours.lm.git.image_encoder(pixels).last_hidden_state, states)
        # transformers' own decoder counts image tokens by the configuration: both count right.
        plain = ours.lm.git(input_ids=ids, pixel_values=pixels).last_hidden_state[:, -1]
        torch.testing.assert_close(ours.pooled(ours.lm, {"pixel_values": pixels}), plain)


def test_its_own_size_changes_nothing():
    base, same = git.tiny(), git.tiny()
    base.resize(base.image_size)
    assert all(
        torch.equal(a, b) for a, b in zip(base.lm.state_dict().values(), same.lm.state_dict().values(), strict=True)
    )


def test_generation_at_another_size_is_transformers_own():
    base = git.tiny()
    base.lm.eval()
    base.resize(64)
    pixels, start = pixels_of(base), base.tokenizer.cls_token_id
    expected = base.lm.generate(
        pixel_values=pixels,
        input_ids=torch.full((2, 1), start),
        max_new_tokens=6,
        eos_token_id=base.tokenizer.sep_token_id,
        pad_token_id=base.tokenizer.pad_token_id,
    )
    assert base.generate(base.lm, {"pixel_values": pixels}, [start], 6) == base.tokenizer.batch_decode(
        expected[:, 1:], skip_special_tokens=True
    )


def test_a_vit_at_another_size_and_a_densenet():
    vit = timm_vision.tiny()
    vit.resize(64)
    assert vit.pooled(vit.encoder("cls"), {"pixel_values": pixels_of(vit)}, "cls").shape == (2, 32)
    with pytest.raises(UsageError, match=r"data\.image_size: 50.*16 pixels; give 48"):
        vit.resize(50)
    dense = timm_vision.load("densenet121-random", weights=False)
    dense.resize(320)
    assert dense.image_size == 320
    with pytest.raises(UsageError, match=r"data\.image_size: 8.*32 or more"):
        dense.resize(8)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("base", ["git", "timm_vision"])
def test_a_resized_run_is_saved_and_reloaded(base, method, tmp_path):
    tiny = {"git": git, "timm_vision": timm_vision}[base].tiny()
    tiny.save(tmp_path / "base", tiny.lm)
    resolved = config.resolve({"model": str(tmp_path / "base"), "data": {"image_size": 64}, "tuning": {"name": method}})
    assert plan(resolved, LABELS, True).image_size == 64
    parts = assembly.build(resolved, LABELS, True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    batch = parts.head.collate([Example(image, np.array([1.0, 0.0]), "")])
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5,) * 2))
    again, _, _ = saved_model.load(run)
    assert again.base.image_size == 64
    with torch.no_grad():
        before, after = (p.head.predict(p.model.eval(), batch).answers for p in (parts, again))
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_size_between_patches_is_one_line():
    with pytest.raises(UsageError, match=r"data\.image_size: 40.*16 pixels; give 32"):
        git.tiny().resize(40)
    with pytest.raises(UsageError, match=r"data\.image_size"):
        config.resolve({"data": {"image_size": 0}})


def test_the_report_head_keeps_its_loss_at_another_size():
    """One row by transformers' own loss, at twice the size."""
    base = git.tiny()
    base.lm.eval()
    base.resize(64)
    head = report.attach(base, report.Config(), LABELS, True, True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    batch = head.collate([Example(image, np.zeros(2), "no edema.")])
    ids = torch.cat([batch["input_ids"][0], torch.tensor([base.tokenizer.sep_token_id])])[None]
    labels = ids.clone()
    labels[0, 0] = -100
    expected = base.lm(input_ids=ids, labels=labels, pixel_values=batch["pixel_values"]).loss
    loss, count = head.loss(base.lm, batch)
    torch.testing.assert_close(loss / count, expected, rtol=1e-5, atol=1e-6)


def test_a_git_of_videos_reads_one_image(tmp_path):
    """As git-base-msrvtt-qa: the embeddings of moments go, all else trains and writes by transformers' count."""
    from transformers import GitConfig, GitForCausalLM

    tiny = git.tiny()
    shape = {**tiny.lm.config.to_dict(), "num_image_with_embedding": 6}
    videos = GitForCausalLM(GitConfig(**shape))
    videos.load_state_dict(tiny.lm.state_dict(), strict=False)
    tiny.save(tmp_path / "videos", videos)
    resolved = config.resolve({"model": str(tmp_path / "videos"), "tuning": {"name": "full"}})
    parts = assembly.build(resolved, LABELS, True)
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    rows = [Example(image, np.array([1.0, 0.0]), "no edema.")]
    parts.head.loss(parts.model, parts.head.collate(rows))[0].backward()
    assert all(p.grad is not None for p in parts.model.parameters())
    base = git.load(str(tmp_path / "videos"))
    base.lm.eval(), tiny.lm.eval()
    pixels, start = pixels_of(base), base.tokenizer.cls_token_id
    expected = base.lm.generate(
        pixel_values=pixels,
        input_ids=torch.full((2, 1), start),
        max_new_tokens=6,
        eos_token_id=base.tokenizer.sep_token_id,
        pad_token_id=base.tokenizer.pad_token_id,
    )
    written = base.tokenizer.batch_decode(expected[:, 1:], skip_special_tokens=True)
    assert (
        base.generate(base.lm, {"pixel_values": pixels}, [start], 6)
        == tiny.generate(tiny.lm, {"pixel_values": pixels}, [start], 6)
        == written
    )
    assert base.lm.config.num_image_with_embedding is None
