"""Track in TensorBoard: event files below the run's folder; `tensorboard --logdir` finds them from any folder above."""

from collections.abc import Mapping, Sequence
from pathlib import Path


class TensorBoard:
    """See `cxr_ft.run.trackers.Tracker`."""

    def __init__(self, place: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A suffix of our own: the default file name holds the host's name.
        self._writer = SummaryWriter(log_dir=str(place), filename_suffix=".cxr_ft")
        self.id = place.name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one scalar a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the summary as scalars at step 0, and the files by name only, since TensorBoard keeps none."""
        self.log(0, {f"summary/{name}": value for name, value in summary.items()})
        for file in files:
            self._writer.add_text("files", file.name)
        self._writer.close()


def begin(place: Path, name: str, group: str, config: Mapping[str, object], run_id: str | None) -> TensorBoard:
    """Return a writer of event files in `place/tensorboard`, with the configuration as text."""
    import yaml

    tracker = TensorBoard(place / "tensorboard")
    if run_id is None:
        text = yaml.safe_dump(dict(config), sort_keys=False)
        tracker._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
    return tracker
