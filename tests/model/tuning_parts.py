"""Tiny models with a method on them, and what they answer."""

import numpy as np
import torch

from cxr_ft import config, plugins
from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly, methods
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable

LABELS = ("Edema", "Fracture")
ROWS = 4


def built(method, base=None, head="classify", **options):
    resolved = config.resolve({"head": {"name": head}, "tuning": {"name": method, **options}})
    torch.manual_seed(0)
    apply = plugins.load(plugins.TUNING, method).apply
    return assembly.assemble(base or git.tiny(), resolved, LABELS, True, apply)


def wide():
    """A tiny GIT of width 64, all of whose layers can be quantised."""
    from transformers import GitConfig

    tiny = git.tiny()
    shape = tiny.lm.config.to_dict()
    vision = {**shape["vision_config"], "hidden_size": 64, "intermediate_size": 128}
    small = GitConfig(**{**shape, "hidden_size": 64, "intermediate_size": 128, "vision_config": vision})
    torch.manual_seed(0)
    return git.Git(git.tiny().lm.__class__(small), tiny.processor, "git-wide-test")


def merged(parts, answers):
    """The model without any wrapper, and the largest difference in `answers` before and after."""
    method = methods.load(parts.tuning.name)
    if method.merge is None:
        raise UsageError(method.merge_obstacle)
    with torch.no_grad():
        before = answers(parts.model.eval())
        plain = method.merge(parts.model)
        return plain, float((answers(plain) - before).abs().max())


def batch_of(parts):
    rng = np.random.default_rng(1)
    side = parts.base.image_size
    images = rng.integers(0, 256, (ROWS, side, side), dtype=np.uint8)
    return parts.head.collate([Example(i, rng.integers(0, 2, 2).astype(float), "no edema.") for i in images])


def train(parts, batch, steps=3, lr=1e-2):
    optimizer = torch.optim.AdamW(trainable(parts.model).values(), lr=lr)
    losses = []
    for _ in range(steps):
        loss, count = parts.head.loss(parts.model.eval(), batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) / count)
    return losses


def answers(parts, batch):
    """Logits of the head, by which no sigmoid hides a difference."""

    def of(model):
        if parts.head.output == "scores":
            return model.classifier(parts.base.pooled(model, batch, parts.head.pool))
        return parts.base.logits(model, batch)

    return of


def logits(parts, batch):
    with torch.no_grad():
        return answers(parts, batch)(parts.model.eval())
