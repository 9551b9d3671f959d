"""Words that base families beyond GIT need: gates, and matrices that are several things at once."""

import pytest
import torch
from text_parts import CAUSAL, SHAPES, base_of
from transformers.pytorch_utils import Conv1D

from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.targets import fused, resolve

_BLOCK = r"model\.layers\.(\d+)\."
LLAMA = {
    "text": {
        **{role: _BLOCK + rf"self_attn\.{role}_proj" for role in "qkvo"},
        **{role: _BLOCK + rf"mlp\.{role}_proj" for role in ("up", "gate", "down")},
    }
}
NAMES = [
    f"model.layers.{i}.{part}.{name}_proj"
    for i in range(3)
    for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
    for name in names
]


@pytest.mark.parametrize(
    ("item", "count"), [("gate", 3), ("mlp", 9), ("attn", 12), ("all", 21), ("qkv", 9), ("text[1-2].gate", 2)]
)
def test_gates_and_groups(item, count):
    assert len(resolve([item], NAMES, LLAMA, "llama")) == count


def test_qkv_is_one_matrix_or_three():
    tiny = timm_vision.tiny()
    names = [name for name, _ in tiny.lm.named_modules()]
    hit = resolve(["qkv"], names, timm_vision.TARGETS, "timm_vision")
    assert hit == resolve(["q"], names, timm_vision.TARGETS, "timm_vision") and len(hit) == 2
    names = [name for name, _ in git.tiny().lm.named_modules()]
    assert len(resolve(["qkv"], names, git.TARGETS, "git")) == 12


@pytest.mark.parametrize("items", [("q",), ("q", "v"), ("vision.q",), ("vision[0].v", "o")])
def test_fused_says_so(items):
    (line,) = fused(items, timm_vision.TARGETS, "timm_vision")
    assert "one matrix is q, k, v" in line


@pytest.mark.parametrize(
    ("items", "roles"),
    [
        (("qkv",), timm_vision.TARGETS),
        (("attn",), timm_vision.TARGETS),
        (("q", "k", "v"), timm_vision.TARGETS),
        (("mlp", "o"), timm_vision.TARGETS),
        (("q",), git.TARGETS),
        (("all",), LLAMA),
    ],
)
def test_fused_is_silent_where_nothing_more_is_meant(items, roles):
    assert fused(items, roles, "x") == []


def test_fused_refuses_what_resolve_refuses():
    with pytest.raises(UsageError, match="choose from"):
        fused(["nonsense"], git.TARGETS, "git")


@pytest.mark.parametrize("kind", SHAPES)
def test_every_matrix_of_a_text_model_has_a_role_and_no_other_module(kind):
    base = base_of(kind)
    modules = dict(base.lm.named_modules())
    matrices = {name for name, module in modules.items() if isinstance(module, (torch.nn.Linear, Conv1D))}
    assert set(resolve(["all"], modules, base.targets, base.family)) == matrices - {"lm_head"}
    shared = 3 if kind == "gpt2" else 1
    for tower, roles in base.targets.items():
        hits = [name for role in roles for name in resolve([f"{tower}.{role}"], modules, base.targets, base.family)]
        assert all(hits.count(name) in (1, shared) for name in hits)
    assert len(resolve(["text[1].all"], modules, base.targets, base.family)) * 2 == len(matrices - {"lm_head"})


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_same_targets_with_and_without_the_vocabularys_projection(kind):
    base = base_of(kind)
    whole = resolve(["q", "down"], (n for n, _ in base.lm.named_modules()), base.targets, base.family)
    start = f"{base.lm.base_model_prefix}."
    inner = resolve(["q", "down"], (n for n, _ in base.encoder().named_modules()), base.targets, base.family)
    assert [start + name for name in inner] == whole
    assert [start + name for name in base.blocks(base.encoder())] == base.blocks(base.lm)


def test_gpt2_says_that_its_matrix_is_three_and_llama_needs_not():
    gpt2, llama = base_of("gpt2"), base_of("llama")
    (line,) = fused(["q", "v"], gpt2.targets, "gpt2")
    assert "text.q, v: in gpt2 one matrix is q, k, v" in line
    assert fused(["q", "v"], llama.targets, "llama") == [] == fused(["qkv", "mlp"], gpt2.targets, "gpt2")
    with pytest.raises(UsageError, match=r"no target 'gate'"):
        resolve(["gate"], (n for n, _ in gpt2.lm.named_modules()), gpt2.targets, "gpt2")
    with pytest.raises(UsageError, match=r"no tower 'vision'"):
        resolve(["vision.q"], (n for n, _ in llama.lm.named_modules()), llama.targets, "llama")
