"""What a run costs: parameters, seconds, and bytes of memory by kind.

On CPU the bytes are those of tensors, counted; the process's resident memory says nothing about a method there. On CUDA
the allocator's peaks are given besides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cxr_ft.model.protocols import trainable


def parameters(model: nn.Module, new: tuple[str, ...]) -> dict[str, int]:
    """Numbers of parameters: trainable, total, and of the trainable ones those of the head and the rest (adapter)."""
    chosen = trainable(model)
    head = sum(p.numel() for name, p in chosen.items() if in_head(name, new))
    count = sum(p.numel() for p in chosen.values())
    total = sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in f".{name}")
    return {"trainable": count, "total": total, "adapter": count - head, "head": head}


def memory(model: nn.Module, optimizer: torch.optim.Optimizer | None, activations: int) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer states, and of the activations saved for the backward pass.

    Their sum is the peak but for workspace and temporaries.
    """
    out = {
        "weights": _bytes(model.state_dict(keep_vars=True).values()),
        "gradients": _bytes(p.grad for p in model.parameters() if p.grad is not None),
        "optimizer": 0,
        "activations": activations,
    }
    if optimizer is not None:
        out["optimizer"] = _bytes(v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
    return out


def cuda_memory() -> dict[str, int] | None:
    """The CUDA allocator's peaks in bytes, allocated and reserved; None on CPU."""
    if not torch.cuda.is_available():
        return None
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


@dataclass
class Saved:
    """Bytes that autograd saved for a backward pass."""

    bytes: int = 0


@contextmanager
def saved_activations(model: nn.Module, *, count: bool = True) -> Iterator[Saved]:
    """Count the bytes saved for backward inside the block; each storage once, the model's own weights never.

    With `count` off nothing is counted and nothing is slowed.
    """
    if not count:
        yield Saved()
        return
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, Any] = {}
    saved = Saved()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage  # kept, so that its address is not given out again
            saved.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
    seen.clear()


def in_head(name: str, new: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the modules `new` that the head added."""
    return any(f".{module}." in f".{name}." for module in new)


def _bytes(tensors: Any) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
