"""Microsoft GIT (Wang et al., arXiv 2205.14100) as transformers has it.

A CLIP vision tower, and a text decoder that reads image tokens and text tokens in one sequence: text attends to all
image tokens and to earlier text, image tokens never to text.

Upstream: transformers/models/git/modeling_git.py, walked through by `cxr_ft.model.fast`; its own forward runs where
somebody changed a module that the walk does not call. From 4.49 to 5.14.1 its loss shifted labels twice; ours is
computed by the head, so no version's loss is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Batch, Example, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cxr_ft.model.fast.frozen import Prefix

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

    @property
    def image_size(self) -> int:
        """S, the side of its images in pixels."""
        return int(self.lm.config.vision_config.image_size)

    def resize(self, size: int) -> None:
        """Read images of `size` pixels from now on."""
        from cxr_ft.model.bases import _git_size

        if size != self.image_size:
            _git_size.resize(self.lm, size)

    def encoder(self, pool: str = "query") -> "nn.Module":
        """`GitModel`: towers and decoder, no vocabulary projection, and of those what `pool` reads."""
        from cxr_ft.model.bases import _git_pool

        return _git_pool.trimmed(self.lm.git, pool)

    @property
    def pools(self) -> dict[str, int]:
        """The query token, which is how GIT answers; the mean of the image tokens; the vision tower's class token."""
        width = int(self.lm.config.hidden_size)
        return {"query": width, "mean": width, "cls": int(self.lm.config.vision_config.hidden_size)}

    @property
    def longest(self) -> int:
        """Text positions of the decoder."""
        return int(self.lm.config.max_position_embeddings)

    def inputs(self, examples: Sequence[Example]) -> Batch:
        """pixel_values float32 [B, 3, S, S]."""
        return {"pixel_values": self.pixel_values(np.stack([example.image for example in examples]))}

    def pixel_values(self, images: NDArray[np.uint8]) -> "Tensor":
        """uint8 [B, S, S] -> float32 [B, 3, S, S] with the processor's mean and deviation a channel."""
        import torch

        settings = self.processor.image_processor
        x = torch.from_numpy(images).float()[:, None] * float(settings.rescale_factor)
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (settings.image_mean, settings.image_std))
        return (x - mean) / deviation

    def prefix(self, model: "nn.Module") -> "Prefix | None":
        """What may be stored of each image, since frozen weights make it constant; see `cxr_ft.model.fast.frozen`."""
        from cxr_ft.model.fast import frozen

        return frozen.prefix(model)

    def pooled(self, model: "nn.Module", batch: Batch, pool: str = "query") -> "Tensor":
        """[B, D]: the decoder's state at the start token, which attends to every image token; or `image_vector`."""
        import torch

        from cxr_ft.model.bases import _git_plain, _git_pool
        from cxr_ft.model.fast import decoder, frozen, walk

        if pool != "query":
            return _git_pool.image_vector(model, batch, pool)
        start = self.tokenizer.cls_token_id
        if not walk.walkable(model):
            return _git_plain.pooled(model, batch, start)
        git = walk.git_of(model)
        tokens = frozen.tokens_of(git, batch)
        ids = torch.full((len(tokens), 1), start, device=tokens.device)
        return decoder.text_states(git, tokens, ids)[:, 0]

    def logits(self, model: "nn.Module", batch: Batch, at: "Tensor | None" = None) -> "Tensor":
        """[B, T, V] at the text positions; with `at`, bool [B, T], only where it is true: [N, V], in row order."""
        from cxr_ft.model.bases import _git_plain
        from cxr_ft.model.fast import decoder, frozen, walk
        from cxr_ft.model.fast.linear import linears, lowered

        if not walk.walkable(model):
            return _git_plain.logits(model, batch, at)
        git = walk.git_of(model)
        tokens = frozen.tokens_of(git, batch)
        states = decoder.text_states(git, tokens, batch["input_ids"], batch["attention_mask"], at=at)
        return linears((walk.unwrapped(model).output,), lowered(states))[0]

    def logits_and_pooled(self, model: "nn.Module", batch: Batch, at: "Tensor") -> tuple["Tensor", "Tensor"]:
        """`logits` at `at`, and the states [B, D] at each row's start token, which reads the image and no text."""
        from cxr_ft.model.bases import _git_plain
        from cxr_ft.model.fast import decoder, frozen, walk
        from cxr_ft.model.fast.linear import linears, lowered

        if not walk.walkable(model):
            return _git_plain.logits(model, batch, at), _git_plain.pooled_of_lm(model, batch)
        git, wanted = walk.git_of(model), at.clone()
        wanted[:, 0] = True
        tokens = frozen.tokens_of(git, batch)
        states = decoder.text_states(git, tokens, batch["input_ids"], batch["attention_mask"], at=wanted)
        starts = wanted.nonzero()[:, 1] == 0  # [N + those of B that `at` leaves out]
        logits = linears((walk.unwrapped(model).output,), lowered(states[at[wanted]]))[0]
        return logits, states[starts]

    def generate(
        self, model: Any, batch: Batch, prompt: Sequence[int], max_new_tokens: int, **search: Any
    ) -> list[str]:
        """Text behind `prompt`, greedily, stopped at [SEP].

        Args:
            search: beams, temperature, top_k, top_p, length_penalty of `cxr_ft.model.fast.beams.Search`.
        """
        import torch

        from cxr_ft.model.bases import _git_plain
        from cxr_ft.model.fast import frozen, generation, walk
        from cxr_ft.model.fast.beams import Search

        end, pad = self.tokenizer.sep_token_id, self.tokenizer.pad_token_id
        how = Search(end=end, pad=pad, max_new_tokens=max_new_tokens, **search)
        start = torch.tensor(list(prompt))
        if walk.walkable(model):
            with torch.no_grad():
                tokens = frozen.tokens_of(walk.git_of(model), batch)
            ids = start.to(tokens.device).expand(len(tokens), -1)
            out = generation.generate(walk.unwrapped(model), tokens, ids, None, how)
        else:
            pixels = batch["pixel_values"]
            ids = start.to(pixels.device).expand(len(pixels), -1)
            out = _git_plain.generate(model, pixels, ids, torch.ones_like(ids), how)
        texts: list[str] = self.tokenizer.batch_decode(out, skip_special_tokens=True)
        return texts

    def likelihood(self, model: Any, batch: Batch, sentences: Sequence[Sequence[int]]) -> "Tensor":
        """[B, K]. The image is read once; its keys and values are shared by the K sentences."""
        import torch

        from cxr_ft.model.bases import _git_plain
        from cxr_ft.model.fast import frozen, generation, walk

        start = self.tokenizer.cls_token_id
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sentences], batch_first=True, padding_value=-1)
        if not walk.walkable(model):
            pixels = batch["pixel_values"]
            return _git_plain.likelihood(model, pixels, start, ids.to(pixels.device))
        with torch.no_grad():
            tokens = frozen.tokens_of(walk.git_of(model), batch)
        return generation.log_probability(walk.unwrapped(model), tokens, start, ids.to(tokens.device))  # ids [K, T]

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

    from cxr_ft.model.bases._git_size import for_one_image
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
                return Git(for_one_image(GitForCausalLM(config)), None, name)
        processor = GitProcessor.from_pretrained(where)
        seed = getattr(config, SEED_KEY, None)
        if seed is not None and not (folder is not None and (folder / "model.safetensors").exists()):
            return Git(for_one_image(_random(config, int(seed))), processor, name)
        model = GitForCausalLM.from_pretrained(
            where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
        )
        return Git(for_one_image(model), processor, name)
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
