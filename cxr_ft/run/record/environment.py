"""Record what a run was made with: versions, commit, device, threads."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import cxr_ft
from cxr_ft.config import RunConfig
from cxr_ft.run.record.result_parts import Environment

#: Whose versions are recorded: those that decide the numbers.
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "pydicom", "scikit-learn", "sacrebleu")


def environment(config: RunConfig, processes: int = 1) -> Environment:
    """Return versions, machine and the number of `processes` that train together; no path, user or host."""
    cuda = torch.cuda.is_available()
    return Environment(
        cxr_ft=cxr_ft.__version__,
        commit=commit(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        system=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name() if cuda else f"cpu ({_cpu()})",
        # Sums of several threads are rounded otherwise: equal runs need equally many.
        threads=torch.get_num_threads(),
        processes=processes,
        precision=config.train.precision,
    )


def commit() -> str:
    """Return the checkout's commit, with "+changes" where the tree is not clean; empty outside a checkout."""
    folder = Path(cxr_ft.__file__).parents[1]
    if not (folder / ".git").exists():
        return ""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        # Untracked files are left out: data and runs may lie in a checkout, and change no line of its code.
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
