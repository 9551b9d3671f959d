"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` sends what lies below the run later on.

Only what is logged here leaves: no code, console, git, machine or user name.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class WandB:
    """See `cxr_ft.run.trackers.Tracker`."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.id = str(run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the run's history; `step` is a column, since W&B's own only counts up."""
        self._run.log({**values, "at": step})

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Summary values, and the files as one artefact."""
        import wandb

        self._run.summary.update(dict(summary))
        if files:
            artefact = wandb.Artifact(f"run-{self.id}", type="run")
            for file in files:
                artefact.add_file(str(file), name=file.name)
            self._run.log_artifact(artefact)
        self._run.finish()


def begin(place: Path, name: str, group: str, config: Mapping[str, Any], run_id: str | None) -> WandB:
    """A run of the project `cxr_ft` (or WANDB_PROJECT), the one of `run_id` where one is given."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        host="",
        username="",
        program="",
        program_relpath="",
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "cxr_ft"),
        dir=str(place),
        name=name,
        group=group,
        id=run_id,
        resume=None if run_id is None else "allow",
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        config=dict(config),
        settings=settings,
    )
    return WandB(run)
