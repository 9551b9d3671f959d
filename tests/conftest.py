"""Every test: no network, one thread, its own cache folder."""

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


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
