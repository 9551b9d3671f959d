"""Send a run's numbers to a tracker: TensorBoard, W&B or MLflow, each a file of this package; by default to none.

A tracker gets numbers: the configuration without paths, the splits' hashes, a line an epoch, the machine's load, and in
the end cost and metrics. It gets no text of a report, no image and no id; with `include_data` it gets the run's
predictions and gallery. It reads the run's files (history.jsonl, system.jsonl, result.json), so that it can neither
change a training nor end it: where it fails, a message says so, `tracking.json` records it, and the training goes on.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

from cxr_ft import plugins
from cxr_ft.config import RunConfig
from cxr_ft.config import mapping as section
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, set_kind, write_json
from cxr_ft.json_values import JsonObject
from cxr_ft.run.cost import machine_load
from cxr_ft.run.record import results

FILE = "tracking.json"


class TrackingJson(TypedDict):
    """The JSON of a `Tracking`, for a worker process."""

    name: str
    include_data: bool


class TrackingState(TypedDict):
    """The content of `tracking.json`: the tracker, its id of the run, epochs logged, and why it stopped."""

    name: str
    id: str | None
    epochs: int
    error: str | None


class Tracker(Protocol):
    """A run in a tracker; a tracker's module returns it from begin(place, name, group, config, run_id).

    Args (of `begin`):
        place: the folder for its files, below the run's. name, group: of the run and of its ablation.
        config: names with dots -> plain values. run_id: of the run to continue; None for a new one.
    """

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step (an epoch, or seconds)."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log numbers without a step, keep files, and end the run."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The tracker of a run, and whether data may go there. An empty name: no tracker."""

    name: str = ""
    include_data: bool = False

    def __post_init__(self) -> None:
        if self.name and self.name not in plugins.choices(plugins.TRACKERS):
            plugins.load(plugins.TRACKERS, self.name)  # raises with the known names
        if self.include_data and not self.name:
            raise UsageError("--include-data needs a tracker; give --track NAME, or leave it out")

    def to_json(self) -> "TrackingJson":
        """Return the fields by name; `Tracking(**raw)` reads them."""
        return {"name": self.name, "include_data": self.include_data}


NOBODY = Tracking()


@contextlib.contextmanager
def following(out: Path, config: RunConfig, hashes: Mapping[str, str], tracking: Tracking) -> Iterator[None]:
    """Write system.jsonl while a run is trained into `out`; log it and every epoch to the tracker.

    Raises:
        UsageError: where the tracker's package is not installed, or it cannot begin (no login, no server).
    """
    if not tracking.name:
        with machine_load.Watch(out):
            yield
        return
    follower = _Follower(out, tracking, plain(config.to_json(), hashes))
    try:
        with machine_load.Watch(out, follower.log_load):
            yield
    finally:
        # Also after a failure or an interrupt: the tracker's run must not seem to go on.
        follower.end({}, [])


def summarise(out: Path, tracking: Tracking, files: Sequence[Path] = ()) -> None:
    """Log cost and metrics of the run in `out` to the tracker, and keep `files`."""
    if not tracking.name:
        return
    result = results.read(out)
    follower = _Follower(out, tracking, plain(result.config, result.data.sha256))
    attachments = [*files]
    if tracking.include_data:
        attachments += [
            path for path in (out / "predictions.parquet", *sorted((out / "gallery").glob("*.png"))) if path.exists()
        ]
    follower.end(summary(result), attachments)


def log_page(out: Path, tracking: Tracking) -> None:
    """Keep the comparison page in `out` as a run of its own."""
    follower = _Follower(out, tracking, {"page": "comparison.html"})
    follower.end({}, [path for name in ("comparison.html", "comparison.pdf") if (path := out / name).exists()])


