"""Forecast a training step from the configuration alone: run the step itself on fake tensors.

Model and step are the real ones, and so is every shape, dtype and saved tensor; torch's `FakeTensorMode` leaves out the
numbers. Masks and token ids keep their numbers, because the code decides by them how many positions it reads.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from cxr_ft.config import RunConfig
from cxr_ft.model import assembly
from cxr_ft.model.protocols import IGNORE, PIXELS, Base, Batch, has_frozen_prefix, is_text_reader, trainable
from cxr_ft.run.cost import memory
from cxr_ft.run.cost.fake_quantised import quantised
from cxr_ft.run.features.feature_store import AUTOCAST
from cxr_ft.run.record.result_parts import MemoryBytes

#: Tokens of a text that is not known yet.
READ = 128


@dataclass(frozen=True, kw_only=True)
class TextLengths:
    """Tokens of each row of a step: `before` the written text, `written`, and `read` by a base of texts."""

    before: Sequence[int]
    written: Sequence[int]
    read: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class StepForecast:
    """One step of the optimizer.

    Args:
        memory: at the peak. rows: of the step. micro: rows at a time.
        flops, operations, moved: as `cxr_ft.run.cost.memory.Count` has them, of all micro-batches and the optimizer.
    """

    memory: MemoryBytes
    rows: int
    micro: int
    flops: int
    operations: int
    moved: int

    @property
    def flops_per_sample(self) -> int:
        """Return the work of forward and backward pass of a row."""
        return math.ceil(self.flops / self.rows)


def texts_of(config: RunConfig, base: Base, rows: int) -> TextLengths:
    """Return the longest texts that the configuration allows: an upper bound."""
    head = config.head.options
    written = int(head.max_tokens)
    context = int(head.max_context) if config.data.context else 0
    read = min(base.limit, head.read_tokens or READ) if is_text_reader(base) else 0
    before = 1 + len(str(head.prompt).split()) + context
    return TextLengths(before=[before] * rows, written=[written] * rows, read=[read] * rows)


def forecast_step(
    config: RunConfig, parts: assembly.ModelParts, labels: int, texts: TextLengths | None = None
) -> StepForecast:
    """Forecast a step of `config.train.batch_size` rows, micro-batches as configured.

    Args:
        parts: of `assembly.build` on the meta device; they are changed and of no use afterwards.
        labels: the number of labels.
        texts: of one micro-batch's rows; None: as long as the configuration allows.

    Raises:
        UsageError: where the method trains nothing.
    """
    train = config.train
    micro = min(train.micro_batch or train.batch_size, train.batch_size)
    lengths = texts or texts_of(config, parts.base, micro)
    # In training mode: dropout keeps its masks for the backward pass, and they take memory.
    model, trained = parts.model.train(), trainable(parts.model)
    batch = _batch(parts, config, labels, lengths)
    dtype = AUTOCAST[train.precision]
    with _fake_tensors():
        _materialise_fake(model)
        quantised(parts, config)
        batch = _with_prefix_output(parts, config, batch, dtype)
        # AdamW keeps two moments, and the number of its steps as one float32, for each parameter.
        states = [torch.empty(2 * p.nbytes + 4, dtype=torch.uint8) for p in trained.values()] if trained else []
        trips = 1 if micro == train.batch_size else 2  # later micro-batches find gradients in memory
        counts = [_count(parts, batch, states, dtype) for _ in range(trips)] if trained else []
        alone = memory.weights_alone(model)
    times = math.ceil(train.batch_size / micro)
    last = counts[-1] if counts else None
    return StepForecast(
        memory=MemoryBytes(
            **max((count.split for count in counts), key=lambda split: sum(split.values()), default=alone)
        ),
        rows=train.batch_size,
        micro=micro,
        flops=times * last.flops if last else 0,
        operations=times * last.operations if last else 0,
        # AdamW reads weight, gradient and two moments, and writes weight and two moments: seven passes.
        moved=times * last.moved + 7 * sum(p.nbytes for p in trained.values()) if last else 0,
    )


class _FakeCount(memory.Count):  # type: ignore[no-untyped-call]
    """A count on fake and real tensors: an operation on real tensors alone is computed."""

    def run(self, func: memory.Operation, args: memory.Arguments, kwargs: memory.KeywordArguments) -> object:
        """Run the operation, with numbers where all its inputs are real."""
        read = memory.tensors((args, kwargs))
        # Masks and ids are real, and so is what follows from these alone: shapes depend on it.
        if read and not any(isinstance(x, FakeTensor) for x in read):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0  # numbers read from fake tensors decide no shape: a seed, or whether a copy is still valid
        if "index" in func._overloadpacket.__name__ and len(args) > 1 and isinstance(args[1], Sequence):
            args = (args[0], _mask_indices(args[1]), *args[2:])
        if func is torch.ops.aten.convolution_backward.default and _device() == "cpu":
            of_input, of_weight, of_bias = args[-1]
            # oneDNN computes the weight's gradient wherever the bias's is needed.
            args = (*args[:-1], [of_input, of_weight or of_bias, of_bias])
        return func(*args, **kwargs)


def _mask_indices(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return boolean masks as integer indices, whose shape is known."""
    out: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                out += index.nonzero(as_tuple=True)
        else:
            out.append(index)
    return out


