"""Store features: what frozen weights make of an image is computed once, and mapped from a file ever after.

The base says which part of the model is a function of the image alone (`protocols.HasFrozenPrefix`); the head and the
trained part read its output from the batch in place of pixels. A file is found by the hash of all that decides its
numbers:

    weights         every parameter and buffer of that part, byte for byte
    images          the checksums of the decoded pixels, in their order
    preprocessing   what the base makes of one test image
    arithmetic      what that part makes of the test image, to the bit, and torch's version: so neither other code nor
                    another library, processor, precision or number of threads is ever a hit unless its bits are equal

Bits: on CPU that part runs on one image at a time, stored or not. Which kernel a product takes, and in which order it
sums, may depend on the number of rows; so no batch, last or whole, can make a difference between a run that stores and
one that does not. One image has some 200 tokens, and takes 2 % longer alone than among others on GIT-Base. On CUDA,
where a single image leaves most of the device idle, `CUDA_BATCH` images are taken at a time, and without a file the
model itself computes them in its own batches: equal there up to rounding.

A file is one tensor in ordinary safetensors, written row by row and mapped for reading. Beside the tensor it holds the
SHA-256 of its bytes, so that a file that was cut short, half written or changed on the disk is never used.
Format: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.errors import UsageError
from cxr_ft.files import atomic, cache_folder
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import PIXELS, Batch, FrozenPrefix, has_frozen_prefix, owner
from cxr_ft.progress import bar

#: Raise it when the files change in a way that nothing else in their key shows.
FORMAT = 1
#: Images at a time on CUDA.
CUDA_BATCH = 64
#: The dtype of autocast by `train.precision`.
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: safetensors' names of the dtypes a model computes in.
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
#: Names of the two tensors in a file.
_ROWS, _CHECKSUM = "rows", "sha256"


@dataclass(frozen=True)
class FrozenFeatures:
    """The output of the frozen part for the rows of one split, and how it gets into their batches.

    Args:
        prefix: the frozen part.
        autocast: the dtype of the autocast it runs under; None: none.
        stored: its output for all N images, [N, ...]; None: computed for each batch.
    """

    prefix: FrozenPrefix
    autocast: torch.dtype | None
    stored: Tensor | None

    def replace_pixels(self, batch: Batch, rows: Sequence[int], device: torch.device) -> Batch:
        """Return the `batch` of the split's `rows` on `device`, with the frozen part's output in place of pixels."""
        if self.stored is not None:
            batch = {name: value for name, value in batch.items() if name != PIXELS}
            # Indexing copies these rows out of the mapped file, so that no later operation can change the file.
            batch[self.prefix.key] = self.stored[torch.as_tensor(rows)]
        on_device = {name: value.to(device) for name, value in batch.items()}
        if self.stored is None and device.type == "cpu":
            pixels = on_device.pop(PIXELS)
            # One image at a time, as when it is stored: see "Bits" above.
            on_device[self.prefix.key] = torch.cat([self.compute(image) for image in torch.split(pixels, 1)])
        return on_device

    @torch.no_grad()
    def compute(self, pixels: Tensor) -> Tensor:
        """Return the frozen part's output for `pixels` [B, ...], whatever autocast the caller runs under."""
        # A copy lies at an address of torch's choice: kernels may depend on alignment, too.
        with torch.autocast(pixels.device.type, self.autocast, enabled=self.autocast is not None):
            out: Tensor = self.prefix.compute(pixels.clone())
        return out


def mark_trained(model: nn.Module, modules: Sequence[str]) -> None:
    """Give a reloaded `model` the frozen part it had in training, when `modules` (by `owner`) were trained."""
    trained = set(modules)
    for name, parameter in model.named_parameters():
        # Quantised weights are whole numbers, for which torch refuses gradients.
        parameter.requires_grad_(owner(name) in trained and parameter.is_floating_point())


