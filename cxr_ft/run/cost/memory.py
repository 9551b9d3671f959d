"""Count the memory of a training step at its peak, by kind, its work, and a model's parameters.

The resident memory of a process says nothing about a method on CPU, where the allocator keeps what was freed. So the
storages of all tensors are counted as they come and go while a step runs. The same count of the same step on tensors
without numbers is the forecast of `cxr_ft.run.cost.step_forecast`.
"""

import contextlib
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Required, TypedDict

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from cxr_ft.json_values import JsonObject
from cxr_ft.model.protocols import Batch, trainable
from cxr_ft.run.record.result_parts import CudaMemory, ParameterCount

#: weights: parameters, buffers, and copies of frozen ones in a lower precision; gradients: of trained parameters;
#: optimizer: AdamW's states; activations: what the backward pass needs; workspace: the rest, and the batch itself.
KINDS = ("weights", "gradients", "optimizer", "activations", "workspace")

#: An operation of torch as its dispatcher passes it: its class has no public type, and its attributes are read.
Operation = Any
#: Its arguments: tensors, numbers, nested tuples of both.
Arguments = tuple[Any, ...]
#: Its keyword arguments; they are passed on and not read.
KeywordArguments = dict[str, object]


class StepCost(TypedDict, total=False):
    """The costs that grow while a run is trained, as `result_parts.Cost` explains them; unmeasured ones are missing.

    Plain numbers and dicts, since a checkpoint holds them and is read without pickle.
    """

    train_seconds: float
    eval_seconds: float
    feature_seconds: float
    samples_per_second: float
    memory: Required[dict[str, int]]
    memory_largest: dict[str, int]
    memory_batches: dict[str, int]
    flops_per_sample: int
    energy: JsonObject


