"""The pixel cache made on a Ray cluster: names of files travel, pixels do not.

Ray starts a task again whose process or node dies (`ray.remote`'s max_retries). The nodes see the archive and the cache
folder under the same names, and have this package installed.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from cxr_ft.data.pixels.cache import Built, carry_out, planned, report
from cxr_ft.data.pixels.shards import Shard, intact, make
from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder

#: How often Ray starts one shard's task again after its process died.
RETRIES = 3


def build_on_ray(splits: Path, size: int, address: str | None = None, root: str | None = None) -> Built:
    """Make the cache that training on a folder of splits uses, on a Ray cluster.

    Args:
        splits: a folder that cxr-split wrote.
        size: side in pixels; the base's image size.
        address: the cluster's ("auto", "ray://host:10001"); None: the one that RAY_ADDRESS names or that is connected
            already, else one started on this machine.
        root: where the images lie now, if not where the manifest says.

    Raises:
        UsageError: where Ray is not installed or not reached, the nodes do not share the cache folder, a task kept
            dying, or an image cannot be read.
    """
    shards = planned(splits, size, root)
    with connected(address) as ray:
        counts = carry_out(shards, lambda order: _on_nodes(ray, order))
    # Looked at from here: a node that wrote to its own disk reports success, and the training would not find its
    # shards.
    if lost := sum(not intact(shard) for shard in shards):
        raise UsageError(
            f"{shards[0].file.parent}: {lost} of {len(shards)} shards were made on nodes that do not share it; "
            "set CXR_FT_CACHE to a folder that all nodes see under the same name"
        )
    return report(shards, counts)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Yield Ray, connected to `address` as `build_on_ray` takes it, or as it is connected already.

    Raises:
        UsageError: where Ray is not installed, or no cluster is reached.
    """
    ray = _ray()
    # A cluster that the caller connected is left connected.
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unless asked
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"Ray cannot be imported ({error}); install it: pip install 'cxr_ft[ray]'") from None
    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, address: str | None) -> None:
    try:
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None


def _on_nodes(ray: ModuleType, shards: Sequence[Shard]) -> Iterator[str]:
    """Return the result of `make` for each shard, in order."""
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_make)
    folder = str(cache_folder().absolute())
    # All tasks are handed over before the first is waited for, so that Ray can spread them.
    results = [task.remote(shard, folder) for shard in shards]
    for shard, result in zip(shards, results, strict=True):
        try:
            yield ray.get(result)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise UsageError(
                f"{shard.file}: its task ended {RETRIES + 1} times without a result ({type(error).__name__}); what was "
                "finished is kept: run the same command again, with more memory on the nodes if it happens again"
            ) from None


def _make(shard: Shard, folder: str) -> str:
    import cv2

    os.environ["CXR_FT_CACHE"] = folder  # a node has its own environment; remote images are fetched to there
    cv2.setNumThreads(1)  # a task has one core
    return make(shard, thorough=True)
