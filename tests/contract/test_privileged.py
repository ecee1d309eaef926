# SPDX-License-Identifier: LGPL-2.1-or-later
"""VCHAN_VSOCK_REQUIRE_PRIVILEGED: ports below 1024, on both sides."""
import contextlib
import os
import re
import resource
import socket
import tempfile

import pytest

import vchan
from framed_peer import FRAMED, HELLO, FramedPeer, Hello
from puppet import Puppet
from vchan import (A_SECOND, CONNECTED, PAGE, WAITING, Address, Task, environment, until)

# The tests set their wires themselves: each runs once (conftest.py).
pytestmark = pytest.mark.own_wires

ROUNDS = vchan.scaled(40)
PRIVILEGED = range(1024)
# docs/wire.md, set-up: they mean what vchan.OUR_PORTS do.
OURS = range(512, 768)
OTHERS = [port for port in PRIVILEGED[1:] if port not in OURS]
WIRES = ["plain", "framed"]


def requiring(value=1, **more):
    return environment(VCHAN_VSOCK_REQUIRE_PRIVILEGED=value, **more)


def server_that_requires(address):
    with requiring():
        return address.open_server()


def client_that_requires(address):
    with requiring():
        return address.open_client()


def knock_from(address, wire, source):
    """The socket of a peer at this wire's port."""
    def attempt():
        # An earlier one of this port may still be on its way out.
        with contextlib.suppress(OSError):
            return vchan.raw_connect(address.vsock_port + (wire == "framed") * FRAMED,
                                     source=source)
    return until(attempt)


def come_from(address, wire, source):
    """The same, which says what a client says."""
    sock = knock_from(address, wire, source)
    sock.sendall(HELLO.pack(*Hello()))
    return sock


# --- the server ----------------------------------------------------------------------

@pytest.mark.parametrize("over", WIRES)
@pytest.mark.parametrize("source", [1024, 5000, 1 << 31, (1 << 32) - 2])
def test_ordinary_ports_are_refused_and_the_place_kept(address, over, source, capfd):
    """SECURITY.md: as strangers are, with a line at info level that names the port."""
    with environment(VCHAN_VSOCK_LOG="info"):
        server = server_that_requires(address)
    server.write(b"secret")
    assert vchan.shut_out(knock_from(address, over, source))
    assert server.is_open == WAITING and server.data_ready == 0
    assert vchan.recv_exactly(come_from(address, "plain", 1), 6) == b"secret"
    # Read when nobody writes any more: capfd loses what comes while it reads.
    server.close()
    assert re.search(rf"refused.*\bCID {vchan.CID_LOCAL}, port {source}\b.*not privileged",
                     capfd.readouterr().err)


@pytest.mark.parametrize("over", WIRES)
@pytest.mark.parametrize("source", [1, 511, 512, 767, 768, 1023])
def test_privileged_ports_are_admitted(address, over, source):
    """SECURITY.md: below 1024, on both wires."""
    server = server_that_requires(address)
    peer = come_from(address, over, source)
    until(lambda: server.is_open == CONNECTED)
    if over == "plain":
        assert server.recv(HELLO.size) == HELLO.pack(*Hello())
    else:
        FramedPeer(peer).hear_hello()


@pytest.mark.parametrize("value", ["0", None])
def test_without_it_any_port_is_admitted(address, value):
    """1.5: 0 is the default."""
    with requiring(value):
        server = address.open_server()
    come_from(address, "plain", 5000)
    until(lambda: server.is_open == CONNECTED)


def test_silent_peers_from_ordinary_ports_take_no_place(address):
    """SECURITY.md: other users of the right machine cannot keep its client out."""
    server = server_that_requires(address)
    for number in range(10):
        vchan.raw_connect(address.vsock_port + FRAMED, source=5000 + number)
    Task(client_that_requires, address).result(A_SECOND)
    until(lambda: server.is_open == CONNECTED)


@pytest.mark.parametrize("setting", ["0", "1"])
def test_port_of_ours_that_is_privileged_is_waited_for(address, setting):
    """docs/wire.md, set-up: 512 to 767 mean that a framed attempt will follow, to a
    server of either setting."""
    with requiring(setting):
        server = address.open_server()
    knock = knock_from(address, "plain", 600)
    assert vchan.quiet(server.fd) or vchan.SIMPLE
    assert server.is_open == WAITING
    peer = FramedPeer(come_from(address, "framed", 800))
    peer.hear_hello()
    until(lambda: server.is_open == CONNECTED)
    assert vchan.shut_out(knock)


@pytest.mark.parametrize("source", [511, 768])
def test_other_privileged_ports_are_served_at_once(address, source):
    """docs/wire.md, set-up: a plain peer of root's waits for a moment only."""
    server = server_that_requires(address)
    knock_from(address, "plain", source)
    until(lambda: server.is_open == CONNECTED, A_SECOND / 2)


# --- the client -----------------------------------------------------------------------

def source_of_next(listener):
    return vchan.accept_raw(listener).getpeername()[1]


def test_client_knocks_from_privileged_ports(address):
    """docs/wire.md, set-up: framed from one, plain from one that tells of the other."""
    with FramedPeer.listen(address) as framed, address.listen_raw() as plain:
        connecting = Task(client_that_requires, address)
        first = FramedPeer.accept(framed)
        assert first.sock.getpeername()[1] in OTHERS
        first.raw(bytes(HELLO.size))
        knock = vchan.accept_raw(plain)
        assert knock.getpeername()[1] in OURS
        second = FramedPeer.accept(framed)
        assert second.sock.getpeername()[1] in OTHERS
        second.hear_hello()
        second.hello(read_ring=PAGE, write_ring=PAGE)
        connecting.result()


