"""Every method on every family that reads text: what it declares, what it learns, what it leaves, or why it cannot."""

import pytest
import torch
from text_parts import CAUSAL, LABELS, SHAPES, answers, base_of, examples, logits, parts_of
from tuning_parts import merged

from cxr_ft import config, plugins
from cxr_ft.errors import UsageError
from cxr_ft.model import assembly, methods
from cxr_ft.model.bases import git
from cxr_ft.model.protocols import trainable
from cxr_ft.run.record import results, saved_model
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.run.training.loop import warmup_cosine

METHODS = [name for name in plugins.choices(plugins.TUNING) if saved_model.trains(name)]
#: What a family cannot do, and what the refusal says.
CANNOT = {
    ("distilbert", "prefix"): "DistilBertModel.*takes no learnt keys and values; use prompt",
    ("gpt2", "oft"): "oft cannot rotate .*a Conv1D; use lora",
    ("llama", "bitfit"): "bitfit.*has none; use lora",
    ("mistral", "bitfit"): "bitfit.*has none; use lora",
}
#: What no weight of the base can take up.
UNMERGED = [name for name in METHODS if methods.load(name).merge is None]
#: Bert and Llama are in the contract test of all bases; the others differ from these and from each other.
FAST = {("distilbert", "classify"), ("gpt2", "classify")}
CELLS = [
    pytest.param(
        kind, head, method, id=f"{kind}-{head}-{method}", marks=() if (kind, head) in FAST else pytest.mark.slow
    )
    for kind in SHAPES
    for head in (("classify", "report") if kind in CAUSAL else ("classify",))
    for method in METHODS
    if (kind, method) not in CANNOT
]


def steps(parts, batch, count=4, lr=3e-3, chosen=None):
    optimizer = torch.optim.AdamW(chosen or list(trainable(parts.model).values()), lr=lr)
    losses = []
    for _ in range(count):
        loss, n = parts.head.loss(parts.model, batch)
        (loss / n).backward()
        losses.append(float(loss.detach()) / n)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(("kind", "head", "method"), CELLS)
def test_declares_learns_and_reloads(kind, head, method, tmp_path):
    base = base_of(kind)
    base.save(tmp_path / "base", base.lm)
    head_options = {"name": head, **({"max_tokens": 12} if head == "report" else {})}
    resolved = config.resolve({"model": str(tmp_path / "base"), "head": head_options, "tuning": {"name": method}})
    planned = assembly.build(resolved, LABELS, True, weights=False)
    torch.manual_seed(0)
    parts = assembly.build(resolved, LABELS, True)
    chosen = trainable(parts.model)
    assert {n: p.shape for n, p in trainable(planned.model).items()} == {n: p.shape for n, p in chosen.items()}
    batch = parts.head.collate(examples())
    logits(parts, batch)  # an evaluation, after which every gradient must still be there
    frozen = {name: p.detach().clone() for name, p in parts.model.named_parameters() if not p.requires_grad}
    loss, _ = parts.head.loss(parts.model.train(), batch)
    loss.backward()
    assert {name for name, p in parts.model.named_parameters() if p.grad is not None} == set(chosen)
    parts.model.zero_grad()
    parts.model.eval()
    losses = steps(parts, batch)
    assert losses[-1] < losses[0]
    parts.head.loss(parts.model, batch)[0].backward()
    assert not [name for name, p in trainable(parts.model).items() if not p.grad.any()]
    after = dict(parts.model.named_parameters())
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
    run = tmp_path / "run"
    run.mkdir()
    results.write(run, results.Result(status="trained", config=resolved.to_json(), config_hash=""))
    saved_model.save(run, parts, SavedLabels(labels=tuple(LABELS), multi_label=True, thresholds=(0.5, 0.5)))
    again, *_ = saved_model.load(run)
    long = again.head.collate(examples(["no edema. " * 200, "no edema."]))
    torch.testing.assert_close(again.head.collate(examples()), batch, rtol=0, atol=0)
    torch.testing.assert_close(logits(again, long), logits(parts, long), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "head", "method"), CELLS)
def test_merges_or_says_why_not(kind, head, method):
    parts = parts_of(base_of(kind), method, head)
    batch = parts.head.collate(examples())
    names = {name for name, _ in parts_of(base_of(kind), "full", head).model.named_parameters()}
    steps(parts, batch, lr=1e-2)
    before = logits(parts, batch)
    if method in UNMERGED:
        with pytest.raises(UsageError, match="cannot be merged"):
            merged(parts, answers(parts, batch))
        return
    model, drift = merged(parts, answers(parts, batch))
    assert {name for name, _ in model.named_parameters()} == names
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(model.eval()), before, rtol=0, atol=1e-5)
    assert drift < 1e-5


