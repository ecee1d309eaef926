# SPDX-License-Identifier: LGPL-2.1-or-later
"""The peer is the right machine, and its program is broken or mean.

Whatever it does, at whatever byte: our program's calls return with what they promise,
close ends within the linger, memory stays within the rings, nothing is left behind.
"""
import itertools
import socket
import time

import pytest

import vchan
from burden import Burden, is_idle
from framed_peer import (ASK, COUNT, HELLO, FramedPeer, Hello, be_client_of, header,
                         meet)
from puppet import Puppet
from vchan import (A_SECOND, CONNECTED, DISCONNECTED, PAGE, WAITING, Address, Holdings, Task,
                   pattern, until)

SECONDS = min(60, vchan.scaled(2))
LINGER_S = 1  # conftest.py
ROLES, WIRES = ["server", "client"], ["plain", "framed"]

pytestmark = pytest.mark.deadline(120 + 4 * SECONDS)


@pytest.fixture(params=ROLES)
def role(request):
    """Which end is ours."""
    return request.param


@pytest.fixture(params=WIRES)
def wire(request):
    return request.param


def meet_raw(role, wire):
    """One of ours, and the socket of its peer, which has said and heard the hello."""
    if wire == "framed":
        ours, peer = meet(role)
        return ours, peer.sock
    return vchan.with_raw_client() if role == "server" else vchan.with_raw_server()


# --- those that come and say nothing, or not enough --------------------------------

@pytest.mark.parametrize("wire", WIRES)
def test_server_calls_return_while_somebody_says_nothing(address, wire):
    """1.3: a peer that connects and sends nothing keeps no call, and no close."""
    server = address.open_server()
    if wire == "framed":
        for _ in range(4):
            FramedPeer.connect(address)
    else:
        vchan.raw_connect(address.vsock_port, source=vchan.OUR_PORTS[77])
    server.set_blocking(False)
    start = time.monotonic()
    while time.monotonic() < start + 1:
        assert server.is_open == WAITING
        assert (server.data_ready, server.read(10)) == (0, b"")
        assert server.buffer_space == PAGE
    Task(server.close).result(A_SECOND)
    with address.open_server() as again:
        be_client_of(address, again)


@pytest.mark.parametrize("said", [1, 31])
def test_slow_hello_keeps_nobody_out(address, said):
    """docs/wire.md, set-up: one byte now and then; others are heard meanwhile."""
    server = address.open_server()
    slow = FramedPeer.connect(address)
    for byte in HELLO.pack(*Hello())[:said]:
        slow.raw(bytes([byte]))
        assert vchan.nothing_to_tell(server.fd, 10)
    peer = be_client_of(address, server)
    assert vchan.shut_out(slow.sock)
    peer.send(b"hello")
    assert server.recv(5) == b"hello"


def test_bytes_that_come_one_by_one(role, wire):
    """1.3: each is there when it is, and none is waited for by a call that need not."""
    ours, sock = meet_raw(role, wire)
    said = pattern(60) if wire == "plain" else header(60) + pattern(60)
    ours.set_blocking(False)
    got = bytearray()
    for byte in said:
        sock.sendall(bytes([byte]))
        assert Task(lambda: (ours.data_ready, ours.is_open)).result(A_SECOND)[1] == CONNECTED
        got += ours.read(1000)
    ours.set_blocking(True)
    got += vchan.read_exactly(ours, 60 - len(got))
    assert got == pattern(60)


# --- those that never read -------------------------------------------------------------

def test_peer_that_never_reads_is_waited_for_and_left(role, wire):
    """1.3: write blocks, nothing is promised; close takes the linger at most."""
    ours, _sock = meet_raw(role, wire)
    total = vchan.fill(ours)
    assert total >= PAGE
    assert vchan.space_that_stays(ours) == 0
    ours.set_blocking(False)
    assert (ours.write(b"x"), ours.send(b"x")) == (0, 0)
    start = time.monotonic()
    ours.close()
    assert time.monotonic() - start < LINGER_S + A_SECOND


def test_writer_to_a_peer_that_never_reads_ends_with_it(role, wire):
    """1.3: it blocks, and it gets EPIPE when the peer has gone, reset and all."""
    ours, sock = meet_raw(role, wire)
    vchan.fill(ours)
    writing = Task(vchan.error_of, ours.write, bytes(10 * PAGE))
    assert writing.asleep()
    sock.close()
    assert writing.result(A_SECOND) == "EPIPE"


