"""Make, audit and read splits from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ft.data import manifest
    from cxr_ft.data.audit.leak_audit import Audit
    from cxr_ft.data.dataset.split_dataset import SplitDataset
    from cxr_ft.data.manifest import Manifest

StrPath = str | PathLike[str]


@dataclass(frozen=True)
class Splits:
    """A folder of splits, as `cxr-split` or `cxr_ft.split` wrote it.

    Args:
        folder: where the CSVs and manifest.json are.
    """

    folder: Path
    _read: "manifest.Splits"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels' names, in the order of targets and scores."""
        return self._read.card.labels

    @property
    def manifest(self) -> "Manifest":
        """Return the content of manifest.json: what was requested and reached, leaks, hashes of the files."""
        return self._read.manifest

    @property
    def tables(self) -> "dict[str, pd.DataFrame]":
        """Return the rows of each split by its name: train, val, test, test_natural."""
        return self._read.tables

    def to_frame(self) -> "pd.DataFrame":
        """Return for each label how many rows were requested and available, and are in train, val and test."""
        import pandas as pd

        return pd.DataFrame(self._read.manifest["labels"]).T

    def baselines(self) -> "pd.DataFrame":
        """Return what trivial predictors of texts reach on test: majority, TF-IDF, and rules where they apply.

        Thresholds are chosen on val. A table with a row a predictor: accuracy, macro AUROC.

        Raises:
            UsageError: where the rows are images, whose baselines are recorded with each run.
        """
        import pandas as pd

        from cxr_ft.data.dataset.open_split import open_split
        from cxr_ft.score.metrics import registry, text_baselines

        card = self._read.card
        if card.unit != "text":
            raise UsageError(f"{self.folder} holds images, whose baselines are recorded with each run on them")
        # Texts have no pixels, so the size of images is 0.
        parts = [open_split(self._read, name, 0) for name in ("train", "val", "test")]
        texts, pairs = ([list(getattr(part.side_inputs, kind)) for part in parts] for kind in ("context", "pairs"))
        fitted = text_baselines.fit(texts[0], parts[0].targets, multi_label=card.multi_label, pairs=pairs[0])
        chosen = text_baselines.thresholds(
            fitted, texts[1], parts[1].targets, pairs=pairs[1], ruled=text_baselines.by_rules(texts[1], card.labels)
        )
        metrics_by_name = text_baselines.evaluate(
            fitted,
            texts[2],
            parts[2].targets,
            card.labels,
            pairs=pairs[2],
            ruled=text_baselines.by_rules(texts[2], card.labels),
            chosen=chosen,
        )
        shown = [registry.metric("accuracy", "scores"), registry.primary("scores")]
        return pd.DataFrame(
            {name: {metric.name: metric.value(values) for metric in shown} for name, values in metrics_by_name.items()}
        ).T

    def dataset(self, split: str, image_size: int = 224, text: str | None = None) -> "SplitDataset":
        """Return one split as a torch Dataset, images decoded once into the user's cache folder.

        Args:
            split: "train", "val", "test" or "test_natural".
            image_size: side of the square images in pixels; 0 for splits of texts.
            text: a text column to read in addition to the labels; rows without one are then left out.

        Returns:
            Items with `.image` uint8 [S, S], `.targets` float [L] (NaN where masked) and `.text`; its `collate` makes a
            batch of them: "image" uint8 [B, S, S], "targets" float32 [B, L], "text" a list.
        """
        from cxr_ft.data.dataset import open_split

        if split not in self._read.tables:
            raise UsageError(f"split {split!r}; choose from {', '.join(self._read.tables)}")
        return open_split.open_split(self._read, split, image_size, text=text)

    def _repr_html_(self) -> str:
        counts = ", ".join(f"{name} {len(table):,}" for name, table in self.tables.items())
        notes = "".join(f"<li>{_escaped(note)}</li>" for note in self.manifest.get("notes", []))
        return f"<p><b>{_escaped(self.folder)}</b>: {counts} rows</p>{self.to_frame().to_html()}<ul>{notes}</ul>"


