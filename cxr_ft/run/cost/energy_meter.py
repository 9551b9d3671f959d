"""Energy and how busy the device was while a run trained, where the machine tells: NVIDIA's library, or Intel's RAPL.

A machine that tells nothing gives None and the reason, never a number worked out from nominal watts.
"""

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

#: Seconds between two looks at a GPU.
EVERY = 1.0
RAPL = Path("/sys/class/powercap")


class EnergyReader(Protocol):
    """A meter of energy. whole: what of the machine it covers, in words."""

    whole: str

    def joules(self) -> float:
        """Energy since some point in time; it only rises."""

    def busy(self) -> float | None:
        """Percent of the time lately in which the device computed; None where nobody knows."""


@dataclass
class EnergyUse:
    """What was used in a block of so many seconds: joules, mean percent busy, of what, and why nothing is known."""

    seconds: float = 0.0
    joules: float | None = None
    busy: float | None = None
    whole: str = ""
    why: str | None = None
    _seen: list[float] = field(default_factory=list, repr=False)

    def to_json(self, worked: float) -> dict[str, Any]:
        """As it stands in result.json, of work that took `worked` seconds in all, before the block too."""
        if worked > self.seconds + 1 and self.why is None:
            return EnergyUse(why="the run was interrupted: what it used before is not known").to_json(0)
        known = {"joules": self.joules, "busy_percent": self.busy}
        return {name: None if value is None else round(value, 3) for name, value in known.items()} | {
            "of": self.whole or None,
            "why_not": self.why,
        }


def reader() -> EnergyReader | str:
    """The machine's meter; or one line that says why there is none."""
    if torch.cuda.is_available():
        return _nvidia()
    return rapl(RAPL)


@contextlib.contextmanager
def metered(choose: Callable[[], EnergyReader | str] = reader) -> Iterator[EnergyUse]:
    """Measure the block; the numbers stand in what is yielded once it is left."""
    meter, spent = choose(), EnergyUse()
    if isinstance(meter, str):
        spent.why = meter
        yield spent
        return
    start = time.perf_counter()
    spent.whole, begun, done = meter.whole, meter.joules(), threading.Event()
    thread = threading.Thread(target=_watch, args=(meter, spent, done), daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        done.set()
        thread.join()
        spent.seconds = time.perf_counter() - start
        spent.joules = meter.joules() - begun
        spent.busy = sum(spent._seen) / len(spent._seen) if spent._seen else None


def _watch(meter: EnergyReader, spent: EnergyUse, done: threading.Event) -> None:
    while True:
        # A counter may start anew from zero: whoever reads it often enough sees that it did.
        meter.joules()
        if (busy := meter.busy()) is not None:
            spent._seen.append(busy)
        if done.wait(EVERY):
            return


class _Rapl:
    """All CPU packages by the kernel's counters of microjoules, which start anew at `max_energy_range_uj`."""

    whole = "all CPU packages, whatever ran on them"

    def __init__(self, packages: list[Path]) -> None:
        self.packages = packages
        self.ranges = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        self.last = self._counters()
        self.total, self.lock = 0, threading.Lock()

    def joules(self) -> float:
        with self.lock:
            now = self._counters()
            self.total += sum(
                (new - old) % (most + 1) for new, old, most in zip(now, self.last, self.ranges, strict=True)
            )
            self.last = now
            return self.total / 1e6

    def busy(self) -> float | None:
        return None

    def _counters(self) -> list[int]:
        return [int((p / "energy_uj").read_text()) for p in self.packages]


def rapl(folder: Path) -> EnergyReader | str:
    """The meter of Intel's and AMD's packages below `folder`, Linux's powercap; or why there is none."""
    packages = sorted(p for p in folder.glob("intel-rapl:*") if p.name.count(":") == 1)
    if not packages:
        return "this machine has no RAPL counters (virtual machines and containers rarely do)"
    try:
        return _Rapl(packages)
    except PermissionError:
        return f"RAPL counters below {folder} may be read by root alone; ask for read permission on energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL counters below {folder} cannot be read: {error}"


class _Nvidia:
    """The GPU of this process, by NVIDIA's management library: its own count of energy, or watts times seconds."""

    whole = "the GPU, whatever ran on it"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle, self.lock = nvml, handle, threading.Lock()
        self.total, self.last = 0.0, time.monotonic()
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self.counts = True
        except nvml.NVMLError:  # before Volta
            self.counts = False

    def joules(self) -> float:
        if self.counts:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        with self.lock:
            now = time.monotonic()
            self.total += self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1e3 * (now - self.last)
            self.last = now
            return self.total

    def busy(self) -> float | None:
        return float(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)


def nvidia(nvml: Any, uuid: str) -> EnergyReader | str:
    """The meter of the GPU `uuid` by `nvml`, the module pynvml or what has its functions; or why there is none."""
    try:
        nvml.nvmlInit()
        return _Nvidia(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError as error:
        return f"NVIDIA's library gives no numbers: {error}"


def _nvidia() -> EnergyReader | str:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    return nvidia(pynvml, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
