"""QLoRA (Dettmers et al., arXiv 2305.14314): LoRA by PEFT on a base whose blocks are quantised to four or eight bits.

By bitsandbytes, on CUDA, and slowly on CPU. With PEFT's files a run saves `quantization_config.json`, by which
transformers quantises the same layers of the base in the same way.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError, unknown
from cxr_ft.model.peft_models import unwrapped
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge, _quantised
from cxr_ft.model.tuning._modules import adapted, check_rank, has_values, is_matrix, names_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of QLoRA, after those of every low-rank method.

    Args:
        quantise: "nf4", four bits with quantised scales; "int8", eight bits.
    """

    quantise: str = field(default="nf4", metadata={"help": f"of the frozen blocks: {' or '.join(_quantised.KINDS)}"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantise not in _quantised.KINDS:
            raise unknown("quantisation", self.quantise, _quantised.KINDS, "tuning.quantise")


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with quantised blocks and LoRA on exactly the modules that the targets mean.

    Raises:
        UsageError: for a target that is unknown or hits nothing, for a base without linear layers in its blocks, and
            if bitsandbytes is not installed.
    """
    from peft import LoraConfig

    # Before the quantisation, so that a wrong target is refused before any work.
    names = names_of(model, base, config.targets)
    check_rank(model, names, config.rank)
    _quantise(model, base, config)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    return adapted(model, lora, names)


def save(model: "PeftModel", folder: Path, config: Config, new: tuple[str, ...]) -> None:
    """Write PEFT's files, and the configuration by which transformers quantises the base."""
    import torch
    from transformers import BitsAndBytesConfig

    model.save_pretrained(folder, safe_serialization=True)
    inner = unwrapped(model)
    # transformers quantises every linear layer but the listed ones: these were left as they are, or are the head's.
    plain = [n for n, m in inner.named_modules() if is_matrix(m) and not _quantised.is_quantised(m)]
    outside = [n.removesuffix(".base_layer") for n in plain if ".lora_" not in n and not n.startswith(new)]
    four = config.quantise == "nf4"
    # As in training: the quantised layers compute in float32 unless autocast says otherwise.
    BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_threshold=_quantised.OUTLIER,
        llm_int8_skip_modules=[*outside, *new],
    ).to_json_file(folder / "quantization_config.json")


def reload(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...], folder: Path) -> "nn.Module":
    """Return `model` quantised as in training, with what PEFT wrote."""
    from peft import PeftModel

    _quantise(model, base, config)
    peft_model: nn.Module = PeftModel.from_pretrained(model, folder)
    return peft_model


def _quantise(model: "nn.Module", base: Base, config: Config) -> None:
    _quantised.need_bitsandbytes("qlora")
    names = _quantised.layers_of(model, base, config.quantise)
    if not names:
        raise UsageError(
            f"qlora quantises linear layers in blocks (nf4: those with a multiple of {_quantised.BLOCK} inputs), and "
            f"{base.name} ({base.family}) has none; use lora"
        )
    # A plan has no weights to quantise; that the layers exist was checked above.
    if has_values(model):
        _quantised.quantise(model, names, config.quantise)