@pytest.mark.parametrize(("kind", "method"), CANNOT)
def test_refuses_by_name_before_anything_is_loaded(kind, method, tmp_path):
    base = base_of(kind)
    base.save(tmp_path, base.lm)
    (tmp_path / "model.safetensors").unlink()
    resolved = config.resolve({"model": str(tmp_path), "tuning": {"name": method}})
    with pytest.raises(UsageError, match=CANNOT[kind, method]):
        assembly.build(resolved, LABELS, True, weights=False)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"dora": True}),
        ("lora", {"rslora": True}),
        ("lora", {"pissa": True}),
        ("lora", {"targets": "all", "dropout": 0.1}),
        ("qlora", {"targets": "all"}),
        ("qlora", {"quantise": "int8", "targets": "all"}),
        ("vera", {"targets": "all", "rank": 8}),
        ("full", {"targets": "mlp"}),
        ("hybrid", {"targets": "text[0].attn"}),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", *(pytest.param(k, marks=pytest.mark.slow) for k in ("bert", "llama"))])
def test_options_on_matrices_of_every_kind(kind, method, options):
    parts = parts_of(base_of(kind, **({"hidden_size": 64} if kind == "bert" else {})), method, **options)
    batch = parts.head.collate(examples())
    losses = steps(parts, batch)
    assert losses[-1] < losses[0]
    before = logits(parts, batch)
    _, drift = merged(parts, answers(parts, batch))
    # int8 rounds activations too, which the merged model does not.
    assert drift < (0.05 if options.get("quantise") == "int8" else 1e-5)
    assert float((before - logits(parts_of(base_of(kind), "full"), batch)).abs().max()) > 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: base_of("qwen2"),
        pytest.param(lambda: base_of("bert"), marks=pytest.mark.slow),
        pytest.param(git.tiny, marks=pytest.mark.slow),
    ],
    ids=["qwen2", "bert", "git"],
)
def test_lowers_the_loss_by_itself_at_its_own_rate(make, method):
    """The head is frozen, so that the fall of the loss is due to the method; the schedule is that of every run."""
    base = make()
    parts = parts_of(base, method)
    rows = examples()
    if base.image_size:
        rows = _pictures(base.image_size)
    batch = parts.head.collate(rows)
    own = [p for name, p in trainable(parts.model).items() if "classifier" not in name]
    optimizer = torch.optim.AdamW(own, lr=config.resolve({"tuning": {"name": method}}).tuning.options.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(20, 0.1))
    losses = []
    for _ in range(20):
        loss, n = parts.head.loss(parts.model.eval(), batch)
        (loss / n).backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        losses.append(float(loss.detach()) / n)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] and losses[-1] == pytest.approx(min(losses), abs=1e-3)


def _pictures(size):
    import numpy as np

    from cxr_ft.data.dataset.split_dataset import Example

    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(0, 256, (size, size), dtype=np.uint8), np.array([i % 2, 1.0 - i % 2]), "")
        for i in range(4)
    ]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_lora_scratch_is_lora_and_peft_reads_it(kind, tmp_path):
    from peft import PeftModel

    own = parts_of(base_of(kind), "lora_scratch", targets="q,down", rank=4)
    batch = own.head.collate(examples())
    steps(own, batch, lr=1e-2)
    (tmp_path / "run").mkdir()
    saved_model.save(tmp_path / "run", own, SavedLabels(labels=(), multi_label=True))
    plain = base_of(kind).encoder()
    plain.classifier = torch.nn.Linear(32, len(LABELS))
    model = PeftModel.from_pretrained(plain, tmp_path / "run" / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(own, batch)(model), logits(own, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_and_peft_alone_read_what_qlora_left(kind, tmp_path):
    import json

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = base_of(kind)
    base.save(tmp_path / "base", base.lm)
    parts = parts_of(base, "qlora", head="report", targets="down")
    batch = parts.head.collate(examples())
    steps(parts, batch, lr=1e-2)
    (tmp_path / "run").mkdir()
    saved_model.save(tmp_path / "run", parts, SavedLabels(labels=(), multi_label=True))
    how = BitsAndBytesConfig.from_dict(
        json.loads((tmp_path / "run" / "model" / "quantization_config.json").read_text())
    )
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=how, dtype=torch.float32, device_map="cpu"
    )
    for module in plain.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    model = PeftModel.from_pretrained(plain, tmp_path / "run" / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(model), logits(parts, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("quantise", ["nf4", "int8"])
def test_transformers_alone_reads_what_was_merged_of_qlora(kind, quantise, tmp_path):
    """GPT-2's matrices are Conv1D, [in, out]; quantised ones are not, and must be turned back."""
    from transformers import AutoModelForCausalLM

    parts = parts_of(
        base_of(kind, n_embd=64) if kind == "gpt2" else base_of(kind), "qlora", head="report", quantise=quantise
    )
    batch = parts.head.collate(examples())
    steps(parts, batch, lr=1e-2)
    before = logits(parts, batch)
    plain_of = methods.load(parts.tuning.name).merge
    ours = plain_of(parts.model)
    ours.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(parts, batch)(plain), answers(parts, batch)(ours), rtol=0, atol=1e-6)
        # int8 also rounds what goes in, which merging ends.
        drift = float((answers(parts, batch)(ours) - before).abs().max())
    assert drift < (1e-4 if quantise == "nf4" else 0.1)
