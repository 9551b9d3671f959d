"""The guard of all tests works, and so does the package behind it."""

import socket

import pytest


def test_a_network_socket_is_refused():
    with pytest.raises(AssertionError, match="opened a socket"):
        socket.create_connection(("127.0.0.1", 9), timeout=1)


def test_a_hub_name_without_a_network_is_one_line():
    from cxr_ft.errors import UsageError
    from cxr_ft.model.assembly import family

    with pytest.raises(UsageError, match="cannot get nobody/nothing from the hub") as caught:
        family("nobody/nothing")
    assert "\n" not in str(caught.value)
