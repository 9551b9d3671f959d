"""AdaLoRA (Zhang et al., arXiv 2303.10512) by PEFT: products with singular values; the least important are removed.

All targets begin with `start` products; when three tenths of the steps are left, each has `rank` on average, more where
they matter more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base
from cxr_ft.model.tuning import _merge
from cxr_ft.model.tuning._modules import adapted, check_rank, matrices_of
from cxr_ft.model.tuning._options import LowRankOptions

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.adalora import RankAllocator, SVDLinear
    from torch import nn

TRAINS = True
PEFT_FOLDER = True
merge = _merge.merge_peft
_MATRICES = ("lora_A", "lora_E", "lora_B")
#: Share of the steps before the first removal, and after the last one; and the number of removals between them.
WARMUP, SETTLED, TIMES = 0.1, 0.3, 100
_Layers: TypeAlias = "list[tuple[str, SVDLinear]]"


@dataclass(frozen=True, kw_only=True)
class Config(LowRankOptions):
    """Options of AdaLoRA, after those of every low-rank method, of which `rank` is the average at the end.

    Args:
        start: rank of each target at the beginning; None: 1.5 * rank, as in the paper.
        orthogonal: weight of the penalty on deviation from orthogonal factors.
    """

    # Above LoRA's: three factors, all small at first, have to grow before their product does.
    lr: float = field(default=5e-3, metadata={"help": "peak learning rate; above LoRA's"})
    start: int | None = field(default=None, metadata={"help": "rank at the beginning (default: 1.5 * rank)"})
    orthogonal: float = field(default=0.1, metadata={"help": "weight of the penalty on non-orthogonal factors"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first <= self.rank:
            raise UsageError(f"tuning.start: {self.first}; it must be above rank ({self.rank}), to which it is reduced")
        if self.orthogonal < 0:
            raise UsageError(f"tuning.orthogonal: {self.orthogonal}; give 0 or more")

    @property
    def first(self) -> int:
        """Return the rank of each target at the beginning."""
        return max(self.rank + 1, self.rank * 3 // 2) if self.start is None else self.start


def apply(model: "nn.Module", base: Base, config: Config, new: tuple[str, ...]) -> "nn.Module":
    """Return `model` with products added to exactly the linear layers that the targets mean.

    Raises:
        UsageError: for a target that is unknown, hits nothing, or is no linear layer.
    """
    from peft import AdaLoraConfig

    names = matrices_of(model, base, config.targets, "adalora")
    check_rank(model, names, config.first, "rank" if config.start is None else "start")
    adalora = AdaLoraConfig(
        init_r=config.first,
        target_r=config.rank,
        # PEFT divides it by the rank at the beginning, whatever is removed later.
        lora_alpha=config.numerator,
        lora_dropout=config.dropout,
        orth_reg_weight=config.orthogonal,
        total_step=1,  # set by `callback`
        target_modules=names,
        modules_to_save=list(new) or None,
    )
    out = adapted(model, adalora, names)
    _add_buffers(out)
    return out


class Allocation:
    """Allocate the products during a training of `steps` steps; see `cxr_ft.model.methods.StepCallback`.

    PEFT's `RankAllocator` computes importances and chooses. Its state is kept in buffers, where checkpoints hold it:
    PEFT's `update_and_allocate` would keep it in dictionaries, and cut off at the end what the best epoch may
    need.
    """

    def __init__(self, model: "PeftModel", steps: int) -> None:
        self.tuner = model.base_model
        config = self.tuner.peft_config["default"]
        self.weight = config.orth_reg_weight
        # Only now: how many steps there are depends on the data, which `apply` does not see.
        config.total_step, config.tinit, config.tfinal = steps, int(WARMUP * steps), int(SETTLED * steps)
        # A short training has fewer steps than removals.
        config.deltaT = max(1, steps // TIMES)
        self.end = steps - config.tfinal

    def on_before_step(self) -> None:
        """Add the gradient of the paper's penalty: the mean of |P' P - 1| over all P and Q, times its weight."""
        import torch

        factors = [
            m for _, layer in _layers(self.tuner.model) for m in (layer.lora_A["default"], layer.lora_B["default"].T)
        ]
        with torch.enable_grad():
            excess = [torch.linalg.matrix_norm(m @ m.T - torch.eye(len(m), device=m.device)) for m in factors]
            # Added to the gradients that the loss has left: the penalty is part of the step, and of no reported loss.
            (self.weight * torch.stack(excess).mean()).backward()

    def on_after_step(self, step: int) -> None:
        """Update importances by this step's gradients; at the scheduled steps remove the least important products."""
        import torch

        with torch.no_grad():
            self._allocate(step)

    def _allocate(self, step: int) -> None:
        import torch

        allocator, layers = self.tuner.rankallocator, list(_layers(self.tuner.model))
        # Importances are final with the last removal: what comes later changes no choice.
        if step < self.end:
            self._weigh(allocator, layers)
        budget, due = allocator.budget_schedule(step)
        # Also at the last step of the schedule, which need not be a multiple of PEFT's interval.
        if step <= self.end and (due or step == self.end) and budget < allocator.init_bgt:
            _fill(allocator, layers)
            # Chosen among the products of all layers together: one layer may keep many, and another none.
            pattern = allocator.mask_to_budget(self.tuner.model, budget)
            for name, layer in layers:
                layer.kept.copy_(torch.tensor(pattern[f"{name}.lora_E.default"])[:, None])
        # The optimizer still moves removed values, by its momentum: they are set back to zero after each step.
        elif step > self.end:
            for _, layer in layers:
                layer.lora_E["default"].masked_fill_(~layer.kept, 0.0)

    def _weigh(self, allocator: "RankAllocator", layers: _Layers) -> None:
        _fill(allocator, layers)
        allocator.update_ipt(self.tuner.model)
        for name, layer in layers:
            for matrix in _MATRICES:
                key = f"{name}.{matrix}.default"
                getattr(layer, f"importance_{matrix}").copy_(allocator.exp_avg_ipt[key])
                getattr(layer, f"uncertainty_{matrix}").copy_(allocator.exp_avg_unc[key])


