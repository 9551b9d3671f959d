"""Whether a run on phantoms looks where the findings are: the pointing game against the archive's true boxes.

    python tools/pointing_game.py RUN [--side test_natural] [--images 100] [--splits DIR]

Each label that an image has, by the truth of the archive, is a question; the map is what covering a cell of the image
takes from that label's score (`cxr_ft.run.evaluation.saliency`). It prints the share of hits of the model, of a cell at
random and of the image's centre, with 95 % intervals over subjects, and those of each label.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import manifest
from cxr_ft.data.dataset import split_dataset
from cxr_ft.data.pixels import cache
from cxr_ft.errors import UsageError
from cxr_ft.model.assembly import ModelParts
from cxr_ft.progress import track
from cxr_ft.run.evaluation import saliency
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import saved_model
from cxr_ft.score.metrics import pointing_game

if TYPE_CHECKING:
    import pandas as pd

Map = NDArray[np.float64]
#: One question: the label, the subject, the map and the boxes.
Question = tuple[str, str, Map, list[pointing_game.Box]]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("--side", default="test_natural", choices=("val", "test", "test_natural"))
    p.add_argument("--images", type=int, default=100, help="that have boxes, at most (default: %(default)s)")
    p.add_argument("--splits", type=Path, help="where the run's splits lie now")
    args = p.parse_args(argv)
    parts, config, saved = saved_model.load(args.run)
    if not parts.head.scored or parts.head.output == "text":
        raise UsageError(f"{args.run}: its head writes text; the pointing game asks about the scores of labels")
    splits = manifest.read(args.splits or Path(config.data.splits))
    rows = build_datasets(config, splits, parts.base.image_size)[args.side]
    truth = true_boxes(cache.source_folder(splits, config.data.root))
    asked = questions(parts, rows, saved.labels, truth, images=args.images, batch_size=config.train.batch_size)
    report(asked)


def true_boxes(archive: Path) -> dict[str, dict[str, list[pointing_game.Box]]]:
    """The boxes of each image's labels, in shares of the square that a model is shown.

    Raises:
        UsageError: where the archive is no phantom's.
    """
    import pandas as pd

    file, shapes = archive / "truth.csv", archive / "mimic-cxr-2.0.0-metadata.csv.gz"
    if not file.is_file() or not shapes.is_file():
        raise UsageError(f"{archive} has no truth.csv with its metadata: boxes are known of phantoms alone")
    films = pd.read_csv(shapes, dtype={"dicom_id": str})
    sizes = dict(zip(films["dicom_id"], zip(films["Rows"], films["Columns"], strict=True), strict=True))
    table = pd.read_csv(file, dtype={"dicom_id": str})
    return {
        name: {label: _in_square(boxes, *sizes[name]) for label, boxes in json.loads(given).items()}
        for name, given in zip(table["dicom_id"], table["boxes"], strict=True)
    }


def _in_square(boxes: list[list[float]], height: int, width: int) -> list[pointing_game.Box]:
    """Boxes in pixels of the film as shares of its middle square, cut to it; those beyond are left out."""
    side = min(height, width)
    shift = np.array([(width - side) // 2, (height - side) // 2] * 2)
    inside = [np.clip((np.array(box) - shift) / side, 0, 1).tolist() for box in boxes]
    return [(left, top, right, low) for left, top, right, low in inside if right > left and low > top]


def questions(
    parts: ModelParts,
    rows: split_dataset.SplitDataset,
    labels: Sequence[str],
    truth: dict[str, dict[str, list[pointing_game.Box]]],
    *,
    images: int,
    batch_size: int,
) -> list[Question]:
    """A question for each label with boxes of `images` rows that have any, evenly spread."""
    ids: pd.DataFrame = rows.ids.astype(str)
    there = [i for i, name in enumerate(ids["dicom_id"]) if any(truth.get(name, {}).get(label) for label in labels)]
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, min(images, len(there))).round().astype(int))]
    found: list[Question] = []
    for row in track(chosen, "looking", len(chosen)):
        maps = saliency.of_scores(parts, rows[row], batch_size)
        boxes, subject = truth[ids["dicom_id"].iloc[row]], str(ids["subject_id"].iloc[row])
        found += [(label, subject, maps[i], boxes[label]) for i, label in enumerate(labels) if boxes.get(label)]
    return found


def report(asked: Sequence[Question]) -> None:
    """Print the game of all questions, and of each label."""
    print(f"{'':28}{'asked':>6}  {'model':24}{'random':24}{'centre':24}")
    for label in ["all", *dict.fromkeys(sorted(label for label, *_ in asked))]:
        some = [question for question in asked if label in ("all", question[0])]
        game = pointing_game.play([m for _, _, m, _ in some], [b for *_, b in some], [who for _, who, *_ in some])
        if game is None:
            raise UsageError("no image of this side has a box")
        told = [f"{_told(rate):24}" for rate in (game.model, game.random, game.centre)]
        print(f"{label:28}{game.questions:6}  {''.join(told)}".rstrip())
        if label == "all":
            print(
                f"{'  model minus the prior':28}{'':6}  {'':24}{_told(game.above_random):24}{_told(game.above_centre)}"
            )


def _told(rate: pointing_game.Rate) -> str:
    ends = "" if rate.interval is None else f" ({rate.interval[0]:.3f} to {rate.interval[1]:.3f})"
    return f"{rate.value:.3f}{ends}"


if __name__ == "__main__":
    main()
