"""Every test: no network, one thread, its own cache folder."""

import gc
import itertools
import os
import socket

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest


def _refusing(connect):
    def refuse(self, address, *rest):
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a test opened a socket to {address}")
        return connect(self, address, *rest)

    return refuse


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """A network socket is an error; those between the processes of this machine are not."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _refusing(getattr(socket.socket, name)))


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    """Yield folders that are not made yet; to make one for each test would list all others' each time."""
    place = tmp_path_factory.mktemp("caches")
    return (place / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, _caches):
    monkeypatch.setenv("CXR_FT_CACHE", str(next(_caches)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _few_collections(_one_thread):
    """Collect garbage seldom: a collection walks over all that torch has loaded, a tenth of the tests' time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


#: What tests marked `image_baselines` ask for.
_WANTED = {"image baselines": False}


def _verify_here(runs):
    """Verify runs as the fresh process does, in this one; with two images in each gallery, whose maps take most of the
    time, and without the baselines of images, half a second a run: both have tests of their own."""
    from cxr_ft.run.evaluation import gallery_files, image_baselines, verify
    from cxr_ft.run.record import results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_files, "COUNT", 2)
        if not _WANTED["image baselines"]:
            patch.setattr(image_baselines.ImageBaselines, "scores", lambda *_: {})
        verify.main([str(run) for run in runs])
    return [results.read(run) for run in runs]


@pytest.fixture(autouse=True, scope="session")
def _verified_here():
    """Verify runs in this process: a fresh one loads torch again, ten seconds a run. `fresh_process` asks for one."""
    from cxr_ft.run.ablation import ablate
    from cxr_ft.run.training import train

    with pytest.MonkeyPatch.context() as patch:
        for module in (ablate, train):
            patch.setattr(module, "verify_all", _verify_here)
        yield


@pytest.fixture(autouse=True)
def _image_baselines(request, monkeypatch):
    if request.node.get_closest_marker("image_baselines"):
        monkeypatch.setitem(_WANTED, "image baselines", True)


@pytest.fixture(autouse=True)
def _verified_in_a_fresh_process(request, monkeypatch):
    if request.node.get_closest_marker("fresh_process"):
        from cxr_ft.run.ablation import ablate
        from cxr_ft.run.evaluation.verify import verify_all
        from cxr_ft.run.training import train

        for module in (ablate, train):
            monkeypatch.setattr(module, "verify_all", verify_all)
