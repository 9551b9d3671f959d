"""Save and load the state of a training: atomic checkpoints at the ends of epochs and every ten minutes within them.

Order of rows, learning rate and dropout depend on seed and step alone: resuming from any step gives the weights of an
unbroken run to the bit, wherever and however often the run was stopped.
"""

import contextlib
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import nn

from cxr_ft.errors import UsageError
from cxr_ft.files import atomic
from cxr_ft.model.protocols import trainable
from cxr_ft.run.cost.memory import StepCost

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer
    from torch.distributed.checkpoint.state_dict import OptimizerStateType
    from torch.optim.lr_scheduler import LambdaLR

FILE = "checkpoint.pt"
#: Seconds between checkpoints within an epoch: what a kill can cost at most.
INTERVAL = 600.0
#: The version of the file's content; a file of another version is refused, not guessed at.
FORMAT = 3
#: What a run writes under a temporary name first.
_ATOMIC_FILES = (FILE, "result.json", "config.yaml", "history.jsonl", "predictions.parquet", "model")
#: The state dict of a schedule or a scaler. Its keys are torch's own and change with its versions: it is stored and
#: handed back whole, and nothing here reads it.
OpaqueState = dict[str, object]


class HistoryRow(TypedDict):
    """One epoch: losses in nats, and the primary metric on val (None where it is undefined, or for texts)."""

    epoch: int
    step: int
    seconds: float
    train_loss: float
    val_loss: float
    val: float | None


def _no_cost() -> StepCost:
    return {"train_seconds": 0.0, "eval_seconds": 0.0, "memory": {}}


@dataclass
class LoopState:
    """The progress of a training, of plain numbers and tensors, so that a checkpoint can hold it.

    Args:
        epoch: epochs trained and evaluated.
        step: steps of the optimizer.
        loss_sum, loss_count: of the epoch under way: the sum of the losses, and over how many labels or tokens.
        micro_batch: rows in a forward pass; fewer than configured once memory ran out.
        first_loss, recent_loss: the mean loss of the first step, and a running mean of late.
        checkpoint_step: the step of the last checkpoint; 0 for none.
        history: one row an epoch.
        best_weights, best_score: of the epoch that was best on val, by its primary metric or minus its loss.
        cost: so far, as in result.json.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    micro_batch: int = 0
    first_loss: float | None = None
    recent_loss: float = 0.0
    checkpoint_step: int = 0
    history: list[HistoryRow] = field(default_factory=list)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float = -math.inf
    cost: StepCost = field(default_factory=_no_cost)


class StateDict(TypedDict):
    """The state dicts of what training changes, on CPU and whole, also where the model is sharded."""

    weights: dict[str, torch.Tensor]
    optimizer: "OptimizerStateType"
    schedule: OpaqueState
    scaler: OpaqueState | None


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The state that training changes, whole on every process or sharded over them (FSDP).

    Args:
        model: the model that is trained.
        model_with_loss: what contains it and is called, wrapped by accelerate or FSDP.
        optimizer, schedule: of the trained parameters.
        scaler: of fp16's loss; None otherwise.
        sharded: parameters are spread over the processes, so that reading them is a collective operation.
    """

    model: nn.Module
    model_with_loss: nn.Module
    optimizer: "AcceleratedOptimizer"
    schedule: "LambdaLR"
    scaler: torch.amp.GradScaler | None
    sharded: bool

    def weights(self) -> dict[str, torch.Tensor]:
        """Return copies on CPU of all tensors that training changes, whole. If sharded, all processes must call it."""
        return {name: _whole_on_cpu(tensor) for name, tensor in changing(self.model).items()}

    def state_dict(self) -> StateDict:
        """Return all states, for `save`. If sharded, all processes must call it together."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

            # Whole, so that the first process can write one file; on CPU, since a GPU need not have room for more than
            # its share.
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer: OptimizerStateType = get_optimizer_state_dict(
                self.model_with_loss, self.optimizer.optimizer, options=options
            )
        else:
            # Its tensors are the live ones: whoever calls this writes them before the next step changes them.
            optimizer = self.optimizer.state_dict()
        return {
            "weights": self.weights(),
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, states: StateDict) -> None:
        """Resume from what `state_dict` returned. If sharded, all processes must call it together."""
        with torch.no_grad():
            for name, tensor in changing(self.model).items():
                # In place: the optimizer and PEFT's wrappers hold these very tensors.
                tensor.copy_(_shard_like(states["weights"][name], tensor))
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

            options = StateDictOptions(full_state_dict=True)
            # Not `load_state_dict` of the optimizer: its moments must be sharded as the parameters are.
            set_optimizer_state_dict(
                self.model_with_loss, self.optimizer.optimizer, states["optimizer"], options=options
            )
        else:
            self.optimizer.load_state_dict(states["optimizer"])
        self.schedule.load_state_dict(states["schedule"])
        # fp16's scale goes on where it was: a new one would skip steps until it had come down.
        if self.scaler is not None and states["scaler"] is not None:
            self.scaler.load_state_dict(states["scaler"])


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    loop: LoopState
    train: StateDict


def changing(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return by name the tensors that training changes: trained parameters, and buffers such as running means."""
    # Frozen parameters are left out: the base holds them, and they would make each checkpoint as large as the model.
    return {**trainable(model), **dict(model.named_buffers())}