# --- those that break off ---------------------------------------------------------------

def leave(sock):
    """With what it has not read unread."""
    sock.close()


def leave_with_all_read(sock):
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
    except OSError:
        pass
    sock.close()


def reset(sock):
    # struct linger {1, 0} as a number: Python takes no other options of such a socket.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 1)
    sock.close()


def shut_down_and_leave(sock):
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def shut_down_reading_and_leave(sock):
    sock.shutdown(socket.SHUT_RD)
    sock.close()


WAYS = [leave, reset, leave_with_all_read, shut_down_and_leave, shut_down_reading_and_leave]


def at_each(points):
    """Each point of a conversation, and a way to break it off there: at the default size
    the ways take turns."""
    if vchan.scaled(2) < 4:
        return list(zip(points, itertools.cycle(WAYS)))
    return list(itertools.product(points, WAYS))


# What a peer says on the framed wire behind its hello: what is sent, and the payload in it.
FRAMES = [(header(9) + pattern(9), 9), (header(0, 0, ASK), 0), (header(0, 0, COUNT | ASK), 0),
          (header(14) + pattern(14, 9), 14), (header(1, 0, ASK) + pattern(1, 23), 1)]
SAID = b"".join(said for said, _ in FRAMES)


def payload_within(count):
    """How much payload is in the first bytes of SAID."""
    payload = 0
    for said, size in FRAMES:
        there = min(count, len(said))
        payload += max(0, there - (len(said) - size))
        count -= there
    return payload


