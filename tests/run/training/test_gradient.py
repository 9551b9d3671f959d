"""The gradient that the optimizer gets is that of the batch's mean loss, written plainly, however the batch is cut.

AdamW hides a wrong factor on the gradient, so the gradients themselves are compared, as they are when it steps.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.model import assembly
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable
from cxr_ft.run.evaluation.inference import run_inference
from cxr_ft.run.features import feature_store
from cxr_ft.run.training import processes
from cxr_ft.run.training.loop import TrainingLoop

N = 7
#: Labels of the rows; NaN is masked. Rows have two, one or none that count.
TARGETS = np.array([[1, np.nan], [0, 1], [np.nan, np.nan], [1, 0], [np.nan, 1], [0, 0], [1, np.nan]], float)
#: Of one to many tokens.
TEXTS = [
    "edema.",
    "no edema.",
    "the heart is enlarged, with a small effusion on the left.",
    "clear.",
    "there is a large effusion on the left and a small one on the right.",
    "no effusion.",
    "heart size is normal.",
]
CASES = [("classify", True), ("classify", False), ("report", True)]


def rows_of(head):
    rng = np.random.default_rng(0)
    ids = {name: [f"{name}{i}" for i in range(N)] for name in ("subject_id", "study_id", "dicom_id")}
    table = pd.DataFrame({**ids, "findings": TEXTS})
    images = rng.integers(0, 255, (N, 32, 32)).astype(np.uint8)
    # Of one label a row: a masked row has no label at all.
    classes = np.where(np.arange(N)[:, None] % 3 == 1, np.nan, np.eye(2)[np.arange(N) % 2])
    return table, images, {True: TARGETS, False: classes}, "findings" if head == "report" else None


def made(head, multi_label, batch_size, micro):
    """Parts without dropout, and rows, with a configuration of one epoch."""
    raw = {
        "head": {"name": head, **({"max_tokens": 32} if head == "report" else {})},
        "tuning": {"name": "full"},
        "train": {"epochs": 1, "batch_size": batch_size, "micro_batch": micro, "clip": 1e9, "store_features": "never"},
    }
    resolved = config.resolve(raw)
    base = git.tiny()
    for module in base.lm.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    base.lm.config.hidden_dropout_prob = 0.0
    torch.manual_seed(0)
    parts = assembly.assemble(
        base, resolved, ("Edema", "Effusion"), multi_label, plugins.load(plugins.TUNING, "full").apply
    )
    table, images, targets, text = rows_of(head)
    return resolved, parts, SplitDataset(table, images, targets[multi_label], text)


def plain_loss(parts, rows, multi_label, chosen):
    """The mean loss over all that counts in the rows `chosen`, one row after the other."""
    losses = []
    for i in chosen:
        batch = parts.head.collate([rows[i]])
        if parts.head.output == "scores":
            logits = parts.model.classifier(parts.base.pooled(parts.model, batch, parts.head.pool))[0]
            goal = torch.from_numpy(rows.targets[i]).float()
            if multi_label:
                known = ~torch.isnan(goal)
                one = F.binary_cross_entropy_with_logits(logits[known], goal[known], reduction="none")
                losses.extend(one)
            elif not torch.isnan(goal).any():
                losses.append(F.cross_entropy(logits[None], goal.argmax()[None]))
        else:
            # All positions, and the tokens that come next as the reference of transformers has them.
            ids = [*parts.head.text.prompt, *parts.base.tokenizer(rows.texts[i], add_special_tokens=False).input_ids]
            ids = torch.tensor([*ids, parts.base.end])
            logits = parts.model(input_ids=ids[None, :-1], pixel_values=batch["pixel_values"]).logits[0]
            logits = logits[-(len(ids) - 1) :]
            start = len(parts.head.text.prompt) - 1
            losses.extend(F.cross_entropy(logits[start:], ids[start + 1 :], reduction="none"))
    return torch.stack(losses).mean(), len(losses)


@pytest.mark.parametrize("micro", [0, 3, 1], ids=["whole", "cut", "single"])
@pytest.mark.parametrize(("head", "multi_label"), CASES, ids=["masked labels", "masked classes", "report"])
def test_the_gradient_is_that_of_the_mean_loss(tmp_path, monkeypatch, head, multi_label, micro):
    resolved, parts, rows = made(head, multi_label, N, micro)
    parts.model.train()
    loss, counted = plain_loss(parts, rows, multi_label, range(N))
    # A mean over rows, over all labels or over parts is then another number.
    assert counted not in (N, 2 * N)
    loss.backward()
    expected = {name: p.grad.clone() for name, p in trainable(parts.model).items() if p.grad is not None}
    parts.model.zero_grad(set_to_none=True)

    predictions = run_inference(parts, rows, micro or N, "", generate=False)
    assert (predictions.loss, predictions.counted) == (pytest.approx(loss.item(), rel=1e-5), counted)

    gradients = {}
    step = torch.optim.AdamW.step

    def capture(self, *arguments, **more):
        gradients.update({name: p.grad.clone() for name, p in trainable(parts.model).items() if p.grad is not None})
        return step(self, *arguments, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", capture)
    state = TrainingLoop(
        config=resolved,
        parts=parts,
        datasets={"train": rows, "val": rows},
        accelerator=processes.start("no"),
        store=feature_store.FeatureStore(parts, enabled=False, verbose=False),
        out=tmp_path,
        fingerprint="",
    ).run()
    assert state.history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert gradients.keys() == expected.keys() and len(gradients) > 10
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-3, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
