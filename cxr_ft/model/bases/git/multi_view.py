"""Several images of a study before one text, as GIT reads a video's frames: each is told its place by an embedding.

Upstream: `img_temporal_embedding` and `num_image_with_embedding` in transformers/models/git/modeling_git.py. Nothing
there masks an image, so rows are read apart by how many images they have: what is absent is never computed.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ft.model.bases.git import eligibility
from cxr_ft.model.bases.git.frozen_prefix import PIXELS, STATES, TOKENS, TOWER
from cxr_ft.model.bases.git.resizing import count_tokens
from cxr_ft.model.protocols import Batch

#: In a batch: how many images each row has, int64 [B]; `pixel_values` [B, V, 3, S, S] holds them first.
VIEWS = "views"
#: Where a `GitModel` has the embeddings, and the module in it that is trained and saved with the head.
NAME, TABLE = "img_temporal_embedding", "img_temporal_embedding.table"


class Places(nn.Module):
    """The embeddings of V places as a table [V, Dv], indexed as transformers indexes its list of parameters.

    PEFT keeps a table beside an adapter; a list of parameters it refuses.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        places, width = values.shape
        self.table = nn.Embedding(places, width, _weight=values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take for the table what transformers saved, a parameter a place."""
        names = [name for name in state_dict if re.fullmatch(rf"{re.escape(prefix)}\d+", name)]
        if names:
            names.sort(key=lambda name: int(name.removeprefix(prefix)))
            rows = [state_dict.pop(name).flatten(0, 1) for name in names]
            state_dict[f"{prefix}table.weight"] = torch.cat(rows)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getitem__(self, place: int) -> Tensor:
        """[1, 1, Dv]."""
        out: Tensor = self.table(torch.full((1, 1), place, device=next(self.parameters()).device))
        return out


def read_several(lm: Any, views: int, before: Tensor | None) -> None:
    """Let `lm` read `views` images a row from now on.

    Args:
        lm: a `GitForCausalLM`.
        before: embeddings [F, Dv] it was pretrained with; places without one begin at zero, which changes nothing.
    """
    width, like = lm.config.vision_config.hidden_size, next(lm.parameters())
    values = torch.zeros(views, width, device=like.device)
    if before is not None:
        values[: len(before)] = before[:views]
    setattr(lm.git, NAME, Places(values))
    lm.config.num_image_with_embedding = views
    count_tokens(lm.git, views * tokens_of_one(lm))


def taken_out(lm: Any) -> Tensor | None:
    """The embeddings [F, Dv] of a GIT of videos (git-base-vatex, git-base-msrvtt-qa), which is left without them.

    One image reads none of them: trained, they would get no gradient.
    """
    if lm.config.num_image_with_embedding is None:
        return None
    values = torch.cat([value.detach().flatten(0, 1) for value in getattr(lm.git, NAME)])
    delattr(lm.git, NAME)
    lm.config.num_image_with_embedding = None
    count_tokens(lm.git, tokens_of_one(lm))
    return values


def tokens_of_one(lm: Any) -> int:
    """Tokens of one image: its patches and the class token."""
    shape = lm.config.vision_config
    return int((shape.image_size // shape.patch_size) ** 2 + 1)


def new_modules(model: nn.Module) -> tuple[str, ...]:
    """The tables in a `GitForCausalLM` or `GitModel`: what reading several images adds."""
    return tuple(name for name, _ in model.named_modules() if name == TABLE or name.endswith(f".{TABLE}"))


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` by transformers' own names: a parameter a place in place of the table."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith(f"{TABLE}.weight"):
            stem = name.removesuffix("table.weight")
            state |= {f"{stem}{place}": row.clone()[None, None] for place, row in enumerate(value)}
        else:
            state[name] = value
    return state


def by_count(model: Any, batch: Batch, views: int, answer: Callable[[Batch], Any]) -> list[tuple[Tensor, Any]]:
    """Rows int64 [b], and `answer` of a batch of these rows alone, for the rows of each number of images.

    A batch that says no numbers is asked as it is.
    """
    if VIEWS not in batch:
        return [(torch.empty(0), answer(batch))]
    found = []
    for count in range(1, views + 1):
        rows = (batch[VIEWS] == count).nonzero()[:, 0]
        if not len(rows) and not _sharded(model):
            continue
        read = rows if len(rows) else rows.new_zeros(1)
        part = {name: value[read] for name, value in batch.items() if name != VIEWS}
        for name in (PIXELS, TOWER):
            if name in part:
                part[name] = part[name][:, :count]
        for name in (STATES, TOKENS):
            if name in part:
                part[name] = part[name][:, : part[name].shape[1] // views * count]
        with _counted(eligibility.git_of(model), views, count):
            found.append((rows, answer(part)))
    return found


@contextlib.contextmanager
def _counted(git: Any, views: int, count: int) -> Iterator[None]:
    """Inside, transformers' own forward counts the tokens of `count` images instead of those of `views`."""
    if not hasattr(git, "encoder"):  # a pool that reads the vision tower alone
        yield
        return
    whole = git.encoder.layer[0].attention.self.image_patch_tokens
    count_tokens(git, whole // views * count)
    try:
        yield
    finally:
        count_tokens(git, whole)


def in_order(found: list[tuple[Tensor, Tensor]], lengths: Tensor | None = None) -> Tensor:
    """Answers of `by_count` in the batch's order; of example i they are `lengths[i]` rows (None: one)."""
    if len(found) == 1:  # all rows, as they stand
        return found[0][1]
    owners = [rows if lengths is None else rows.repeat_interleave(lengths[rows]) for rows, _ in found]
    # Cut is the answer that nobody asked for (`by_count`); it stays part of the graph.
    answers = [answer[: len(owner)] for owner, (_, answer) in zip(owners, found, strict=True)]
    return torch.cat(answers)[torch.cat(owners).argsort(stable=True)]


def _sharded(model: nn.Module) -> bool:
    """Whether FSDP spreads `model`: all processes must then run equally often, be it on a row whose answer is cut."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in model.parameters())
