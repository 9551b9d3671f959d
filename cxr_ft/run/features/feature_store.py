"""Frozen work, done once: what frozen weights make of an image is computed once and mapped from a file ever after.

The base says which part of the model is a function of the image alone (`protocols.Storable`); the head and what is
trained read its output from the batch in place of pixels. A file is found by the hash of all that decides its numbers:

    weights         every parameter and buffer of that part, byte for byte
    images          the checksums of the decoded pixels, in their order
    preprocessing   what the base makes of one test image
    arithmetic      what that part makes of the test image, to the bit, and torch's version: so neither other code nor
                    another library, processor, precision or number of threads is ever a hit unless it says the same

Bits: on CPU that part runs on one image at a time, stored or not. Which kernel a product takes, and in which order it
sums, may depend on the number of rows; so no batch, last or whole, can make a difference between a run that stores and
one that does not. One image has some 200 tokens, and takes 2 % longer alone than among others on GIT-Base. On CUDA,
where a single image leaves most of the device idle, `TOGETHER` images are taken at a time, and without a file the
model itself computes them in its own batches: equal there up to rounding.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import PIXELS, Batch, FrozenPrefix, has_frozen_prefix, owner
from cxr_ft.progress import bar
from cxr_ft.run.features import tensor_file

#: Raise it when the files change in a way that nothing else in their key shows.
FORMAT = 1
#: Images at a time on CUDA.
TOGETHER = 64
#: The dtype of autocast by `train.precision`.
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FrozenFeatures:
    """How the output of the frozen part gets into the batches of one side.

    Args:
        prefix: the frozen part.
        autocast: the dtype of the autocast it runs under; None: none.
        stored: of all N images, [N, ...]; None: computed for each batch.
    """

    prefix: FrozenPrefix
    autocast: torch.dtype | None
    stored: Tensor | None

    def put(self, batch: Batch, rows: Sequence[int], device: torch.device) -> Batch:
        """`batch` of the side's `rows` on `device`, with the frozen part's output in place of its pixels."""
        if self.stored is not None:
            batch = {name: value for name, value in batch.items() if name != PIXELS}
            batch[self.prefix.key] = self.stored[torch.as_tensor(rows)]
        there = {name: value.to(device) for name, value in batch.items()}
        if self.stored is None and device.type == "cpu":
            pixels = there.pop(PIXELS)
            there[self.prefix.key] = torch.cat([self.compute(one) for one in pixels.split(1)])
        return there

    @torch.no_grad()
    def compute(self, pixels: Tensor) -> Tensor:
        """The frozen part's output for `pixels` [B, ...], whatever the autocast around."""
        # A copy lies at an address of torch's choice: kernels may go by alignment, too.
        with torch.autocast(pixels.device.type, self.autocast, enabled=self.autocast is not None):
            out: Tensor = self.prefix.compute(pixels.clone())
        return out


def as_trained(model: nn.Module, modules: Sequence[str]) -> None:
    """Let `model`, reloaded, have the frozen part it had in training: `modules` were trained, by `owner`."""
    trained = set(modules)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(owner(name) in trained and parameter.is_floating_point())