class _Storage:
    """A live storage: its kind and bytes, when it was made, and when its kind last changed."""

    __slots__ = ("born", "changed", "kind", "nbytes", "ref")

    def __init__(self, kind: str, nbytes: int, now: int, ref: "weakref.ref[torch.UntypedStorage]") -> None:
        self.kind, self.nbytes, self.born, self.changed, self.ref = kind, nbytes, now, now, ref


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes alive by kind, their split at the peak, and the work done, inside its `with` block.

    Args:
        held: tensors that exist before the step, by kind. batch: the batch's tensors.

    Attributes:
        split: bytes by kind at the peak. largest: each kind's own peak.
        flops: multiplications and additions of products and convolutions.
        operations, moved: number of all operations but views, and the bytes that those without flops read and wrote.
    """

    def __init__(self, held: Mapping[str, Iterable[Tensor]], batch: Batch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive, self.largest, self.split = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        self.total = self.peak = self.peaked = self.now = 0
        self.flops = self.operations = self.moved = 0
        self.pieces: dict[int, _Storage] = {}
        for kind, known in held.items():
            for tensor in known:
                self.call(tensor, kind)
        for value in batch.values():
            self.seen(value)
        # What exists by now is the model's or the batch's, however long it lives: neither an activation nor a copy of a
        # weight.
        self.before = set(self.pieces)

    def __torch_dispatch__(
        self, func: Operation, types: object, args: Arguments = (), kwargs: KeywordArguments | None = None
    ) -> object:
        """Run one operation and count the tensors that it read and wrote."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)  # a query of fake tensors, not an operation
        read = tensors((args, kwargs))
        for tensor in read:
            self.seen(tensor)  # made outside the count: by numpy, or before it
        out = self.run(func, args, kwargs)
        written = tensors(out)
        for tensor in written:
            self.seen(tensor)
        self.work(func, args, kwargs, out, (read, written))
        return out

    def run(self, func: Operation, args: Arguments, kwargs: KeywordArguments) -> object:
        """Run the operation itself."""
        return func(*args, **kwargs)

    def work(
        self,
        func: Operation,
        args: Arguments,
        kwargs: KeywordArguments,
        out: object,
        tensors: tuple[list[Tensor], list[Tensor]],
    ) -> None:
        """Add the operation's work; `tensors` are those that it read and wrote."""
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        if not func.is_view:
            self.operations += 1
            # A product's bytes are left out: its measured rate includes reading its operands and writing its result,
            # so that the estimate of seconds would count them twice.
            self.moved += 0 if formula else sum(t.numel() * t.itemsize for group in tensors for t in group)

    def seen(self, tensor: Tensor) -> int:
        """Count the tensor's storage if it is new; return its key."""
        # By storage, not by tensor: views share one, and must count once.
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key not in self.pieces:
            self.now += 1
            # torch has no other sign that memory is freed: a storage goes with the last tensor on it.
            ref = weakref.ref(storage, partial(self._gone, key))
            self.pieces[key] = _Storage("workspace", storage.nbytes(), self.now, ref)
            self._add("workspace", storage.nbytes())
        return key

    def call(self, tensor: Tensor, kind: str) -> None:
        """Set a tensor's kind."""
        self._call(self.pieces[self.seen(tensor)], kind)

    def forward_done(self) -> None:
        """Mark the temporary tensors that outlive the forward pass as activations: the backward pass needs them."""
        for key, piece in self.pieces.items():
            if piece.kind == "workspace" and key not in self.before:
                self._call(piece, "activations")

    def finish(self) -> None:
        """Count as weights the tensors that outlive the step: copies of frozen weights in a lower precision."""
        for key, piece in self.pieces.items():
            if piece.kind in ("activations", "workspace") and key not in self.before and piece.born <= self.peaked:
                # `split` was written at the peak, and counts the piece under the kind that it had then.
                then = piece.kind if piece.changed <= self.peaked else "workspace"
                self.split[then] -= piece.nbytes
                self.split["weights"] += piece.nbytes
        self.pieces.clear()

    def _call(self, piece: _Storage, kind: str) -> None:
        self.now += 1
        # Taken out before it is added under its new kind: counted twice for a moment, it could make a false peak.
        self.alive[piece.kind] -= piece.nbytes
        self.total -= piece.nbytes
        piece.kind, piece.changed = kind, self.now
        self._add(kind, piece.nbytes)

    def _add(self, kind: str, nbytes: int) -> None:
        self.alive[kind] += nbytes
        self.total += nbytes
        self.largest[kind] = max(self.largest[kind], self.alive[kind])
        if self.total >= self.peak:
            self.peak, self.peaked, self.split = self.total, self.now, dict(self.alive)

    def _gone(self, key: int, _: object) -> None:
        # None once `finish` has emptied the table: tensors that outlive the step are freed later.
        piece = self.pieces.pop(key, None)
        if piece is not None:
            self.alive[piece.kind] -= piece.nbytes
            self.total -= piece.nbytes


def parameters(model: nn.Module, new: tuple[str, ...]) -> ParameterCount:
    """Return the numbers of parameters; those in the modules `new`, which the head added, are the head's."""
    chosen = trainable(model)
    head = sum(p.numel() for name, p in chosen.items() if in_head(name, new))
    count = sum(p.numel() for p in chosen.values())
    # PEFT keeps an untrained copy of each module that it trains whole: the model has those parameters once.
    total = sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in f".{name}")
    return ParameterCount(trainable=count, total=total, adapter=count - head, head=head)


def in_head(name: str, new: tuple[str, ...]) -> bool:
    """Return whether the parameter `name` belongs to one of the modules `new` that the head added."""
    return any(f".{module}." in f".{name}." for module in new)


def cuda_memory() -> CudaMemory | None:
    """Return the peaks of the CUDA allocator; None on CPU."""
    if not torch.cuda.is_available():
        return None
    return CudaMemory(allocated=torch.cuda.max_memory_allocated(), reserved=torch.cuda.max_memory_reserved())


