"""The record of a run: typed parts, their JSON form, and what is ignored or filled."""

import json

import pytest

from cxr_ft.errors import UsageError
from cxr_ft.run.record import result_parts, results

CONFIG = {"head": {"name": "classify"}, "tuning": {"name": "lora"}, "train": {"seed": 3}}
COST = {
    "train_seconds": 1.5,
    "eval_seconds": 0.5,
    "memory": {"weights": 8, "gradients": 1, "optimizer": 2, "activations": 4, "workspace": 0},
    "memory_batches": {"first": 100},
    "energy": {"joules": None, "busy_percent": None, "of": None, "why_not": "no counters"},
    "micro_batch": 16,
    "parameters": {"trainable": 5, "total": 50, "adapter": 3, "head": 2},
    "saved_model_bytes": 1000,
    "cuda_memory": None,
}
HISTORY = [{"epoch": 1, "step": 4, "seconds": 0.5, "train_loss": 0.7, "val_loss": 0.8, "val": None}]


def made(**changes):
    return results.Result(status="trained", config=CONFIG, config_hash="h", **changes)


def test_parts_are_read_by_attribute():
    result = made(cost=COST, history=HISTORY, plan={"modules": ["a"], "output": "text"})
    assert result.cost.train_seconds == 1.5
    assert result.cost.memory.peak_bytes == result.memory_bytes == 15
    assert result.cost.parameters.trainable == 5
    assert result.cost.energy.why_not == "no counters"
    assert result.history[0].val_loss == 0.8 and result.history[0].val is None
    assert result.plan.modules == ("a",) and result.output == "text"


def test_json_has_the_keys_that_were_recorded_and_no_others(tmp_path):
    result = made(cost=COST, history=HISTORY, data={"sha256": {"a": "1"}, "card": {"name": "phantom"}})
    results.write(tmp_path, result)
    raw = json.loads((tmp_path / "result.json").read_text())
    assert raw["cost"] == COST and raw["history"] == HISTORY
    assert raw["environment"] == {} and raw["search"] == {} and raw["plan"] == {}
    assert raw["data"]["card"]["labels"] == [] and "rows" not in raw["data"]
    assert results.read(tmp_path) == result


def test_unknown_keys_are_ignored_and_missing_ones_filled():
    cost = result_parts.Cost.from_json({"watts": 3, "memory": {"weights": 8, "swap": 1}, "parameters": None})
    assert cost.memory.weights == 8 and cost.memory.gradients == 0 and cost.parameters.total == 0
    assert cost.train_seconds is None and cost.cuda_memory is None
    assert "watts" not in cost.to_json() and "swap" not in cost.memory.to_json()


def test_zero_is_recorded_and_missing_is_not():
    """A run that trains nothing has 0 trained parameters; a run that never began has no number."""
    zero_shot = made(cost={"train_seconds": 0.0, "parameters": {"trainable": 0, "total": 50}})
    assert zero_shot.cost["parameters"]["trainable"] == 0 and zero_shot.cost["train_seconds"] == 0.0
    assert "parameters" not in made().cost and made().memory_bytes is None


def test_a_part_is_a_mapping_over_its_json():
    cost = made(cost=COST).cost
    assert cost["memory"]["weights"] == 8 and cost.get("nothing") is None
    assert dict(cost.items()) == cost.to_json() == COST


def test_a_file_of_others_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"config": {"head": {}}}')
    with pytest.raises(UsageError, match="has no train, tuning"):
        results.read(tmp_path)
