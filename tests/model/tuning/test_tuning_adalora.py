"""AdaLoRA around the steps of a training."""

import pytest
import torch
from peft import PeftModel
from tuning_parts import LABELS, answers, batch_of, built, logits

from cxr_ft import config
from cxr_ft.data.layouts import folder
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable
from cxr_ft.model.tuning import adalora
from cxr_ft.run.evaluation.verify import verify
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.run.training import checkpoint
from cxr_ft.run.training.train import fit


def adalora_steps(parts, batch, steps, first=1, last=None):
    callback = adalora.callback(parts.model, steps)
    optimizer = torch.optim.SGD(trainable(parts.model).values(), lr=0.5)
    for step in range(first, (last or steps) + 1):
        loss, count = parts.head.loss(parts.model.eval(), batch)
        (loss / count).backward()
        callback.on_before_step()
        optimizer.step()
        callback.on_after_step(step)
        optimizer.zero_grad()


def test_adalora_ends_with_the_configured_rank(tmp_path):
    parts = built("adalora", rank=2, start=5)
    batch = batch_of(parts)
    layers = [module for module in parts.model.modules() if hasattr(module, "kept")]
    assert len(layers) == 8 and all(len(layer.lora_E["default"]) == 5 for layer in layers)
    adalora_steps(parts, batch, 20)
    ranks = [int(layer.kept.sum()) for layer in layers]
    assert sum(ranks) == 2 * len(layers)
    assert len(set(ranks)) > 1, "all layers alike: nothing was allocated by importance"
    for layer in layers:
        assert torch.equal(layer.lora_E["default"] != 0, layer.kept)
    (tmp_path / "run").mkdir()
    saved_model.save(tmp_path / "run", parts, SavedLabels(labels=(), multi_label=True))
    plain = git.tiny().encoder()
    plain.classifier = torch.nn.Linear(32, len(LABELS))
    model = PeftModel.from_pretrained(plain, tmp_path / "run" / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(model), logits(parts, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stop", [5, pytest.param(16, marks=pytest.mark.slow)])
def test_adalora_goes_on_from_a_checkpoint_to_the_bit(stop):
    whole, broken, again = (built("adalora", rank=2, start=5) for _ in range(3))
    batch = batch_of(whole)
    adalora_steps(whole, batch, 20)
    adalora_steps(broken, batch, 20, last=stop)
    with torch.no_grad():
        for name, tensor in checkpoint.changing(again.model).items():
            tensor.copy_(checkpoint.changing(broken.model)[name])
    adalora_steps(again, batch, 20, first=stop + 1)
    for (name, a), (_, b) in zip(trainable(whole.model).items(), trainable(again.model).items(), strict=True):
        assert torch.equal(a, b), name


def test_adaloras_penalty_pulls_towards_orthogonal_vectors():
    def excess(weight):
        parts = built("adalora", rank=2, start=4, orthogonal=weight)
        adalora_steps(parts, batch_of(parts), 10)
        factors = [p.detach() for n, p in parts.model.named_parameters() if "lora_A" in n]
        return sum(float((p @ p.T - torch.eye(len(p))).norm()) for p in factors)

    assert excess(8.0) < 0.9 * excess(0.0)


def test_the_loop_calls_it_around_each_step(tmp_path, monkeypatch):
    """Trained by `fit`, and reloaded to the same scores."""
    called = []
    before, after = adalora.Allocation.on_before_step, adalora.Allocation.on_after_step
    monkeypatch.setattr(adalora.Allocation, "on_before_step", lambda self: (called.append("before"), before(self)))
    monkeypatch.setattr(
        adalora.Allocation, "on_after_step", lambda self, step: (called.append(step), after(self, step))
    )
    make_splits(folder.demo(tmp_path), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    tiny = git.tiny()
    tiny.save(tmp_path / "tiny", tiny.lm)
    raw = {
        "data": {"splits": str(tmp_path / "splits")},
        "model": str(tmp_path / "tiny"),
        "tuning": {"name": "adalora", "rank": 2},
        "train": {"epochs": 3, "batch_size": 4},
    }
    result = fit(config.resolve(raw), tmp_path / "run", verify=False)
    steps = result.history[-1]["step"]
    assert called == [item for step in range(1, steps + 1) for item in ("before", step)]
    assert verify(tmp_path / "run").status == "success"
