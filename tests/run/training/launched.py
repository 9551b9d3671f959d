"""What `torchrun` starts in tests: one process of a run; a JSON file says what goes wrong in it.

config, out: as `fit` takes them; die: the step at which the first process kills itself; hungry: the second process has
memory for one row at a time.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cxr_ft import config
from cxr_ft.model.heads.classify import Classify
from cxr_ft.run.training import checkpoint, train
from cxr_ft.run.training.step import TrainingStep

step, loss = TrainingStep.run, Classify.loss


def dying(self, batch, state):
    if state.step == order["die"] and self.accelerator.is_main_process:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, state)


def hungry(self, model, batch):
    if model.training and os.environ["RANK"] == "1" and len(batch["targets"]) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return loss(self, model, batch)


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    checkpoint.INTERVAL = 0.0
    TrainingStep.run = dying
    if order["hungry"]:
        Classify.loss = hungry
    train.fit(config.resolve(order["config"]), Path(order["out"]), verify=False)
