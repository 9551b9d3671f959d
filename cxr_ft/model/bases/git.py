"""Microsoft GIT (Wang et al., arXiv 2205.14100) as transformers has it.

A CLIP vision tower, and a text decoder that reads image tokens and text tokens in one sequence: text attends to all
image tokens and to earlier text, image tokens never to text.

Upstream: transformers/models/git/modeling_git.py. From 4.49 to 5.14.1 its loss shifted labels twice; ours is computed
by the head, so no version's loss is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Batch, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_TYPES = ("git",)
#: transformers' GitConfig() is microsoft/git-base.
PUBLISHED: dict[str, dict[str, Any]] = {"microsoft/git-base": {}}
_TEXT = r"(?:git\.)?encoder\.layer\.(\d+)\."
_VISION = r"(?:git\.)?image_encoder\.vision_model\.encoder\.layers\.(\d+)\."
TARGETS: Roles = {
    "text": {
        "q": _TEXT + r"attention\.self\.query",
        "k": _TEXT + r"attention\.self\.key",
        "v": _TEXT + r"attention\.self\.value",
        "o": _TEXT + r"attention\.output\.dense",
        "up": _TEXT + r"intermediate\.dense",
        "down": _TEXT + r"output\.dense",
        "proj": r"(?:git\.)?visual_projection\.visual_projection\.0",
    },
    "vision": {
        "q": _VISION + r"self_attn\.q_proj",
        "k": _VISION + r"self_attn\.k_proj",
        "v": _VISION + r"self_attn\.v_proj",
        "o": _VISION + r"self_attn\.out_proj",
        "up": _VISION + r"mlp\.fc1",
        "down": _VISION + r"mlp\.fc2",
    },
}
#: A key of ours in a shipped config.json: the model has no weights file, they are drawn from this seed.
SEED_KEY = "cxr_ft_random_seed"


class Git:
    """A `GitForCausalLM` with its processor; see `cxr_ft.model.protocols.Base`."""

    family = "git"
    targets = TARGETS

    def __init__(self, lm: Any, processor: Any, name: str) -> None:
        self.lm, self.processor, self.name = lm, processor, name
        self.tokenizer: Any = processor.tokenizer if processor is not None else None
        self.image_size = int(lm.config.vision_config.image_size)

    def encoder(self) -> "nn.Module":
        """`GitModel`: towers and decoder, no vocabulary projection."""
        encoder: nn.Module = self.lm.git
        return encoder

    @property
    def width(self) -> int:
        """Width of the decoder."""
        return int(self.lm.config.hidden_size)

    @property
    def longest(self) -> int:
        """Text positions of the decoder."""
        return int(self.lm.config.max_position_embeddings)

    def pixel_values(self, images: NDArray[np.uint8]) -> "Tensor":
        """uint8 [B, S, S] -> float32 [B, 3, S, S] with the processor's mean and deviation a channel."""
        import torch

        settings = self.processor.image_processor
        x = torch.from_numpy(images).float()[:, None] * float(settings.rescale_factor)
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (settings.image_mean, settings.image_std))
        return (x - mean) / deviation

    def pooled(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """The decoder's state at the start token, which attends to every image token: [B, D]. It is how GIT answers."""
        import torch

        pixels = batch["pixel_values"]
        start = torch.full((len(pixels), 1), self.tokenizer.cls_token_id, device=pixels.device)
        states: Tensor = model(input_ids=start, pixel_values=pixels).last_hidden_state  # [B, images + 1, D]
        return states[:, -1]

    def logits(self, model: "nn.Module", batch: Batch) -> "Tensor":
        """[B, T, V] at the text positions alone; the image positions' logits are never computed."""
        out: Tensor = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            pixel_values=batch["pixel_values"],
            logits_to_keep=batch["input_ids"].shape[1],
        ).logits
        return out

    def generate(self, model: Any, pixel_values: "Tensor", prompt: Sequence[int], max_new_tokens: int) -> list[str]:
        """transformers' own greedy generation, stopped at [SEP]."""
        import torch

        ids = torch.tensor([list(prompt)] * len(pixel_values), device=pixel_values.device)
        out = model.generate(
            pixel_values=pixel_values,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(out[:, len(prompt) :], skip_special_tokens=True)
        return texts

    def likelihood(self, model: Any, pixel_values: "Tensor", sentences: Sequence[Sequence[int]]) -> "Tensor":
        """[B, K]. The image is read once; its keys and values are then repeated for the K sentences."""
        import torch
        from transformers import DynamicCache

        b, k = len(pixel_values), len(sentences)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sentences], batch_first=True, padding_value=-1)
        ids = ids.to(pixel_values.device).repeat(b, 1)  # [B K, T], image by image
        counts = ids >= 0
        start = torch.full((b, 1), self.tokenizer.cls_token_id, device=ids.device)
        cache = DynamicCache(config=model.config)
        first = model(
            input_ids=start, pixel_values=pixel_values, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache.batch_repeat_interleave(k)
        # Padding stands at the end, where no counted token attends to it.
        position = torch.arange(1, ids.shape[1], device=ids.device).expand(b * k, -1)
        rest = model(input_ids=ids[:, :-1].clamp(min=0), position_ids=position, past_key_values=cache, use_cache=True)
        logits = torch.cat([first.logits.repeat_interleave(k, 0), rest.logits], dim=1)  # [B K, T, V]
        chosen = logits.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0]
        return (chosen * counts).sum(1).view(b, k)

    def blocks(self, model: "nn.Module") -> list[str]:
        """Vision blocks, then text blocks."""
        import re

        ends = (_VISION[:-2], _TEXT[:-2])
        return [name for end in ends for name, _ in model.named_modules() if re.fullmatch(end, name)]

    def save(self, folder: Path, model: Any) -> None:
        """A transformers folder: processor and tokenizer, and the model where one is given."""
        self.processor.save_pretrained(folder)
        if model is not None:
            model.save_pretrained(folder, safe_serialization=True)


