"""Save a run's model and load it again: ordinary PEFT or transformers folders, safetensors only.

model/   adapter_config.json + adapter_model.safetensors (PEFT methods), or config.json + model.safetensors;
         or the files of a method with a format of its own; processor and tokenizer;
         labels.json: label names, thresholds, task; README.md, the model card; nothing of the model for zero_shot
"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from cxr_ft import config as configuration
from cxr_ft import json_values
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, set_kind, temporary_folder, write_json, write_text
from cxr_ft.model import assembly, methods
from cxr_ft.model.peft_models import is_peft
from cxr_ft.model.protocols import Base, has_processor, trainable
from cxr_ft.run.record import base_record, model_card, results, saved_labels
from cxr_ft.run.record.saved_labels import FOLDER, SavedLabels

#: PEFT's configuration of an adapter.
ADAPTER = "adapter_config.json"

if TYPE_CHECKING:
    from peft import PeftModel


def save(run: Path, parts: assembly.ModelParts, labels: SavedLabels, card: str = "") -> int:
    """Write `run/model`, whole or not at all, with `card` as its README.md; return its bytes on disk."""
    folder = run / FOLDER
    with temporary_folder(run, f".{FOLDER}.") as place:
        temporary = place / FOLDER
        make_folder(temporary)
        method = methods.load(parts.tuning.name)
        # A method that trains the base's own weights and has no format of its own: all weights are saved.
        whole = method.save is None and not is_peft(parts.model) and bool(trainable(parts.model))
        parts.base.save(temporary, parts.model if whole else None)
        if method.save is not None:
            method.save(parts.model, temporary, parts.tuning.options, parts.head.new_modules)
        elif is_peft(parts.model):
            # PEFT's wrapper is a torch module to everyone but this line.
            cast("PeftModel", parts.model).save_pretrained(str(temporary), safe_serialization=True)
        if (temporary / ADAPTER).exists():
            _make_portable(temporary / ADAPTER, model_card.base_name(parts.base.name))
        write_json(temporary / "labels.json", labels.to_json())
        if card:
            write_text(temporary / "README.md", card)  # in place of PEFT's, which has nothing but headings
        # A folder cannot be renamed over one that is not empty; only a resumed run finds one here.
        set_kind(temporary, private=False)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _make_portable(file: Path, base: str) -> None:
    """Write PEFT's configuration of an adapter anew: the same on every machine and in every process.

    PEFT 0.21.2 writes the absolute path of the base, which says whose machine it was and is nowhere else, and the names
    of modules in the order of a set, which differs from process to process.
    """
    raw = json_values.loads(file.read_text(encoding="utf-8"))
    ordered = {key: sorted(value) if _is_names(value) else value for key, value in sorted(raw.items())}
    write_json(file, {**ordered, "base_model_name_or_path": base})


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def labels(run: Path) -> SavedLabels:
    """Return what the run's labels.json says.

    Raises:
        UsageError: where the run has saved no model.
    """
    saved = saved_labels.read(run)
    if saved is None:
        raise UsageError(f"{run} has no saved model; did the run finish? Run cxr-train again, it goes on")
    return saved


def compare_base(run: Path, *, other_base: bool = False) -> str:
    """Compare the base's weights with those that the run was trained on, if its saved model needs a base.

    Returns:
        A note for the user: how the weights differ where `other_base` allows it, or that none were recorded; "" where
        they are equal, and for a saved model with all its weights.

    Raises:
        UsageError: where nothing was saved, or for a difference that is not allowed.
    """
    result = results.read(run)
    labels(run)  # where nothing was saved, that is the first thing to say
    if _is_whole(run):
        return ""
    return base_record.compare_to_load(run, str(result.config["model"]), result.base, other_base=other_base)


def load(run: Path, *, other_base: bool = False) -> tuple[assembly.ModelParts, configuration.RunConfig, SavedLabels]:
    """Return the saved model of a run, built anew from disk, in evaluation mode.

    Args:
        run: a run's folder.
        other_base: put it on the base even if its weights are not those that the run was trained on.

    Raises:
        UsageError: where nothing was saved, or the base has other weights and they are not allowed.
    """
    if note := compare_base(run, other_base=other_base):
        print(f"note: {note}", file=sys.stderr)
    return rebuild(run)


def rebuild(run: Path) -> tuple[assembly.ModelParts, configuration.RunConfig, SavedLabels]:
    """Return the saved model of a run on its base, whose weights the caller has compared (`compare_base`).

    Raises:
        UsageError: where nothing was saved.
    """
    config = configuration.resolve(results.read(run).config, where=str(run))
    saved = labels(run)
    folder = run / FOLDER
    base_module = assembly.family(config.model)
    whole = _is_whole(run)
    base: Base = base_module.restore(folder, config.model) if whole else base_module.load(config.model)
    # The settings of training: the base's own do not know of data.image_size.
    if not whole and has_processor(base):
        base.take_processor(folder)

    method = methods.load(config.tuning.name)

    def reload(model: nn.Module, *how: object) -> nn.Module:
        if method.reload is not None:
            return method.reload(model, *how, folder)
        if (folder / ADAPTER).exists():
            from peft import PeftModel

            peft_model: nn.Module = PeftModel.from_pretrained(model, folder)
            return peft_model
        if whole:
            from safetensors.torch import load_model

            load_model(model, folder / "model.safetensors", strict=True)
        return model

    # New modules are drawn at random before the saved weights overwrite them: the caller's random state must not move.
    with torch.random.fork_rng(devices=[]):
        parts = assembly.assemble(base, config, saved.labels, saved.multi_label, reload)
    parts.model.eval()
    return parts, config, saved


def _is_whole(run: Path) -> bool:
    """Return whether all weights are in the run's folder, so that its base is not loaded."""
    return (run / FOLDER / "model.safetensors").exists()


def trains(method: str) -> bool:
    """Return whether a method trains anything."""
    return methods.load(method).trains
