"""A whole grid by one command, killed on the way and begun again; and on a local Ray with a worker killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import toy

pytestmark = pytest.mark.slow
#: What a second run of the same cell may do faster or slower.
SPENT = ("seconds", "samples_per_second", "commit")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    toy.make_shades(place)
    return place


def command(place, out, *more):
    options = ["--splits", str(place / "splits"), "--model", str(place / "tiny"), "--set", "train.epochs=1"]
    return [sys.executable, "-m", "cxr_ft.cli.ablate", *options, "--out", str(out), *more]


def left(out):
    """All that an ablation leaves, but for times: bytes of models and predictions, JSONs and tables."""
    contents = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix in (".safetensors", ".parquet", ".png"):
            contents[name] = path.read_bytes()
        elif path.name == "result.json":
            contents[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
            contents[name] = table[[c for c in table if not any(word in c for word in SPENT)]].to_csv()
    return contents


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not any(word in k for word in SPENT)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_killed_twice_it_leaves_the_same(place, tmp_path):
    """Three methods, six sets of targets, three seeds: 54 cells."""
    grid = ["--method", "lora,full,ia3", "--targets", "q;v;q,v;text.q,text.v;vision.q,vision.v;attn"]
    grid += ["--seeds", "0,1,2", "--rank", "2"]
    subprocess.run(command(place, tmp_path / "whole", *grid), check=True, capture_output=True)

    def finished():
        return list((tmp_path / "broken").glob("*/model/labels.json"))

    draws = random.Random(0)
    for _ in range(2):
        # By cells and not by seconds: how many train in a second depends on what else the machine does.
        until = len(finished()) + draws.randint(4, 18)
        process = subprocess.Popen(
            command(place, tmp_path / "broken", *grid), start_new_session=True, stderr=subprocess.DEVNULL
        )
        while len(finished()) < until and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draws.uniform(0, 0.5))  # anywhere within the next cell
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert 0 < len(before) < 54
    subprocess.run(command(place, tmp_path / "broken", *grid), check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())  # finished cells stay
    one, other = left(tmp_path / "whole"), left(tmp_path / "broken")
    assert one.keys() == other.keys() and len(list((tmp_path / "whole").glob("*/result.json"))) == 54
    assert [name for name in one if one[name] != other[name]] == []


RAY = """
import os, signal, sys
from pathlib import Path
import ray
from cxr_ft.cli import ablate
from cxr_ft.run.ablation import workers
flag, right = Path(sys.argv[1]), workers._train

def dying(raw, folder, *rest):
    if folder.endswith("s1") and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    right(raw, folder, *rest)

workers._train = dying
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
sys.exit(ablate.main(sys.argv[2:]))
"""


def test_on_ray_with_a_worker_killed(place, tmp_path):
    pytest.importorskip("ray")
    grid = ["--method", "last_layers", "--seeds", "0,1,2"]
    subprocess.run(command(place, tmp_path / "here", *grid), check=True, capture_output=True)
    flag = tmp_path / "killed"
    options = command(place, tmp_path / "ray", *grid, "--ray")[3:]
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(flag), *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert flag.exists() and "3 of 3 runs succeeded" in done.stdout
    assert left(tmp_path / "ray") == left(tmp_path / "here")
