"""Load models and tokenizers of text, and share what all bases of text do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError
from cxr_ft.json_values import JsonObject
from cxr_ft.model.base_weights import random_seed
from cxr_ft.model.protocols import Example, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    #: Class of transformers that reads weights.
    AutoClass = type[AutoModel] | type[AutoModelForCausalLM]
    #: Function that makes a model with random weights from a configuration.
    Make = Callable[[PretrainedConfig], PreTrainedModel]

#: Tokens of a text that are read by default, or as many as the model has positions for.
LONGEST = 512
#: `mean` as an expression of transformers, for a model card.
MEAN = "(model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)"
#: Lines of a model card that make `tokens` and `mask` of one text.
CARD_INPUTS = (
    'tokens = AutoTokenizer.from_pretrained(".")("a text", return_tensors="pt")',
    'mask = tokens["attention_mask"][..., None]',
)
#: Special tokens of a pair of texts; more than these must fit.
SPECIAL = 4


class TextBase:
    """Methods that all bases of text share; see `cxr_ft.model.protocols.TextReader`.

    Args:
        lm: the model, of transformers.
        tokenizer: its tokenizer; None on the meta device.
        name: as in the configuration.
        roles: `model_type` -> pattern of a block, and name of each role in it.
    """

    family: str
    reads_text = True
    writes_text = reads_views = has_processor = has_frozen_prefix = False

    def __init__(
        self,
        lm: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase | None",
        name: str,
        roles: Mapping[str, tuple[str, Mapping[str, str]]],
    ) -> None:
        self.lm, self.name = lm, name
        if tokenizer is not None:
            settle(tokenizer, lm)
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.block, parts = roles[lm.config.model_type]
        self.targets: Roles = {"text": {role: self.block + r"\." + part for role, part in parts.items()}}
        self._most_read, self._reserved = min(self.longest, LONGEST), 0

    @property
    def image_size(self) -> int:
        """Return 0: it reads no image."""
        return 0

    def resize(self, size: int) -> None:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"data.image_size: {size}; {self.name} ({self.family}) reads text and no image: leave it out")

    @property
    def longest(self) -> int:
        """Return the number of tokens that the model has positions for."""
        config = self.lm.config
        # RoBERTa's positions begin after the one of padding.
        skipped = config.pad_token_id + 1 if config.model_type == "roberta" else 0
        return int(config.max_position_embeddings) - skipped

    def cut(self, tokens: int) -> None:
        """Read at most `tokens` tokens of a text from now on, special ones counted."""
        if tokens > self.longest:
            raise UsageError(f"head.read_tokens: {tokens}; {self.name} has {self.longest} positions")
        self._most_read = tokens
        self.leave_room(0)

    def leave_room(self, tokens: int) -> None:
        """Keep `tokens` positions free for learnt or generated tokens from now on."""
        # Added up, since learnt tokens and generated ones both take room.
        self._reserved += tokens
        if self.limit <= SPECIAL:
            raise UsageError(
                f"{self.limit} tokens of a text would be read: {self.name} has {self.longest} positions, "
                f"{self._reserved} of which learnt and written tokens take; raise "
                "head.read_tokens, or learn or write fewer"
            )

    @property
    def limit(self) -> int:
        """Return the number of tokens of a text that are read, special ones included."""
        return min(self._most_read, self.longest - self._reserved)

    def blocks(self, model: "nn.Module") -> list[str]:
        """Return the names of the transformer's blocks."""
        import re

        return [name for name, _ in model.named_modules() if re.fullmatch(self.block, name)]

    def save(self, folder: Path, model: "PreTrainedModel | None") -> None:
        """Write a transformers folder: the tokenizer, and the model if there is one."""
        self.tokenizer.save_pretrained(folder)
        if model is not None:
            model.save_pretrained(folder, safe_serialization=True)


def mean(states: "Tensor", mask: "Tensor") -> "Tensor":
    """Return the mean [B, D] of states [B, T, D] over the tokens where mask [B, T] is 1."""
    # By weights and not by selection: rows have different numbers of tokens.
    weights = mask[..., None].to(states.dtype)
    out: Tensor = (states * weights).sum(1) / weights.sum(1)
    return out


def pairs(examples: Sequence[Example]) -> list[str] | None:
    """Return the second texts, or None if no example has one."""
    out = [example.pair for example in examples]
    return out if any(out) else None


