"""What the bases that read text share: tokens, and models from folders, hub names, published shapes or a seed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft.errors import UsageError
from cxr_ft.model.assembly import SEED_KEY
from cxr_ft.model.protocols import Example, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Tokens that are read of a text unless asked otherwise, or as many as the model has positions for.
LONGEST = 512
#: `mean` in transformers' own terms, for a model's card.
MEAN = "(model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)"
#: Tokens around a pair of texts, besides which there must be room for something.
SPECIAL = 4


class TextBase:
    """What a base of texts has besides its model; see `cxr_ft.model.protocols.Base`.

    Args:
        lm: the model, of transformers.
        tokenizer: its tokenizer; None on the meta device.
        name: as the user gave it.
        roles: the block's pattern and what each role is called in it, by `model_type`.
    """

    family: str

    def __init__(self, lm: Any, tokenizer: Any, name: str, roles: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
        self.lm, self.tokenizer, self.name = lm, tokenizer, name
        self.block, parts = roles[lm.config.model_type]
        self.targets: Roles = {"text": {role: self.block + r"\." + part for role, part in parts.items()}}
        self._cut, self._left = min(self.longest, LONGEST), 0

    @property
    def image_size(self) -> int:
        """0: it reads no image."""
        return 0

    def resize(self, size: int) -> None:
        """Refused by name.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"data.image_size: {size}; {self.name} ({self.family}) reads text and no image: leave it out")

    @property
    def longest(self) -> int:
        """How many tokens the model has positions for."""
        config = self.lm.config
        # RoBERTa counts positions from behind that of padding.
        skipped = config.pad_token_id + 1 if config.model_type == "roberta" else 0
        return int(config.max_position_embeddings) - skipped

    def cut(self, tokens: int) -> None:
        """Read at most `tokens` tokens of a text from now on, special ones counted."""
        if tokens > self.longest:
            raise UsageError(f"head.read_tokens: {tokens}; {self.name} has {self.longest} positions")
        self._cut = tokens
        self.leave_room(0)

    def leave_room(self, tokens: int) -> None:
        """Leave the positions of `tokens` tokens, learnt or written ones, to others from now on."""
        self._left += tokens
        if self.limit <= SPECIAL:
            raise UsageError(
                f"{self.limit} tokens of a text would be read: {self.name} has {self.longest} positions, {self._left} "
                "of which learnt and written tokens take; raise head.read_tokens, or learn or write fewer"
            )

    @property
    def limit(self) -> int:
        """How many tokens of a text are read, special ones counted."""
        return min(self._cut, self.longest - self._left)

    def blocks(self, model: "nn.Module") -> list[str]:
        """The transformer's blocks."""
        import re

        return [name for name, _ in model.named_modules() if re.fullmatch(self.block, name)]

    def save(self, folder: Path, model: Any) -> None:
        """A transformers folder: the tokenizer, and the model where one is given."""
        self.tokenizer.save_pretrained(folder)
        if model is not None:
            model.save_pretrained(folder, safe_serialization=True)


def mean(states: "Tensor", mask: "Tensor") -> "Tensor":
    """The mean of states [B, T, D] over the tokens of mask [B, T] that are no padding, [B, D]."""
    weights = mask[..., None].to(states.dtype)
    out: Tensor = (states * weights).sum(1) / weights.sum(1)
    return out


def pairs(examples: Sequence[Example]) -> list[str] | None:
    """The second texts, or None where no example has one."""
    out = [example.pair for example in examples]
    return out if any(out) else None


def load(
    name: str, published: Mapping[str, Mapping[str, Any]], kind: type, make: Callable[[Any], Any], *, weights: bool
) -> tuple[Any, Any]:
    """Model and tokenizer of a shipped name, folder or hub name; on the meta device, without tokenizer, if so asked.

    Args:
        published: hub names whose shape is known -> `model_type` and arguments of the configuration.
        kind: transformers' class that reads weights.
        make: a model from a configuration, with weights drawn at random.

    Raises:
        UsageError: where there is no such model, some of its weights are missing, or no way to fetch it.
    """
    import torch
    from transformers import AutoConfig

    from cxr_ft.model.assembly import cannot_fetch, location

    folder = location(name)
    where = str(folder or name)
    try:
        if not weights and folder is None and name in published:
            config = AutoConfig.for_model(**published[name])
        else:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not weights:
            with torch.device("meta"):
                return make(config), None
        seed = getattr(config, SEED_KEY, None)
        if seed is not None and not (folder is not None and (folder / "model.safetensors").exists()):
            return drawn(make, config, int(seed)), tokenizer_of(where)
        return _pretrained(kind, where, name), tokenizer_of(where)
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(
            f"{folder} is no complete folder of a text model: {str(error).strip().splitlines()[0]}"
        ) from error


def _pretrained(kind: Any, where: str, name: str) -> Any:
    import torch

    model, said = kind.from_pretrained(
        where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    # transformers draws what is missing at random, and only warns. A pooler is never read.
    missing = sorted(key for key in said["missing_keys"] if "pooler." not in key)
    if missing or said["mismatched_keys"]:
        what = ", ".join([*missing, *(str(key) for key in said["mismatched_keys"])][:3])
        raise UsageError(f"{name} lacks weights of its own configuration ({what}, ...); give a complete folder")
    return model


def tokenizer_of(where: str | Path) -> Any:
    """The tokenizer of a folder or hub name."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(where, trust_remote_code=False)


def drawn(make: Callable[[Any], Any], config: Any, seed: int = 0) -> Any:
    """A model whose weights depend on `seed` alone, in evaluation mode; the caller's random state stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(config).eval()


def start_and_end(tokenizer: Any) -> tuple[int, int]:
    """Ids of the token that stands between what is given and what is written, and of the one that ends a text.

    The first is a line break, or the token that begins a text where the vocabulary has no line break.

    Raises:
        UsageError: where no token ends a text.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UsageError(f"the tokenizer of {tokenizer.name_or_path} has no token that ends a text: it cannot write")
    line = tokenizer("\n", add_special_tokens=False).input_ids
    begin = tokenizer.bos_token_id
    if line and line[-1] != tokenizer.unk_token_id:
        return int(line[-1]), int(end)
    return int(end if begin is None else begin), int(end)
