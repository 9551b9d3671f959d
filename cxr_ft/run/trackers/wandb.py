"""Track in Weights & Biases: offline unless WANDB_MODE is set; `wandb sync` uploads the run's files later.

Only the numbers logged here leave the machine: no code, console output, git state, machine or user name.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import wandb


class WandB:
    """See `cxr_ft.run.trackers.Tracker`."""

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        self.id = str(run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one line of the run's history; the step is a column, since W&B's own step cannot go back."""
        self._run.log({**values, "at": step})

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log summary values, keep the files as one W&B artifact, and end the run."""
        import wandb

        self._run.summary.update(dict(summary))
        if files:
            bundle = wandb.Artifact(f"run-{self.id}", type="run")
            for file in files:
                bundle.add_file(str(file), name=file.name)
            self._run.log_artifact(bundle)
        self._run.finish()


def begin(place: Path, name: str, group: str, config: Mapping[str, object], run_id: str | None) -> WandB:
    """Return a run of the project `cxr_ft` (or WANDB_PROJECT): a new one, or that of `run_id`."""
    # Before the import, which reads it.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Copies of what is sent would lie in the user's home, readable by others; `place` is private.
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[variable] = str(place.absolute() / "wandb-files")
    import wandb

    # Without these W&B records machine, user or code along with the numbers.
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
