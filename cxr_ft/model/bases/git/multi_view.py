"""Read several images of a study before one text, as GIT reads a video's frames: each view has an embedding.

Upstream: `img_temporal_embedding` and `num_image_with_embedding` in transformers/models/git/modeling_git.py. Nothing
in it masks an absent image, so rows are grouped by their number of images, and each group runs by itself.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers.models.git.modeling_git import GitForCausalLM, GitModel

from cxr_ft.model.bases.git import eligibility
from cxr_ft.model.bases.git.frozen_prefix import PIXELS, STATES, TOKENS, TOWER
from cxr_ft.model.bases.git.vision import count_tokens
from cxr_ft.model.protocols import Batch

#: In a batch: number of images of each row, int64 [B]; they come first in `pixel_values` [B, V, 3, S, S].
VIEWS = "views"
#: Name of the embeddings in a `GitModel`, and of the module in it that is trained and saved with the head.
NAME, TABLE = "img_temporal_embedding", "img_temporal_embedding.table"
_Result = TypeVar("_Result")


class ViewEmbedding(nn.Module):
    """Embeddings of V views as one table [V, Dv], indexed as transformers indexes its list of parameters.

    PEFT can train and save an embedding table along with an adapter, but not a list of parameters.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        views, width = values.shape
        self.table = nn.Embedding(views, width, _weight=values)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Load the table from what transformers saved, one parameter for each view."""
        names = [name for name in state_dict if re.fullmatch(rf"{re.escape(prefix)}\d+", name)]
        if names:
            # By number: in alphabetical order 10 comes before 2.
            names.sort(key=lambda name: int(name.removeprefix(prefix)))
            rows = [state_dict.pop(name).flatten(0, 1) for name in names]
            state_dict[f"{prefix}table.weight"] = torch.cat(rows)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getitem__(self, view: int) -> Tensor:
        """Return the embedding of a view, [1, 1, Dv]."""
        out: Tensor = self.table(torch.full((1, 1), view, device=next(self.parameters()).device))
        return out


def read_several(lm: GitForCausalLM, views: int, pretrained: Tensor | None) -> None:
    """Let `lm` read up to `views` images of a row from now on.

    Args:
        lm: a `GitForCausalLM`.
        pretrained: embeddings [F, Dv] of pretraining; those of further views begin at zero, which changes nothing.
    """
    width, device = lm.config.vision_config.hidden_size, next(lm.parameters()).device
    values = torch.zeros(views, width, device=device)
    if pretrained is not None:
        values[: len(pretrained)] = pretrained[:views]
    setattr(lm.git, NAME, ViewEmbedding(values))
    # In the configuration, too: transformers makes as many embeddings when it reads the saved model.
    lm.config.num_image_with_embedding = views
    count_tokens(lm.git, views * tokens_per_image(lm))


def pop_view_embeddings(lm: GitForCausalLM) -> Tensor | None:
    """Remove the embeddings [F, Dv] of a GIT for videos (git-base-vatex, git-base-msrvtt-qa) and return them.

    A model of one image reads none of them: they would count as trained and get no gradient.
    """
    if lm.config.num_image_with_embedding is None:
        return None
    values = torch.cat([value.detach().flatten(0, 1) for value in getattr(lm.git, NAME)])
    delattr(lm.git, NAME)
    lm.config.num_image_with_embedding = None
    count_tokens(lm.git, tokens_per_image(lm))
    return values


def tokens_per_image(lm: GitForCausalLM) -> int:
    """Return the number of tokens of one image: its patches and the class token."""
    shape = lm.config.vision_config
    return int((shape.image_size // shape.patch_size) ** 2 + 1)


def new_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the tables in a `GitForCausalLM` or `GitModel` that reading several images adds."""
    return tuple(name for name, _ in model.named_modules() if name == TABLE or name.endswith(f".{TABLE}"))


def transformers_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of `model` by transformers' own names: one parameter for each view instead of the table."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith(f"{TABLE}.weight"):
            stem = name.removesuffix("table.weight")
            # A copy, since safetensors refuses tensors that share memory.
            state |= {f"{stem}{view}": row.clone()[None, None] for view, row in enumerate(value)}
        else:
            state[name] = value
    return state


def run_by_count(
    model: nn.Module, batch: Batch, views: int, run: Callable[[Batch], _Result]
) -> list[tuple[Tensor, _Result]]:
    """Return (row numbers int64 [b], `run` on a batch of these rows) for the rows of each number of images.

    A batch without numbers of images is run as it is.
    """
    if VIEWS not in batch:
        return [(torch.empty(0), run(batch))]
    results = []
    for count in range(1, views + 1):
        rows = (batch[VIEWS] == count).nonzero()[:, 0]
        if not len(rows) and not _sharded(model):
            continue
        # Under FSDP a process without such rows runs one as well: the others wait for it in each collective call.
        read = rows if len(rows) else rows.new_zeros(1)
        part = {name: value[read] for name, value in batch.items() if name != VIEWS}
        for name in (PIXELS, TOWER):
            if name in part:
                part[name] = part[name][:, :count]
        for name in (STATES, TOKENS):
            if name in part:
                # The tokens of the images come one image after the other, those of absent images last.
                part[name] = part[name][:, : part[name].shape[1] // views * count]
        with _counted(eligibility.git_of(model), views, count):
            results.append((rows, run(part)))
    return results


@contextlib.contextmanager
def _counted(git: GitModel, views: int, count: int) -> Iterator[None]:
    """Let transformers' own forward count the tokens of `count` images instead of `views` inside the block."""
    if not hasattr(git, "encoder"):  # a pool that reads the vision tower alone
        yield
        return
    # transformers puts this many columns for the image before the mask of a text.
    whole = git.encoder.layer[0].attention.self.image_patch_tokens
    count_tokens(git, whole // views * count)
    try:
        yield
    finally:
        count_tokens(git, whole)


def in_batch_order(results: list[tuple[Tensor, Tensor]], lengths: Tensor | None = None) -> Tensor:
    """Join the results of `run_by_count` in the batch's order; row i has `lengths[i]` result rows (None: one)."""
    if len(results) == 1:  # all rows, in their order
        return results[0][1]
    owners = [rows if lengths is None else rows.repeat_interleave(lengths[rows]) for rows, _ in results]
    # Cut off the result of the substitute row of `run_by_count`; it stays part of the graph, with a zero gradient.
    values = [value[: len(owner)] for owner, (_, value) in zip(owners, results, strict=True)]
    # Stable, so that the result rows of one batch row keep their order.
    return torch.cat(values)[torch.cat(owners).argsort(stable=True)]


def _sharded(model: nn.Module) -> bool:
    """Return True if FSDP shards `model`: all processes must then run equally often, if need be on a substitute row."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in model.parameters())
