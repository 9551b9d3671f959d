"""Where the cells of a grid are trained: in this process, in processes of their own, or on a Ray cluster.

    python -m cxr_ft.run.ablation.workers FOLDER

is such a process: it reads what to train as JSON, one line on standard input, trains it into FOLDER, and ends when
its standard input does, so that no training outlives the command that wanted it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cxr_ft import config
from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.pixels import ray_cluster
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.progress import bar
from cxr_ft.run.record import results
from cxr_ft.run.trackers import NOBODY, Tracking
from cxr_ft.run.training import train

#: Trains cells into folders of their names below a folder; each has a result afterwards.
CarryOut = Callable[[Mapping[str, RunConfig], Path], None]

_BAD_INPUT = 2


def run_sequential(cells: Mapping[str, RunConfig], out: Path, tracking: Tracking = NOBODY) -> None:
    """One after the other, in this process."""
    with bar("runs", len(cells)) as progress:
        for name, cell in cells.items():
            try:
                train.fit(cell, out / name, verify=False, tracking=tracking)
            except TrainingError as error:
                print(f"failed, going on: {error}")
            progress.advance(note=name)


def run_parallel(jobs: int, devices: int = 0, tracking: Tracking = NOBODY) -> CarryOut:
    """`jobs` at a time, each in a process of its own, the CUDA devices dealt out among them.

    Raises (when it carries out):
        UsageError: what one of them cannot do; the others are ended.
    """

    def carry_out(cells: Mapping[str, RunConfig], out: Path) -> None:
        free: SimpleQueue[int] = SimpleQueue()
        for place in range(jobs):
            free.put(place)
        running: dict[str, subprocess.Popen[bytes]] = {}
        ended = threading.Event()

        def one(name: str, cell: RunConfig) -> None:
            if ended.is_set():
                return
            place = free.get()
            visible = {"CUDA_VISIBLE_DEVICES": str(place % devices)} if devices else {}
            try:
                told = {"config": cell.to_json(), "tracking": dataclasses.asdict(tracking)}
                said = _in_process(out / name, told, visible, lambda process: running.__setitem__(name, process))
                if said:
                    mark_failed(out / name, cell, said)
            finally:
                running.pop(name, None)
                free.put(place)

        with ThreadPoolExecutor(jobs) as pool, bar("runs", len(cells)) as progress:
            work = {pool.submit(one, name, cell): name for name, cell in cells.items()}
            try:
                for done in as_completed(work):
                    done.result()
                    progress.advance(note=work[done])
            finally:
                # After a full grid nothing is left; else nothing more begins, and what runs records that it was ended.
                ended.set()
                for process in list(running.values()):
                    process.send_signal(signal.SIGTERM)

    return carry_out


def _in_process(
    folder: Path,
    told: dict[str, Any],
    environment: dict[str, str],
    started: Callable[["subprocess.Popen[bytes]"], None],
) -> str:
    """Why the process ended without a record, or nothing."""
    command = [sys.executable, "-m", "cxr_ft.run.ablation.workers", str(folder)]
    pipe = subprocess.PIPE
    # In a session of its own: an interrupt is for this process, which then ends that one.
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=subprocess.DEVNULL,
        stderr=pipe,
        bufsize=0,
        env={**os.environ, **environment},
        start_new_session=True,
    ) as process:
        started(process)
        assert process.stdin is not None and process.stderr is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its code says how
            process.stdin.write(json.dumps(told).encode() + b"\n")
        said = process.stderr.read().decode(errors="replace").strip()
        code = process.wait()
    if code == _BAD_INPUT:
        raise UsageError(said.splitlines()[-1] if said else f"{folder}: bad input")
    return f"its process ended with code {code}" if code else ""


def mark_failed(folder: Path, cell: RunConfig, why: str) -> None:
    """Record a cell as failed whose process could not do so itself."""
    if (folder / "result.json").exists():
        result = results.read(folder)
        if result.status in ("failed", "cancelled"):
            return
    else:
        hashes = manifest.read(Path(cell.data.splits)).hashes
        result = results.Result(status="failed", config=cell.to_json(), config_hash=cell.fingerprint(hashes))
    results.write(folder, result.replace(status="failed", error=why))


def on_ray(address: str | None, tracking: Tracking = NOBODY) -> CarryOut:
    """As tasks of a Ray cluster that sees this package, the splits, the archive and the folder under the same names.

    Ray starts the task of a worker that died again, and the run goes on from its last checkpoint.

    Raises (when it carries out):
        UsageError: where Ray is not installed or not reached, or for what a cell cannot do.
    """

    def carry_out(cells: Mapping[str, RunConfig], out: Path) -> None:
        with ray_cluster.connected(address) as ray, bar("runs", len(cells)) as progress:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ray_cluster.RETRIES)(_train)
            folder = out.absolute()
            told = dataclasses.asdict(tracking)
            waiting = {task.remote(cell.to_json(), str(folder / name), told): name for name, cell in cells.items()}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                name = waiting.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UsageError):
                        raise error.cause from None
                    raise
                except ray.exceptions.RayError as error:
                    mark_failed(
                        out / name,
                        cells[name],
                        f"its task died {ray_cluster.RETRIES + 1} times ({type(error).__name__})",
                    )
                progress.advance(note=name)
            if missing := [name for name in cells if not (out / name / "result.json").exists()]:
                raise UsageError(f"{out / missing[0]} was written on a node that does not share {out}")

    return carry_out


def _train(raw: dict[str, Any], folder: str, tracking: dict[str, Any]) -> None:
    """One cell; why it failed is in its record."""
    try:
        train.fit(config.resolve(raw), Path(folder), verify=False, tracking=Tracking(**tracking))
    except TrainingError as error:
        print(f"failed: {error}", file=sys.stderr)


def main(folder: str) -> int:
    """Train what standard input says; exit code 0, also for a training that failed and is recorded, or 2."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _train(told["config"], folder, told["tracking"])
    except UsageError as error:
        print(error, file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
