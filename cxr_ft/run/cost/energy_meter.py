"""Measure energy and utilisation while a run trains, by NVIDIA's library or the RAPL counters of Intel and AMD.

A machine without counters gives None and the reason, never an estimate from nominal watts.
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

from cxr_ft.json_values import JsonObject
from cxr_ft.run.record.result_parts import EnergyRecord

#: Seconds between two readings.
EVERY = 1.0
#: Linux's powercap.
RAPL = Path("/sys/class/powercap")


class EnergyReader(Protocol):
    """A counter of energy. covers: the part of the machine that it measures, in words."""

    covers: str

    def joules(self) -> float:
        """Return the energy since some fixed time; it never falls."""

    def busy(self) -> float | None:
        """Return the device's utilisation of late in percent; None where it is not known."""


@dataclass
class EnergyUse:
    """The energy used in a block of code.

    Args:
        seconds: the length of the block. joules: used. busy: mean utilisation in percent.
        covers: the part of the machine. reason: why nothing is known.
    """

    seconds: float = 0.0
    joules: float | None = None
    busy: float | None = None
    covers: str = ""
    reason: str | None = None
    _readings: list[float] = field(default_factory=list, repr=False)

    def to_json(self, trained_seconds: float) -> JsonObject:
        """Return the JSON form of an `EnergyRecord`, for a training of `trained_seconds` in all.

        Where that is longer than the block, the run was interrupted and part of its energy was not measured.
        """
        if trained_seconds > self.seconds + 1 and self.reason is None:
            return EnergyUse(reason="the run was interrupted: the energy of its first part is not known").to_json(0)
        record = EnergyRecord(
            joules=None if self.joules is None else round(self.joules, 3),
            busy_percent=None if self.busy is None else round(self.busy, 3),
            of=self.covers or None,
            why_not=self.reason,
        )
        return record.to_json()


def reader() -> EnergyReader | str:
    """Return the machine's energy reader, or the reason why there is none."""
    if torch.cuda.is_available():
        return _nvidia()
    return rapl(RAPL)


@contextlib.contextmanager
def metered(choose: Callable[[], EnergyReader | str] = reader) -> Iterator[EnergyUse]:
    """Measure the block; the yielded `EnergyUse` holds the numbers once the block has ended."""
    meter, used = choose(), EnergyUse()
    if isinstance(meter, str):
        used.reason = meter
        yield used
        return
    start = time.perf_counter()
    used.covers, begun, done = meter.covers, meter.joules(), threading.Event()
    # A daemon: it must not keep a process alive that ends without leaving the block.
    thread = threading.Thread(target=_watch, args=(meter, used, done), daemon=True)
    thread.start()
    try:
        yield used
    finally:
        done.set()
        thread.join()
        # The thread has ended: nobody else reads the counter or adds readings any more.
        used.seconds = time.perf_counter() - start
        used.joules = meter.joules() - begun
        used.busy = sum(used._readings) / len(used._readings) if used._readings else None


def _watch(meter: EnergyReader, used: EnergyUse, done: threading.Event) -> None:
    while True:
        # A counter wraps around to zero: a reader that is read often enough sees each time that it did.
        meter.joules()
        if (busy := meter.busy()) is not None:
            used._readings.append(busy)
        if done.wait(EVERY):
            return


class _Rapl:
    """All CPU packages, by the kernel's counters of microjoules, which wrap around at `max_energy_range_uj`."""

    covers = "all CPU packages, whatever ran on them"

    def __init__(self, packages: list[Path]) -> None:
        self.packages = packages
        self.ranges = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        self.last = self._counters()
        # The watching thread reads the counter as well as the one that trains.
        self.total, self.lock = 0, threading.Lock()

    def joules(self) -> float:
        with self.lock:
            # The remainder adds what a counter gained when it wrapped around; it holds for one wrap between readings.
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
    """Return the reader of the CPU packages below `folder`, Linux's powercap; or the reason why there is none."""
    # "intel-rapl:0" is a package, also of AMD's; "intel-rapl:0:0" is a part of one, whose energy the package includes.
    packages = sorted(p for p in folder.glob("intel-rapl:*") if p.name.count(":") == 1)
    if not packages:
        return "this machine has no RAPL counters (virtual machines and containers rarely do)"
    try:
        return _Rapl(packages)
    except PermissionError:
        return f"RAPL counters below {folder} can be read by root alone; ask for read permission on energy_uj"
    except (OSError, ValueError) as error:
        return f"RAPL counters below {folder} cannot be read: {error}"


class _Nvidia:
    """The GPU of this process, by NVIDIA's management library: its energy counter, or watts times seconds."""

    covers = "the GPU, whatever ran on it"

    def __init__(self, nvml: Any, handle: object) -> None:
        self.nvml, self.handle, self.lock = nvml, handle, threading.Lock()
        self.total, self.last = 0.0, time.monotonic()
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self.counts = True
        except nvml.NVMLError:  # GPUs before Volta have no energy counter
            self.counts = False

    def joules(self) -> float:
        if self.counts:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        with self.lock:
            now = time.monotonic()
            # Milliwatts now, taken for the whole time since the last reading.
            self.total += self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1e3 * (now - self.last)
            self.last = now
            return self.total

    def busy(self) -> float | None:
        return float(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)


def nvidia(nvml: Any, uuid: str) -> EnergyReader | str:
    """Return the reader of the GPU `uuid` by `nvml`, a module like pynvml; or the reason why there is none."""
    try:
        nvml.nvmlInit()
        # By UUID: CUDA_VISIBLE_DEVICES renumbers the GPUs for CUDA and not for this library.
        return _Nvidia(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError as error:
        return f"NVIDIA's library gives no numbers: {error}"


def _nvidia() -> EnergyReader | str:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    return nvidia(pynvml, f"GPU-{torch.cuda.get_device_properties(0).uuid}")
