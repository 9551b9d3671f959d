"""Compare runs from Python."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.api.datasets import StrPath
from cxr_ft.api.runs import Ablation, Run

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ft.show.verdicts import Comparison


@dataclass(frozen=True)
class RunComparison:
    """Runs compared: one table for each task and test split.

    Args:
        folders: of the runs. predictions: files of other tools' predictions by name.
        margins: how much worse than full fine-tuning is still acceptable, by metric; empty: not stated.
        comparisons: the tables, as `cxr-compare` shows them.
    """

    folders: tuple[Path, ...]
    margins: Mapping[str, float]
    comparisons: "tuple[Comparison, ...]"
    predictions: Mapping[str, Path] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a variant: value on test with its interval, significance groups, verdict, cost."""
        import pandas as pd

        from cxr_ft.show import metric_columns

        rows = []
        for comparison in self.comparisons:
            names = [metric.name for metric in metric_columns.columns(comparison.output)]
            for row in comparison.rows:
                low, high = row.interval or (None, None)
                rows.append(
                    {
                        "task": comparison.task,
                        "name": row.name,
                        "seeds": len(row.seeds),
                        "metric": metric_columns.primary_title(comparison.output),
                        "value": row.value,
                        "low": low,
                        "high": high,
                        "groups": row.groups,
                        "against_best": row.against_best.outcome.value,
                        "val": row.val,
                        "natural": row.natural.value,
                        **dict(zip(names, (metric.value for metric in row.metrics), strict=True)),
                        **dataclasses.asdict(row.cost),
                    }
                )
        return pd.DataFrame(rows)

    def save(self, folder: StrPath, include_data: bool = False) -> Path:
        """Write the page, its PDF, CSVs and charts into `folder`; return the page's path.

        Args:
            folder: where they go; made if it is missing.
            include_data: show example images and texts; such a page stays with its data.
        """
        from cxr_ft.show.page import Options, write_page

        options = Options(include_data=include_data, margins=self.margins, predictions=self.predictions)
        return write_page(list(self.folders), Path(folder), options)[0]

    def _repr_html_(self) -> str:
        from cxr_ft.show import phrasing

        parts = [
            f"<p>{' '.join(phrasing.against_baselines(comparison))} {phrasing.lead(comparison)} "
            f"{phrasing.answer(comparison)}</p>"
            for comparison in self.comparisons
        ]
        return "".join(parts) + str(self.to_frame().to_html(float_format="{:.3f}".format, na_rep=""))


def compare(
    runs: "Ablation | Run | StrPath | Sequence[Run | StrPath]" = (),
    margin: "float | Mapping[str, float] | None" = None,
    predictions: "Mapping[str, StrPath] | None" = None,
) -> RunComparison:
    """Compare finished runs, and predictions of other tools: intervals, tests of all pairs, significance groups.

    Args:
        runs: runs, their folders, folders of runs, or an ablation; none where all predictions are from files.
        margin: how much worse than full fine-tuning is still acceptable, in the primary metric, or by its name, such as
            {"bleu_4": 0.02}; state it beforehand. Without one no such verdict is made.
        predictions: files of predictions by the name of what predicted, CSV or Parquet: subject, image, label, truth,
            score (perhaps seed, sex, age, view, group), or subject, reference, generated (docs/predictions.md). With
            runs, of the same test rows.

    Returns:
        A `RunComparison`: `to_frame()`, `save(folder)`; a notebook shows its table.

    Raises:
        UsageError: where no run succeeded, for a margin that is not between 0 and 1, and for a file that holds no
            predictions, or those of other rows.

    Example:
        >>> import cxr_ft, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> splits = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=folder + "/splits")
        >>> run = cxr_ft.train(splits, "git-tiny-random", method="lora", epochs=1, out=folder + "/a")
        >>> cxr_ft.compare([run]).to_frame()["name"].tolist()
        ['lora q,v r8']
        >>> rows = run.predictions[lambda table: table["split"] == "test"]
        >>> rows.assign(score=rows["score"] ** 2).to_csv(folder + "/other.csv", index=False)
        >>> cxr_ft.compare([run], predictions={"other tool": folder + "/other.csv"}).to_frame()["name"].tolist()
        ['lora q,v r8', 'other tool']
    """
    from cxr_ft.run.record import results
    from cxr_ft.show import margins
    from cxr_ft.show.compare import compare as compared
    from cxr_ft.show.recorded_runs import load, with_files

    # A text is a sequence, too: a path has to be looked for before a list of them.
    if isinstance(runs, Ablation):
        listed: Sequence[Run | StrPath] = runs.runs
    elif isinstance(runs, Run | str | PathLike):
        listed = [runs]
    else:
        listed = runs
    folders = tuple(results.find([run.folder if isinstance(run, Run) else Path(run) for run in listed]))
    given = {} if margin is None else margin if isinstance(margin, Mapping) else {"": margin}
    stated = margins.parse([f"{name}={value}" for name, value in given.items()])
    files = {str(name): Path(path) for name, path in (predictions or {}).items()}
    good = with_files(load(list(folders))[0], files)
    return RunComparison(folders, stated, tuple(compared(good, stated)), files)