def load(
    name: str, published: Mapping[str, JsonObject], kind: "AutoClass", make: "Make", *, weights: bool
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
    """Return model and tokenizer by shipped name, folder or hub name; without `weights` a meta model and None.

    Args:
        published: hub names whose shape is known -> `model_type` and arguments of the configuration.
        kind: class of transformers that reads weights.
        make: makes a model with random weights from a configuration.

    Raises:
        UsageError: if there is no such model, some of its weights are missing, or it cannot be fetched.
    """
    import torch
    from transformers import AutoConfig

    from cxr_ft.model.assembly import cannot_fetch, location

    folder = location(name)
    where = str(folder or name)
    try:
        if not weights and folder is None and name in published:
            # The shape alone is needed, and it is known without a network.
            config = AutoConfig.for_model(**published[name])
        else:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not weights:
            # On the meta device a model of any size takes no memory.
            with torch.device("meta"):
                return make(config), None
        if (seed := random_seed(name)) is not None:
            return random_model(make, config, seed), tokenizer_of(where)
        return _pretrained(kind, where, name), tokenizer_of(where)
    # transformers raises OSError for a missing file, and ValueError for a configuration that it cannot read.
    except (OSError, ValueError) as error:
        if folder is None:
            raise cannot_fetch(name, error) from error
        raise UsageError(
            f"{folder} is no complete folder of a text model: {str(error).strip().splitlines()[0]}"
        ) from error


def _pretrained(kind: "AutoClass", where: str, name: str) -> "PreTrainedModel":
    import torch

    # From safetensors alone: reading a pickle runs the code in it.
    model, report = kind.from_pretrained(
        where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    # transformers fills in missing weights at random and only warns. A pooler is never read.
    missing = sorted(key for key in report["missing_keys"] if "pooler." not in key)
    if missing or report["mismatched_keys"]:
        names = ", ".join([*missing, *(str(key) for key in report["mismatched_keys"])][:3])
        raise UsageError(f"{name} lacks weights of its own configuration ({names}, ...); give a complete folder")
    return model


def tokenizer_of(where: str | Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a folder or hub name."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(where, trust_remote_code=False)


def settle(tokenizer: "PreTrainedTokenizerBase", lm: "PreTrainedModel") -> None:
    """Undo what a folder's tokenizer says on sides and padding: what is read must depend on this package alone."""
    # From the left, the start of a long text would be dropped, of which nobody is told.
    tokenizer.truncation_side = tokenizer.padding_side = "right"
    known = lm.get_input_embeddings().weight.shape[0]
    pad = tokenizer.pad_token_id
    # None, or one beyond the embedding, as where somebody added a pad token and did not enlarge the model. Which one is
    # taken does not matter: the mask hides it.
    if pad is None or pad >= known:
        candidates = (tokenizer.eos_token_id, lm.config.pad_token_id, 0)
        pad = next(token for token in candidates if isinstance(token, int) and token < known)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)


def random_model(make: "Make", config: "PretrainedConfig", seed: int = 0) -> "PreTrainedModel":
    """Return a model with random weights that depend on `seed` alone; the caller's random state is unchanged."""
    import torch

    # Without this a base with random weights would move the random numbers from which the head is drawn.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(config).eval()


def start_and_end(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int]:
    """Return ids of the token between input text and generated text, and of the one that ends a text.

    The first is a line break, or the token that begins a text if the vocabulary has no line break.

    Raises:
        UsageError: if no token ends a text.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UsageError(f"the tokenizer of {tokenizer.name_or_path} has no token that ends a text: it cannot write")
    line = tokenizer("\n", add_special_tokens=False).input_ids
    begin = tokenizer.bos_token_id
    # A SentencePiece vocabulary puts a token for a space before the line break, which is the last one.
    if line and line[-1] != tokenizer.unk_token_id:
        return int(line[-1]), int(end)
    return int(end if begin is None else begin), int(end)


def prompt_rows(prompt: Sequence[int] | Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    """Return a list of token ids for each of `rows` rows, from one that all rows share or a list for each row."""
    shared = [token for token in prompt if isinstance(token, int)]
    if shared:
        return [shared] * rows
    return [list(tokens) for tokens in prompt if not isinstance(tokens, int)]
