"""Train on CUDA through `train.fit`, verify in a fresh process, and compare the losses with those on the CPU.

Not yet run: written on a machine without a GPU. The tolerances are estimates, which a first run on a GPU must confirm.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "run"))
import toy

from cxr_ft.run.record import results
from cxr_ft.run.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.fresh_process,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda is not available"),
]

#: Largest relative difference of a loss after one epoch. In fp32 kernels sum in another order, and ten steps of AdamW
#: carry that on. Of qlora the quantised products differ too: bitsandbytes has other kernels on each device.
TOLERANCE = {"full": 1e-3, "lora": 1e-3, "last_layers": 1e-3, "qlora": 3e-2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Splits and a tiny base without dropout, whose random numbers differ between devices."""
    place = tmp_path_factory.mktemp("toy")
    toy.make(place, dropout=0.0)
    return place


@pytest.fixture
def exact(monkeypatch):
    """Full fp32 products: TF32 keeps ten bits."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("method", TOLERANCE)
def test_cuda_trains_as_the_cpu_does(place, tmp_path, exact, method):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    config = toy.configured(place, method, epochs=1)
    cuda = train.fit(config, tmp_path / "cuda")
    # "success" means that the saved model was reloaded in a fresh process, where it gave the same scores on val.
    assert cuda.status == "success"
    assert cuda.environment.device == torch.cuda.get_device_name()
    assert cuda.cost.cuda_memory is not None and cuda.cost.cuda_memory.allocated > 0
    # In a process that sees no GPU: accelerate keeps its device for the life of a process.
    command = [sys.executable, "-m", "cxr_ft.cli.train", "--config", tmp_path / "cuda" / "result.json"]
    subprocess.run([*command, "--out", tmp_path / "cpu"], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    cpu = results.read(tmp_path / "cpu")
    assert cpu.environment.device.startswith("cpu")
    (on_cuda,), (on_cpu,) = cuda.history, cpu.history
    for name in ("train_loss", "val_loss"):
        value, expected = getattr(on_cuda, name), getattr(on_cpu, name)
        assert math.isclose(value, expected, rel_tol=TOLERANCE[method]), (method, name, value, expected)
