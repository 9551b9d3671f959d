"""Find the base that reads a model, and put base, head and method together."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cxr_ft import json_values, plugins
from cxr_ft.config import PluginConfig
from cxr_ft.errors import UsageError
from cxr_ft.model import methods

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from cxr_ft.config import RunConfig
    from cxr_ft.model.protocols import Base, Head, MultiView

#: Models that ship with the package, one folder each.
SHIPPED = Path(__file__).parent / "weights"
#: Our key in a shipped config.json: the model has no weights file, its weights are random from this seed.
SEED_KEY = "cxr_ft_random_seed"


def shipped() -> tuple[str, ...]:
    """Return the names of the models that ship with the package."""
    return tuple(sorted(p.parent.name for p in SHIPPED.glob("*/config.json")))


def family(name: str) -> ModuleType:
    """Return the module of the base that reads `name`: a shipped model, a folder, or a hub name.

    Raises:
        UsageError: for an unknown name, a folder without config.json, a family no base reads, or no network.
    """
    silence_libraries()
    bases = {base: plugins.load(plugins.BASES, base) for base in plugins.choices(plugins.BASES)}
    for base in bases.values():
        # The family of a published name is known without a network.
        if name in base.PUBLISHED:
            return base
    model_type = _model_type(name, sorted(published for base in bases.values() for published in base.PUBLISHED))
    for base in bases.values():
        if model_type in base.MODEL_TYPES:
            return base
    families = ", ".join(f"{base} ({', '.join(module.MODEL_TYPES)})" for base, module in bases.items())
    raise UsageError(f"{name} is a model of type {model_type!r}, which no base reads; bases: {families}")


def location(name: str) -> Path | None:
    """Return the folder of a shipped or local model; None for a hub name."""
    folder = SHIPPED / name
    if name in shipped():
        return folder
    return Path(name) if Path(name).is_dir() else None


def _model_type(name: str, published: list[str]) -> str:
    folder = location(name)
    if folder is not None:
        try:
            config = json_values.loads((folder / "config.json").read_text(encoding="utf-8"))
            # timm's own format; transformers reads it as a timm_wrapper, too.
            return "timm_wrapper" if "architecture" in config else str(config["model_type"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{folder} holds no config.json with a model_type: give a transformers folder") from None
    # The hub would answer with an error that does not list the names that exist.
    if name.count("/") != 1 or name.startswith((".", "/")):
        close = difflib.get_close_matches(name, [*shipped(), *published], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(shipped())
        raise UsageError(f"unknown model {name!r}{hint}; give a folder, a hub name OWNER/MODEL, or one of: {known}")
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(name, trust_remote_code=False).model_type)
    except (OSError, ValueError) as error:
        raise cannot_fetch(name, error) from error


def cannot_fetch(name: str, error: Exception) -> UsageError:
    """Return the error for a hub model that cannot be fetched."""
    # The hub's messages have many lines, of which the first says what is wrong.
    reason = str(error).strip().splitlines()[0]
    return UsageError(f"cannot get {name} from the hub ({reason}); give a folder, or one of: {', '.join(shipped())}")


@dataclass(frozen=True)
class ModelParts:
    """A base, a head and the model to train; `tuning` is the method's name and options."""

    base: "Base"
    head: "Head"
    model: "nn.Module"
    tuning: PluginConfig


def build(config: "RunConfig", labels: tuple[str, ...], multi_label: bool, *, weights: bool = True) -> ModelParts:
    """Return the parts of a run: load the base, attach the head, apply the method.

    Args:
        weights: False builds everything on the meta device: names and shapes without weights.

    Raises:
        UsageError: if base, head, method and options do not fit together.
    """
    base = family(config.model).load(config.model, weights=weights)
    parts = assemble(base, config, labels, multi_label, methods.load(config.tuning.name).apply)
    # After the method, which may have put the model into a wrapper.
    if config.train.gradient_checkpointing:
        _checkpoint(parts)
    return parts


def _checkpoint(parts: ModelParts) -> None:
    """Switch gradient checkpointing on.

    Raises:
        UsageError: if the model does not support it.
    """
    model: PreTrainedModel = parts.model
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UsageError(
            f"train.gradient_checkpointing: {parts.base.name} ({parts.base.family}) cannot; leave it false and use "
            "a smaller train.micro_batch"
        )
    # The re-entrant form gives no gradients above a frozen embedding.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def assemble(
    base: "Base",
    config: "RunConfig",
    labels: tuple[str, ...],
    multi_label: bool,
    apply: "Callable[..., nn.Module]",
) -> ModelParts:
    """Attach the head to a loaded base and tune it by `apply`, a method's own or one that reloads what was saved."""
    import torch

    from cxr_ft.model.protocols import is_text_reader

    # Size and views come before the method: both replace modules, and a method would have frozen the old ones.
    if config.data.image_size is not None:
        base.resize(config.data.image_size)
    if config.data.views > 1:
        _multi_view(base).read_several(config.data.views)
    method = methods.load(config.tuning.name)
    attach = plugins.load(plugins.HEADS, config.head.name).attach
    # A new layer has to be on the device of its base: one on the CPU would get no input from a meta model.
    with torch.device("meta" if next(base.lm.parameters()).is_meta else "cpu"):
        head = attach(base, config.head.options, labels, multi_label, method.trains)
    # The context would be read by nobody, and two runs that differ in it would be the same.
    if config.data.context and head.output != "text" and not is_text_reader(base):
        raise UsageError(
            f"data.context: {config.head.name} reads only images; use --task report or both, which read the context"
        )
    if config.data.views > 1 and method.trains:
        # Trained and saved with the head: no adapter of a method covers them.
        head.new_modules = (*head.new_modules, *_multi_view(base).new_modules(head.model))
    # The method last: it decides for each module that exists by now whether it is trained.
    model = apply(head.model, base, config.tuning.options, head.new_modules)
    return ModelParts(base=base, head=head, model=model, tuning=config.tuning)


def _multi_view(base: "Base") -> "MultiView":
    from cxr_ft.model.protocols import is_multi_view

    if not is_multi_view(base):
        raise UsageError(f"data.views: {base.name} ({base.family}) reads one image a row; use data.views=1, or a GIT")
    return base


def silence_libraries() -> None:
    """Silence warnings of libraries that no user can act on."""
    import logging
    import os
    import warnings

    # bitsandbytes 0.50.2, imported by PEFT, misses an optional kernel that only quantised models use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # PEFT 0.21.2 reads an attribute of transformers 5.23.0 by its old name.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # Tokenizers warn when a process that has used them forks, as for the workers that load data.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
