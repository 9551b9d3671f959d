"""Taking what a method added into the base's own weights, so that transformers alone reads the model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.tuning import _quantised
from cxr_ft.model.tuning._modules import replace

if TYPE_CHECKING:
    from torch import Tensor, nn


def merge(model: "nn.Module", answers: Callable[["nn.Module"], "Tensor"]) -> tuple["nn.Module", float]:
    """The model without any wrapper, and its drift: the largest difference in `answers` before and after.

    A quantised base is merged at the precision it is computed in, not rounded to four or eight bits again: the merged
    model is as large as the base was before.

    Args:
        answers: some of the model's answers, in evaluation mode; without rounding they would not change.

    Raises:
        UsageError: for what no weight of the base can take up, a learnt prompt or a bottleneck.
    """
    import torch

    model.eval()
    with torch.no_grad():
        before = answers(model)
        plain = _peft(model) if hasattr(model, "peft_config") else _own(model)
        return plain, float((answers(plain) - before).abs().max())


def _peft(model: Any) -> "nn.Module":
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise UsageError("a learnt prompt is read beside the text and is in no weight: it cannot be merged")
    inner = model.get_base_model()
    for name, module in list(inner.named_modules()):
        if hasattr(module, "get_delta_weight") and _quantised.is_quantised(module.base_layer):
            replace(inner, name, _full)
    for name, module in list(inner.named_modules()):
        if _quantised.is_quantised(module):
            replace(inner, name, _quantised.dequantised)
    plain: nn.Module = model.merge_and_unload()
    return plain


def _full(adapted: Any) -> "nn.Module":
    layer = _quantised.dequantised(adapted.base_layer)
    for adapter in adapted.active_adapters:
        layer.weight += adapted.get_delta_weight(adapter)
    return layer


def _own(model: "nn.Module") -> "nn.Module":
    from cxr_ft.model.tuning._bottleneck import Bottleneck
    from cxr_ft.model.tuning._low_rank import LowRank

    for name, module in list(model.named_modules()):
        if isinstance(module, Bottleneck):
            raise UsageError("an adapter is no linear function of its layer: it cannot be merged; lora can")
        if isinstance(module, LowRank):
            replace(model, name, LowRank.merged)
    return model
