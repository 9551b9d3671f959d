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

    Args:
        answers: some of the model's answers, in evaluation mode; without rounding they would not change.

    Raises:
        UsageError: for what no weight of the base can take up, a learnt prompt or a bottleneck.
    """
    import torch

    with torch.no_grad():
        before = answers(model.eval())
        plain = merged(model)
        return plain, float((answers(plain) - before).abs().max())


def merged(model: "nn.Module") -> "nn.Module":
    """The model without any wrapper; `model` itself is of no use afterwards.

    A quantised base is merged at the precision it is computed in, not rounded to four or eight bits again: the merged
    model is as large as the base was before.

    Raises:
        UsageError: for what no weight of the base can take up, a learnt prompt or a bottleneck.
    """
    import torch

    if reason := obstacle(model):
        raise UsageError(reason)
    with torch.no_grad():
        return _peft(model.eval()) if hasattr(model, "peft_config") else _own(model.eval())


def obstacle(model: Any) -> str | None:
    """Why no weight of the base can take up what was added to `model`, in one line; None where it can."""
    from cxr_ft.model.tuning._bottleneck import Bottleneck

    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "a learnt prompt is read beside the text and is in no weight: it cannot be merged; export the adapter"
    if any(isinstance(module, Bottleneck) for module in model.modules()):
        return "a bottleneck adapter is no linear function of its layer: it cannot be merged; lora can"
    return None


def _peft(model: Any) -> "nn.Module":
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
    layer: Any = _quantised.dequantised(adapted.base_layer)
    turned = not hasattr(layer, "in_features")  # Conv1D: PEFT's own shape is that of the quantised layer
    for adapter in adapted.active_adapters:
        delta = adapted.get_delta_weight(adapter)
        layer.weight += delta.T if turned else delta
    plain: nn.Module = layer
    return plain


def _own(model: "nn.Module") -> "nn.Module":
    from cxr_ft.model.tuning._low_rank import LowRankLinear

    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            replace(model, name, LowRankLinear.merged)
    return model