def test_client_of_the_plain_wire_does_not_tell_of_frames(address):
    """docs/wire.md, set-up: no framed attempt will come of it."""
    with address.listen_raw() as plain, environment(VCHAN_VSOCK_WIRE="plain"):
        client_that_requires(address)
        assert source_of_next(plain) in OTHERS


def test_client_that_does_not_require_it_comes_from_ordinary_ports(address):
    """1.5: 0 is the default: it takes nobody's privileged port."""
    with FramedPeer.listen(address) as framed, address.listen_raw() as plain:
        connecting = Task(address.open_client)
        first = FramedPeer.accept(framed)
        assert first.sock.getpeername()[1] not in PRIVILEGED
        first.raw(bytes(HELLO.size))
        assert source_of_next(plain) in vchan.OUR_PORTS
        FramedPeer.accept(framed).raw(bytes(HELLO.size))
        connecting.result()


@pytest.fixture
def many_fds():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), max(before[1], 4096)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def occupied(ports):
    """Sockets that are bound to these."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            sock = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):  # in use already
                sock.bind((vchan.CID_ANY, port))
        yield


@pytest.mark.parametrize("free", [range(1, 512), range(768, 1024)], ids=["low", "high"])
def test_client_finds_one_of_the_ports_that_are_free(many_fds, address, free):
    """SECURITY.md: a port that is taken is not the end."""
    taken = [port for port in OTHERS if port not in free]
    with occupied(taken + list(free)[::2]), FramedPeer.listen(address) as listener:
        connecting = Task(client_that_requires, address)
        peer = FramedPeer.accept(listener)
        assert peer.sock.getpeername()[1] in free
        peer.hear_hello()
        peer.hello(read_ring=PAGE, write_ring=PAGE)
        connecting.result()


def test_client_goes_on_when_all_are_taken(many_fds, address, capfd):
    """SECURITY.md: from an ordinary port, and it says so at info level."""
    with occupied(PRIVILEGED[1:]), environment(VCHAN_VSOCK_LOG="info"):
        server = address.open_server()
        client = client_that_requires(address)
        until(lambda: server.is_open == CONNECTED)
    client.close()
    server.close()
    text = capfd.readouterr().err
    assert os.strerror(98) in text and "framed wire" in text


class Unprivileged:
    """A puppet that may not bind ports below 1024, and what it says."""

    def __init__(self, domain):
        self.stderr = tempfile.TemporaryFile()
        self.puppet = Puppet.start(stderr=self.stderr, VCHAN_DOMAIN=domain,
                                   VCHAN_VSOCK_LOG="info", VCHAN_VSOCK_REQUIRE_PRIVILEGED=1)
        self.puppet("setuid", 64321)

    def said(self, word):
        self.stderr.seek(0)
        return [line for line in self.stderr.read().decode().splitlines() if word in line]


def test_client_that_may_not_goes_on_and_says_so_once(address):
    """SECURITY.md: EACCES: from an ordinary port, with a line at info level."""
    client = Unprivileged(address.client)
    client.puppet("async", address.server, address.port)
    # So that there are several attempts.
    assert client.puppet("poll-watch", 300) == 0 or vchan.SIMPLE
    server = address.open_server()
    until(lambda: client.puppet("finish", 1) == 0)
    until(lambda: server.is_open == CONNECTED)
    # It is connected a moment before it says so.
    until(lambda: client.said("connected, framed wire"))
    assert len(client.said("connected, framed wire")) == 1
    assert len(client.said(os.strerror(13))) == 1


def test_client_that_may_not_is_not_admitted_and_waits(address):
    """SECURITY.md: a client that is refused waits, as for any server."""
    server = server_that_requires(address)
    client = Unprivileged(address.client).puppet
    client("async", address.server, address.port)
    assert client("poll-watch", 500) == 0 or vchan.SIMPLE
    assert (client("finish", 1), server.is_open) == (1, WAITING)
    server.close()
    server = address.open_server()
    until(lambda: client("finish", 1) == 0 and server.is_open == CONNECTED)


# --- both -------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", [(1, 1), (0, 1)], ids=["both", "client-only"])
@pytest.mark.parametrize("order", ["client-first", "server-first"])
def test_two_of_ours_always_speak_frames(address, settings, order, capfd):
    """docs/wire.md, set-up: never plain by accident, with privileged ports neither."""
    for number in range(ROUNDS):
        with environment(VCHAN_VSOCK_LOG="info"):
            if order == "client-first":
                with requiring(settings[1]):
                    client = address.open_async()
            with requiring(settings[0]):
                server = address.open_server()
            if order == "server-first":
                with requiring(settings[1]):
                    client = address.open_async()
        until(lambda: client.finish() == 0)
        client.write(b"hello")
        assert server.recv(5) == b"hello"
        client.close()
        server.close()
        text = capfd.readouterr().err
        assert text.count("connected, framed wire") == 2, (number, text)


@pytest.mark.parametrize("over", WIRES)
def test_many_channels_at_once(over):
    """SECURITY.md: each has a port of its own."""
    with environment(VCHAN_VSOCK_WIRE=over):
        channels = []
        for _ in range(20):
            address = Address.fresh()
            server = server_that_requires(address)
            channels.append((server, client_that_requires(address)))
        for server, client in channels:
            until(lambda server=server: server.is_open == CONNECTED)
            client.write(b"hello")
            assert server.recv(5) == b"hello"
