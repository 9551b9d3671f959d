"""Configurations: defaults < YAML < flags, strict keys and types, a recorded one runs again."""

import json

import pytest
import yaml

from cxr_ft import config
from cxr_ft.errors import UsageError


def test_defaults_round_trip_through_yaml_and_json():
    first = config.resolve({})
    assert config.resolve(yaml.safe_load(yaml.safe_dump(first.to_json()))) == first
    assert config.resolve(json.loads(json.dumps(first.to_json()))) == first


@pytest.mark.parametrize("method", ["lora", "full", "last_layers", "zero_shot"])
@pytest.mark.parametrize("task", ["classify", "report"])
def test_every_combination_round_trips(method, task):
    first = config.resolve({"tuning": {"name": method}, "head": {"name": task}})
    assert config.resolve(first.to_json()) == first


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"tunning": {}}, "'tunning' .did you mean 'tuning'.*known: data, model, head, tuning, train"),
        ({"train": {"epoch": 3}}, "'epoch' .did you mean 'epochs'"),
        ({"train": {"epochs": 0}}, "train.epochs: 0"),
        ({"train": {"epochs": "three"}}, "'three' is not of type int"),
        ({"train": {"epochs": True}}, "True is not of type int"),
        ({"train": {"epochs": 2.5}}, "2.5 is not of type int"),
        ({"train": {"precision": "fp8"}}, "no, bf16, fp16|bf16, fp16, no"),
        ({"tuning": {"name": "lorra"}}, "unknown method 'lorra' .did you mean 'lora'"),
        ({"tuning": {"name": "full", "rank": 4}}, "unknown key 'rank'; known: targets, lr"),
        ({"tuning": {"name": "lora", "rank": 0}}, "tuning.rank: 0"),
        ({"tuning": {"name": "lora", "dropout": 1.0}}, "tuning.dropout"),
        ({"tuning": {"name": "lora", "targets": 3}}, "not a list of names"),
        ({"head": {"name": "clasify"}}, "unknown task 'clasify' .did you mean 'classify'"),
        ({"head": {"present": "it is there"}}, "{label}"),
        ({"head": {"present": "{label} {x}"}}, "without other braces"),
        ({"train": {"seed": -1}}, "train.seed: -1"),
        ({"train": {"clip": float("inf")}}, "not a finite number"),
        ({"train": {"weight_decay": -1.0}}, "train.weight_decay"),
        ({"tuning": {"lr": -1.0}}, "a learning rate is above 0"),
        ({"tuning": {"lr": float("nan")}}, "not a finite number"),
        ({"model": 3}, "model must be a name"),
        ({"train": [1]}, "train must be a mapping"),
    ],
)
def test_bad_configuration_is_one_line(raw, words):
    with pytest.raises(UsageError, match=words) as caught:
        config.resolve(raw)
    assert "\n" not in str(caught.value)


def test_later_layers_win_and_keep_what_they_do_not_name():
    merged = config.merge(
        {"train": {"seed": 1, "epochs": 2}}, {"train": {"seed": 5}}, config.assignment("tuning.lr=1e-3")
    )
    assert merged == {"train": {"seed": 5, "epochs": 2}, "tuning": {"lr": "1e-3"}}
    assert config.resolve(merged).tuning.options.lr == 1e-3


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train.epochs=[1"])
def test_a_bad_assignment_is_refused(text):
    with pytest.raises(UsageError, match="--set"):
        config.assignment(text)


def test_the_fingerprint_follows_what_decides_the_numbers():
    one = config.resolve({"data": {"splits": "a"}})
    assert one.fingerprint({"f": "1"}) == config.resolve({"data": {"splits": "b"}}).fingerprint({"f": "1"})
    assert one.fingerprint({"f": "1"}) != one.fingerprint({"f": "2"})
    assert one.fingerprint({}) != config.resolve({"train": {"seed": 1}}).fingerprint({})


@pytest.mark.parametrize("content", ["[1, 2]", "{a: [", "just words", "!!python/object/apply:os.system [ls]", "\x00"])
def test_a_bad_file_is_refused(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"c\.yaml"):
        config.read_yaml(path)


def test_a_result_json_is_a_configuration(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"config_hash": "x", "config": config.resolve({}).to_json()}))
    assert config.resolve(config.read_yaml(path)) == config.resolve({})
