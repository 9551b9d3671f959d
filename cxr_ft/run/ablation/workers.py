"""Train the cells of a grid: in this process, in several processes, or on a Ray cluster.

    python -m cxr_ft.run.ablation.workers FOLDER

is one worker process: it reads an `Order` as one line of JSON on standard input, trains it into FOLDER, and ends when
its standard input does, so that no training outlives the command that started it.
"""

import contextlib
import functools
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
from typing import NotRequired, TypedDict

from cxr_ft import config
from cxr_ft.child_processes import module_command
from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.pixels import ray_cluster
from cxr_ft.errors import TrainingError, UsageError
from cxr_ft.json_values import JsonObject
from cxr_ft.model import base_weights
from cxr_ft.progress import bar
from cxr_ft.run.record import results
from cxr_ft.run.trackers import NOBODY, Tracking, TrackingJson
from cxr_ft.run.training import train

#: Trains cells into folders of their names below a folder; each has a result afterwards.
Execute = Callable[[Mapping[str, RunConfig], Path], None]

_BAD_INPUT = 2


class Order(TypedDict):
    """The JSON that a worker process reads.

    A resolved configuration, the fields of a `Tracking`, and whether other weights of the base are allowed.
    """

    config: JsonObject
    tracking: TrackingJson
    other_base: NotRequired[bool]


def run_sequential(
    cells: Mapping[str, RunConfig], out: Path, tracking: Tracking = NOBODY, other_base: bool = False
) -> None:
    """Train one cell after the other, in this process."""
    with bar("runs", len(cells)) as progress:
        for name, cell in cells.items():
            try:
                train.fit(cell, out / name, verify=False, tracking=tracking, other_base=other_base)
            except TrainingError:
                print(f"failed, continuing with the next run: {name}: {results.read(out / name).error}")
            progress.advance(note=name)


def run_parallel(jobs: int, devices: int = 0, tracking: Tracking = NOBODY, other_base: bool = False) -> Execute:
    """Return an `Execute` that trains `jobs` cells at a time, each in a process of its own.

    The CUDA devices are shared out among them.

    Raises (when it executes):
        UsageError: of one cell; the processes of the others are ended.
    """

    def execute(cells: Mapping[str, RunConfig], out: Path) -> None:
        free: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            free.put(slot)
        _hash_bases(cells)
        running: dict[str, subprocess.Popen[bytes]] = {}
        ended = threading.Event()

        def train_cell(name: str, cell: RunConfig) -> None:
            # The pool still begins what was queued before the error.
            if ended.is_set():
                return
            # A free slot always exists, since the pool has as many threads; its number chooses the device.
            slot = free.get()
            visible = {"CUDA_VISIBLE_DEVICES": str(slot % devices)} if devices else {}
            try:
                order = Order(config=cell.to_json(), tracking=tracking.to_json(), other_base=other_base)
                # A process of its own: an out-of-memory kill ends one run and not the grid.
                error = _in_process(out / name, order, visible, lambda process: running.__setitem__(name, process))
                if error:
                    mark_failed(out / name, cell, error)
            finally:
                running.pop(name, None)
                free.put(slot)

        with ThreadPoolExecutor(jobs) as pool, bar("runs", len(cells)) as progress:
            work = {pool.submit(train_cell, name, cell): name for name, cell in cells.items()}
            try:
                for done in as_completed(work):
                    done.result()
                    progress.advance(note=work[done])
            finally:
                # After a whole grid nothing runs any more. After an error no cell begins, and those that train are
                # ended by SIGTERM, upon which each records that it was cancelled.
                ended.set()
                # A copy: threads remove their processes from it meanwhile.
                for process in list(running.values()):
                    process.send_signal(signal.SIGTERM)

    return execute


def _hash_bases(cells: Mapping[str, RunConfig]) -> None:
    """Hash the weights of each base once, so that the worker processes find the hashes in the cache."""
    for model in {cell.model for cell in cells.values()}:
        with contextlib.suppress(UsageError):  # the worker that needs the base reports it
            base_weights.of(model)


