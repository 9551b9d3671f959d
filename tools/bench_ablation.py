"""What storing frozen work saves in an ablation: the time of whole runs with it and without.

    OMP_NUM_THREADS=1 taskset -c 1 python tools/bench_ablation.py [--subjects 40] [--seeds 3] [--epochs 5]

Eight choices of decoder modules for LoRA by the seeds on the shipped `git-phantom-tiny`, each run from its start to its
saved model, the two ways in turn in one process and with the same weights in the end, which is checked. The first
run that stores pays for the store.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.phantom import make_archive
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.model.assembly import silence_libraries
from cxr_ft.run.record import saved_labels
from cxr_ft.run.training import train

TARGETS = ("q", "k", "v", "o", "q,v", "q,k,v,o", "up,down", "q,k,v,o,up,down")
WAYS = ("never", "auto")


def cell(splits: Path, targets: str, seed: int, epochs: int, way: str) -> config.RunConfig:
    """One run's configuration."""
    names = [f"text.{role}" for role in targets.split(",")]
    return config.resolve(
        {
            "data": {"splits": str(splits)},
            "tuning": {"name": "lora", "targets": names},
            "train": {"seed": seed, "epochs": epochs, "store_features": way},
        }
    )


def main() -> None:
    """Print the seconds of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=40, help="of the phantom archive")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    asked = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_archive(place / "archive", asked.subjects, 0, 128, 1)
        make_splits(str(place / "archive"), "mimic_cxr", SplitRequest(per_label=20), place / "splits")
        rows = len(manifest.read(place / "splits").tables["train"])
        wall, cpu = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0.0)
        for i, (targets, seed) in enumerate((t, s) for t in TARGETS for s in range(asked.seeds)):
            for way in WAYS if i % 2 else WAYS[::-1]:
                start = time.perf_counter(), time.process_time()
                train.fit(cell(place / "splits", targets, seed, asked.epochs, way), place / way / str(i), verify=False)
                wall[way] += time.perf_counter() - start[0]
                cpu[way] += time.process_time() - start[1]
            weights = [
                (place / way / str(i) / saved_labels.FOLDER / "adapter_model.safetensors").read_bytes() for way in WAYS
            ]
            if weights[0] != weights[1]:
                raise RuntimeError(f"text.{targets}, seed {seed}: the store changed the weights")
        print(f"{len(TARGETS)} choices x {asked.seeds} seeds x {asked.epochs} epochs on {rows} images, same weights")
        for what, taken in (("wall", wall), ("CPU", cpu)):
            never, auto = (taken[way] for way in WAYS)
            print(f"  {what}: {never:.1f} s without the store, {auto:.1f} s with it: {never / auto:.2f} x")


if __name__ == "__main__":
    main()