def load_splits(folder: StrPath, *, tiny: bool = False) -> Splits:
    """Read the splits in `folder`; their files must be those that the manifest names by hash.

    Args:
        folder: as `cxr-split` wrote it; with `tiny`, a recipe's YAML file, whose embedded splits are made on first use.

    Raises:
        UsageError: where manifest or CSVs are missing, or were changed.

    Example:
        >>> import cxr_ft
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=folder)
        >>> rows = cxr_ft.load_splits(folder).dataset("val", image_size=32)
        >>> tuple(rows.collate([rows[0], rows[1]])["image"].shape)
        (2, 32, 32)
    """
    from cxr_ft.data import manifest

    if tiny:
        from cxr_ft.config import mapping
        from cxr_ft.run.ablation import recipe

        folder = str(mapping(recipe.read(Path(folder), tiny=True), "data")["splits"])
    path = Path(folder)
    return Splits(path, manifest.read(path))


def split(
    source: StrPath,
    layout: str = "mimic_cxr",
    *,
    per_label: int,
    out: StrPath,
    seed: int = 0,
    ratios: tuple[float, float, float] = (70.0, 15.0, 15.0),
    views: str = "frontal",
    uncertain: str = "ignore",
    blank: str = "negative",
    unit: str = "image",
    official: bool = False,
    text: str = "mini_report",
    ids: str = "normal",
    sensitivity: str | None = None,
) -> Splits:
    """Turn an archive into balanced, patient-disjoint splits in the folder `out`, as `cxr-split` does.

    Args:
        source: the archive's folder, a table, a database, or `phantom:subjects=1000`.
        layout: how it is arranged, one of `list_layouts()`.
        per_label: images (or studies) requested of each label over train, val and test together.
        out: the folder to write.
        seed: decides which images are taken among equals.
        ratios: train, val and test in percent.
        views, uncertain, blank, unit, official, text, ids, sensitivity: as the flags of `cxr-split`.

    Raises:
        UsageError: for whatever is wrong with the source, the options or the folder; nothing is written then.
        LeakError: where two splits would share a subject, study, image or text.

    Example:
        >>> import cxr_ft, tempfile
        >>> splits = cxr_ft.split("phantom:subjects=40,size=64", per_label=6, out=tempfile.mkdtemp())
        >>> sorted(splits.tables)
        ['test', 'test_natural', 'train', 'val']
    """
    from cxr_ft.data.phantom import texts
    from cxr_ft.data.splits import write
    from cxr_ft.data.splits.request import SplitRequest
    from cxr_ft.show.charts._distribution import draw_distribution

    request = SplitRequest(
        per_label=per_label,
        seed=seed,
        ratios=ratios,
        views=views,
        uncertain=uncertain,
        blank=blank,
        unit=unit,
        official=official,
        text=text,
        ids=ids,
    )
    # A phantom is made first, since the compiler reads folders and tables alone.
    place = texts.ensure(str(source)) if texts.is_spec(str(source)) else str(source)
    # The chart is passed in: data/ must not import show/, see tests/test_layering.py.
    write.make_splits(place, layout, request, Path(out), draw_distribution, sensitivity=sensitivity)
    return load_splits(out)


def audit(paths: StrPath | Sequence[StrPath], root: StrPath | None = None) -> "Audit":
    """Look for what is wrong with any split: cxr-split's CSVs or somebody else's, as `cxr-split --audit` does.

    Args:
        paths: one table with a column `split`, or a table (CSV, TSV, Parquet) for each split.
        root: the folder that image paths are relative to.

    Returns:
        An `Audit`: `clean`, `leaks`, `confounds`, `findings`, `counts`, `notes`.

    Raises:
        UsageError: where a file cannot be read, there is one split only, or nothing can be compared.

    Example:
        >>> import cxr_ft, tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "all.csv").write_text("subject_id,split\\n1,train\\n2,val\\n1,test\\n")
        >>> [str(leak) for leak in cxr_ft.audit(folder / "all.csv").leaks][0].split(":")[0]
        'subject'
    """
    from cxr_ft.data.audit import leak_audit

    several = [paths] if isinstance(paths, str | PathLike) else list(paths)
    return leak_audit.audit([Path(path) for path in several], None if root is None else str(root))


def _escaped(text: object) -> str:
    import html

    return html.escape(str(text))
