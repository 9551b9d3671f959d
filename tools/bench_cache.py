"""How fast the pixel cache is read back and made, on one core and more.

    OMP_NUM_THREADS=1 python tools/bench_cache.py [--size 512] [--images 2048] [--subjects 120] [--workers 1,2]

Read back: images in random order, each copied whole into a batch that is used again, by one process, per second of its
time on a core; beside it a `.npy` file, mapped, of the same images. Both lie in the page cache, so this is the cost of
the format, not of the disk; the first time through, the pages are mapped. Made: phantom films of 1024 pixels, decoded
and written, per second that passes. Medians of rounds that alternate.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cxr_ft.data import phantom
from cxr_ft.data.pixels import cache, shards
from cxr_ft.data.pixels.image_decode import Pixels, spread
from cxr_ft.data.pixels.shards import PER_SHARD, Images

BATCH = 32
ROUNDS = 7


class Indexed(Protocol):
    """What both stores are: images by number."""

    def __getitem__(self, index: int) -> Pixels: ...


def read_rate(images: Indexed, order: NDArray[np.int64], size: int) -> float:
    """Images a second of this process's time on a core, each copied into its place in a batch."""
    batch = np.zeros((BATCH, size, size), np.uint8)
    start = time.process_time()
    for i, number in enumerate(order.tolist()):
        batch[i % BATCH] = images[number]
    return len(order) / (time.process_time() - start)


def read_back(place: Path, size: int, count: int) -> dict[str, float]:
    """Median rates of the shards and of a `.npy` file of the same images: newly opened, and again."""
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (PER_SHARD, size, size), dtype=np.uint8)
    files = [place / f"{number:05}.arrow" for number in range(max(1, count // PER_SHARD))]
    for file in files:
        shards.write(file, part, [f"{number}.dcm" for number in range(PER_SHARD)])
    count = len(files) * PER_SHARD
    np.save(place / "plain.npy", np.concatenate([part] * len(files)))
    stores: dict[str, Callable[[], Indexed]] = {
        "shards": lambda: Images(files, np.arange(count), size),
        "npy": lambda: np.load(place / "plain.npy", mmap_mode="r"),
    }
    rates: dict[str, list[float]] = {f"{name}, {when}": [] for name in stores for when in ("first time", "again")}
    for _ in range(ROUNDS):
        for name, opened in stores.items():
            images = opened()
            for when in ("first time", "again"):
                rates[f"{name}, {when}"].append(read_rate(images, rng.permutation(count), size))
    return {name: statistics.median(values) for name, values in rates.items()}


def making(place: Path, size: int, subjects: int, workers: list[int]) -> dict[int, float]:
    """Images a second that are decoded and written, by number of worker processes."""
    root = phantom.ensure(f"phantom:subjects={subjects},seed=0,size=1024")
    paths = sorted(str(file.relative_to(root)) for file in root.rglob("*.dcm"))
    rates: dict[int, list[float]] = {number: [] for number in workers}
    for turn in range(4):
        for number in workers:
            os.environ["CXR_FT_CACHE"] = str(place / f"{turn}_{number}")
            start = time.perf_counter()
            cache.carry_out(cache.plan(root, paths, size), functools.partial(spread, shards.make, workers=number))
            if turn:  # the first one starts the processes and fills the page cache
                rates[number].append(len(paths) / (time.perf_counter() - start))
    return {number: statistics.median(values) for number, values in rates.items()}


def main() -> None:
    """Print both."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--images", type=int, default=2048)
    p.add_argument("--subjects", type=int, default=120)
    p.add_argument("--workers", default="1,2")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for store, rate in read_back(place, args.size, args.images).items():
            print(f"read back, {store}: {rate:,.0f} images/s on one core at {args.size}", flush=True)
        made = making(place, args.size, args.subjects, [int(number) for number in args.workers.split(",")])
        for number, rate in made.items():
            print(f"made with {number} workers: {rate:,.1f} images/s at {args.size}")


if __name__ == "__main__":
    main()
