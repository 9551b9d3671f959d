"""Gradient checkpointing by configuration: the same numbers with fewer bytes saved, whatever the method; or refused."""

import pytest
import torch
from text_parts import LABELS, base_of
from text_parts import examples as texts
from tuning_parts import batch_of

from cxr_ft import config
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.protocols import trainable


def trained(folder, method, rows, checkpointing):
    """Return gradients by name, and the bytes saved for the backward pass."""
    raw = {"model": str(folder), "tuning": {"name": method}, "train": {"gradient_checkpointing": checkpointing}}
    torch.manual_seed(0)
    parts = assembly.build(config.resolve(raw), LABELS, True)
    parts.model.train()
    batch, saved = rows(parts), {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = parts.head.loss(parts.model, batch)
    loss.backward()
    return {name: p.grad for name, p in trainable(parts.model).items()}, sum(s.nbytes() for s in saved.values())


@pytest.mark.parametrize("method", ["full", "lora", "adapter"])
@pytest.mark.parametrize("kind", ["git", "timm", "bert", "llama"])
def test_the_same_gradients_with_fewer_bytes_saved(kind, method, tmp_path):
    images = {"git": git.tiny, "timm": timm_vision.tiny}
    base = images[kind]() if kind in images else base_of(kind)
    base.save(tmp_path, base.lm)
    rows = batch_of if kind in images else (lambda parts: parts.head.collate(texts()))
    plain, saved = trained(tmp_path, method, rows, False)
    again, less = trained(tmp_path, method, rows, True)
    assert plain.keys() == again.keys() and all(grad is not None for grad in again.values())
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=0, atol=1e-6)
    assert less < saved


def test_a_model_that_cannot_is_refused(tmp_path, monkeypatch):
    base = git.tiny()
    base.save(tmp_path, base.lm)
    monkeypatch.setattr(type(base.lm.git), "supports_gradient_checkpointing", False)
    raw = {"model": str(tmp_path), "tuning": {"name": "full"}, "train": {"gradient_checkpointing": True}}
    with pytest.raises(UsageError, match=r"gradient_checkpointing: .* \(git\) cannot"):
        assembly.build(config.resolve(raw), LABELS, True)
