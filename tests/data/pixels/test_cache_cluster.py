"""The cache on a local Ray with two workers: the same bytes with one of them killed at work; and what goes wrong."""

import json
import os
import subprocess
import sys

import pytest

from cxr_ft.data import manifest
from cxr_ft.data.layouts import folder
from cxr_ft.data.pixels import cache, ray_cluster
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

SIZE = 8
#: In a process of its own, since Ray talks over sockets. The first task to start kills its worker.
CLUSTER = """
import json, os, signal, sys
from pathlib import Path
import ray
from cxr_ft.data.pixels import cache
from cxr_ft.data.pixels import ray_cluster as cluster
cache.PER_SHARD = 5
flag, make = Path(sys.argv[2]), cluster._make

def dying(shard, folder):
    if shard.file.name == "00002.arrow" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return make(shard, folder)

cluster._make = dying
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
built = cluster.build_on_ray(Path(sys.argv[1]), int(sys.argv[3]))
print(json.dumps([built.shards, built.made, built.missing]))
"""
#: A file that cannot be read, then a task whose process dies each time.
BROKEN = """
import os, signal, sys
from pathlib import Path
import ray
from cxr_ft.data.pixels import cache
from cxr_ft.data.pixels import ray_cluster as cluster
from cxr_ft.errors import UsageError

def build():
    try:
        cluster.build_on_ray(Path(sys.argv[1]), int(sys.argv[3]))
    except UsageError as error:
        print(error)

cluster.RETRIES = 1
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
file = Path(sys.argv[2])
good = file.read_bytes()
file.write_bytes(b"no picture")
build()
file.write_bytes(good)
cluster._make = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
build()
"""


def everything(place):
    return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


@pytest.fixture
def splits(tmp_path):
    make_splits(folder.demo(tmp_path), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    return tmp_path / "splits"


def run(code, splits, argument, place):
    """The lines that `code`, not Ray, prints in a process of its own."""
    pytest.importorskip("ray")
    env = {**os.environ, "CXR_FT_CACHE": str(place), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", code, str(splits), str(argument), str(SIZE)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "(raylet)" not in line]


@pytest.mark.slow
def test_two_workers_one_killed(splits, tmp_path, monkeypatch):
    lines = run(CLUSTER, splits, tmp_path / "killed", tmp_path / "ray")
    assert (tmp_path / "killed").exists()
    monkeypatch.setattr(cache, "PER_SHARD", 5)
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path / "alone"))
    built = cache.build(splits, SIZE, workers=1)
    assert json.loads(lines[-1]) == [built.shards, built.shards, 0]
    assert everything(tmp_path / "ray") == everything(tmp_path / "alone")


@pytest.mark.slow
def test_what_goes_wrong_on_a_node_is_one_line(splits, tmp_path):
    read = manifest.read(splits)
    path = cache.shown(read)[3]
    broken, dying = run(BROKEN, splits, cache.source_folder(read) / path, tmp_path / "ray")
    assert f"{path}: not_dicom" in broken
    assert "its task ended 2 times without a result (WorkerCrashedError)" in dying


def test_without_ray_it_says_what_to_install(splits, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'cxr_ft\[ray\]'"):
        ray_cluster.build_on_ray(splits, SIZE)
