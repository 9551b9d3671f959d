"""One tensor in one file, written row by row and read by mapping it: ordinary safetensors, whole or not at all.

Beside the tensor the file holds the SHA-256 of its bytes, so that one that was cut short, half written or changed on
the disk is never used. Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from cxr_ft.files import atomic

#: safetensors' names of the dtypes a model computes in.
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_ROWS, _CHECKSUM = "rows", "sha256"


def write(path: Path, rows: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Write `rows`, shape[0] tensors of shape[1:], as they come; only one of them is in memory at a time.

    Raises:
        UsageError: where the file cannot be written.
        ValueError: where the rows are not those announced.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    header = {
        _ROWS: {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [0, size]},
        _CHECKSUM: {"dtype": "U8", "shape": [32], "data_offsets": [size, size + 32]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + 56)  # behind the 8 bytes of its length: so that the rows begin at 64 n
    digest, count = hashlib.sha256(), 0
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for row in rows:
            if row.shape != shape[1:] or row.dtype != dtype:
                raise ValueError(f"a row of {tuple(row.shape)} {row.dtype}, where {shape[1:]} {dtype} was announced")
            plain = in_bytes(row)
            digest.update(plain)
            file.write(plain)
            count += 1
        if count != shape[0]:
            raise ValueError(f"{count} rows, where {shape[0]} were announced")
        file.write(digest.digest())


def read(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """The tensor in `path`, mapped, or None where there is none; read once from end to end against its checksum.

    A file that is damaged counts as none, with a line on standard error; so does one of another shape or dtype.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_tensor(_ROWS)
            checksum = bytes(file.get_tensor(_CHECKSUM).tolist())
        whole = rows.shape == shape and rows.dtype == dtype and hashlib.sha256(in_bytes(rows)).digest() == checksum
    except (SafetensorError, OSError):
        whole = False
    if not whole:
        print(f"{path} is damaged and not used", file=sys.stderr)
    return rows if whole else None


def in_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; a copy only where it does not lie in one piece in the machine's memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    plain: memoryview = flat.view(torch.uint8).numpy().data
    return plain
