"""What training sees of its rows: drawn from (seed, epoch, row) alone, mild, and never flipped unless asked."""

import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

from cxr_ft.config import DataConfig
from cxr_ft.data.dataset.augment import Augmentation
from cxr_ft.data.dataset.split_dataset import SplitDataset, TrainIndex, TrainTargets, loader
from cxr_ft.data.dataset.train_view import TrainView, class_weights, order, soft_targets
from cxr_ft.errors import UsageError

NAN = float("nan")
MILD = Augmentation(mild=True, flip=False, seed=3)


def film(seed=0, side=64):
    """Smooth, bright on the left: a flip is seen at once."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(230, 20, side)[None] + np.linspace(0, 15, side)[:, None] + rng.integers(0, 5, (side, side))
    return shade.astype(np.uint8)


def rows_of(view, count=10, targets=None, weights=None):
    table = pd.DataFrame({"text": [f"{'word ' * (i % 4)}end" for i in range(count)]})
    goals = np.zeros((count, 2)) if targets is None else targets
    train = TrainTargets(view, goals + 0.25, weights)
    return SplitDataset(table, np.stack([film(i) for i in range(count)]), goals, "text", train)


def collated(examples):
    return {"images": np.stack([e.image for e in examples]), "targets": np.stack([e.targets for e in examples])}


def seen(rows, seed, epoch, workers=0):
    batches = loader(rows, collated, 3, seed)
    batches.sampler.epoch = epoch
    if workers:
        batches = DataLoader(rows, batch_size=3, sampler=batches.sampler, collate_fn=collated, num_workers=workers)
    return np.concatenate([batch["images"] for batch in batches])


def test_the_same_whatever_the_workers_and_another_each_epoch():
    rows = rows_of(TrainView(augmentation=MILD))
    np.testing.assert_array_equal(seen(rows, 3, 0), seen(rows, 3, 0, workers=2))
    sorted_images = [np.sort(seen(rows, 3, epoch), axis=0) for epoch in (0, 1)]
    assert not np.array_equal(*sorted_images)


def test_a_row_does_not_depend_on_what_was_drawn_before():
    rows = rows_of(TrainView(augmentation=MILD))
    alone = rows[TrainIndex(7, 2)].image
    for i in range(7):
        rows[TrainIndex(i, 2)]
    np.testing.assert_array_equal(rows[TrainIndex(7, 2)].image, alone)


def test_seed_epoch_and_row_each_change_the_draw():
    def drawn(seed, epoch, first):
        augmentation = Augmentation(mild=True, flip=False, seed=seed)
        return [augmentation(film(), epoch, row).tobytes() for row in range(first, first + 8)]

    here = drawn(0, 0, 0)
    assert here == drawn(0, 0, 0)
    assert all(here != other for other in (drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 8)))


def test_what_is_judged_is_never_changed():
    rows = rows_of(TrainView(augmentation=MILD))
    for batch, start in zip(loader(rows, collated, 3), range(0, 10, 3), strict=True):
        np.testing.assert_array_equal(batch["images"], rows.images[start : start + 3])
        np.testing.assert_array_equal(batch["targets"], rows.targets[start : start + 3])
    assert rows[0].weights is None


def test_mild_is_mild_and_leaves_left_and_right():
    """Each change keeps shape and type, correlates with the film, and left stays brighter than right."""
    image = film(side=96)
    changed = [MILD(image, 0, row) for row in range(60)]
    for one in changed:
        assert one.shape == image.shape and one.dtype == np.uint8
        assert one[:, :40].mean() > one[:, -40:].mean() + 50
        assert abs(float(one[20:-20, 20:-20].mean()) - float(image[20:-20, 20:-20].mean())) < 45
    assert 45 < len({one.tobytes() for one in changed}) < 60  # one in eight stays: each step happens for itself
    np.testing.assert_array_equal(image, film(side=96))


def test_flip_is_only_what_it_says():
    flipped = Augmentation(mild=False, flip=True, seed=0)
    images = [flipped(film(), 0, row) for row in range(100)]
    mirrored = sum(np.array_equal(one, film()[:, ::-1]) for one in images)
    assert sum(np.array_equal(one, film()) for one in images) == 100 - mirrored
    assert 30 < mirrored < 70


@pytest.mark.slow
def test_importing_it_asks_no_index():
    """albumentations looks for a newer version when it is imported; conftest refuses any socket."""
    import subprocess
    import sys

    code = (
        "import socket\ndef refuse(*a): raise SystemExit(f'opened a socket: {a}')\nsocket.socket.connect = refuse\n"
        "import numpy as np\nfrom cxr_ft.data.dataset.augment import Augmentation\n"
        "Augmentation(mild=True, flip=True, seed=0)(np.zeros((8, 8), np.uint8), 0, 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_balanced_weights_by_hand():
    targets = np.array([[1, 0], [0, 0], [0, NAN], [0, 0]], float)
    weights = class_weights(targets, multi_label=True)
    np.testing.assert_allclose(weights[:, 0], [4 / 2, 4 / 6, 4 / 6, 4 / 6])
    np.testing.assert_allclose(weights[[0, 1, 3], 1], 1)  # a label without positives: nothing to balance
    one_hot = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    per_row = (class_weights(one_hot, multi_label=False) * one_hot).sum(1)
    np.testing.assert_allclose(per_row, [6 / 9] * 3 + [6 / 6] * 2 + [6 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_balanced_weights_balance(seed):
    """Both classes of each label weigh alike, and the mean weight is 1, whatever is masked or soft."""
    rng = np.random.default_rng(seed)
    targets = rng.choice([0, 1, NAN], (50, 4), p=[0.6, 0.2, 0.2])
    weights = class_weights(targets, multi_label=True)
    known = ~np.isnan(targets)
    for column in range(4):
        w, y = weights[known[:, column], column], targets[known[:, column], column]
        assert w[y == 1].sum() == pytest.approx(w[y == 0].sum())
        assert w.mean() == pytest.approx(1)


def test_soft_targets_stand_where_it_is_uncertain():
    raw = np.array([[1, -1, NAN], [0, -1, -1]], float)
    targets = np.array([[1, NAN, 0], [0, NAN, NAN]], float)
    np.testing.assert_array_equal(soft_targets(raw, targets, 0.7, True), [[1, 0.7, 0], [0, 0.7, 0.7]])
    assert soft_targets(raw, targets, None, True) is targets
    with pytest.raises(UsageError, match=r"data\.uncertain"):
        soft_targets(raw, targets, 0.7, False)


def test_training_is_shown_soft_targets_and_weights():
    weights = np.arange(20.0).reshape(10, 2)
    rows = rows_of(TrainView(), weights=weights)
    example = rows[TrainIndex(4, 0)]
    np.testing.assert_array_equal(example.targets, rows.targets[4] + 0.25)
    np.testing.assert_array_equal(example.weights, weights[4])
    np.testing.assert_array_equal(rows[4].targets, rows.targets[4])


def test_a_curriculum_goes_by_length_then_by_chance():
    rows = rows_of(TrainView(curriculum=2), count=40)
    sampler = loader(rows, list, 1, 5).sampler
    lengths = {}
    for epoch in range(4):
        sampler.epoch = epoch
        drawn = [draw.row for draw in sampler]
        assert sorted(drawn) == list(range(40))
        lengths[epoch] = [len(rows.texts[row].split()) for row in drawn]
    assert all(lengths[epoch] == sorted(lengths[epoch]) for epoch in (0, 1))
    assert all(lengths[epoch] != sorted(lengths[epoch]) for epoch in (2, 3))
    assert order(40, 5, 0, rows.texts) != order(40, 5, 1, rows.texts)  # equals by chance


@pytest.mark.parametrize("options", [{"augment": "wild"}, {"uncertain": 1.5}, {"curriculum": -1}])
def test_a_wrong_option_is_one_line(options):
    with pytest.raises(UsageError, match=rf"data\.{next(iter(options))}"):
        DataConfig(**options)
