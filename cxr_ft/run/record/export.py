"""Export a finished run as a folder that transformers, or PEFT, reads without this package.

merged/     config.json, model.safetensors (the head's layer in it), processor, labels.json, README.md
adapter/    PEFT's files, processor, labels.json, README.md
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, set_kind, temporary_folder, write_json, write_text
from cxr_ft.model import assembly, methods
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import IGNORE, Batch
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import model_card, results, saved_labels, saved_model
from cxr_ft.run.record.run_splits import splits_folder

Way = Literal["merged", "adapter"]
FOLDER = "export"
#: Rows of val on which merged and unmerged logits are compared.
_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Differences of logits on `rows` rows of val between the run's model and the exported one."""

    largest: float
    mean: float
    rows: int


def check(config: RunConfig, way: Way) -> None:
    """Refuse, before anything is trained, a configuration whose run could not be exported.

    Raises:
        UsageError: with the reason and what would work.
    """
    # One label will do: whether a run can be exported does not depend on its labels.
    parts = assembly.build(config, ("label",), True, weights=False)
    if reason := _obstacle(parts, config, way):
        raise UsageError(f"--export {way}: {config.tuning.name}: {reason}")


def export(run: Path, way: Way, *, other_base: bool = False) -> tuple[Path, Drift | None]:
    """Write `run/export/<way>`, whole or not at all; return it and, for a merged model, the drift of its logits on val.

    Args:
        run: a run's folder.
        way: "merged" or "adapter".
        other_base: allow a base with other weights than those that the run was trained on; the card then says so.

    Raises:
        UsageError: where the run is not finished, its method cannot be exported that way, its data is missing, or its
            base has other weights.
    """
    result = results.read(run)
    if result.status not in ("trained", "success"):
        raise UsageError(f"{run} is {result.status}: only a finished run can be exported; run cxr-train again")
    note = saved_model.compare_base(run, other_base=other_base)
    if note:
        print(f"note: {note}", file=sys.stderr)
    parts, config, saved = saved_model.rebuild(run)
    if reason := _obstacle(parts, config, way):
        raise UsageError(f"--export {way}: {config.tuning.name}: {reason}")
    make_folder(run / FOLDER)
    with temporary_folder(run, ".export.") as place:
        temporary = place / way
        make_folder(temporary)
        drift = None
        if way == "merged":
            drift = _merge_and_save(temporary, parts, config, splits_folder(run, result))
        else:  # the saved model is an ordinary adapter already
            shutil.copytree(run / saved_labels.FOLDER, temporary, dirs_exist_ok=True)
        write_json(temporary / "labels.json", saved.to_json())
        write_text(temporary / "README.md", model_card.text(result, parts, saved, way, drift, base_note=note))
        # Written aside and renamed: an interrupted export leaves no half of a model.
        set_kind(temporary, private=False)
        target = run / FOLDER / way
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    return target, drift


def kind(parts: ModelParts, config: RunConfig) -> str:
    """Return who can load `run/model`: "adapter" (PEFT), "merged" (transformers) or "own" (this package alone)."""
    method = methods.load(config.tuning.name)
    if not method.trains:
        return "own"
    if _obstacle(parts, config, "adapter") is None:
        return "adapter"
    return "own" if method.peft_folder or method.merge is None else "merged"


def _obstacle(parts: ModelParts, config: RunConfig, way: Way) -> str | None:
    """Return the reason why a run cannot be exported that way; None where it can."""
    method = methods.load(config.tuning.name)
    if not method.trains:
        return "nothing is trained, so there is nothing to export: the base is the model"
    if way == "merged":
        return method.merge_obstacle or None
    if not method.peft_folder:
        place = "in cxr_ft's own format" if method.merge is None else "in the base itself"
        instead = "a method of PEFT (lora, ia3, ...)" if method.merge is None else "--export merged"
        return f"its trained weights are {place}, not in a PEFT adapter; use {instead}"
    if config.data.image_size is not None or config.data.views > 1:
        return "data.image_size and data.views change the base itself, which a PEFT adapter does not hold; use merged"
    return None


def _merge_and_save(folder: Path, parts: ModelParts, config: RunConfig, splits: Path) -> Drift:
    batches = list(_val_batches(parts, config, splits))
    # Before the merge, which changes the weights in place.
    before = [logits(parts, parts.model, batch) for batch in batches]
    merge = methods.load(config.tuning.name).merge
    assert merge is not None  # `export` has refused the others
    plain = merge(parts.model)
    differences = [(logits(parts, plain, batch) - old).abs() for batch, old in zip(batches, before, strict=True)]
    # safetensors refuses tensors that are views with strides of their own, as a product of adapters may be.
    for p in plain.parameters():
        p.data = p.data.contiguous()
    parts.base.save(folder, plain)
    return Drift(
        largest=max(float(x.max()) for x in differences),
        mean=float(sum(x.double().sum() for x in differences) / sum(x.numel() for x in differences)),
        rows=sum(len(next(iter(batch.values()))) for batch in batches),
    )


def _val_batches(parts: ModelParts, config: RunConfig, splits: Path) -> list[Batch]:
    rows = build_datasets(config, manifest.read(splits), parts.base.image_size)["val"]
    # No more rows at a time than the training was configured to hold in memory.
    size = min(config.train.micro_batch or config.train.batch_size, _ROWS)
    number = min(len(rows), _ROWS)
    return [
        parts.head.collate([rows[i] for i in range(start, min(start + size, number))])
        for start in range(0, number, size)
    ]


@torch.no_grad()
def logits(parts: ModelParts, model: torch.nn.Module, batch: Batch) -> Tensor:
    """Return the logits of the labels [B, L], or of the vocabulary at each target token [N, V]."""
    if "labels" in batch:
        written: Tensor = parts.base.logits(model, batch, batch["labels"] != IGNORE)  # type: ignore[attr-defined]
        return written
    scores: Tensor = model.get_submodule("classifier")(parts.base.pooled(model, batch, parts.head.pool))
    return scores