@pytest.fixture
def patient(monkeypatch):
    """A close that lingers for nobody is not quick."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")


def assert_ended_well(ours, expected):
    """What arrived can be read, then the end; no call hangs, close is quick."""
    assert vchan.read_until_end(ours) == expected
    assert ours.is_open == DISCONNECTED and ours.data_ready == 0
    assert vchan.error_of(ours.write, b"x") == "EPIPE"
    start = time.monotonic()
    ours.close()
    assert time.monotonic() - start < A_SECOND


def test_peer_breaks_off_after_each_byte_it_says(role, wire, patient):
    """1.3: what arrived can be read to the last byte, then ECONNRESET; EPIPE."""
    said = pattern(len(SAID)) if wire == "plain" else SAID
    before = Holdings.now()
    for count, way in at_each(range(1 if wire == "plain" else 0, len(said) + 1)):
        ours, sock = meet_raw(role, wire)
        sock.sendall(said[:count])
        # Something unread at its end, and something on the way.
        ours.write(pattern(100))
        way(sock)
        arrived = count if wire == "plain" else payload_within(count)
        assert_ended_well(ours, pattern(arrived))
    vchan.raw_opened.clear()
    assert Holdings.back_to(before)


def test_peer_breaks_off_after_each_byte_it_hears(role, wire, patient):
    """1.3: the same where the peer has read a part of what we wrote."""
    before = Holdings.now()
    for count, way in at_each(range(0, 60, 1 + 2 * (vchan.scaled(2) < 4))):
        ours, sock = meet_raw(role, wire)
        ours.write(pattern(30))
        ours.write(pattern(30, 30))
        vchan.recv_exactly(sock, count)
        way(sock)
        assert_ended_well(ours, b"")
    vchan.raw_opened.clear()
    assert Holdings.back_to(before)


def test_clients_that_break_off_within_their_hello_leave_the_place(address):
    """docs/wire.md, set-up: such a one was no client."""
    server = address.open_server()
    for count, way in at_each(range(HELLO.size)):
        peer = FramedPeer.connect(address)
        peer.raw(HELLO.pack(*Hello())[:count])
        way(peer.sock)
    assert server.is_open == WAITING
    peer = be_client_of(address, server)
    peer.send(b"hello")
    assert server.recv(5) == b"hello"


def test_servers_that_break_off_within_their_hello_are_left(address):
    """docs/wire.md, set-up: the client tries again, until there is a good one."""
    good = HELLO.pack(*Hello(read_ring=PAGE, write_ring=PAGE))
    with FramedPeer.listen(address) as listener:
        connecting = Task(address.open_client)
        for count, way in at_each(range(HELLO.size)):
            peer = FramedPeer.accept(listener)
            peer.raw(good[:count])
            way(peer.sock)
        peer = FramedPeer.accept(listener)
        peer.hear_hello()
        peer.raw(good)
        client = connecting.result()
    peer.send(b"hello")
    assert client.recv(5) == b"hello"


def test_peer_that_leaves_everything_unread(role, wire, patient):
    """1.3: it closes with its kernel full; close of ours does not linger for it."""
    ours, sock = meet_raw(role, wire)
    sock.sendall(b"bye" if wire == "plain" else header(3) + b"bye")
    vchan.fill(ours)
    sock.close()
    assert_ended_well(ours, b"bye")


# --- those that send without end -----------------------------------------------------------

def victim(ring, wire):
    """A server of ours in a process of its own, and the address where it is."""
    address = Address.fresh()
    return Puppet.serving(address, ring, ring, VCHAN_VSOCK_WIRE=wire), address


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("ring, most_kib", [(PAGE, 1024), (65536, 3072)])
def test_fast_writer_and_slow_reader_take_no_more_than_the_rings(wire, ring, most_kib):
    """1.3: memory stays bounded by the rings, and what arrives is right."""
    server, address = victim(ring, wire)
    client = Puppet.client_of(address, VCHAN_VSOCK_WIRE=wire)
    server.write(b"x")
    client.recv(1)
    before = {end: Burden.of(end.process.pid) for end in (server, client)}
    most = dict.fromkeys(before, 0)
    client.begin("flood", 65536)
    got, start = 0, time.monotonic()
    while time.monotonic() < start + SECONDS:
        data = server.read(2048)
        assert data == pattern(len(data), got)
        got += len(data)
        for end in before:
            most[end] = max(most[end], Burden.of(end.process.pid).resident)
    grown = [most[end] - before[end].resident for end in before]
    print(f"{got >> 10} KiB read in {SECONDS} s; reader grew by {grown[0]} KiB, writer "
          f"by {grown[1]} KiB (rings of {ring >> 10} KiB)")
    assert max(grown) < most_kib


STORMS = {"empty frames": header(), "asks": header(0, 0, ASK),
          "counts": header(0, 0, COUNT | ASK)}


class Storm:
    """Sends the same without end, and never reads."""

    def __init__(self, sock, piece):
        self.sock, self.over, self.sent = sock, False, 0
        self.data = piece * (65536 // len(piece))
        sock.settimeout(0.05)
        self.task = Task(self.blow)

    def blow(self):
        while not self.over:
            try:
                # A send that was cut off goes on at the same byte.
                self.sent += self.sock.send(self.data[self.sent % len(self.data):])
            except TimeoutError:
                pass
            except OSError:
                return

    def end(self):
        self.over = True
        self.task.result()


@pytest.mark.parametrize("kind", list(STORMS))
def test_storm_of_headers_keeps_no_call_and_takes_no_memory(kind):
    """docs/wire.md: headers alone may come without end: calls return, memory stays, and
    nobody spins once it has stopped."""
    server, address = victim(65536, "framed")
    pid = server.process.pid
    peer = FramedPeer.connect(address)
    peer.hello()
    peer.hear_hello()
    until(lambda: server("open") == CONNECTED)
    server("blocking", 0)
    before = Burden.of(pid)
    storm, longest = Storm(peer.sock, STORMS[kind]), 0
    start = time.monotonic()
    while time.monotonic() < start + SECONDS:
        for call in (["ready"], ["space"], ["open"], ["write", "00"], ["poll", 0]):
            called = time.monotonic()
            server(*call)
            longest = max(longest, time.monotonic() - called)
        assert server.read(10) == b""
        assert Burden.of(pid).is_within(before, 2048), (before, Burden.of(pid))
    storm.end()
    grown = Burden.of(pid).resident - before.resident
    print(f"{kind}: {storm.sent >> 10} KiB in {SECONDS} s, the longest call took "
          f"{longest:.3f} s, memory grew by {grown} KiB")
    assert longest < A_SECOND
    assert is_idle(pid, 1)
    start = time.monotonic()
    server("close")
    assert time.monotonic() - start < LINGER_S + A_SECOND
