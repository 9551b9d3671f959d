"""Write the machine's load at intervals into `system.jsonl` in a run's folder while the run is trained.

Keys of a line: `seconds` of training so far; `cpu_percent` of all cores; `memory_bytes`, resident memory of the
process (not a measure of the method's); `disk_free_bytes`; on CUDA `gpu_memory_bytes` that the allocator holds and,
with nvidia-ml-py, `gpu_percent`. Not yet tested on a GPU.
"""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cxr_ft.files import open_for_appending, write_text
from cxr_ft.run.record import results

#: Seconds between two lines; more in a long run, so that the file has a few thousand lines at most.
EVERY, LINES = 5.0, 2000

#: One line: numbers by key.
Sample = dict[str, float]


def sample(folder: Path) -> Sample:
    """Return the machine's load now, and the free space of the disk of `folder`."""
    import psutil
    import torch

    now: Sample = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": psutil.Process().memory_info().rss,
        "disk_free_bytes": shutil.disk_usage(folder).free,
    }
    if torch.cuda.is_available():
        now["gpu_memory_bytes"] = torch.cuda.memory_reserved()
        with contextlib.suppress(ModuleNotFoundError):  # without nvidia-ml-py this figure is left out
            now["gpu_percent"] = torch.cuda.utilization()
    return now


class Watch:
    """Sample the load in a thread inside a `with` block.

    Args:
        folder: the run's; an existing file is continued.
        on_line: called with each line, in that thread.
        measure: returns the load.
    """

    def __init__(
        self,
        folder: Path,
        on_line: Callable[[Sample], None] = lambda line: None,
        measure: Callable[[Path], Sample] = sample,
    ) -> None:
        self._folder, self._on_line, self._measure = folder, on_line, measure
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        before = results.read_system(self._folder)
        write_text(
            self._folder / results.SYSTEM, "".join(json.dumps(line) + "\n" for line in before)
        )  # without half a line
        offset = before[-1]["seconds"] if before else 0.0
        began, ended = time.monotonic(), False
        with open_for_appending(self._folder / results.SYSTEM) as file:
            while not ended:
                # Ends the wait at once when the block ends, and still writes one last line.
                ended = self._over.wait(max(EVERY, (time.monotonic() - began) / LINES))
                # The time between lines grows with the run, so that the file of a run of weeks stays small.
                line = {"seconds": round(offset + time.monotonic() - began, 1), **self._measure(self._folder)}
                file.write(json.dumps(line) + "\n")
                file.flush()  # a killed run keeps the lines so far
                self._on_line(line)
