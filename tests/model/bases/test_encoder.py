"""Each base gives encoder after encoder, shares its weights with all of them, and stays whole."""

import numpy as np
import pytest
import torch
from text_parts import base_of, examples

from cxr_ft.data.dataset.split_dataset import Example
from cxr_ft.model import protocols
from cxr_ft.model.bases import git, timm_vision
from cxr_ft.model.protocols import trainable

MAKERS = {
    "git": git.tiny,
    "vit": timm_vision.tiny,
    **{kind: lambda kind=kind: base_of(kind) for kind in ("bert", "roberta", "distilbert", "gpt2", "llama")},
}


def batch_of(base):
    if not base.image_size:
        return base.inputs(examples(["the heart is large.", "no edema."]))
    images = np.random.default_rng(0).integers(0, 256, (2, base.image_size, base.image_size), dtype=np.uint8)
    return base.inputs([Example(image, np.zeros(2), "") for image in images])


@pytest.mark.parametrize("name", MAKERS)
def test_each_encoder_after_another_pools_like_a_fresh_bases(name):
    base, pools = MAKERS[name](), list(MAKERS[name]().pools)
    before = {key: value.clone() for key, value in base.lm.state_dict().items()}
    order = [*pools, *reversed(pools)]
    with torch.no_grad():
        for pool in order:
            fresh = MAKERS[name]()
            expected = fresh.pooled(fresh.encoder(pool).eval(), batch_of(fresh), pool)
            torch.testing.assert_close(
                base.pooled(base.encoder(pool).eval(), batch_of(base), pool), expected, rtol=0, atol=0
            )
    after = base.lm.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", MAKERS)
def test_all_of_an_encoder_is_trained_and_it_is_the_bases_own(name):
    base = MAKERS[name]()
    shared = {id(p) for p in base.lm.parameters()}
    for pool in base.pools:
        encoder = base.encoder(pool)
        base.pooled(encoder, batch_of(base), pool).square().sum().backward()
        parameters = trainable(encoder)
        unread = [key for key, p in parameters.items() if p.grad is None]
        # A ViT has one class token and one set of positions for either pool, a language model one embedding.
        assert not unread, unread
        assert {id(p) for p in parameters.values()} <= shared
        encoder.zero_grad()


@pytest.mark.parametrize("name", MAKERS)
def test_a_layer_or_a_hook_on_an_encoder_is_not_in_the_base(name):
    base = MAKERS[name]()
    names = [key for key, _ in base.lm.named_parameters()]
    first, second = (base.encoder(next(iter(base.pools))) for _ in range(2))
    calls = []
    first.register_forward_hook(lambda *_: calls.append(1))
    first.classifier = torch.nn.Linear(2, 2)
    base.pooled(second, batch_of(base), next(iter(base.pools)))
    assert [key for key, _ in base.lm.named_parameters()] == names
    assert "classifier" not in dict(second.named_children()) and not calls


def test_asking_what_a_base_can_do_runs_none_of_its_code():
    class Refuses:
        reads_text = writes_text = True
        reads_views = has_processor = has_frozen_prefix = False

        def __getattr__(self, name):
            raise AssertionError(f"{name} was read")

        @property
        def image_size(self):
            raise AssertionError("image_size was read")

        longest = limit = pools = code = image_size

    base = Refuses()
    assert protocols.is_text_reader(base) and protocols.is_writer(base)
    assert not (protocols.is_multi_view(base) or protocols.has_processor(base) or protocols.has_frozen_prefix(base))


CLAIMS = {
    "reads_text": protocols.TextReader,
    "writes_text": protocols.Writer,
    "reads_views": protocols.MultiView,
    "has_processor": protocols.HasProcessor,
    "has_frozen_prefix": protocols.HasFrozenPrefix,
}


def members(protocol):
    own = {name for name in vars(protocol) if not name.startswith("_")} | set(protocol.__annotations__)
    return own | (members(protocols.Base) if protocol is not protocols.Base else set())


@pytest.mark.parametrize("name", MAKERS)
def test_a_base_has_what_it_says_that_it_has(name):
    base = MAKERS[name]()
    own = set(dir(base))
    assert members(protocols.Base) <= own
    for claim, protocol in CLAIMS.items():
        assert getattr(base, claim) == (members(protocol) <= own), claim


CARDS = [(name, writes) for name, make in MAKERS.items() for writes in (False, make().writes_text)]


@pytest.mark.parametrize(("name", "writes"), sorted(set(CARDS)))
def test_the_lines_of_a_card_run_and_give_the_bases_own_inputs(name, writes, tmp_path, monkeypatch):
    from PIL import Image

    base = MAKERS[name]()
    base.save(tmp_path, base.lm)
    image = np.random.default_rng(0).integers(0, 256, (max(base.image_size, 1),) * 2, dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    prompt = [int(base.start)] if base.writes_text else []
    card = base.card_code(writes=writes, prompt=prompt)
    lines = [*card.imports, "import torch", f"from transformers import {', '.join(card.classes)}"]
    lines += [f'model = {card.classes[0]}.from_pretrained(".").eval()', *card.inputs, *card.generate]
    names = {}
    exec("\n".join(lines), names)  # noqa: S102
    if base.image_size:
        expected = base.inputs([Example(image, np.zeros(2), "")])["pixel_values"]
        torch.testing.assert_close(names["pixels"], expected, rtol=0, atol=1e-6)
    else:
        assert names["tokens"]["input_ids"].tolist() == base.tokenizer(["a text"]).input_ids
    assert bool(card.generate) == writes
    if writes:
        ids = torch.tensor([prompt])
        batch = base.inputs([Example(image, np.zeros(2), "", given="" if base.image_size else "a text")])
        ours = base.logits(base.lm.eval(), {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
        torch.testing.assert_close(names["logits"], ours[:, -1], rtol=0, atol=1e-4)