def _count(parts: assembly.ModelParts, batch: Batch, states: list[Tensor], dtype: torch.dtype | None) -> memory.Count:
    """Count one micro-batch's forward and backward pass, with the optimizer's states in memory."""
    held = {**memory.held(parts.model, None), "optimizer": states}
    with memory.counting(_FakeCount(held, batch), parts.model) as count:
        with torch.autocast(_device(), dtype, enabled=dtype is not None):
            loss, _ = parts.head.loss(parts.model, batch)
        count.forward_done()
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
    return count


@contextmanager
def _fake_tensors() -> Iterator[None]:
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        # By its address `fused_linear` tells whether a cached copy is of this weight: any will do.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def _materialise_fake(model: nn.Module) -> None:
    """Replace the parameters and buffers of the meta device by fake ones on the run's; shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                # By identity: tied weights must stay one tensor, or they would count twice.
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device=_device())
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                tensors[name] = made[id(old)]  # type: ignore[assignment]


def _batch(parts: assembly.ModelParts, config: RunConfig, labels: int, texts: TextLengths) -> Batch:
    """Return a batch with every key that bases and heads read; masks and ids are real and say how long each text is."""
    base, rows = parts.base, len(texts.written)
    if getattr(base, "tokenizer", 0) is None:
        # No shape depends on the ids of special tokens.
        base.tokenizer = SimpleNamespace(cls_token_id=0, sep_token_id=0, pad_token_id=0, eos_token_id=0)  # type: ignore[attr-defined]
    out: Batch = {"targets": torch.zeros(rows, labels)}
    if base.image_size:
        views = (config.data.views,) if config.data.views > 1 else ()
        out[PIXELS] = torch.zeros(rows, *views, 3, base.image_size, base.image_size)
        if views:
            out["views"] = torch.full((rows,), views[0])
    if any(texts.written):
        # The last token is only predicted, never read: the inputs are one shorter than the text.
        lengths = [before + written - 1 for before, written in zip(texts.before, texts.written, strict=True)]
        out |= _tokens("input_ids", "attention_mask", lengths)
        # Only the positions of the written text count in the loss, and only for these are logits computed.
        out["labels"] = torch.full((rows, max(lengths)), IGNORE)
        for row, (before, length) in enumerate(zip(texts.before, lengths, strict=True)):
            out["labels"][row, before - 1 : length] = 0
    elif any(texts.read):
        out |= _tokens("input_ids", "attention_mask", texts.read)
    if any(texts.read):
        out |= _tokens("given_ids", "given_mask", texts.read)
    return {name: value.to(_device()) for name, value in out.items()}


def _tokens(ids: str, mask: str, lengths: Sequence[int]) -> Batch:
    present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {ids: torch.zeros(present.shape, dtype=torch.int64), mask: present.long()}


def _with_prefix_output(
    parts: assembly.ModelParts, config: RunConfig, batch: Batch, dtype: torch.dtype | None
) -> Batch:
    """Return the batch as a training step gets it: with the frozen prefix's output, where that is stored."""
    augmented = config.data.augment != "none" or config.data.flip
    prefix = parts.base.prefix(parts.model) if has_frozen_prefix(parts.base) and not augmented else None
    if prefix is None or (_device() != "cpu" and config.train.store_features == "never"):
        return batch
    with torch.no_grad(), torch.autocast(_device(), dtype, enabled=dtype is not None):
        done = prefix.compute(batch[PIXELS])
    return {**{name: value for name, value in batch.items() if name != PIXELS}, prefix.key: done}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