def _in_process(
    folder: Path,
    order: Order,
    environment: dict[str, str],
    started: Callable[["subprocess.Popen[bytes]"], None],
) -> str:
    """Train in a new process; return the reason where it ended without a record, else an empty string."""
    command = module_command("cxr_ft.run.ablation.workers", str(folder))
    pipe = subprocess.PIPE
    # In a session of its own, so that Ctrl-C reaches this process alone, which then ends that one.
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
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code is read below
            # The pipe stays open until the process has ended: the worker ends itself once this end of it is closed.
            process.stdin.write(json.dumps(order).encode() + b"\n")
        # Read to its end before the wait: a full pipe would block the worker for ever.
        stderr = process.stderr.read().decode(errors="replace").strip()
        code = process.wait()
    if code == _BAD_INPUT:
        raise UsageError(stderr.splitlines()[-1] if stderr else f"{folder}: bad input")
    return f"its process ended with code {code}" if code else ""


def mark_failed(folder: Path, cell: RunConfig, reason: str) -> None:
    """Record a cell as failed, for a process that could not do so itself."""
    if (folder / "result.json").exists():
        result = results.read(folder)
        if result.status in ("failed", "cancelled"):
            return
    else:
        # The process died before it could write the record of its start: the row of the tables is made here.
        hashes = manifest.read(Path(cell.data.splits)).hashes
        result = results.Result(status="failed", config=cell.to_json(), config_hash=cell.fingerprint(hashes))
    results.write(folder, result.replace(status="failed", error=reason))


def on_this_machine(jobs: int, devices: int = 0, tracking: Tracking = NOBODY, other_base: bool = False) -> Execute:
    """Return an `Execute` that trains in this process where `jobs` is 1, else as `run_parallel`."""
    if jobs == 1:
        return functools.partial(run_sequential, tracking=tracking, other_base=other_base)
    return run_parallel(jobs, devices, tracking, other_base)


def on_ray(address: str | None, tracking: Tracking = NOBODY, other_base: bool = False) -> Execute:
    """Return an `Execute` that trains cells as tasks of a Ray cluster.

    Its nodes must see this package, the splits, the archive and the folder under the same paths. Ray restarts the task
    of a worker that died, and the run goes on from its last checkpoint.

    Raises (when it executes):
        UsageError: where Ray is not installed or cannot be reached, or of one cell.
    """

    def execute(cells: Mapping[str, RunConfig], out: Path) -> None:
        with ray_cluster.connected(address) as ray, bar("runs", len(cells)) as progress:
            # One GPU for each task: a task is one process, which trains on one device.
            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ray_cluster.RETRIES)(_train)
            # Tasks run in working folders of Ray's own.
            folder = out.absolute()
            followed = tracking.to_json()
            waiting = {
                task.remote(cell.to_json(), str(folder / name), followed, other_base): name
                for name, cell in cells.items()
            }
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                name = waiting.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    # Bad input is the same for a user wherever the cell was trained: its own line, without Ray's trace.
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
            # A folder of the same name on another machine would hold the run, and this one nothing.
            if missing := [name for name in cells if not (out / name / "result.json").exists()]:
                raise UsageError(f"{out / missing[0]} was written on a node that does not share {out}")

    return execute


def _train(raw: JsonObject, folder: str, tracking: TrackingJson, other_base: bool = False) -> None:
    """Train one cell; the reason of a failure is in its record."""
    try:
        run = config.resolve(raw)
        train.fit(run, Path(folder), verify=False, tracking=Tracking(**tracking), other_base=other_base)
    except TrainingError:
        # Ray keeps what a worker prints in files of its own: the recorded line, and not the error's own.
        print(f"failed: {results.read(Path(folder)).error}", file=sys.stderr)


def main(folder: str) -> int:
    """Train the order on standard input; return 0, also for a failure that is recorded, 2 for bad input, or 130."""
    order: Order = json.loads(sys.stdin.readline())
    # After the order was read: from now on the input can only end.
    threading.Thread(target=_end_with_input, daemon=True).start()
    # SIGTERM as an interrupt: the training then records that it was cancelled, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _train(order["config"], folder, order["tracking"], order.get("other_base", False))
    except UsageError as error:
        print(error, file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_input() -> None:
    # The pipe closes when the command ends, however it ends: SIGKILL, since nobody is left to wait for a clean end.
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