def callback(model: "nn.Module", steps: int) -> Allocation:
    """Return the callback of a training of `steps` steps."""
    return Allocation(model, steps)


def _add_buffers(model: "nn.Module") -> None:
    """Give each adapted layer buffers for what is carried from one step to the next; no saved model holds them."""
    import torch

    # Buffers, since checkpoints hold those; not persistent, so that no saved model has them.
    for _, layer in _layers(model):
        for name in _MATRICES:
            weight = getattr(layer, name)["default"]
            layer.register_buffer(f"importance_{name}", torch.zeros_like(weight), persistent=False)
            layer.register_buffer(f"uncertainty_{name}", torch.zeros_like(weight), persistent=False)
        # On the meta device PEFT declares it as trained.
        layer.ranknum["default"].requires_grad_(False)
        kept = torch.ones_like(layer.lora_E["default"], dtype=torch.bool)
        layer.register_buffer("kept", kept, persistent=False)


def _fill(allocator: "RankAllocator", layers: _Layers) -> None:
    """Copy the buffers' state to PEFT's allocator."""
    for name, layer in layers:
        for matrix in _MATRICES:
            key, importance = f"{name}.{matrix}.default", getattr(layer, f"importance_{matrix}")
            allocator.ipt[key] = allocator.exp_avg_ipt[key] = importance
            allocator.exp_avg_unc[key] = getattr(layer, f"uncertainty_{matrix}")


def _layers(model: "nn.Module") -> "Iterator[tuple[str, SVDLinear]]":
    from peft.tuners.adalora import SVDLinear

    return ((name, module) for name, module in model.named_modules() if isinstance(module, SVDLinear))
