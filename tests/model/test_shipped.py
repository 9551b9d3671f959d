"""Every model that ships: small, safe to read, whole, and with a card that says what it has seen."""

import json

import pytest
import torch
from safetensors import safe_open

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.model import assembly

PRETRAINED = [name for name in assembly.shipped() if (assembly.SHIPPED / name / "model.safetensors").exists()]


@pytest.fixture(scope="module", params=assembly.shipped())
def base(request):
    return assembly.family(request.param).load(request.param)


def test_the_pretrained_base_and_a_random_one_ship():
    assert {"git-phantom-tiny", "git-tiny-random", "bert-tiny-random", "llama-tiny-random"} <= set(assembly.shipped())
    assert "git-phantom-tiny" in PRETRAINED
    assert "git-tiny-random" not in PRETRAINED


@pytest.mark.parametrize("name", assembly.shipped())
def test_a_folder_is_at_most_10_mb_and_holds_only_what_travels_in_the_wheel(name):
    files = [path for path in (assembly.SHIPPED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors", ".txt"}


def test_weights_are_finite_fp32_once_loaded(base):
    for name, parameter in base.lm.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert torch.isfinite(parameter).all(), name


def test_it_answers_otherwise_for_another_image_and_writes_text(base):
    if not base.image_size:
        pytest.skip("reads text: tests/model/test_text_bases.py")
    torch.manual_seed(0)
    base.lm.eval()
    images = torch.randint(0, 256, (2, base.image_size, base.image_size), dtype=torch.uint8).numpy()
    pixels = base.pixel_values(images)
    with torch.no_grad():
        first, second = base.pooled(base.encoder(), {"pixel_values": pixels})
        texts = base.generate(base.lm, {"pixel_values": pixels}, [base.tokenizer.cls_token_id], max_new_tokens=3)
    assert not torch.allclose(first, second, atol=1e-4)
    assert len(texts) == 2


def test_the_vocabulary_spells_any_english_text(base):
    text = "xylophone's 37% @ [q] {z} ~ quartz_jockey; vwxyz"
    assert base.tokenizer.unk_token_id not in base.tokenizer(text).input_ids


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_file_holds_fp16_and_the_loaded_model_is_that_file(name):
    lm = assembly.family(name).load(name).lm.state_dict()
    with safe_open(assembly.SHIPPED / name / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(lm)
        for key in file.keys():  # noqa: SIM118 (no mapping)
            stored = file.get_tensor(key)
            assert stored.dtype == torch.float16, key
            torch.testing.assert_close(lm[key], stored.float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_shape_is_the_random_bases(name):
    ours, other = (json.loads((assembly.SHIPPED / n / "config.json").read_text()) for n in (name, "git-tiny-random"))
    assert "cxr_ft_random_seed" not in ours
    for key in ("hidden_size", "num_hidden_layers", "vision_config", "max_position_embeddings"):
        assert ours[key] == other[key], key


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_card_names_every_label_and_the_log_shows_learning(name):
    card = (assembly.SHIPPED / name / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for label in CHEXPERT_14:
        assert any(line.startswith(f"| {label} |") for line in rows), label
    log = json.loads((assembly.SHIPPED / name / "log.json").read_text())
    for loss in ("words", "maps", "summary"):
        first = next(row[loss] for row in log["log"] if loss in row)
        assert log["log"][-1][loss] < first
    assert log["probe_macro_auroc"][name] > log["probe_macro_auroc"]["git-tiny-random"]