def load(name: str, weights: bool = True) -> Git:
    """A GIT by shipped name, folder or hub name.

    Raises:
        UsageError: where there is no such model, or no way to fetch it.
    """
    import torch
    from transformers import GitConfig, GitForCausalLM, GitProcessor

    from cxr_ft.model.find import cannot_fetch, location

    folder = location(name)
    where = str(folder or name)
    try:
        if not weights and folder is None and name in PUBLISHED:
            config = GitConfig(**PUBLISHED[name])
        else:
            config = GitConfig.from_pretrained(where)
        if not weights:
            with torch.device("meta"):
                return Git(GitForCausalLM(config), None, name)
        processor = GitProcessor.from_pretrained(where)
        seed = getattr(config, SEED_KEY, None)
        if seed is not None and not (folder is not None and (folder / "model.safetensors").exists()):
            return Git(_random(config, int(seed)), processor, name)
        model = GitForCausalLM.from_pretrained(
            where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
        )
        return Git(model, processor, name)
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(f"{folder} is no complete GIT folder: {str(error).strip().splitlines()[0]}") from error


def tiny() -> Git:
    """Two vision and two text blocks of width 32, 32 pixels, the shipped vocabulary; random, the same each time."""
    from transformers import GitConfig, GitProcessor

    from cxr_ft.model.find import SHIPPED

    folder = SHIPPED / "git-tiny-random"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    shape = GitConfig.from_pretrained(folder).to_dict()
    config = GitConfig(**{**shape, **small, "vision_config": {**shape["vision_config"], **vision}})
    return Git(_random(config, seed=0), GitProcessor.from_pretrained(folder), "git-tiny-test")


def _random(config: Any, seed: int) -> Any:
    import torch
    from transformers import GitForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GitForCausalLM(config)


def restore(folder: Path, name: str) -> Git:
    """The architecture and processor that `save` wrote; the caller puts the weights in."""
    from transformers import GitConfig, GitProcessor

    return Git(_random(GitConfig.from_pretrained(folder), seed=0), GitProcessor.from_pretrained(folder), name)
