# SPDX-License-Identifier: LGPL-2.1-or-later
"""VCHAN_VSOCK_REQUIRE_PRIVILEGED between machines."""
import pytest

import vchan
from vchan import CONNECTED, PAGE, WAITING, Vchan, until

REQUIRE = {"VCHAN_VSOCK_REQUIRE_PRIVILEGED": 1}


@pytest.fixture
def required(monkeypatch):
    monkeypatch.setenv("VCHAN_VSOCK_REQUIRE_PRIVILEGED", "1")


def test_root_in_the_guest_is_admitted(guest, in_guest, port, required, monkeypatch, capfd):
    """SECURITY.md: no device between the two changes the port; over the framed wire."""
    monkeypatch.setenv("VCHAN_VSOCK_LOG", "info")
    server = Vchan.server(guest.cid, port)
    client = in_guest(**REQUIRE)
    client("client", 0, port)
    client.write(b"hello")
    assert server.recv(5) == b"hello"
    server.close()
    assert "connected, framed wire" in capfd.readouterr().err


def test_users_in_the_guest_are_not_admitted(guest, in_guest, port, required):
    """SECURITY.md: nor do they keep the server from its client."""
    server = Vchan.server(guest.cid, port)
    user = in_guest(**REQUIRE)
    user("setuid", 64321)
    for wire_port in (guest.cid * 65536 + port, guest.cid * 65536 + port + (1 << 31)):
        user("raw-connect", vchan.CID_HOST, wire_port)
        assert vchan.error_of(user.raw_recv, 1) in ("", "ECONNRESET")
    user("use", 1)
    user("async", 0, port)
    assert user("poll-watch", 300) == 0 or vchan.SIMPLE
    assert (user("finish", 1), server.is_open) == (1, WAITING)
    in_guest(**REQUIRE)("client", 0, port)
    until(lambda: server.is_open == CONNECTED)


def test_root_of_the_host_is_admitted_by_the_guest(guest, in_guest, port, required):
    """SECURITY.md: the same the other way round."""
    server = in_guest(**REQUIRE)
    server("server", 0, port, PAGE, PAGE)
    with Vchan.client(guest.cid, port) as client:
        client.write(b"hello")
        assert server.recv(5) == b"hello"


def test_client_that_does_not_know_of_it_waits(guest, in_guest, port, required):
    """SECURITY.md: so set it on both sides."""
    server = Vchan.server(guest.cid, port)
    client = in_guest()
    client("async", 0, port)
    assert client("poll-watch", 300) == 0 or vchan.SIMPLE
    assert (client("finish", 1), server.is_open) == (1, WAITING)
