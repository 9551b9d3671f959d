"""What a logistic regression on 32 x 32 thumbnails gets on some splits: the baseline that any network has to pass.

    python tools/thumbnail_probe.py SPLITS

A high number says that the labels go with something crude: the source, the exposure, the frame. The strength of the
penalty is chosen on val; test is looked at once.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_ft.data import manifest
from cxr_ft.data.labels import targets
from cxr_ft.data.pixels.cache import cached
from cxr_ft.data.records import raw_labels, root_folder
from cxr_ft.score.statistics.intervals import auroc

SIDE = 32
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def side(splits: manifest.Splits, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thumbnails [N, 1024] in [0, 1] and targets [N, L] in {0, 1, NaN}."""
    table, request = splits.tables[name], splits.manifest["request"]
    first = [str(path).split("|")[0] for path in table["path"]]
    pixels = cached(root_folder(splits.root), first, SIDE)[:].reshape(len(table), -1) / 255
    return pixels, targets(raw_labels(table, splits.card), request["uncertain"], request["blank"])


def probe(splits: manifest.Splits) -> dict[str, float]:
    """Test AUROC by label; NaN where a label has one class only."""
    (x, y), (x_val, y_val), (x_test, y_test) = (side(splits, name) for name in ("train", "val", "test"))
    out = {}
    for i, label in enumerate(splits.card.labels):
        known, known_val, known_test = (~np.isnan(part[:, i]) for part in (y, y_val, y_test))
        if len(set(y[known, i])) < 2:
            out[label] = float("nan")
            continue
        models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)) for c in PENALTIES]
        fitted = [model.fit(x[known], y[known, i]) for model in models]
        score = [auroc(y_val[known_val, i], m.decision_function(x_val[known_val])) for m in fitted]
        best = fitted[int(np.nanargmax(score))] if np.isfinite(score).any() else fitted[0]
        out[label] = float(auroc(y_test[known_test, i], best.decision_function(x_test[known_test])))
    return out


def main() -> None:
    """Print the AUROC of each label, and their mean."""
    areas = probe(manifest.read(Path(sys.argv[1])))
    for label, area in areas.items():
        print(f"{label:28} {area:.3f}")
    print(f"{'macro':28} {np.nanmean(list(areas.values())):.3f}")


if __name__ == "__main__":
    main()
