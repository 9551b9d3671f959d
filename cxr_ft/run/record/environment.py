"""Record what a run was made with: versions, commit, device, threads."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import cxr_ft
from cxr_ft.config import RunConfig
from cxr_ft.run.record.checkout import commit
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