@dataclass(frozen=True)
class _Probe:
    """The hash of what preprocessing and arithmetic make of a test image, with shape and dtype of one output."""

    digest: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class FeatureStore:
    """The stored features of one model, in the user's cache folder; several processes may write them at once.

    Args:
        parts: the model, on its device. Its frozen part must not change: its hash is computed once.
        enabled: False: nothing is stored or read from files.
        shared: other runs follow that may read what is stored now, so one reading is enough to store.
        verbose: print what was stored or read, and why nothing is stored; of several processes one prints.
        whole: each process has the whole model. Under FSDP it has a share, which computes nothing by itself.
    """

    parts: ModelParts
    enabled: bool = True
    shared: bool = False
    verbose: bool = True
    whole: bool = True
    #: Mapped files by path, so that a file's checksum is computed once a process.
    _open: dict[Path, Tensor] = field(default_factory=dict, init=False, repr=False)
    _probes: dict[torch.dtype | None, _Probe] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def prefix(self) -> FrozenPrefix | None:
        """Return the model's frozen part; None where it has none that can be computed by itself."""
        base = self.parts.base
        return base.prefix(self.parts.model) if self.whole and has_frozen_prefix(base) else None

    def frozen_features(
        self, dataset: SplitDataset, autocast: torch.dtype | None = None, *, reads: int = 1
    ) -> FrozenFeatures | None:
        """Return the features of the rows of `dataset`, unaugmented; None where the model has no frozen part.

        They are stored now if they are not yet, and will be read more than once: here (`reads` times) or by runs that
        follow.
        """
        if self.prefix is None:
            return None
        computed = FrozenFeatures(self.prefix, autocast, None)
        if not self.enabled or not len(dataset):
            return computed
        return dataclasses.replace(computed, stored=self._stored(computed, dataset, reads))

    def for_training(self, dataset: SplitDataset, precision: str, epochs: int) -> FrozenFeatures | None:
        """Return `frozen_features` of train, and print why they are not stored, if so.

        None where the model has no frozen part, and where augmentation changes the images in each epoch.

        Args:
            dataset: train.
            precision: "no", "bf16" or "fp16", as in `train.precision`.
            epochs: passes over the rows.
        """
        augmented = dataset.train_targets is not None and dataset.train_targets.view.augmentation is not None
        reason = None
        if self.prefix is None:
            reason = (
                "the image encoder is trained, has random weights, or is not this base's own"
                if self.whole
                else "FSDP shards the model"
            )
        elif augmented:
            reason = "data.augment and data.flip change the images in each epoch"
        elif not self.enabled:
            reason = "train.store_features is never"
        if reason is not None and self.parts.base.image_size:  # of a base that reads text there is nothing to say
            self._print(f"image features are not stored: {reason}")
        if augmented:
            return None
        # In full precision train is read once more: it is evaluated, in fp32, after the last epoch.
        return self.frozen_features(dataset, AUTOCAST[precision], reads=epochs + (precision == "no"))

    def _stored(self, computed: FrozenFeatures, dataset: SplitDataset, reads: int) -> Tensor | None:
        """Return the features from their file, written now if worth it; None where they are to be computed."""
        probe = self._probe(computed, dataset)
        path = self._path(probe, dataset)
        shape = (len(dataset), *probe.shape)
        if path not in self._open:
            # Whatever another run or process has stored by now, whether or not this one would have stored it itself.
            tensor = read_tensor(path, shape, probe.dtype)
            if tensor is not None:
                self._print(f"image features of {len(dataset)} images: {_megabytes(tensor)} read, computed before")
            elif reads > 1 or self.shared:
                tensor = self._write(path, computed, dataset, shape, probe.dtype)
            if tensor is None:
                return None
            self._open[path] = tensor
        return self._open[path]

    def _write(
        self, path: Path, computed: FrozenFeatures, dataset: SplitDataset, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor | None:
        """Write the features and return them, mapped; None, with a line that says why, where the disk is too full."""
        needed = torch.Size(shape).numel() * dtype.itemsize
        try:
            free = _free_bytes(path.parent)
            if needed > free / 2:
                raise UsageError(f"{path.parent} has {free / 1e9:.1f} GB free, and half of it is left to others")
            write_tensor(path, self._compute_rows(computed, dataset), shape, dtype)
        except UsageError as error:
            # Another process that finished the same file first has removed our temporary file as a leftover.
            tensor = read_tensor(path, shape, dtype)
            if tensor is None:
                self._print(f"image features ({needed / 1e6:.0f} MB) are not stored, which costs time alone: {error}")
            return tensor
        # Of killed processes, or of one that is writing the same rows at this moment: its last step then fails, and it
        # reads this file instead (above).
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)
        tensor = read_tensor(path, shape, dtype)
        if tensor is not None:
            self._print(
                f"image features of {len(dataset)} images stored once: {_megabytes(tensor)} in {path.parent}, shared "
                "by runs with the same frozen weights"
            )
        return tensor

    def _compute_rows(self, computed: FrozenFeatures, dataset: SplitDataset) -> Iterator[Tensor]:
        device = self._device
        batch_size = 1 if device.type == "cpu" else CUDA_BATCH
        with bar("image features", len(dataset)) as progress:
            for start in range(0, len(dataset), batch_size):
                # By index, without the training's view of the rows: what is stored must not depend on a seed or an
                # epoch.
                examples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                out = computed.compute(self.parts.base.inputs(examples)[PIXELS].to(device)).cpu()
                yield from out
                progress.advance(len(out))

    def _path(self, probe: _Probe, dataset: SplitDataset) -> Path:
        key = [FORMAT, torch.__version__, probe.digest, self._weights_hash, *_image_hashes(dataset)]
        # 128 bits of the hash: two keys that meet by chance are out of the question, and names stay readable.
        return cache_folder() / "features" / f"{_hash(json.dumps(key).encode())[:32]}.safetensors"

    def _probe(self, computed: FrozenFeatures, dataset: SplitDataset) -> _Probe:
        """Return the probe of an autocast, computed once for each."""
        if computed.autocast not in self._probes:
            side = self.parts.base.image_size
            # A slanted ramp: all grey levels occur, and no flip, shift or swap of axes leaves it as it is.
            ramp = np.add.outer(np.arange(side), 3 * np.arange(side)).astype(np.uint8)
            pixels = self.parts.base.inputs([dataclasses.replace(dataset[0], image=ramp, further=())])[PIXELS]
            out = computed.compute(pixels.to(self._device))
            # The output as well as the input: it shows a change of code, library, processor or threads as soon as one
            # bit differs.
            hashes = [_hash(tensor_bytes(x)) for x in (pixels, out)]
            key = [*hashes, computed.prefix.key, list(pixels.shape), list(out.shape), str(out.dtype), self._device.type]
            digest = _hash(json.dumps(key).encode())
            self._probes[computed.autocast] = _Probe(digest, tuple(out.shape[1:]), out.dtype)
        return self._probes[computed.autocast]

    @cached_property
    def _weights_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.prefix.weights.items() if self.prefix is not None else ()):
            # With name, dtype and shape: the same bytes read in another way are other weights.
            digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()

    @property
    def _device(self) -> torch.device:
        return next(self.parts.model.parameters()).device

    def _print(self, line: str) -> None:
        if self.verbose:
            print(line, file=sys.stderr)


