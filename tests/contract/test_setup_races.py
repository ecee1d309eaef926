# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a connection comes about, and over which wire, in every order.

Two ends of ours speak the framed wire, whoever comes first; a plain socket is
always served.  Server and client open within a millisecond or two of each
other, on a machine that idles and on one that is busy, and the library's own
lines on stderr tell which wire each end got.
"""
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

import vchan
from framed_peer import HELLO_WAIT, FramedPeer
from vchan import (A_SECOND, Address, CONNECTED, Holdings, OurPeer, Task, Vchan,
                   WAITING, pattern, read_exactly, recv_exactly, until)

# The tests set their wires themselves: each runs once (conftest.py).
pytestmark = [pytest.mark.own_wires, pytest.mark.deadline(240)]

ROUNDS = vchan.scaled(120)
SIZE = 1000
BUSY_LOOP = "while True: pass"
ORDERS = ["client-first", "server-first", "both-at-once"]


# --- the machine, and what the library says ---------------------------------------

@pytest.fixture(params=["idle", "busy"])
def load(request):
    """An idle machine, and one on which every processor has something to do."""
    count = os.cpu_count() if request.param == "busy" else 0
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
             for _ in range(count)]
    yield request.param
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.fixture
def place(monkeypatch):
    """An address whose two domains are one: threads share their environment."""
    fresh = Address.fresh()
    monkeypatch.setenv("VCHAN_DOMAIN", str(fresh.server))
    return Address(fresh.server, fresh.server, fresh.port)


class Wires:
    """Which ends have connected, over which wire, as they say themselves."""

    LINE = re.compile(r"libvchan_(server|client)_init\w*\(.*\): connected, (\w+) wire")

    def __init__(self, capfd):
        self.capfd = capfd

    def said(self):
        """All since the last time.  An end that is closed has said it."""
        text = self.capfd.readouterr().err
        return sorted(" ".join(found) for found in self.LINE.findall(text))


@pytest.fixture
def wires(capfd, monkeypatch):
    monkeypatch.setenv("VCHAN_VSOCK_LOG", "info")
    capfd.readouterr()
    return Wires(capfd)


def both(wire):
    return [f"client {wire}", f"server {wire}"]


# --- those that come, and what they say ---------------------------------------------

class Ours:
    """A client of ours.  When it is connected, it is served."""
    name = b"ours!"
    lines = ["client framed", "server framed"]

    def visit(self, place):
        assert self.is_served(place), "connected, and then turned away"

    def is_served(self, place):
        with Vchan.client(place.server, place.port) as chan:
            return greets(OurPeer(chan), self.name)

    def visit_until_served(self, place):
        until(lambda: self.is_served(place))


class Plain:
    """A plain socket: it knocks until it is served."""
    name = b"plain"
    lines = ["server plain"]

    def visit(self, place):
        until(lambda: self.is_served(place))

    visit_until_served = visit

    def is_served(self, place):
        try:
            with place.connect_raw() as peer:
                return greets(peer, self.name)
        except ConnectionError:
            return False


def greets(peer, name):
    """Say who comes, and a few bytes each way; False when turned away."""
    try:
        peer.sendall(name + pattern(SIZE))
        answer = recv_exactly(peer, SIZE)
    except ConnectionError:
        return False
    if answer:
        assert answer == pattern(SIZE, len(name))
    return bool(answer)


def host(server):
    """Serve the one that comes, and tell who it was."""
    name = read_exactly(server, len(Ours.name))
    assert read_exactly(server, SIZE) == pattern(SIZE)
    assert server.write(pattern(SIZE, len(name))) == SIZE
    return name


def open_server(place):
    return Vchan.server(place.server, place.port)


def serve(place):
    """A server from its beginning to its end: whom it served."""
    with open_server(place) as server:
        return host(server)


def serve_until_heard(place):
    """Servers in turn, as those that come may have gone; whom the last served."""
    def attempt():
        with open_server(place) as server, contextlib.suppress(ConnectionResetError):
            return host(server)  # in a write it is another error
    return until(attempt)


# --- who is first -------------------------------------------------------------------

def jitter():
    """Up to 2 ms, at random."""
    time.sleep(random.uniform(0, 0.002))


def at_once(*calls):
    """Each call in a thread of its own, all within 2 ms."""
    gate = threading.Barrier(len(calls))

    def begin(call):
        gate.wait(vchan.SOON)
        jitter()
        return call()

    return [Task(begin, call) for call in calls]


def in_order(order, serving, visiting):
    """Both calls, in an order; two tasks."""
    if order == "both-at-once":
        return at_once(serving, visiting)
    if order == "server-first":
        server = Task(serving)
        jitter()
        return server, Task(visiting)
    client = Task(visiting)
    jitter()
    return Task(serving), client


def results(*tasks, seconds=vchan.SOON):
    """What all have returned; when one fails, its error at once: the others
    may be waiting for it."""
    deadline = time.monotonic() + seconds
    while any(task.is_alive() for task in tasks) and time.monotonic() < deadline:
        for task in tasks:
            task.join(0.01)
            if task.error:
                raise task.error
    return [task.result(0) for task in tasks]


@pytest.mark.parametrize("order", ORDERS)
def test_two_of_ours_always_speak_frames(load, place, wires, order):
    """Framed between two of ours: never plain by accident."""
    for number in range(ROUNDS):
        server, client = in_order(order, lambda: serve(place), lambda: Ours().visit(place))
        assert results(server, client) == [Ours.name, None]
        assert wires.said() == both("framed"), f"in round {number}"


@pytest.mark.parametrize("order", ORDERS)
def test_plain_client_is_always_served(load, place, wires, order):
    """A plain socket is welcome on the plain port, and waits for a moment only."""
    for number in range(ROUNDS // 2):
        server, client = in_order(order, lambda: serve(place), lambda: Plain().visit(place))
        assert results(server, client, seconds=A_SECOND) == [Plain.name, None]
        assert wires.said() == ["server plain"], f"in round {number}"


class PlainServer:
    """A plain socket that is used like a channel, so that it can be a host."""

    def __init__(self, peer):
        self.peer = peer

    def read(self, size):
        data = self.peer.recv(size)
        if not data:
            raise ConnectionResetError
        return data

    def write(self, data):
        self.peer.sendall(data)
        return len(data)


@pytest.mark.parametrize("order", ORDERS)
def test_plain_server_is_always_found(load, place, wires, order):
    """A client of ours takes a plain server, within a second."""
    def serve_plain():
        with place.listen_raw() as listener, vchan.accept_raw(listener) as peer:
            return host(PlainServer(peer))

    for number in range(ROUNDS // 2):
        server, client = in_order(order, serve_plain, lambda: Ours().visit(place))
        assert results(server, client, seconds=A_SECOND) == [Ours.name, None]
        assert wires.said() == ["client plain"], f"in round {number}"


# --- in between -----------------------------------------------------------------------

@pytest.mark.parametrize("visitors", [[Ours, Plain], [Ours, Ours], [Ours, Ours, Plain],
                                      [Ours, Ours, Ours]],
                         ids=lambda kinds: "-".join(kind.__name__ for kind in kinds))
def test_all_that_come_are_served_in_turn(load, place, wires, visitors):
    """The first rightful one wins, and each other by a next server: ours framed,
    plain ones plain."""
    def serve_them():
        return sorted(serve(place) for _ in visitors)

    expected = sorted(kind.name for kind in visitors)
    lines = sorted(line for kind in visitors for line in kind.lines)
    for number in range(max(1, ROUNDS // 4)):
        server, *clients = at_once(
            serve_them, *(lambda kind=kind: kind().visit(place) for kind in visitors))
        assert results(server, *clients)[0] == expected
        assert wires.said() == lines, f"in round {number}"


@pytest.mark.parametrize("kind", [Ours, Plain], ids=lambda kind: kind.__name__)
def test_server_that_comes_and_goes(load, place, wires, kind):
    """A server that closed and came back is found by who tries meanwhile."""
    for number in range(ROUNDS // 2):
        visitor = Task(kind().visit_until_served, place)
        for _ in range(random.randint(1, 3)):
            server = open_server(place)
            jitter()
            server.close()
        server = Task(serve_until_heard, place)
        assert results(server, visitor) == [kind.name, None]
        # A server that was about to leave may have been first.
        lines = wires.said()
        assert set(lines) == set(kind.lines), f"in round {number}"
        assert lines.count("client framed") <= lines.count("server framed")


# --- one of ours that is late ---------------------------------------------------------

LONGER_THAN_A_MOMENT_MS = 200


def knock_as_ours(place):
    """What a client of ours does when it finds the plain port open."""
    def attempt():
        with contextlib.suppress(OSError):  # taken, or the last one not cleared away
            return vchan.raw_connect(place.vsock_port, source=random.choice(vchan.OUR_PORTS))
    return until(attempt)


def test_client_tells_by_its_port_that_it_will_try_frames(place):
    """docs/wire.md, set-up: so that a server waits for it."""
    with place.listen_raw() as listener:
        client = Task(place.open_client)
        peer, (_cid, port) = listener.accept()
        with peer:
            client.result()
    assert port in vchan.OUR_PORTS


def test_client_of_the_plain_wire_does_not_tell_so(place):
    """docs/wire.md, set-up: no framed attempt will come of it."""
    with place.listen_raw() as listener, choosing("plain"):
        client = Task(place.open_client)
        peer, (_cid, port) = listener.accept()
        with peer:
            client.result()
    assert port not in vchan.OUR_PORTS


def test_client_of_ours_is_waited_for_however_late_it_is(place, wires):
    """Its thread may have to wait long for a processor between its attempts."""
    server = open_server(place)
    with knock_as_ours(place) as knock:
        assert vchan.quiet(server.fd, LONGER_THAN_A_MOMENT_MS)
        peer = FramedPeer.connect(place)
        peer.hello()
        peer.hear_hello()
        until(lambda: server.is_open == CONNECTED)
        assert vchan.shut_out(knock)
    server.close()
    assert wires.said() == ["server framed"]


def test_client_of_ours_that_leaves_before_it_is_connected_is_forgotten(place, wires):
    """It was not connected, so the server waits on, for anybody."""
    server = open_server(place)
    for _ in range(5):
        knock_as_ours(place).close()
    assert vchan.quiet(server.fd, LONGER_THAN_A_MOMENT_MS)
    assert server.is_open == WAITING
    hosting = Task(host, server)
    Plain().visit(place)
    assert hosting.result() == Plain.name
    server.close()
    assert wires.said() == ["server plain"]


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_who_says_something_is_served_wherever_it_comes_from(place, leaves):
    """A plain socket may have such a port by chance: nothing of it is lost."""
    assert any(is_served_at_once(place, leaves) for _ in range(3))


def is_served_at_once(place, leaves):
    """False: only when the time was over that one of ours has for its hello; or there was
    no processor for so long."""
    with open_server(place) as server:
        begun = time.monotonic()
        with knock_as_ours(place) as peer:
            peer.sendall(pattern(SIZE))
            if leaves:
                peer.shutdown(socket.SHUT_WR)
            assert Task(read_exactly, server, SIZE).result() == pattern(SIZE)
            return time.monotonic() - begun < HELLO_WAIT


# --- other choices --------------------------------------------------------------------

# server's, client's, and what comes of it
CHOICES = [("auto", "auto", "framed"), ("auto", "framed", "framed"),
           ("framed", "auto", "framed"), ("framed", "framed", "framed"),
           ("auto", "plain", "plain"), ("plain", "auto", "plain"),
           ("plain", "plain", "plain")]
NO_CHOICES = [("framed", "plain"), ("plain", "framed")]


def choosing(wire):
    return vchan.environment(VCHAN_VSOCK_WIRE=wire)


def server_that_wants(place, wire):
    with choosing(wire):
        return open_server(place)


def client_that_wants(place, wire):
    with choosing(wire):
        return Vchan.client_async(place.server, place.port)


def finish(client):
    until(lambda: client.finish() == 0)
    return OurPeer(client)


@pytest.mark.parametrize("order", ["client-first", "server-first"])
@pytest.mark.parametrize("server_wire, client_wire, agreed", CHOICES)
def test_either_end_can_choose_the_wire(place, wires, order, server_wire, client_wire, agreed):
    """VCHAN_VSOCK_WIRE on either side: plain gives plain, framed gives framed."""
    for _ in range(max(1, ROUNDS // 20)):
        if order == "client-first":
            client = client_that_wants(place, client_wire)
            jitter()
        server = server_that_wants(place, server_wire)
        if order == "server-first":
            client = client_that_wants(place, client_wire)
        hosting = Task(host, server)
        assert greets(finish(client), Ours.name)
        assert hosting.result() == Ours.name
        client.close()
        server.close()
        assert wires.said() == both(agreed)


@pytest.mark.parametrize("server_wire, client_wire", NO_CHOICES)
def test_choices_that_do_not_meet_wait(place, wires, server_wire, client_wire):
    """Framed only and plain only: both wait, each for one that wants the same."""
    client = client_that_wants(place, client_wire)
    server = server_that_wants(place, server_wire)
    assert vchan.nothing_to_tell(client.watch_fd, 500) and client.finish() == 1
    assert vchan.nothing_to_tell(server.fd, 50) and server.is_open == WAITING
    server.close()
    server = server_that_wants(place, client_wire)
    finish(client)
    until(lambda: server.is_open == CONNECTED)
    client.close()
    server.close()
    assert wires.said() == both(client_wire)


def test_framed_server_refuses_plain_peers(place, wires):
    """VCHAN_VSOCK_WIRE=framed: nobody listens on the plain port."""
    server = server_that_wants(place, "framed")
    assert vchan.refused(place.vsock_port)
    assert server.is_open == WAITING
    hosting = Task(host, server)
    Ours().visit(place)
    assert hosting.result() == Ours.name
    server.close()
    assert wires.said() == both("framed")


def test_framed_client_passes_a_plain_server_by(place):
    """VCHAN_VSOCK_WIRE=framed: it never so much as knocks at the plain port."""
    with place.listen_raw() as listener:
        client = client_that_wants(place, "framed")
        assert vchan.poll(listener.fileno(), 500) == 0
        assert client.finish() == 1


@pytest.mark.parametrize("value", ["", "x", "Framed", "frame", "framed ", " plain",
                                   "1", "auto,plain"])
@pytest.mark.parametrize("call", ["server", "client", "client_async"])
def test_rubbish_is_einval_and_one_line_that_names_it(place, capfd, call, value):
    """1.5: a value that is no wire is EINVAL and a line that names the variable."""
    before = Holdings.now()
    with choosing(value):
        error = vchan.error_of(getattr(Vchan, call), place.server, place.port)
    lines = capfd.readouterr().err.splitlines()
    assert error == "EINVAL"
    assert len(lines) == 1 and f"VCHAN_VSOCK_WIRE='{value}'" in lines[0], lines
    assert Holdings.back_to(before)
