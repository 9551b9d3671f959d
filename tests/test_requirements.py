"""The pinned set: what it names is installed as pinned, and imports together in one process."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
#: Extras that no test reaches: for users of a bucket, of the clinical models' weights, of an NVIDIA card.
UNTRIED = ("gcsfs", "s3fs", "radeval", "nvidia-ml-py")
TOGETHER = """
import torch, torchvision, transformers, peft, accelerate, bitsandbytes, pydicom, PIL, albumentations, timm, evaluate
import datasets, sklearn, scipy, pandas, pyarrow, duckdb, cv2, matplotlib, jinja2, sacrebleu, rouge_score, torchmetrics
import safetensors, tokenizers, hypothesis, rich, yaml
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
assert torch.zeros(1) + 1 == 1
"""


def test_everything_the_package_needs_is_pinned():
    setup = (ROOT / "setup.cfg").read_text()
    needed = re.findall(r"^    ([\w-]+) >= [\d.]+$", setup, re.MULTILINE)
    assert len(needed) > 20
    assert not [name for name in needed if name.lower() not in PINS and name not in UNTRIED]


def test_what_is_installed_is_what_was_tested():
    different = {}
    for name, pinned in PINS.items():
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            installed = "absent"
        if installed != pinned:
            different[name] = installed
    if len(different) > 5:
        pytest.skip("not the pinned set (an installation of the user's own)")
    assert not different


@pytest.mark.slow
def test_the_pinned_set_imports_together_without_a_network():
    """albumentations 2.0.8 asks the package index for a newer version at import, unless told not to."""
    code = (
        "import socket, os\nos.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'\n"
        "def refuse(*a): raise SystemExit(f'opened a socket: {a}')\nsocket.socket.connect = refuse\n" + TOGETHER
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