@dataclass(frozen=True)
class _Probe:
    """What a test image says of preprocessing and arithmetic, and the shape and dtype of one image's output."""

    digest: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class FeatureStore:
    """The files of one model's frozen part, in the user's cache folder; any number of processes may make them at once.

    Args:
        parts: the model, on its device; its frozen part must stay as it is.
        keep: False: nothing is read or written.
        shared: other runs are to follow, so that even what is read once now is stored.
        says: whether to tell on standard error what is done, and why something is not.
        whole: whether each process has all of the model; where they share it, nothing can be computed apart.
    """

    parts: ModelParts
    keep: bool = True
    shared: bool = False
    says: bool = True
    whole: bool = True
    _open: dict[Path, Tensor] = field(default_factory=dict, init=False, repr=False)
    _probes: dict[torch.dtype | None, _Probe] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def prefix(self) -> FrozenPrefix | None:
        """The model's frozen part, if there is one that can be computed apart."""
        base = self.parts.base
        return base.prefix(self.parts.model) if self.whole and has_frozen_prefix(base) else None

    def frozen(
        self, rows: SplitDataset, autocast: torch.dtype | None = None, *, reads: int = 1
    ) -> FrozenFeatures | None:
        """How to get the frozen part of `rows`, unaugmented; None where the model has none.

        What is not stored yet is stored now if it is to be read more than once, here (`reads`) or by runs to follow.
        """
        if self.prefix is None:
            return None
        computed = FrozenFeatures(self.prefix, autocast, None)
        if not self.keep or not len(rows):
            return computed
        return dataclasses.replace(computed, stored=self._stored(computed, rows, reads))

    def for_training(self, rows: SplitDataset, precision: str, epochs: int) -> FrozenFeatures | None:
        """`frozen` for the rows that are learnt from, with the decision told; None too where each epoch changes them.

        Args:
            precision: "no", "bf16" or "fp16", as in `train.precision`.
            epochs: passes over the rows.
        """
        augmented = rows.train_targets is not None and rows.train_targets.view.augmentation is not None
        why = None
        if self.prefix is None:
            why = (
                "what reads the images is trained, random, or not this base's own" if self.whole else "FSDP spreads it"
            )
        elif augmented:
            why = "data.augment and data.flip show other images in each epoch"
        elif not self.keep:
            why = "train.store_features is never"
        if why is not None and self.parts.base.image_size:  # a base that reads text has none to speak of
            self._say(f"image features are not stored: {why}")
        if augmented:
            return None
        # In full precision train is read once more, to be judged.
        return self.frozen(rows, AUTOCAST[precision], reads=epochs + (precision == "no"))

    def _stored(self, computed: FrozenFeatures, rows: SplitDataset, reads: int) -> Tensor | None:
        probe = self._probe(computed, rows)
        path = self._path(probe, rows)
        shape = (len(rows), *probe.shape)
        if path not in self._open:
            found = tensor_file.read(path, shape, probe.dtype)
            if found is not None:
                self._say(f"image features of {len(rows)} images: {_size(found)} found, computed before")
            elif reads > 1 or self.shared:
                found = self._made(path, computed, rows, shape, probe.dtype)
            if found is None:
                return None
            self._open[path] = found
        return self._open[path]

    def _made(
        self, path: Path, computed: FrozenFeatures, rows: SplitDataset, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor | None:
        """The file's content, made; None, with a line that says why, where there is no room for it."""
        needed = torch.Size(shape).numel() * dtype.itemsize
        try:
            free = _free(path.parent)
            if needed > free / 2:
                raise UsageError(f"{path.parent} has {free / 1e9:.1f} GB free, and half of it is left to others")
            tensor_file.write(path, self._rows(computed, rows), shape, dtype)
        except UsageError as error:
            # Where another process was first, it took our temporary file for a leftover.
            found = tensor_file.read(path, shape, dtype)
            if found is None:
                self._say(f"image features ({needed / 1e6:.0f} MB) are not stored, which costs time alone: {error}")
            return found
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)
        found = tensor_file.read(path, shape, dtype)
        if found is not None:
            self._say(
                f"image features of {len(rows)} images stored once: {_size(found)} in {path.parent}, shared by runs "
                "with the same frozen weights"
            )
        return found

    def _rows(self, computed: FrozenFeatures, rows: SplitDataset) -> Iterator[Tensor]:
        device = self._device
        together = 1 if device.type == "cpu" else TOGETHER
        with bar("image features", len(rows)) as progress:
            for start in range(0, len(rows), together):
                examples = [rows[i] for i in range(start, min(start + together, len(rows)))]
                out = computed.compute(self.parts.base.inputs(examples)[PIXELS].to(device)).cpu()
                yield from out
                progress.advance(len(out))

    def _path(self, probe: _Probe, rows: SplitDataset) -> Path:
        decides = [FORMAT, torch.__version__, probe.digest, self._weights, *_images(rows)]
        return cache_folder() / "features" / f"{_hash(json.dumps(decides).encode())[:32]}.safetensors"

    def _probe(self, computed: FrozenFeatures, rows: SplitDataset) -> _Probe:
        """Made once for each autocast."""
        if computed.autocast not in self._probes:
            side = self.parts.base.image_size
            ramp = np.add.outer(np.arange(side), 3 * np.arange(side)).astype(np.uint8)
            pixels = self.parts.base.inputs([dataclasses.replace(rows[0], image=ramp, further=())])[PIXELS]
            out = computed.compute(pixels.to(self._device))
            numbers = [_hash(tensor_file.in_bytes(x)) for x in (pixels, out)]
            said: list[Any] = [*numbers, computed.prefix.key, list(pixels.shape), list(out.shape), str(out.dtype)]
            digest = _hash(json.dumps([*said, self._device.type]).encode())
            self._probes[computed.autocast] = _Probe(digest, tuple(out.shape[1:]), out.dtype)
        return self._probes[computed.autocast]

    @cached_property
    def _weights(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.prefix.weights.items() if self.prefix is not None else ()):
            digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor_file.in_bytes(tensor))
        return digest.hexdigest()

    @property
    def _device(self) -> torch.device:
        return next(self.parts.model.parameters()).device

    def _say(self, line: str) -> None:
        if self.says:
            print(line, file=sys.stderr)


def _images(rows: SplitDataset) -> list[str]:
    """Hashes of the images of each row, in order; a row may have several."""
    beside, starts = rows.side_inputs.images, rows.side_inputs.starts
    if beside is None or starts is None:
        return [rows.images.digest]
    return [rows.images.digest, beside.digest, _hash(np.ascontiguousarray(starts).data)]


def _free(folder: Path) -> int:
    """Bytes free where `folder` is or would be."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _size(tensor: Tensor) -> str:
    return f"{tensor.nbytes / 1e6:.0f} MB"


def _hash(content: "bytes | memoryview") -> str:
    return hashlib.sha256(content).hexdigest()