def save(folder: Path, fingerprint: str, loop: LoopState, train: StateDict) -> None:
    """Write the checkpoint of the run with this `fingerprint` into its folder, whole or not at all."""
    loop.checkpoint_step = loop.step  # before it is written, so that the resumed run knows it too
    with atomic(folder / FILE) as temporary:
        # `vars`, not the object: `read` refuses whatever needs a class to be unpickled.
        torch.save({"format": FORMAT, "fingerprint": fingerprint, "state": vars(loop), **train}, temporary)


def read(folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the last checkpoint of the run with this `fingerprint`, on CPU; None where there is none.

    Raises:
        UsageError: for the checkpoint of another run or another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    # Tensors and plain values alone: a pickle could run code of whoever wrote the file.
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise UsageError(f"{path} was written by another version of cxr_ft; remove it to train from the start")
    # Another configuration or other splits: its weights may even fit, and the run would then be neither of the two.
    if content["fingerprint"] != fingerprint:
        raise UsageError(f"{path} belongs to another run; choose another --out, or remove it")
    states: StateDict = {
        "weights": content["weights"],
        "optimizer": content["optimizer"],
        "schedule": content["schedule"],
        "scaler": content["scaler"],
    }
    return Checkpoint(LoopState(**content["state"]), states)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written. Only the holder of the folder's lock may call it."""
    for name in _ATOMIC_FILES:
        for path in folder.glob(f".{name}.*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def remove(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    (folder / FILE).unlink(missing_ok=True)


def shard(module: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Spread the parameters of `module` over the processes: each of its `blocks` by itself, then the rest (FSDP 2).

    Blocks come first, since each call takes the parameters below it that no call has taken: the model is then gathered
    block by block, and never whole, in a step.

    Source: torch.distributed.fsdp.fully_shard; called here since accelerate offers it on accelerators alone.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block)
    fully_shard(module)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Give every process the whole of a sharded `module` within the block, so that none waits for another in a call.

    Without it, processes whose shares of val differ by one batch would wait for each other for ever.
    """
    from torch.distributed.fsdp import FSDPModule

    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    for unit in units:
        # Kept whole between calls too: resharding after a forward pass would make the next one a collective again.
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    yield
    for unit in units:
        unit.reshard()
        unit.set_reshard_after_forward(True, recurse=False)


def _whole_on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    # A copy on CPU, too, where `to` would return the tensor itself, which the next step changes.
    return full.detach().to("cpu", copy=True)


def _shard_like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return `value` spread over the processes as `tensor` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(tensor, DTensor):
        return value
    # Every process has read the whole value from the file, and keeps its share of it.
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
