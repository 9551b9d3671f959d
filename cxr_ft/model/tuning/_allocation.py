"""AdaLoRA around the optimizer's steps: what each product is worth, and which of them are left.

The importance of weights and the choice are PEFT's `RankAllocator`; here they are kept where checkpoints take them
along. PEFT's `update_and_allocate` would keep them in dictionaries, and cut off at the end what the best epoch may
need.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_MATRICES = ("lora_A", "lora_E", "lora_B")
#: Shares of the steps: before the first product goes, and after the last one went; and how often some go.
WARMUP, SETTLED, TIMES = 0.1, 0.3, 100


def remember(model: nn.Module) -> None:
    """Give each adapted layer, as buffers that no artefact holds, what is carried from one step to the next."""
    for _, layer in _layers(model):
        for name in _MATRICES:
            weight = getattr(layer, name)["default"]
            layer.register_buffer(f"importance_{name}", torch.zeros_like(weight), persistent=False)
            layer.register_buffer(f"uncertainty_{name}", torch.zeros_like(weight), persistent=False)
        # On the meta device PEFT declares it as trained.
        layer.ranknum["default"].requires_grad_(False)
        kept = torch.ones_like(layer.lora_E["default"], dtype=torch.bool)
        layer.register_buffer("kept", kept, persistent=False)


class Allocation:
    """Allocate the budget during a training of `steps` steps; see `cxr_ft.model.methods.StepCallback`."""

    def __init__(self, model: Any, steps: int) -> None:
        self.tuner = model.base_model
        config = self.tuner.peft_config["default"]
        self.weight = config.orth_reg_weight
        config.total_step, config.tinit, config.tfinal = steps, int(WARMUP * steps), int(SETTLED * steps)
        config.deltaT = max(1, steps // TIMES)
        self.end = steps - config.tfinal

    def on_before_step(self) -> None:
        """Add the gradient of the paper's penalty: the mean of |P' P - 1| over all P and Q, times its weight."""
        factors = [
            m for _, layer in _layers(self.tuner.model) for m in (layer.lora_A["default"], layer.lora_B["default"].T)
        ]
        with torch.enable_grad():
            excess = [torch.linalg.matrix_norm(m @ m.T - torch.eye(len(m), device=m.device)) for m in factors]
            (self.weight * torch.stack(excess).mean()).backward()

    @torch.no_grad()
    def on_after_step(self, step: int) -> None:
        """Weigh by this step's gradients, and take products away if `step`, from 1 on, is one at which some go."""
        allocator, layers = self.tuner.rankallocator, list(_layers(self.tuner.model))
        if step < self.end:
            self._weigh(allocator, layers)
        budget, due = allocator.budget_schedule(step)
        if step <= self.end and (due or step == self.end) and budget < allocator.init_bgt:
            _fill(allocator, layers)
            pattern = allocator.mask_to_budget(self.tuner.model, budget)
            for name, layer in layers:
                layer.kept.copy_(torch.tensor(pattern[f"{name}.lora_E.default"])[:, None])
        elif step > self.end:
            for _, layer in layers:
                layer.lora_E["default"].masked_fill_(~layer.kept, 0.0)

    def _weigh(self, allocator: Any, layers: list[tuple[str, Any]]) -> None:
        _fill(allocator, layers)
        allocator.update_ipt(self.tuner.model)
        for name, layer in layers:
            for matrix in _MATRICES:
                key = f"{name}.{matrix}.default"
                getattr(layer, f"importance_{matrix}").copy_(allocator.exp_avg_ipt[key])
                getattr(layer, f"uncertainty_{matrix}").copy_(allocator.exp_avg_unc[key])


def _fill(allocator: Any, layers: list[tuple[str, Any]]) -> None:
    """Hand PEFT's allocator what the buffers hold."""
    for name, layer in layers:
        for matrix in _MATRICES:
            key, importance = f"{name}.{matrix}.default", getattr(layer, f"importance_{matrix}")
            allocator.ipt[key] = allocator.exp_avg_ipt[key] = importance
            allocator.exp_avg_unc[key] = getattr(layer, f"uncertainty_{matrix}")


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.adalora import SVDLinear

    return ((name, module) for name, module in model.named_modules() if isinstance(module, SVDLinear))
