"""The data set card in a manifest."""

import dataclasses
import json

from cxr_ft.data.card import DatasetCard

CARD = DatasetCard(
    name="films",
    labels=("Edema", "Nodule"),
    multi_label=False,
    normal="Edema",
    unit="study",
    group="unknown",
    sensitivity="public",
    source="a place",
    terms="some",
    citation="a paper",
)


def test_a_card_comes_back_from_json_with_every_field():
    written = CARD.to_json()
    assert set(written) == {field.name for field in dataclasses.fields(DatasetCard)}
    assert DatasetCard.from_json(json.loads(json.dumps(written))) == CARD


def test_missing_fields_have_defaults_and_later_ones_are_ignored():
    read = DatasetCard.from_json({"name": "films", "a later field": 1})
    assert read == DatasetCard(name="films") and read.sensitivity == "credentialed"
