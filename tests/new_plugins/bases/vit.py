"""Read a ViT of transformers (Dosovitskiy et al., arXiv 2010.11929) as an image-only base."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ft.errors import UsageError
from cxr_ft.model.bases._pixels import CARD_IMPORTS, card_inputs, normalised
from cxr_ft.model.bases._trim import trimmed
from cxr_ft.model.protocols import PIXELS, Batch, CardCode, Example, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_TYPES = ("vit",)
PUBLISHED: dict[str, dict[str, Any]] = {"google/vit-base-patch16-224-in21k": {}}
MEAN = DEVIATION = (0.5, 0.5, 0.5)
_BLOCK = r"layers\.(\d+)\."
TARGETS: Roles = {
    "vision": {
        "q": _BLOCK + r"attention\.q_proj",
        "k": _BLOCK + r"attention\.k_proj",
        "v": _BLOCK + r"attention\.v_proj",
        "o": _BLOCK + r"attention\.o_proj",
        "up": _BLOCK + r"mlp\.fc1",
        "down": _BLOCK + r"mlp\.fc2",
    }
}


class ViT:
    """A `ViTModel` without pooler; see `cxr_ft.model.protocols.Base`."""

    family = "vit"
    targets = TARGETS
    reads_text = writes_text = reads_views = has_processor = has_frozen_prefix = False
    longest = 0

    def __init__(self, lm: Any, name: str) -> None:
        self.lm, self.name = lm, name
        self.image_size = int(lm.config.image_size)

    def resize(self, size: int) -> None:
        """Refuse another size than the model's own."""
        if size != self.image_size:
            raise UsageError(f"data.image_size: {size}; {self.name} reads {self.image_size} pixels alone")

    @property
    def pools(self) -> dict[str, int]:
        """Return the widths of the class token's state and of the mean over patches."""
        return dict.fromkeys(("cls", "mean"), int(self.lm.config.hidden_size))

    @property
    def code(self) -> dict[str, str]:
        """Return the expression of each pool, as `pooled` computes it."""
        states = "model(pixel_values=pixels).last_hidden_state"
        return {"cls": f"{states}[:, 0]", "mean": f"{states}[:, 1:].mean(1)"}

    def card_code(self, *, writes: bool, prompt: Sequence[int]) -> CardCode:
        """Return the lines of a model card."""
        inputs = card_inputs(self.image_size, MEAN, DEVIATION)
        return CardCode(imports=CARD_IMPORTS, classes=("ViTModel",), inputs=inputs)

    def encoder(self, pool: str) -> "nn.Module":
        """Return the whole model: both pools read all of it."""
        return trimmed(self.lm)

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """Return pixel_values float32 [B, 3, S, S]."""
        return {PIXELS: normalised(np.stack([e.image for e in examples]), self.image_size, MEAN, DEVIATION)}

    def pooled(self, model: Any, batch: Batch, pool: str) -> "Tensor":
        """Return [B, D]: the class token's state, or the mean over patches."""
        states: Tensor = model(pixel_values=batch[PIXELS]).last_hidden_state
        return states[:, 0] if pool == "cls" else states[:, 1:].mean(1)

    def blocks(self, model: "nn.Module") -> list[str]:
        """Return the names of the blocks, from input to output."""
        return [n for n, _ in model.named_modules() if re.fullmatch(r"(base_model\.model\.)?layers\.\d+", n)]

    def save(self, folder: Path, model: Any) -> None:
        """Write config.json, and the model if there is one, its weights under the names of its modules."""
        if model is None:
            self.lm.config.save_pretrained(folder)
        else:
            # By default transformers writes a ViT's weights under the names of its first release.
            model.save_pretrained(folder, save_original_format=False)


def load(name: str, weights: bool = True) -> ViT:
    """Return a ViT by folder or hub name; without `weights` its shape alone."""
    import torch
    from transformers import ViTConfig, ViTModel

    if weights:
        return ViT(ViTModel.from_pretrained(name, add_pooling_layer=False), name)
    known = name in PUBLISHED
    config = ViTConfig(**PUBLISHED[name]) if known else ViTConfig.from_pretrained(name)
    with torch.device("meta"):
        return ViT(ViTModel(config, add_pooling_layer=False), name)


def restore(folder: Path, name: str) -> ViT:
    """Return the architecture that `save` wrote; the caller loads the weights."""
    from transformers import ViTConfig

    return _drawn(ViTConfig.from_pretrained(folder), name)


def tiny() -> ViT:
    """Return a ViT of two blocks of width 32, for 32 pixels; random, the same each time."""
    from transformers import ViTConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    return _drawn(ViTConfig(image_size=32, patch_size=16, **small), "vit-tiny-test")


def _drawn(config: Any, name: str) -> ViT:
    import torch
    from transformers import ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViT(ViTModel(config, add_pooling_layer=False), name)
