"""Small random GITs, their batches, and one step of both forwards: transformers' and the fused path."""

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import GitConfig, GitForCausalLM

from cxr_ft.model.bases.git import decoder, eligibility, vision
from cxr_ft.model.heads._next_token_loss import cross_entropy_sum

IGNORE = -100
TOLERANCE = {"rtol": 0, "atol": 1e-5}


PATTERNS = {
    "text": r"git\.encoder\.layer\.\d+\.attention\.self\.(query|value)",
    "vision": r"git\.image_encoder\..*(q_proj|fc2|out_proj)",
    "everywhere": "all-linear",
}


def model(seed=0, dropout=0.0, **changes):
    """A small random GIT; weights larger than the usual ones, so that a wrong mask or scale shows."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    eyes = {**small, "image_size": 32, "patch_size": 16, **changes.pop("vision", {})}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    shape = {
        **small,
        "vocab_size": 101,
        "max_position_embeddings": 40,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **rates,
        **changes,
    }
    torch.manual_seed(seed)
    lm = GitForCausalLM(GitConfig(vision_config=eyes, initializer_range=0.2, **shape))
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if "norm" in name.lower() or name.endswith("bias") or "temporal" in name:
                p.add_(torch.randn_like(p) * 0.1)
    return lm


def batch_of(lm, rows=3, length=9, images=None, mask="right", seed=1):
    """Random pixels, ids, a mask with padding on one side, and labels that leave some positions out."""
    torch.manual_seed(seed)
    side = lm.config.vision_config.image_size
    shape = (rows, 3, side, side) if images is None else (rows, images, 3, side, side)
    ids = torch.randint(0, lm.config.vocab_size, (rows, length))
    lengths = torch.randint(1, length + 1, (rows, 1))
    place = torch.arange(length)
    everywhere = torch.ones(rows, length, dtype=torch.bool)
    present = {"right": place < lengths, "left": place >= length - lengths, "none": everywhere}[mask]
    labels = torch.where(present & (torch.rand(rows, length) < 0.7), ids.roll(-1, 1), IGNORE)
    return {
        "pixel_values": torch.randn(shape),
        "input_ids": ids,
        "attention_mask": None if mask == "none" else present.long(),
        "labels": labels,
    }


def by_transformers(lm, batch):
    """Logits at the text, and the summed loss, from transformers' own forward."""
    t = batch["input_ids"].shape[1]
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "attention_mask")}
    logits = lm(**inputs).logits[:, -t:]
    return logits, F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")


def by_fused_path(lm, batch):
    """Logits at the counted positions alone, and the summed loss."""
    git, counts = eligibility.git_of(lm), batch["labels"] != IGNORE
    tokens = vision.image_tokens(git, vision.image_states(git, batch["pixel_values"]))
    states = decoder.text_states(git, tokens, batch["input_ids"], batch["attention_mask"], at=counts)
    logits = eligibility.unwrapped(lm).output(states)
    return logits, cross_entropy_sum(logits, batch["labels"][counts])


def check(lm, batch):
    """Equal logits, loss and gradients, and the same parameters get one."""
    assert eligibility.can_use_fused_path(lm)
    lm.zero_grad()
    logits, loss = by_transformers(lm, batch)
    scale = max(1, int((batch["labels"] != IGNORE).sum()))
    (loss / scale).backward()
    expected = {name: p.grad for name, p in lm.named_parameters()}
    lm.zero_grad()
    fused, fused_loss = by_fused_path(lm, batch)
    (fused_loss / scale).backward()
    torch.testing.assert_close(fused, logits[batch["labels"] != IGNORE], **TOLERANCE)
    torch.testing.assert_close(fused_loss / scale, loss / scale, **TOLERANCE)
    for name, p in lm.named_parameters():
        assert (p.grad is None) == (expected[name] is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def adapted(lm, where="text", **options):
    """LoRA whose B is no zero, so that the adapter matters from the start."""
    model = get_peft_model(lm, LoraConfig(r=3, lora_alpha=6, target_modules=PATTERNS[where], **options))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.2)
    return model.train()


def relative(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())
