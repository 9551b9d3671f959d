"""The file that a test of read_xray writes."""

import pytest


@pytest.fixture
def file(tmp_path):
    return tmp_path / "image"  # its first bytes say what it is
