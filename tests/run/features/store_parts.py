"""Configurations, models and data sets for the tests of stored features."""

import torch
from safetensors.torch import load_file

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.model.assembly import build
from cxr_ft.run.features import feature_store


def configured(place, task="classify", method="lora", store="auto", data=None, **settings):
    """Return the configuration of a run on the splits and the model in `place`."""
    targets = {"targets": ["text.q", "text.v"]} if method == "lora" else {}
    return config.resolve(
        {
            "data": {"splits": str(place / "splits"), **(data or {})},
            "model": str(place / "tiny"),
            "head": {"name": task, **({"max_tokens": 8} if task != "classify" else {})},
            "tuning": {"name": method, **targets},
            "train": {"epochs": 2, "batch_size": 4, "store_features": store, **settings},
        }
    )


def parts_of(place, **how):
    """Return the model of a run that `configured` describes."""
    torch.manual_seed(0)
    resolved = configured(place, **how)
    card = manifest.read(place / "splits").card
    return build(resolved, card.labels, card.multi_label)


def open_rows(place, name="train"):
    """Return the data set of one split in `place`."""
    return open_split(manifest.read(place / "splits"), name, 32)


def files(cache):
    """Return the files of stored features in the folder `cache`."""
    return sorted(cache.glob("*.safetensors"))


def counted(monkeypatch):
    """Return a list that grows by each image that frozen parts compute from now on."""
    seen, compute = [], feature_store.FrozenFeatures.compute
    monkeypatch.setattr(
        feature_store.FrozenFeatures, "compute", lambda self, pixels: seen.extend(pixels) or compute(self, pixels)
    )
    return seen


def trained_weights(run):
    """Return by name the weights that the run in folder `run` saved."""
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)
