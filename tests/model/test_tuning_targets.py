"""Words that base families beyond GIT need: gates, and matrices that are several things at once."""

import pytest

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