def _image_hashes(dataset: SplitDataset) -> list[str]:
    """Return hashes of the images of each row, in order; a row may have several."""
    further, starts = dataset.side_inputs.images, dataset.side_inputs.starts
    if further is None or starts is None:
        return [dataset.images.digest]
    return [dataset.images.digest, further.digest, _hash(np.ascontiguousarray(starts).data)]


def write_tensor(path: Path, rows: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Write `rows`, shape[0] tensors of shape[1:], as they come; only one of them is in memory at a time.

    Raises:
        UsageError: where the file cannot be written.
        ValueError: where the rows do not have the announced number, shape or dtype.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    header = {
        _ROWS: {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [0, size]},
        _CHECKSUM: {"dtype": "U8", "shape": [32], "data_offsets": [size, size + 32]},
    }
    text = json.dumps(header).encode()
    # Padded, with the 8 bytes of its length before it, so that the rows begin at a multiple of 64 bytes: mapped
    # tensors are then aligned as torch's own are, and kernels that depend on alignment give the same bits.
    text += b" " * (-len(text) % 64 + 56)
    digest, count = hashlib.sha256(), 0
    # Under a temporary name to the last byte: a reader never sees a file that is half written.
    with atomic(path, private=True) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for row in rows:
            if row.shape != shape[1:] or row.dtype != dtype:
                raise ValueError(f"a row of {tuple(row.shape)} {row.dtype}, where {shape[1:]} {dtype} was announced")
            content = tensor_bytes(row)
            digest.update(content)
            file.write(content)
            count += 1
        if count != shape[0]:
            raise ValueError(f"{count} rows, where {shape[0]} were announced")
        # Last, since the rows come one by one and are hashed as they are written; the header has kept its place.
        file.write(digest.digest())


def read_tensor(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Return the tensor in `path`, mapped, after one reading from end to end against its checksum; None without file.

    A file that is damaged, or of another shape or dtype, counts as none, with a line on standard error.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_tensor(_ROWS)
            checksum = bytes(file.get_tensor(_CHECKSUM).tolist())
        # Hashed on the mapped tensor: this reading also brings the file into the page cache, where training will read
        # it.
        valid = rows.shape == shape and rows.dtype == dtype and hashlib.sha256(tensor_bytes(rows)).digest() == checksum
    except (SafetensorError, OSError):
        valid = False
    if not valid:
        print(f"{path} is damaged and not used", file=sys.stderr)
    return rows if valid else None


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, copied only where it is not contiguous in the machine's memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # As bytes, since numpy has no bfloat16.
    content: memoryview = flat.view(torch.uint8).numpy().data
    return content


def _free_bytes(folder: Path) -> int:
    """Return the bytes that are free where `folder` is or would be."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _megabytes(tensor: Tensor) -> str:
    return f"{tensor.nbytes / 1e6:.0f} MB"


def _hash(content: "bytes | memoryview") -> str:
    return hashlib.sha256(content).hexdigest()
