"""Train runs and grids of runs, and use a finished run, from Python."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import config as configuration
from cxr_ft import csv_cells
from cxr_ft.api.datasets import Splits, StrPath, load_splits
from cxr_ft.api.options import nested, resolved
from cxr_ft.errors import UsageError
from cxr_ft.json_values import JsonObject

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ft.run.evaluation.predictor import ImageInput, Prediction, Predictor
    from cxr_ft.run.record.result_parts import SplitMetrics
    from cxr_ft.run.record.results import Result

SplitsLike = Splits | StrPath


@dataclass(frozen=True)
class Run:
    """A run's folder, read; the model is loaded at the first prediction, and stays loaded.

    Args:
        folder: where cxr-train or `cxr_ft.train` wrote it.
        result: what its result.json says.
        other_base: put the saved model on its base even if the base's weights are not those that it was trained on.
    """

    folder: Path
    result: "Result"
    other_base: bool = False
    #: By whether other weights of the base were allowed, each loaded once.
    _predictors: "dict[bool, Predictor]" = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def metrics(self) -> "Mapping[str, SplitMetrics]":
        """Return the metrics by split: train, val, test, test_natural."""
        return self.result.metrics

    @property
    def history(self) -> "pd.DataFrame":
        """Return one row an epoch: steps, seconds, losses on train and val, the primary metric on val."""
        import pandas as pd

        return pd.DataFrame([row.to_json() for row in self.result.history])

    @property
    def predictions(self) -> "pd.DataFrame":
        """Return the predictions on val, test and test_natural, with ids: they stay with their owner."""
        from cxr_ft.run.record import results

        return results.read_predictions(self.folder)

    def _predictor(self, other_base: bool | None) -> "Predictor":
        from cxr_ft.run.evaluation.predictor import Predictor

        allowed = self.other_base if other_base is None else other_base
        if allowed not in self._predictors:
            self._predictors[allowed] = Predictor(self.folder, other_base=allowed)
        return self._predictors[allowed]

    def predict(
        self, image: "ImageInput | Sequence[ImageInput]", *, other_base: bool | None = None
    ) -> "Prediction | list[Prediction]":
        """Predict one image, or a list of them.

        Args:
            image: a path to a DICOM, PNG or JPEG file, an array [H, W] or [H, W, 3] of 8 or 16 bits, or a PIL image; or
                a list of such.
            other_base: allow a base with other weights than those of training, as `--other-base` does; None: as
                in `load_run`.

        Returns:
            A `Prediction` (`scores` by label, `positive` labels, `report`), or a list of them.

        Raises:
            UsageError: for what is no image, and where the base has other weights than those of training.
        """
        if isinstance(image, list | tuple):
            return [self._predictor(other_base).predict(one) for one in image]
        if isinstance(image, Sequence) and not isinstance(image, str):
            raise UsageError(f"{type(image).__name__} is no image; give a list of images, or one image")
        return self._predictor(other_base).predict(image)

    def evaluate(self, splits: SplitsLike, out: StrPath | None = None, *, other_base: bool | None = None) -> JsonObject:
        """Evaluate the run on the test splits of other splits; return the metrics by split.

        Args:
            splits: labels are matched by name.
            out: the folder for metrics.json and predictions.parquet; None: `external/<splits>` in the run's folder.
            other_base: allow a base with other weights than those of training, as `--other-base` does; None: as
                in `load_run`.

        Raises:
            UsageError: where the splits share no label with the run, or its base has other weights.
        """
        from cxr_ft.run.evaluation import external_validation

        folder = _folder(splits)
        place = Path(out) if out is not None else self.folder / "external" / folder.name
        allowed = self.other_base if other_base is None else other_base
        metrics, _ = external_validation.evaluate_on(self.folder, folder, place, other_base=allowed)
        return metrics

    def _repr_html_(self) -> str:
        import pandas as pd

        primary = {name: self.result.primary(name) for name in self.metrics}
        table = pd.Series(primary, name="primary metric", dtype=float).to_frame().to_html(float_format="{:.3f}".format)
        return f"<p><b>{self.result.variant}</b>, seed {self.result.seed}: {self.result.status}</p>{table}"


def load_run(folder: StrPath, *, other_base: bool = False) -> Run:
    """Read a run's folder.

    Args:
        folder: of the run.
        other_base: allow `predict` and `evaluate` on a base whose weights are not those that the run was trained on.

    Raises:
        UsageError: where it holds no result.json.

    Example:
        >>> import cxr_ft
        >>> import numpy as np, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> splits = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=folder + "/splits")
        >>> _ = cxr_ft.train(splits, "git-tiny-random", method="lora", targets="q,v", epochs=1, out=folder + "/run")
        >>> run = cxr_ft.load_run(folder + "/run")
        >>> len(run.predict(np.zeros((128, 128), np.uint8)).scores)
        14
    """
    from cxr_ft.run.record import results

    path = Path(folder)
    return Run(path, results.read(path), other_base)


def train(
    splits: SplitsLike | None = None,
    model: str | None = None,
    *,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    out: StrPath | None = None,
    config: Mapping[str, object] | StrPath | None = None,
    track: str = "",
    other_base: bool = False,
    include_data: bool = False,
    **options: object,
) -> Run:
    """Train one run: learn on train, choose on val, save, reload in a fresh process, test once, as `cxr-train` does.

    Args:
        splits: a folder of splits, or what `split` or `load_splits` returned; None: the phantom's.
        model: one of `list_bases()`, a folder, or a hub name; None: git-phantom-tiny.
        task, method: one of `list_heads()` and `list_methods()`; None: classify and lora.
        seed: of the run; None: 0.
        out: the run's folder; None: `runs/...`. A finished identical run there is returned, an unfinished one goes on.
        config: nested options, a YAML file, or a result.json to repeat.
        track: the tracker to follow the run in, as `--track` of `cxr-train` lists them; none where it is empty.
        other_base: allow a base whose weights are not those recorded in the folder's result.json, or in the one to
            repeat, as `--other-base` does.
        include_data: send predictions, texts and images to the tracker, too.
        **options: options by their own name: targets="q,v", rank=8, epochs=3, image_size=128.

    Raises:
        UsageError: for what cannot be done; TrainingError: where training failed (recorded in result.json).

    Example:
        >>> import cxr_ft, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> splits = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=folder + "/splits")
        >>> run = cxr_ft.train(splits, "git-tiny-random", method="lora", targets="q,v", epochs=1, out=folder + "/run")
        >>> run.result.status
        'success'
    """
    from cxr_ft.data.splits import write
    from cxr_ft.run.record import base_record
    from cxr_ft.run.trackers import Tracking
    from cxr_ft.run.training import train as training

    chosen = _folder(splits) if splits is not None else None
    run = resolved(config, model=model, task=task, method=method, seed=seed, splits=chosen, options=options)
    if not run.data.splits:
        # Written into the configuration, so that the record names the splits that were read.
        data = dataclasses.replace(run.data, splits=str(write.default_splits()))
        run = dataclasses.replace(run, data=data)
    folder = Path(out) if out is not None else training.default_out(run)
    file = Path(config) if isinstance(config, str | PathLike) else None
    repeats = base_record.of_configuration(file, run.model)
    training.fit(
        run, folder, tracking=Tracking(name=track, include_data=include_data), other_base=other_base, repeats=repeats
    )
    return load_run(folder, other_base=other_base)


@dataclass(frozen=True)
class Ablation:
    """A grid of runs in one folder."""

    folder: Path
    runs: tuple[Run, ...]
    splits: Splits

    def to_frame(self) -> "pd.DataFrame":
        """Return ablation.csv: one row a run, what was varied, metrics, cost, and why a run failed."""
        import pandas as pd

        return csv_cells.unescape_table(pd.read_csv(self.folder / "ablation.csv"))

    def _repr_html_(self) -> str:
        return self.to_frame().to_html()


def ablate(
    recipe: Mapping[str, object] | StrPath | None = None,
    *,
    out: StrPath,
    splits: SplitsLike | None = None,
    grid: Mapping[str, object] | None = None,
    tiny: bool = False,
    tries: int | Sequence[float] | None = None,
    jobs: int = 1,
    model: str | None = None,
    task: str | None = None,
    other_base: bool = False,
    **options: object,
) -> Ablation:
    """Train a grid of runs into `out`: finished runs are skipped, failed ones recorded, as `cxr-ablate` does.

    Args:
        recipe: a YAML file with a key `grid`, or the same nested as a mapping; None: `grid` alone.
        splits: as for `train`.
        grid: lists by name, laid over the recipe's: {"method": ["full", "lora"], "targets": [...], "seeds": [0, 1]}.
        tiny: take the recipe's tiny form: embedded data, offline, about a minute.
        tries: how many learning rates are tried for each variant, on val, or which. The grid's `"tries_for": "method"`
            lets the sets of targets and ranks of a method share a search.
        jobs: runs at a time, each in a process of its own where more than 1.
        model, task, other_base, **options: as for `train`, for all runs.

    Raises:
        UsageError: for a run that cannot be put together, before any is trained.

    Example:
        >>> import cxr_ft, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> splits = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=folder + "/splits")
        >>> grid = {"method": ["last_layers", "lora"]}
        >>> done = cxr_ft.ablate(out=folder + "/runs", splits=splits, grid=grid, model="git-tiny-random", epochs=1)
        >>> sorted(done.to_frame()["method"])
        ['last_layers', 'lora']
    """
    from cxr_ft.data.splits import write
    from cxr_ft.run.ablation import ablate as ablation
    from cxr_ft.run.ablation import grid as grids
    from cxr_ft.run.ablation import rate_search, workers

    raw = _recipe(recipe, tiny=tiny, own_splits=splits is None)
    # The caller's lists replace the recipe's of the same name, and leave its others.
    written = {**configuration.mapping(raw, "grid"), **(grid or {})}
    raw.pop("grid", None)
    varied, wanted = rate_search.from_grid(written, tries)
    chosen = _folder(splits) if splits is not None else None
    raw = nested(raw, model=model, task=task, splits=chosen, options=options)
    if not configuration.mapping(raw, "data").get("splits"):
        raw = configuration.merge(raw, {"data": {"splits": str(write.default_splits())}})
    execute = workers.on_this_machine(jobs, other_base=other_base)
    cells = grids.cells(raw, varied)
    ablation.run(cells, Path(out), tries=wanted, execute=execute)
    folder = Path(out)
    runs = tuple(load_run(folder / name, other_base=other_base) for name in cells)
    return Ablation(folder, runs, load_splits(str(configuration.mapping(raw, "data")["splits"])))


def _recipe(recipe: Mapping[str, object] | StrPath | None, *, tiny: bool, own_splits: bool) -> dict[str, object]:
    """Return a recipe as nested options; `own_splits`: whether its tiny form makes its embedded splits."""
    from cxr_ft.run.ablation import recipe as recipes

    if isinstance(recipe, str | PathLike):
        return recipes.read(Path(recipe), tiny=tiny, splits=own_splits)
    if tiny:
        raise UsageError("tiny: it is a form of a recipe; give the recipe's file, as configs/imdb_distilbert.yaml")
    return dict(recipe or {})


def _folder(splits: SplitsLike) -> Path:
    return splits.folder if isinstance(splits, Splits) else Path(splits)