@contextlib.contextmanager
def counting(count: Count, model: nn.Module) -> Iterator[Count]:
    """Apply `count` to the forward and backward pass inside the block; call `forward_done` between them."""

    def packed(tensor: Tensor) -> Tensor:
        # The backward pass also saves weights and inputs, which keep their kind: they need no further memory.
        if count.pieces[count.seen(tensor)].kind == "workspace":
            count.call(tensor, "activations")
        return tensor

    def accumulated(p: Tensor) -> None:
        if p.grad is not None:
            # autograd makes the gradient inside the backward pass, where it looks like any other temporary tensor.
            count.call(p.grad, "gradients")

    hooks = [
        p.register_post_accumulate_grad_hook(accumulated)  # type: ignore[no-untyped-call]
        for p in trainable(model).values()
    ]
    try:
        with count, torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
            yield count
        count.finish()
    finally:
        for hook in hooks:
            hook.remove()


def held(model: nn.Module, optimizer: "torch.optim.Optimizer | None") -> dict[str, list[Tensor]]:
    """Return the tensors that exist before a step, by kind; `optimizer` may be None."""
    state = {} if optimizer is None else optimizer.state
    # The state dict as well: layers of bitsandbytes keep the scales of their weights there, and not as buffers.
    weights = [*model.parameters(), *model.buffers(), *model.state_dict(keep_vars=True).values()]
    return {
        "weights": [value for value in weights if isinstance(value, Tensor)],
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "optimizer": [v for states in state.values() for v in states.values() if isinstance(v, Tensor)],
    }


def weights_alone(model: nn.Module) -> dict[str, int]:
    """Return the bytes by kind of a model that is not trained."""
    return {**dict.fromkeys(KINDS, 0), "weights": size(held(model, None)["weights"])}


def tensors(nested: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    return [x for x in tree_leaves(nested) if isinstance(x, Tensor)]


def size(held: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each counted once."""
    # One entry for each storage: tied weights and views share theirs.
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}.values())


class Meter:
    """Count the steps of a training that may need most memory: the first, and each with a larger batch than before.

    The counts are kept in `cost`, part of the training's checkpoint, so that a resumed training counts the same steps
    as an uninterrupted one. Keys: memory, memory_largest, flops_per_sample, memory_batches.
    """

    def __init__(self, model: nn.Module, optimizer: "torch.optim.Optimizer") -> None:
        self.model, self.optimizer = model, optimizer

    @contextlib.contextmanager
    def part(self, batch: Batch, cost: StepCost) -> Iterator["Count | _NoCount"]:
        """Count a micro-batch's forward and backward pass, if it is due; yield an object with `forward_done`."""
        numbers = sum(value.numel() for value in batch.values())
        # Later micro-batches of a step need more memory: the gradients of the first one are there.
        position = "first" if all(p.grad is None for p in self.model.parameters()) else "further"
        counted = cost.setdefault("memory_batches", {})
        if numbers <= counted.get(position, 0):
            yield _NoCount()
            return
        with counting(Count(held(self.model, self.optimizer), batch), self.model) as count:
            yield count
        counted[position] = numbers
        # The split belongs to one moment: kinds at their own peaks, which come at different times, would add up to more
        # than ever was needed.
        if count.peak > sum(cost["memory"].values()):
            cost["memory"] = count.split
        largest = cost.setdefault("memory_largest", dict.fromkeys(KINDS, 0))
        cost["memory_largest"] = {kind: max(largest[kind], count.largest[kind]) for kind in KINDS}
        rows = max(len(value) for value in batch.values())
        cost["flops_per_sample"] = max(cost.get("flops_per_sample", 0), math.ceil(count.flops / rows))

    def stepped(self, cost: StepCost) -> None:
        """Add the states that the optimizer made in its first step: they are in memory at every later peak."""
        states = size(held(self.model, self.optimizer)["optimizer"])
        # The first step was counted before AdamW had made them.
        missing = states - cost["memory"]["optimizer"]
        cost["memory"]["optimizer"] += missing
        cost["memory_largest"]["optimizer"] = states


class _NoCount:
    def forward_done(self) -> None:
        pass
