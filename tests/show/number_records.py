"""Records of runs whose numbers all differ, so that one in another's place is seen."""

from pathlib import Path

from fake_runs import TRAINABLE, TUNING

from cxr_ft.show import compare
from cxr_ft.show.recorded_runs import RecordedRun

AREAS = {"auroc": 0.81, "f1": 0.82, "precision": 0.83, "recall": 0.84}


def scores(shift, **more):
    """Metrics of one split: numbers that differ between metrics, and between splits by `shift`."""
    macro = {name: round(value + shift, 4) for name, value in AREAS.items()}
    return {"macro": macro, "micro": {"accuracy": round(0.85 + shift, 4)}} | more


def run(base, method="lora", seed=0, **changes):
    """A record of that method; `metrics` by split, and whatever else of the record is to differ."""
    config = {**base.config, "tuning": TUNING[method], "train": {**base.config["train"], "seed": seed}}
    cost = {**base.cost, "parameters": {"trainable": TRAINABLE[method], "total": 22_900_000}}
    changed = {"config": config, "cost": cost, "config_hash": f"{method}{seed}", **changes}
    return RecordedRun(Path("nowhere"), base.replace(**changed))


def one(base, metrics, method="lora", **changes):
    """A comparison of one run with these metrics."""
    (comparison,) = compare.compare([run(base, method, metrics=metrics, **changes)])
    return comparison
