"""What the machine does while a run is trained, now and then, into `system.jsonl` in the run's folder.

Keys of a line: `seconds` of training so far; `cpu_percent` of all cores; `memory_bytes`, the process's resident memory,
which says nothing about a method; `disk_free_bytes`; on CUDA `gpu_memory_bytes` that the allocator holds, and, with
nvidia-ml-py, `gpu_percent`. Not yet run on a GPU.
"""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr_ft.files import write_text
from cxr_ft.run.record import results

#: Seconds between two lines; more in a long run, so that it has a few thousand lines at most.
EVERY, LINES = 5.0, 2000

Sample = dict[str, float]


def sample(folder: Path) -> Sample:
    """The machine now; `folder` says which disk is meant."""
    import psutil
    import torch

    now: Sample = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": psutil.Process().memory_info().rss,
        "disk_free_bytes": shutil.disk_usage(folder).free,
    }
    if torch.cuda.is_available():
        now["gpu_memory_bytes"] = torch.cuda.memory_reserved()
        with contextlib.suppress(ModuleNotFoundError):  # without nvidia-ml-py the other figures stay
            now["gpu_percent"] = torch.cuda.utilization()
    return now


class Watch:
    """Calls `sample` in a thread between `with` and its end, and `each` with every line.

    Args:
        folder: the run's; its file is continued.
        each: told of each line, in that thread.
    """

    def __init__(
        self, folder: Path, each: Callable[[Sample], None] = lambda line: None, take: Callable[[Path], Sample] = sample
    ) -> None:
        self._folder, self._each, self._take = folder, each, take
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        before = results.read_system(self._folder)
        write_text(
            self._folder / results.SYSTEM, "".join(json.dumps(line) + "\n" for line in before)
        )  # without half a line
        offset = before[-1]["seconds"] if before else 0.0
        began, ended = time.monotonic(), False
        with (self._folder / results.SYSTEM).open("a", encoding="utf-8") as file:
            while not ended:
                ended = self._over.wait(max(EVERY, (time.monotonic() - began) / LINES))
                line = {"seconds": round(offset + time.monotonic() - began, 1), **self._take(self._folder)}
                file.write(json.dumps(line) + "\n")
                file.flush()
                self._each(line)
