"""A finished run as a folder that transformers, or PEFT, reads without this package: merged, or beside the base.

merged/     config.json, model.safetensors (the head's layer in it), processor, labels.json, README.md
adapter/    PEFT's files, processor, labels.json, README.md
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, write_json, write_text
from cxr_ft.model import assembly, methods
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import IGNORE, Batch
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import model_card, results, saved_model

Way = Literal["merged", "adapter"]
FOLDER = "export"
#: Rows of val on which merged and unmerged answers are compared.
_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Differences of logits on `rows` rows of val between the run's model and what was exported."""

    largest: float
    mean: float
    rows: int


def check(config: RunConfig, way: Way) -> None:
    """Say before anything is trained that a run of `config` could not be exported so.

    Raises:
        UsageError: naming the method, and what can.
    """
    parts = assembly.build(config, ("label",), True, weights=False)
    if reason := _obstacle(parts, config, way):
        raise UsageError(f"--export {way}: {config.tuning.name}: {reason}")


def export(run: Path, way: Way) -> tuple[Path, Drift | None]:
    """Write `run/export/<way>`, whole or not at all; for a merged model also how far its logits drifted on val.

    Raises:
        UsageError: where the run is not finished, its method cannot be exported so, or its data is gone.
    """
    result = results.read(run)
    if result.status not in ("trained", "success"):
        raise UsageError(f"{run} is {result.status}: only a finished run can be exported; run cxr-train again")
    parts, config, saved = saved_model.load(run)
    if reason := _obstacle(parts, config, way):
        raise UsageError(f"--export {way}: {config.tuning.name}: {reason}")
    make_folder(run / FOLDER)
    with tempfile.TemporaryDirectory(prefix=".export.", dir=run) as name:
        made = Path(name) / way
        drift = None
        if way == "merged":
            drift = _merged(made, parts, config)
        else:  # what was saved is an ordinary adapter already
            shutil.copytree(run / saved_model.FOLDER, made)
        write_json(made / "labels.json", saved.to_json())
        write_text(made / "README.md", model_card.text(result, parts, saved, way, drift))
        target = run / FOLDER / way
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return target, drift


def kind(parts: ModelParts, config: RunConfig) -> str:
    """What `run/model` is: "adapter" for PEFT, "merged" for transformers, "own" for this package alone."""
    method = methods.load(config.tuning.name)
    if not method.trains:
        return "own"
    if _obstacle(parts, config, "adapter") is None:
        return "adapter"
    return "own" if method.peft_folder or method.merge is None else "merged"


def _obstacle(parts: ModelParts, config: RunConfig, way: Way) -> str | None:
    method = methods.load(config.tuning.name)
    if not method.trains:
        return "nothing is trained, so there is nothing to export: the base is the model"
    if way == "merged":
        return method.merge_obstacle or None
    if not method.peft_folder:
        kept = "in cxr_ft's own format" if method.merge is None else "in the base itself"
        can = "lora, ia3, ..." if method.merge is None else "--export merged"
        return f"what it trains is {kept}, not in a PEFT adapter; use {can}"
    if config.data.image_size is not None or config.data.views > 1:
        return "data.image_size and data.views change the base itself, which PEFT alone would not do; use merged"
    return None


def _merged(made: Path, parts: ModelParts, config: RunConfig) -> Drift:
    made.mkdir()
    batches = list(_val(parts, config))
    before = [logits(parts, parts.model, batch) for batch in batches]
    merge = methods.load(config.tuning.name).merge
    assert merge is not None  # `export` has refused the others
    plain = merge(parts.model)
    apart = [(logits(parts, plain, batch) - old).abs() for batch, old in zip(batches, before, strict=True)]
    for p in plain.parameters():
        p.data = p.data.contiguous()
    parts.base.save(made, plain)
    return Drift(
        largest=max(float(x.max()) for x in apart),
        mean=float(sum(x.double().sum() for x in apart) / sum(x.numel() for x in apart)),
        rows=sum(len(next(iter(batch.values()))) for batch in batches),
    )


def _val(parts: ModelParts, config: RunConfig) -> list[Batch]:
    rows = build_datasets(config, manifest.read(Path(config.data.splits)), parts.base.image_size)["val"]
    size = min(config.train.micro_batch or config.train.batch_size, _ROWS)
    many = min(len(rows), _ROWS)
    return [
        parts.head.collate([rows[i] for i in range(start, min(start + size, many))]) for start in range(0, many, size)
    ]


@torch.no_grad()
def logits(parts: ModelParts, model: Any, batch: Batch) -> Tensor:
    """What the head turns into scores [B, L], or the vocabulary's logits at each token that counts [N, V]."""
    if "labels" in batch:
        written: Tensor = parts.base.logits(model, batch, batch["labels"] != IGNORE)  # type: ignore[attr-defined]
        return written
    pool: Any = getattr(parts.head, "pool", next(iter(parts.base.pools)))
    layer: nn.Module = model.classifier
    answers: Tensor = layer(parts.base.pooled(model, batch, pool))
    return answers
