"""Track in MLflow: the server of MLFLOW_TRACKING_URI, or files in a folder `mlruns` next to the run's.

`mlflow-skinny` is enough: the whole package pins an older pyarrow than this one needs (mlflow 3.17.2).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.files import make_folder, set_kind

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class MLflow:
    """See `cxr_ft.run.trackers.Tracker`."""

    def __init__(self, client: "MlflowClient", run_id: str, folder: Path | None) -> None:
        self._client, self.id, self._folder = client, run_id, folder

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one metric a value."""
        for name, value in values.items():
            self._client.log_metric(self.id, name, value, step=step)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the summary as metrics, keep the files, and end the run."""
        self.log(0, {f"summary/{name}": value for name, value in summary.items()})
        for file in files:
            self._client.log_artifact(self.id, str(file))
        self._client.set_terminated(self.id)
        if self._folder is not None:
            set_kind(self._folder, private=True)  # MLflow writes by the umask


def begin(place: Path, name: str, group: str, config: Mapping[str, object], run_id: str | None) -> MLflow:
    """Return a run of the experiment `group`: a new one, or that of `run_id`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its database store needs the whole package
    from mlflow.tracking import MlflowClient

    uri, folder = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not uri:
        folder = (place.parent.parent / "mlruns").absolute()
        uri = folder.as_uri()
    client = MlflowClient(tracking_uri=uri)
    if folder is not None:
        # After MLflow has made it, as it fills a folder that it makes itself alone; nothing of a run is there yet.
        make_folder(folder, private=True, own=True)
    if run_id is not None:
        client.update_run(run_id, status="RUNNING")
        return MLflow(client, run_id, folder)
    existing = client.get_experiment_by_name(group)
    experiment = client.create_experiment(group) if existing is None else existing.experiment_id
    # Set here, or MLflow records the user's name.
    run = client.create_run(experiment, run_name=name, tags={"mlflow.user": ""})
    for key, value in config.items():
        client.log_param(run.info.run_id, key, str(value)[:500])
    return MLflow(client, run.info.run_id, folder)
