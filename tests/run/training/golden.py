"""The losses of one short training a method, and the file that says what they were.

    python tests/run/training/golden.py

writes `golden_losses.json` anew. Do so only where the numbers are meant to change, and say why in the commit.

The trainings are the same as every other one: `train.fit` on the toy, fp32, on CPU. Their options are such that all of
what an optimizer does shows in five epochs of four steps: a large weight decay, a clip below the usual norm of the
gradient, six steps of warm-up, dropout, and a rate of the head that is not the method's.
"""

import json
import sys
import tempfile
from pathlib import Path

import toy

from cxr_ft.run.training import train

FILE = Path(__file__).parent / "golden_losses.json"
#: Kernels of other processors round otherwise.
TOLERANCE = 1e-5
METHODS = {
    "full": ("full", {"lr": 2e-3}),
    "lora": ("lora", {"lr": 1e-2, "dropout": 0.2}),
    "last_layers": ("last_layers", {"lr": 5e-3}),
    "head_alone": ("last_layers", {"layers": 0}),
}
TRAIN = {"epochs": 5, "batch_size": 4, "head_lr": 0.02, "weight_decay": 2.0, "warmup": 0.3, "clip": 0.5, "seed": 3}


def make(place):
    """Write the toy into `place`: 16 rows to train on."""
    toy.make(place, per_class=16)


def losses(place, name, out):
    """The losses on train and on val of each epoch of a method's training."""
    method, options = METHODS[name]
    history = train.fit(toy.configured(place, method, tuning=options, **TRAIN), out, verify=False).history
    return {"train": [row["train_loss"] for row in history], "val": [row["val_loss"] for row in history]}


def main():
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make(place)
        measured = {name: losses(place, name, place / name) for name in METHODS}
    (Path(sys.argv[1]) if sys.argv[1:] else FILE).write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
