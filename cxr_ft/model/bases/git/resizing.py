"""A GIT for images of another size: changed once, when loaded.

So every part of transformers that counts image tokens by the configuration counts right, and what is saved says so.
"""

from typing import Any

from cxr_ft.errors import UsageError


def resize(lm: Any, size: int) -> None:
    """Change `lm` to read [B, 3, size, size]: positions by bicubic interpolation, as transformers does at each forward.

    Raises:
        UsageError: for a size that is no multiple of the patch size.
    """
    import torch
    from torch import nn

    shape, embeddings = lm.config.vision_config, lm.git.image_encoder.vision_model.embeddings
    patch = int(shape.patch_size)
    if size < patch or size % patch:
        below = max(size // patch, 1) * patch
        raise UsageError(f"data.image_size: {size} is no multiple of the patches' {patch} pixels; give {below}")
    old, new = int(shape.image_size) // patch, size // patch
    with torch.no_grad():
        one, grid = embeddings.position_embedding.weight.split([1, old * old])  # [1, Dv], [patches, Dv]
        square = grid.T.reshape(1, -1, old, old)
        square = nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
        positions = torch.cat((one, square.flatten(2)[0].T))
    embeddings.position_embedding = nn.Embedding(new * new + 1, positions.shape[1], device=positions.device)
    embeddings.position_embedding.weight = nn.Parameter(positions)
    embeddings.num_patches, embeddings.num_positions = new * new, len(positions)
    embeddings.position_ids = torch.arange(len(positions), device=positions.device)[None]
    embeddings.image_size = shape.image_size = size
    count_tokens(lm.git, new * new + 1)


def count_tokens(git: Any, tokens: int) -> None:
    """Say how many image tokens stand before a text, where transformers keeps a copy of it in a `GitModel`."""
    for layer in git.encoder.layer:
        layer.attention.self.image_patch_tokens = tokens
