"""The line of a model's card that makes a vector makes the one that our head reads, for every base and pool."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from text_parts import base_of, examples

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.run.record import model_card

BASES = {
    "git": git.tiny,
    "vit": timm_vision.tiny,
    "bert": lambda: base_of("bert"),
    "llama": lambda: base_of("llama"),
}
POOLS = [(name, pool) for name, make in BASES.items() for pool in make().pools]


@pytest.mark.parametrize(("name", "pool"), POOLS)
def test_the_code_makes_the_vector_that_the_head_reads(name, pool):
    base = BASES[name]()
    if base.image_size:
        image = np.random.default_rng(0).integers(0, 256, (base.image_size,) * 2, dtype=np.uint8)
        rows = [Example(image, np.zeros(2), "")]
        batch = base.inputs(rows)
        names = {"pixels": batch["pixel_values"], "start": torch.tensor([[getattr(base, "start", 0)]])}
    else:
        rows = examples(["the heart is large."])
        batch = base.inputs(rows)
        tokens = base.tokenizer([rows[0].given], return_tensors="pt")
        names = {"tokens": tokens, "mask": tokens["attention_mask"][..., None]}
    model = base.encoder(pool).eval()
    with torch.no_grad():
        expected = eval(base.code[pool], {"model": model, **names})  # noqa: S307
        torch.testing.assert_close(expected, base.pooled(model, batch, pool), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "pool"), POOLS)
@pytest.mark.parametrize("way", ["merged", "adapter"])
def test_the_card_has_the_line_of_the_pool_that_was_trained(name, pool, way):
    base = BASES[name]()
    parts = SimpleNamespace(base=base, head=SimpleNamespace(output="scores", pool=pool))
    assert f"    state = {base.code[pool]}" in model_card._outputs(parts, way)
