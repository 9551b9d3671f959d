"""Build the data sets of a run's splits from its configuration."""

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset import open_split
from cxr_ft.data.dataset.augment import Augmentation
from cxr_ft.data.dataset.split_dataset import SplitDataset
from cxr_ft.data.dataset.train_view import TrainView


def build_datasets(config: RunConfig, splits: manifest.Splits, image_size: int) -> dict[str, SplitDataset]:
    """Return a data set for each of the `splits`, for the task of `config`.

    Args:
        config: of the run; only train is augmented, reweighted or ordered by its options.
        splits: as `manifest.read` returns them.
        image_size: side of the images in pixels; 0 for a model that reads text.

    Raises:
        UsageError: where the splits lack the images or the text column that the task needs.
    """
    head = config.head.options
    text_column = open_split.text_column(splits, head.text) if head.writes else None
    return {
        split: open_split.open_split(
            splits,
            split,
            image_size,
            config.data.root,
            text_column,
            view=_train_view(config) if split == "train" else None,
            views=config.data.views,
            context=config.data.context,
        )
        for split in splits.tables
    }


def _train_view(config: RunConfig) -> TrainView:
    data, seed = config.data, config.train.seed
    # None rather than an augmentation that changes nothing: stored features are used only where there is none.
    augmented = data.augment != "none" or data.flip
    return TrainView(
        seed=seed,
        augmentation=Augmentation(mild=data.augment == "mild", flip=data.flip, seed=seed) if augmented else None,
        uncertain=data.uncertain,
        balanced=config.head.options.weights == "balanced",
        curriculum=data.curriculum,
    )
