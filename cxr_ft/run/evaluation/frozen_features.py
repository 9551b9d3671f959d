"""Compute what a run's base makes of images as it was loaded, before any training: the features of the frozen probe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft.config import RunConfig
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.model import assembly
from cxr_ft.model.assembly import ModelParts
from cxr_ft.progress import bar
from cxr_ft.run.features.feature_store import FeatureStore

if TYPE_CHECKING:
    from cxr_ft.model.protocols import Base

Floats = NDArray[np.float64]


def compute(
    parts: ModelParts,
    config: RunConfig,
    datasets: Mapping[str, SplitDataset],
    rows: Mapping[str, Sequence[int]],
    batch_size: int,
) -> dict[str, Floats]:
    """Return the pooled vectors [M, D] of some rows of each split, in the base's default pool.

    Args:
        parts: the run's trained model, which names the device and is left as it is.
        config: of the run; its base is loaded once more.
        datasets: by split; a row's first image is read.
        rows: by split, the rows wanted.
        batch_size: rows in a forward pass.

    Raises:
        UsageError: where the base cannot be found.
        RuntimeError: where memory does not suffice.
    """
    device = next(parts.model.parameters()).device
    # Some bases draw weights when they are loaded: the caller's random state must not move.
    with torch.random.fork_rng(devices=[]):
        base: Base = assembly.family(config.model).load(config.model)
    if config.data.image_size is not None:
        base.resize(config.data.image_size)
    pool = next(iter(base.pools))
    model = base.encoder(pool).to(device).eval()
    model.requires_grad_(requires_grad=False)
    # The store reads base and model alone. Frozen parts that training stored are not computed again.
    frozen = ModelParts(base=base, head=parts.head, model=model, tuning=parts.tuning)
    store = FeatureStore(frozen, enabled=config.train.store_features == "auto", verbose=False)
    out = {}
    with torch.no_grad(), bar("frozen probe", sum(map(len, rows.values()))) as progress:
        for split, wanted in rows.items():
            dataset, vectors = datasets[split], []
            features = store.frozen_features(dataset)
            for start in range(0, len(wanted), batch_size):
                places = wanted[start : start + batch_size]
                batch = base.inputs([dataset[place] for place in places])
                if features is None:
                    batch = {key: value.to(device) for key, value in batch.items()}
                else:
                    batch = features.replace_pixels(batch, places, device)
                vectors.append(base.pooled(model, batch, pool).float().cpu().numpy())
                progress.advance(len(places))
            out[split] = np.concatenate(vectors).astype(np.float64)
    return out
