"""YAML that people bring: words stay words, and what would take the memory of the machine is one line."""

import resource
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cxr_ft import config, safe_yaml
from cxr_ft.errors import UsageError


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "No", "ON", "y", "n"])
def test_words_stay_words(word):
    assert safe_yaml.load(f"key: {word}", "it") == {"key": word}


def test_truth_values_are_those_of_yaml_1_2():
    assert safe_yaml.load("[true, False, TRUE, null, 3, 1.5, 'true']", "it") == [
        True,
        False,
        True,
        None,
        3,
        1.5,
        "true",
    ]
    # SafeLoader itself is as it was: others in this process use it.
    assert yaml.safe_load("no") is False


@pytest.mark.parametrize("text", ["train.precision=no", "train.precision='no'"])
def test_the_documented_default_of_precision_can_be_written(text, tmp_path):
    assert config.resolve(config.assignment(text)).train.precision == "no"
    (tmp_path / "c.yaml").write_text("train: {precision: no, gradient_checkpointing: no}\ndata: {flip: yes}\n")
    read = config.resolve(config.read_yaml(tmp_path / "c.yaml"))
    assert read.train.precision == "no" and read.train.gradient_checkpointing is False and read.data.flip is True


def laughs(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tuning: {targets: " + "[" * 20_000 + "]" * 20_000 + "}", "within each other"),
        ("[" * 20_000, "within each other"),
        ("{a: " * 20_000, "within each other"),
        ("- " * 20_000, "within each other"),
        (laughs(9) + "\ntuning: {targets: *a8}", "aliases"),
        ("a: &a [*a]", "alias within"),
        ("a: &a {b: {c: *a}}", "alias within"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("x" * (safe_yaml.CHARACTERS + 1), "characters"),
    ],
)
def test_what_is_no_configuration_is_one_line_soon(text, why, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UsageError, match=why) as caught:
        config.read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value) and "c.yaml" in str(caught.value)
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_written_is_read(value):
    assert safe_yaml.load(yaml.safe_dump(value), "it") == value
