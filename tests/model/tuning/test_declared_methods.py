"""Each method says how it is merged, or why it cannot be, and what its saved model is."""

import pytest
from tuning_parts import built

from cxr_ft import plugins
from cxr_ft.model import methods
from cxr_ft.run.record import saved_model
from cxr_ft.run.record.saved_labels import SavedLabels

METHODS = plugins.choices(plugins.TUNING)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_merged_or_says_why_not(name):
    method = methods.load(name)
    assert (method.merge is None) == bool(method.merge_obstacle)
    assert "declares no way" not in method.merge_obstacle, "a method of ours gives its own reason"
    assert "\n" not in method.merge_obstacle


@pytest.mark.parametrize("name", [name for name in METHODS if methods.load(name).trains])
def test_what_is_saved_is_a_peft_folder_exactly_where_the_method_says_so(name, tmp_path):
    options = {"oft": {"block": 16}, "qlora": {"targets": "q,proj"}}.get(name, {})
    head = "report" if methods.load(name).needs_text else "classify"
    saved_model.save(tmp_path, built(name, head=head, **options), SavedLabels(labels=(), multi_label=True))
    assert (tmp_path / "model" / "adapter_config.json").exists() == methods.load(name).peft_folder
