"""What a run costs: its parameters, and what CUDA's allocator says; bytes by kind are `cxr_ft.run.cost.memory`'s."""

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


def in_head(name: str, new: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the modules `new` that the head added."""
    return any(f".{module}." in f".{name}." for module in new)


def cuda_memory() -> dict[str, int] | None:
    """The CUDA allocator's peaks in bytes, allocated and reserved; None on CPU."""
    if not torch.cuda.is_available():
        return None
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
