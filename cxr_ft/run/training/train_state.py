"""Taking and putting back what training changes, be the model whole on every process or spread over them (FSDP)."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cxr_ft.run.training.checkpoint import changing


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What training changes: `model`, which lies in `learner`, its optimizer and schedule, and the scaler of fp16."""

    model: nn.Module
    learner: nn.Module
    optimizer: Any
    schedule: Any
    scaler: Any
    sharded: bool

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies on CPU of all tensors that training changes, whole. Under FSDP all processes must ask together."""
        return {name: _whole(tensor) for name, tensor in changing(self.model).items()}

    def take(self) -> dict[str, Any]:
        """All states, for `checkpoint.save`. Under FSDP all processes must ask together."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer: Any = get_optimizer_state_dict(self.learner, self.optimizer.optimizer, options=whole)
        else:
            optimizer = self.optimizer.state_dict()
        scaler = None if self.scaler is None else self.scaler.state_dict()
        schedule = self.schedule.state_dict()
        return {"weights": self.weights(), "optimizer": optimizer, "schedule": schedule, "scaler": scaler}

    def put_back(self, states: dict[str, Any]) -> None:
        """Go on from what `take` gave."""
        with torch.no_grad():
            for name, tensor in changing(self.model).items():
                tensor.copy_(_alike(states["weights"][name], tensor))
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

            whole = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.learner, self.optimizer.optimizer, states["optimizer"], options=whole)
        else:
            self.optimizer.load_state_dict(states["optimizer"])
        self.schedule.load_state_dict(states["schedule"])
        if self.scaler is not None:
            self.scaler.load_state_dict(states["scaler"])


def shard(learner: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Spread the parameters of `learner` over the processes: each of its `blocks` by itself, then the rest (FSDP 2).

    Source: torch.distributed.fsdp.fully_shard; called here since accelerate offers it on accelerators alone.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block)
    fully_shard(learner)


@contextlib.contextmanager
def whole(learner: nn.Module) -> Iterator[None]:
    """Inside, every process has the whole model of an FSDP `learner`, and calls it without waiting for another."""
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in learner.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    yield
    for unit in units:
        unit.reshard()
        unit.set_reshard_after_forward(True, recurse=False)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=True)


def _alike(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`value` spread over the processes as `tensor` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