def plain(config: JsonObject, hashes: Mapping[str, str]) -> dict[str, object]:
    """Return the configuration with dotted names, and the splits' hashes in place of the paths of this machine."""
    data = {key: value for key, value in section(config, "data").items() if key not in ("splits", "root")}
    # A path would name this machine's folders and its user.
    model = str(config["model"])
    model = Path(model).name if Path(model).exists() else model
    raw = {**config, "data": data, "model": model}
    return {**_flat(raw), **{f"data.sha256.{name}": value for name, value in hashes.items()}}


def summary(result: results.Result) -> dict[str, float]:
    """Return the numbers of cost, and the metrics of each split that are not of a single label or row."""
    out = {f"cost/{key}": value for key, value in _flat(result.cost).items()}
    for split, metrics in result.metrics.items():
        overall = {
            key: value for key, value in metrics.items() if key in ("macro", "micro") or not isinstance(value, dict)
        }
        out |= {f"{split}/{key}": value for key, value in _flat(overall).items()}
    return {key: float(value) for key, value in out.items() if isinstance(value, (int, float))}


def _flat(nested: Mapping[str, object]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in nested.items():
        out |= {f"{key}.{k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {key: value}
    return out


class _Follower:
    """A run in a tracker, continued where `tracking.json` names one."""

    def __init__(self, out: Path, tracking: Tracking, config: Mapping[str, object]) -> None:
        self._out, self._name = out, tracking.name
        self._state: TrackingState = {"name": tracking.name, "id": None, "epochs": 0, "error": None}
        if (out / FILE).exists():
            # A resumed run goes on in the same run of the tracker, and logs no epoch twice.
            before = json.loads((out / FILE).read_text(encoding="utf-8"))
            self._state = before if before["name"] == tracking.name else self._state
        module = plugins.load(plugins.TRACKERS, tracking.name)
        place, group = out / "tracking", out.absolute().parent.name
        make_folder(place, private=True, own=True)  # with include_data it holds patients' data
        try:
            self._tracker: Tracker = module.begin(place, out.name, group, config, self._state["id"])
        except ImportError as error:
            raise UsageError(
                f"--track {tracking.name}: {error}; install it: pip install 'cxr_ft[{tracking.name}]'"
            ) from None
        # Trackers raise errors of many classes where they cannot begin (no login, no server): the user has to fix each.
        except Exception as error:
            raise UsageError(f"--track {tracking.name} cannot begin: {str(error).splitlines()[0]}") from error
        # At once, so that a run that is killed in its first epoch finds it again.
        self._state["id"] = self._tracker.id
        self._save()

    def log_load(self, line: machine_load.Sample) -> None:
        """Log a line of the machine's load, and the epochs that were finished since the last one."""
        with self._caught():
            if self._state["error"] is None:
                self._epochs()
                seconds = round(line["seconds"])
                self._tracker.log(seconds, {f"system/{key}": v for key, v in line.items() if key != "seconds"})

    def end(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the epochs that are left and the summary, and end the tracker's run."""
        with self._caught():
            if self._state["error"] is None:
                self._epochs()
            self._tracker.finish(numbers, files)
            set_kind(self._out / "tracking", private=True)  # libraries write by the umask
        self._save()

    def _epochs(self) -> None:
        path = self._out / "history.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        # `history.jsonl` is replaced whole, and a resumed run keeps its lines: the count says which are new.
        for line in lines[self._state["epochs"] :]:
            row = json.loads(line)
            values = {key: row[key] for key in ("train_loss", "val_loss", "val", "seconds") if row.get(key) is not None}
            self._tracker.log(row["epoch"], values)
            # Counted one by one: where the tracker fails on a line, the lines before it were sent.
            self._state["epochs"] += 1
        self._save()

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        try:
            yield
        # A full disk or a service that is down must not end a training of days: printed once, and recorded.
        except Exception as error:  # noqa: BLE001
            if self._state["error"] is None:
                self._state["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                print(f"{self._name} failed and gets no more numbers: {self._state['error']}", file=sys.stderr)
                self._save()

    def _save(self) -> None:
        write_json(self._out / FILE, self._state)
