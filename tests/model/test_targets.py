"""The target language against GIT's real names and PEFT's published counts."""

import pytest
import torch

from cxr_ft.errors import UsageError
from cxr_ft.model.bases import git
from cxr_ft.model.targets import resolve


@pytest.fixture(scope="module")
def git_base():
    """microsoft/git-base's published shape, without weights."""
    return git.load("microsoft/git-base", weights=False)


def names(model, *items):
    return resolve(items, (name for name, _ in model.named_modules()), git.TARGETS, "git")


@pytest.mark.parametrize(
    ("items", "count"),
    [
        (("q",), 18),
        (("q", "v"), 36),
        (("text.q", "text.v"), 12),
        (("vision.q",), 12),
        (("attn",), 72),
        (("mlp",), 36),
        (("all",), 108),
        (("proj",), 1),
        (("text[3-5].q",), 3),
        (("text[0].attn", "vision[11].mlp"), 6),
        (("q", "q", "text.q"), 18),
    ],
)
def test_counts_on_git_base(git_base, items, count):
    assert len(names(git_base.lm, *items)) == count


def test_every_linear_of_git_base_has_exactly_one_role(git_base):
    linears = {n for n, m in git_base.lm.named_modules() if isinstance(m, torch.nn.Linear)} - {"output"}
    hit = names(git_base.lm, "all", "proj")
    assert set(hit) == linears
    assert len(hit) == len(set(hit))


def test_down_is_not_the_attention_output(git_base):
    """The suffix output.dense is both; the roles are not."""
    assert not any("attention" in name for name in names(git_base.lm, "text.down"))
    assert all("attention" in name for name in names(git_base.lm, "text.o"))


def test_same_meaning_with_and_without_the_vocabulary_projection(git_base):
    with_prefix = names(git_base.lm, "q", "v")
    assert [f"git.{name}" for name in names(git_base.encoder(), "q", "v")] == with_prefix


@pytest.mark.parametrize("item", ["vv", "text.vv", "sound.q", "text[6].q", "q.", "", "text[5-3].q", "vision.proj", "*"])
def test_what_hits_nothing_is_refused_with_the_choices(git_base, item):
    with pytest.raises(UsageError, match=r"choose from: q, k, v, o, up, down, proj, attn, mlp, all"):
        names(git_base.lm, "q", item)


@pytest.mark.parametrize(
    ("targets", "adapter"), [("text.q,text.v", 147_456), ("vision.q,vision.v", 294_912), ("q,v", 442_368)]
)
def test_parameters_of_lora_rank_8_on_git_base(targets, adapter):
    """Arithmetic from the published shape: 2 * 768 * 8 a module."""
    from cxr_ft import config
    from cxr_ft.data.labels import CHEXPERT_14
    from cxr_ft.run.training.train import plan

    raw = {"model": "microsoft/git-base", "tuning": {"name": "lora", "targets": targets, "rank": 8}}
    planned = plan(config.resolve(raw), CHEXPERT_14, True)
    assert planned.parameters.adapter == adapter
    assert planned.parameters.head == 14 * 768 + 14
    assert planned.parameters.trainable == adapter + 14 * 768 + 14
