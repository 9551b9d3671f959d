"""The one loop that every method shares: epochs, steps, and the choice of the best epoch on val."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxr_ft.config import RunConfig
from cxr_ft.data import batches
from cxr_ft.files import write_text
from cxr_ft.model.find import Parts
from cxr_ft.model.protocols import Batch, trainable
from cxr_ft.progress import bar
from cxr_ft.run import checkpoint, cost, evaluate
from cxr_ft.score.stats import macro_auroc


class TrainingError(Exception):
    """Training cannot go on: one line that says where and why. The run is recorded as failed."""


class Learner(nn.Module):
    """Model and head as one module whose forward is the loss, so that autocast and DDP see the whole step."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.model, self.head = parts.model, parts.head

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Sum of the losses, and how many things count."""
        loss: tuple[torch.Tensor, int] = self.head.loss(self.model, batch)
        return loss


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a training needs; `out` takes checkpoint and history.jsonl, `fingerprint` says whose checkpoint it is."""

    config: RunConfig
    parts: Parts
    data: dict[str, batches.Rows]
    accelerator: Any
    out: Path
    fingerprint: str

    def run(self) -> checkpoint.State:
        """Train to the last epoch, from the last whole one if there is a checkpoint.

        The state returned holds the weights of the epoch that was best on val.
        """
        train, model = self.config.train, self.parts.model
        loader = batches.loader(self.data["train"], self.parts.head.collate, train.batch_size, train.seed)
        steps = len(loader) * train.epochs
        optimizer = torch.optim.AdamW(self._groups(), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, train.warmup))
        learner, prepared, optimizer = self.accelerator.prepare(Learner(self.parts), loader, optimizer)
        trained = {"model": model, "optimizer": optimizer, "schedule": schedule}
        state = checkpoint.restore(self.out, self.fingerprint, **trained) or checkpoint.State()
        with bar(f"training {self.config.tuning.name}", steps) as progress:
            progress.advance(state.step)
            while state.epoch < train.epochs:
                clock = time.perf_counter()
                loader.sampler.epoch = state.epoch  # type: ignore[attr-defined]
                learner.train()
                total, counted = 0.0, 0
                for batch in prepared:
                    loss, n = self._step(learner, batch, optimizer, state)
                    schedule.step()
                    total, counted = total + loss, counted + n
                    progress.advance(note=f"loss {loss / max(n, 1):.3f}")
                state.epoch += 1
                state.cost["train_seconds"] += time.perf_counter() - clock
                self._judge(state, total / max(counted, 1))
                checkpoint.save(self.out, self.fingerprint, state, **trained)
        state.cost["samples_per_second"] = round(
            len(self.data["train"]) * train.epochs / max(state.cost["train_seconds"], 1e-9), 3
        )
        return state

    def _step(self, learner: nn.Module, batch: Batch, optimizer: Any, state: checkpoint.State) -> tuple[float, int]:
        """One step of the optimizer; the first one is measured, and checked to reach exactly what is declared."""
        first, model = state.step == 0, self.parts.model
        with cost.saved_activations(model, count=first) as saved:
            loss, n = learner(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"loss is {value} at step {state.step + 1}, epoch {state.epoch + 1}; try a lower lr")
        self.accelerator.backward(loss / max(n, 1))
        if first:
            check_gradients(model)
        self.accelerator.clip_grad_norm_(learner.parameters(), self.config.train.clip)
        optimizer.step()
        if first:
            state.cost["memory"] = cost.memory(model, optimizer, saved.bytes)
        optimizer.zero_grad()
        state.step += 1
        return value, n

    def _judge(self, state: checkpoint.State, train_loss: float) -> None:
        """Judge the epoch on val, keep its weights if they are the best so far, and append to the history."""
        clock = time.perf_counter()
        rows, size = self.data["val"], self.config.train.batch_size
        val = evaluate.answer(self.parts, rows, size, f"epoch {state.epoch}, val", texts=False)
        if not math.isfinite(val.loss):
            raise TrainingError(f"loss on val is {val.loss} after epoch {state.epoch}; try a lower lr")
        primary = None if self.parts.head.output == "text" else float(macro_auroc(rows.targets, val.scores))
        # Undefined where no label of val has both classes.
        primary = None if primary is None or math.isnan(primary) else primary
        # Texts are chosen by their loss on val: to generate all of val each epoch would cost more than the training.
        score = -val.loss if primary is None else primary
        if not state.best or score > state.best_score:
            state.best_score = score
            state.best = {name: p.detach().cpu().clone() for name, p in trainable(self.parts.model).items()}
        state.cost["eval_seconds"] += time.perf_counter() - clock
        row = {"epoch": state.epoch, "step": state.step, "seconds": round(state.cost["train_seconds"], 3)}
        state.history.append({**row, "train_loss": train_loss, "val_loss": val.loss, "val": primary})
        write_text(self.out / "history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))

    def _groups(self) -> list[dict[str, Any]]:
        """The head's modules at their own rate; weight decay on matrices only, not on biases and norms, as is usual."""
        train, new = self.config.train, self.parts.head.new_modules
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in trainable(self.parts.model).items():
            groups.setdefault((cost.in_head(name, new), p.ndim > 1), []).append(p)
        return [
            {
                "params": parameters,
                "lr": train.head_lr if in_head else self.config.tuning.options.lr,
                "weight_decay": train.weight_decay if matrix else 0.0,
            }
            for (in_head, matrix), parameters in groups.items()
        ]


def check_gradients(model: nn.Module) -> None:
    """Exactly the declared parameters received a gradient.

    Raises:
        TrainingError: naming those that did not, or did though frozen.
    """
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    loud = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    if silent or loud:
        names = ", ".join([*silent, *loud][:5])
        raise TrainingError(f"{len(silent)} declared parameters got no gradient, {len(loud)} frozen ones did: {names}")


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The factor on the learning rate at each step: a linear rise, then half a cosine to zero."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
