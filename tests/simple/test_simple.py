# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvchan-vsock-simple: what is different without a thread, and that nothing else is.

The contract has run with an Attendant, who makes a call when a handle's fd is readable.
Here nobody does but the test.
"""
import re
import socket
import subprocess
import time

import pytest

import programs
import vchan
from framed_peer import FramedPeer
from puppet import Puppet
from vchan import (CONNECTED, DISCONNECTED, PAGE, WAITING, Address, Task, Vchan, pattern,
                   poll, quiet, readable, until)

pytestmark = pytest.mark.skipif(not vchan.SIMPLE, reason="about the simple flavour")

WIRES = ["framed", "plain"]
# Seconds that a wait stays for whom it has accepted (driver_caller.c).
AT_THE_DOOR = 0.05


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No Attendant in these tests."""
    monkeypatch.setattr(vchan, "attend", lambda fd, handle: None)


@pytest.fixture(params=WIRES)
def wire(request, clean_environment, monkeypatch):
    monkeypatch.setenv("VCHAN_VSOCK_WIRE", request.param)
    return request.param


def calls(chan):
    """Each call that may be the next one."""
    return {"is_open": lambda: chan.is_open, "data_ready": lambda: chan.data_ready,
            "buffer_space": lambda: chan.buffer_space, "fd": lambda: chan.fd,
            "read": lambda: chan.read(1), "recv": lambda: chan.recv(1),
            "write": lambda: chan.write(b"."), "send": lambda: chan.send(b".")}


CALLS = sorted(calls(None))


def pair(ring=PAGE, address=None):
    """A server and its client, connected; nobody works for them but the test."""
    address = address or Address.fresh()
    server = address.open_server(ring, ring)
    connecting = Task(address.open_client)
    until(lambda: server.is_open == CONNECTED)
    return server, connecting.result()


def nonblocking(*chans):
    for chan in chans:
        chan.set_blocking(False)
    return chans


def sleep_on(*chans):
    """What a program does: sleep on its fds, then wait on those that are readable."""
    fds = {chan.fd: chan for chan in chans}
    with vchan.select.epoll() as epoll:
        for fd in fds:
            epoll.register(fd, vchan.select.EPOLLIN)
        ready = epoll.poll(vchan.SOON)
    assert ready, "nothing to do, and not done"
    for fd, _ in ready:
        fds[fd].wait()


# --- no thread -------------------------------------------------------------------

def test_the_process_has_one_thread(address):
    """Waiting, connecting, connected, under load, disconnected: one."""
    server = Puppet.serving(address)
    assert server("count-threads") == 1
    client = Puppet.start(VCHAN_DOMAIN=address.client)
    client("async", address.server, address.port)
    assert client("count-threads") == 1
    until(lambda: client("finish", 1) == 0)
    sending = Task(client, "pour", 1 << 20, 1000)
    assert server("drain", 1 << 20) == 1 << 20
    sending.result()
    assert (server("count-threads"), client("count-threads")) == (1, 1)
    client.kill()
    until(lambda: server("open") == DISCONNECTED)
    assert server("count-threads") == 1
    server("close")
    assert server("count-threads") == 1


def test_nobody_is_accepted_behind_the_programs_back(address, wire):
    """A client waits until the server makes a call, however long."""
    server = address.open_server()
    fd = server.fd  # now: asking for it later would let the peer in
    connecting = Task(address.open_client)
    assert readable(fd)
    if wire == "framed":
        assert connecting.asleep()
    server.wait()
    assert server.is_open == CONNECTED
    connecting.result()


def test_wait_lets_in_who_is_at_the_door():
    """Programs take a server's first event for its connection (qrexec)."""
    for meet in (Address.connect_raw, Address.open_client):
        until(lambda meet=meet: is_let_in_by_a_wait(meet))


def is_let_in_by_a_wait(meet):
    """False: who was at the door had no processor, and its time there was up."""
    address = Address.fresh()
    server = address.open_server()
    connecting = Task(meet, address)
    assert readable(server.fd)
    begun = time.monotonic()
    server.wait()
    let_in = server.is_open == CONNECTED
    assert let_in or time.monotonic() - begun > AT_THE_DOOR
    while server.is_open != CONNECTED:
        server.wait()
    connecting.result()
    return let_in


def test_wait_does_not_stay_for_who_says_nothing(address):
    """A peer that connects and is silent does not hold the program up."""
    server = address.open_server()
    fd = server.fd  # now: asking for it later would let the peer in
    silent = vchan.raw_connect(address.vsock_port | 1 << 31)
    assert readable(fd)
    assert Task(server.wait).result() == 0
    assert server.is_open == WAITING
    assert quiet(silent.fileno(), 0), "so long that its patience was over"
    silent.close()


# --- the fd tells of work --------------------------------------------------------

def test_waiting_server_is_quiet_when_there_is_nobody(address):
    """1.3: silent."""
    server = address.open_server()
    server.write(b"greeting")
    assert quiet(server.fd, 500)


def test_a_program_of_one_thread_connects_its_two_ends(address, wire):
    """Accepting and trying again, each when its fd says so."""
    client = address.open_async()
    for _ in range(3):
        assert readable(client.watch_fd)
        assert client.finish() == 1
    server = address.open_server()
    while client.finish() == 1:
        with vchan.select.epoll() as epoll:
            epoll.register(client.watch_fd, vchan.select.EPOLLIN)
            epoll.register(server.fd, vchan.select.EPOLLIN)
            for fd, _ in epoll.poll(vchan.SOON):
                server.wait() if fd == server.fd else client.wait()
    until(lambda: server.is_open == CONNECTED)
    client.write(b"hello")
    assert server.recv(5) == b"hello"


@pytest.mark.parametrize("ring", [PAGE, 64 << 10])
@pytest.mark.parametrize("piece", [1, 1000, 100_000])
def test_a_program_of_one_thread_moves_everything_both_ways(wire, ring, piece):
    """Each end writes, reads and sleeps on its fd; not a byte, not an event is lost."""
    ends = nonblocking(*pair(ring))
    total = vchan.scaled(20_000 if piece == 1 else 8 << 20)
    written, got = [0, 0], [0, 0]
    while min(got) < total:
        moved = 0
        for i, chan in enumerate(ends):
            size = min(piece, total - written[i])
            if size:
                count = chan.write(pattern(size, written[i]))
                written[i] += count
                moved += count
            data = chan.read(1 << 17)
            assert data == pattern(len(data), got[i])
            got[i] += len(data)
            moved += len(data)
        if not moved:
            sleep_on(*ends)
    assert written == got == [total, total]


def test_fd_tells_of_room_for_what_is_in_the_ring():
    """Bytes that the kernel did not take: the fd says when it does."""
    server, peer = vchan.with_raw_client()
    total = vchan.fill(server)
    vchan.settle(server)
    fd = server.fd  # once: asking for it is a call, too
    reading = Task(vchan.recv_exactly, peer, total)
    while reading.is_alive():
        if readable(fd, 0.1):
            server.wait()
    assert reading.result() == pattern(total)


def test_fd_is_quiet_when_nothing_is_left():
    """... and then says no more."""
    server, peer = vchan.with_raw_client()
    total = vchan.fill(server)
    reading = Task(vchan.recv_exactly, peer, total)
    until(lambda: (server.is_open, reading.is_alive()) == (CONNECTED, False))
    vchan.settle(server)
    assert quiet(server.fd, 500)


def test_fd_tells_of_the_end(wire):
    """1.3: disconnected is an event; quiet afterwards, also with bytes in the ring."""
    server, client = pair()
    vchan.fill(server)
    vchan.settle(server)
    Task(client.close).result()
    assert readable(server.fd)
    server.wait()
    assert server.is_open == DISCONNECTED
    assert quiet(server.fd, 500)


def test_fd_is_quiet_after_a_half_close_with_bytes_left():
    """1.3: quiet at end of stream; what is left goes in the calls to come."""
    server, peer = vchan.with_raw_client()
    total = vchan.fill(server)
    vchan.settle(server)
    peer.shutdown(socket.SHUT_WR)
    fd = server.fd
    assert readable(fd)
    server.wait()
    assert server.is_open == DISCONNECTED
    assert quiet(fd, 500)
    reading = Task(vchan.recv_exactly, peer, total)
    assert quiet(fd, 500)
    until(lambda: (server.is_open, reading.is_alive()) == (DISCONNECTED, False))
    assert reading.result() == pattern(total)


# --- calls that block work on ------------------------------------------------------

@pytest.mark.parametrize("call", ["read", "recv"])
def test_reading_sends_what_is_in_the_ring(call):
    """A request that the kernel did not take at once, then a read for its answer."""
    server, peer = vchan.with_raw_client()
    total = vchan.fill(server)
    reading = Task(getattr(server, call), 1)
    assert reading.asleep()
    assert vchan.recv_exactly(peer, total) == pattern(total)
    peer.sendall(b"x")
    assert reading.result() == b"x"


def wait_for_data(chan):
    while not chan.data_ready:
        chan.wait()


@pytest.mark.parametrize("call", ["read", "wait"])
def test_sleeping_reader_sends_what_another_thread_has_left(call, wire):
    """One thread reads, another writes more than the kernel takes, and goes."""
    server, client = pair()
    vchan.settle(server)
    sleeping = Task(server.read, 1) if call == "read" else Task(wait_for_data, server)
    assert sleeping.asleep()
    server.set_blocking(False)
    total = vchan.write_until_full(server.write)
    assert Task(vchan.read_exactly, client, total).result() == pattern(total)
    client.write(b".")
    sleeping.result()


def test_blocked_writer_lets_the_peer_in(address):
    """1.3 WAITING: write fills the ring and blocks; somebody has to accept."""
    server = address.open_server()
    writing = Task(server.write, pattern(3 * PAGE))
    assert writing.asleep()
    client = Task(address.open_client).result()
    assert vchan.read_exactly(client, 3 * PAGE) == pattern(3 * PAGE)
    assert writing.result() == 3 * PAGE


# --- the exceptions, and that they are the only ones --------------------------------

def stalled(ring=PAGE):
    """A server with bytes in its ring, after the peer has read all others."""
    server, peer = vchan.with_raw_client(ring, ring)
    total = vchan.fill(server)
    server.set_blocking(False)
    left = total
    peer.settimeout(0.5)
    data = b""
    try:
        while True:
            data += peer.recv(1 << 20)
    except (socket.timeout, TimeoutError):
        left = total - len(data)
    peer.settimeout(vchan.SOON)
    assert 0 < left <= ring and data == pattern(total - left)
    return server, peer, pattern(left, total - left)


@pytest.mark.parametrize("call", CALLS)
def test_bytes_in_the_ring_wait_for_the_next_call_whichever(call):
    """They stay there without a call, and go with the next one."""
    server, peer, left = stalled()
    assert poll(peer.fileno(), vchan.A_WHILE_MS) == 0
    calls(server)[call]()
    assert vchan.recv_exactly(peer, len(left)) == left


def test_wait_sends_them_too():
    """The fd says that there is room, and wait returns at once."""
    server, peer, left = stalled()
    assert readable(server.fd)
    assert Task(server.wait).result() == 0
    assert vchan.recv_exactly(peer, len(left)) == left


def test_close_delivers_them():
    """1.3 close: what was written is delivered if the peer reads it."""
    server, peer, left = stalled()
    closing = Task(server.close)
    assert vchan.recv_all(peer) == left
    closing.result()


def test_exit_delivers_them(address):
    """1.3: exit() without close loses nothing that the peer goes on to read."""
    puppet = Puppet.serving(address, VCHAN_VSOCK_LINGER_MS=20000)
    peer = address.connect_raw()
    until(lambda: puppet("open") == CONNECTED)
    puppet("blocking", 0)
    total = vchan.write_until_full(puppet.write)
    puppet.begin("exit", 0)
    assert vchan.recv_all(peer) == pattern(total)
    assert puppet.ended() == 0


@pytest.mark.parametrize("call, shows", [
    ("is_open", lambda value: value == DISCONNECTED),
    ("buffer_space", lambda value: value == 0)])
def test_death_of_a_silent_peer_shows_at_the_next_call(wire, call, shows):
    """At that one, not at one after it."""
    server, client = pair()
    vchan.settle(server)
    Task(client.close).result()
    assert readable(server.fd)
    assert shows(calls(server)[call]())


@pytest.mark.parametrize("call", ["write", "send"])
def test_writing_to_a_gone_peer_is_epipe_at_once(wire, call):
    """1.3: EPIPE writing to a disconnected peer."""
    server, client = pair()
    Task(client.close).result()
    assert readable(server.fd)
    assert vchan.error_of(getattr(server, call), b"x") == "EPIPE"


def test_writing_after_a_half_close_is_epipe_at_once():
    """A half-close is a close, though the kernel would take it."""
    server, peer = vchan.with_raw_client()
    vchan.settle(server)
    peer.shutdown(socket.SHUT_WR)
    assert readable(server.fd)
    assert vchan.error_of(server.write, b"x") == "EPIPE"


def test_small_writes_do_not_gather(wire):
    """Nobody would send them: each is in the kernel when its call returns."""
    server, client = pair(64 << 10)
    for number in range(1000):
        assert server.write(b"12345678") == 8
        assert client.read(100) == b"12345678", number


def test_a_peer_that_asks_for_room_is_answered_by_the_next_call(wire):
    """The ring is read: the peer's room is whole again."""
    server, client = pair()
    total = vchan.fill(server)
    nonblocking(client)
    got = b""
    while len(got) < total:
        got += client.read(1 << 16)
        server.buffer_space
    until(lambda: (client.is_open, server.buffer_space)[1] == PAGE)


def test_a_question_is_answered_by_a_read_from_the_ring(address):
    """A read that needs nothing from the kernel is a call like any other."""
    server = address.open_server()
    peer = FramedPeer.connect(address)
    peer.hello()
    hearing = Task(peer.hear_hello)
    until(lambda: server.is_open == CONNECTED)
    hearing.result()
    peer.send(bytes(PAGE))
    assert server.recv(1) == bytes(1)
    peer.ask()
    had = 1
    while not poll(peer.sock.fileno(), 1):
        had += len(server.recv(1))
        assert had < PAGE // 2, "only told because of half the window"
    assert peer.receive().handed == had


def test_a_sleeper_is_not_overlooked_by_who_drives(address):
    """One thread begins to wait while another one's call is under way."""
    for number in range(vchan.scaled(300)):
        place = Address.fresh()
        server = place.open_server()
        over = []
        asking = Task(lambda server=server, over=over: ask_until(server, over))
        waiting = Task(wait_until_connected, server)
        if number % 2:
            asking_stops(over, asking)
        client = Task(place.open_client).result()
        waiting.result()
        if not number % 2:
            asking_stops(over, asking)
        client.close()
        server.close()


def ask_until(server, over):
    """is_open for a while, so that a wait that begins then meets it."""
    while not over:
        server.is_open


def asking_stops(over, asking):
    over.append(True)
    asking.result()


def wait_until_connected(server):
    while server.is_open == WAITING:
        server.wait()


# --- the two flavours ----------------------------------------------------------------

@pytest.mark.parametrize("role", ["server", "client"])
def test_the_flavours_talk_to_each_other(address, role, wire):
    """The wire is the same: docs/wire.md."""
    library = vchan.ROOT / "build" / "libvchan-vsock.so.1"
    if not library.exists():
        pytest.skip("the other flavour is not built")
    other = Puppet.start(program=vchan.ROOT / "build" / "tests" / "puppet",
                         VCHAN_DOMAIN=address.server if role == "server" else address.client)
    if role == "server":
        other("server", address.client, address.port, PAGE, PAGE)
        ours = Task(address.open_client).result()
    else:
        ours = address.open_server()
        other.begin("client", address.server, address.port)
        until(lambda: ours.is_open == CONNECTED)
        other.answer()
    other.begin("pour", 1_000_000, 777)
    assert vchan.read_exactly(ours, 1_000_000) == pattern(1_000_000)
    assert other.answer()[0] == 1_000_000
    other.begin("drain", 1_000_000)
    assert ours.write(pattern(1_000_000)) == 1_000_000
    until(lambda: ours.is_open == CONNECTED and poll(other.control.fileno()))
    assert other.answer()[0] == 1_000_000


# --- strace ---------------------------------------------------------------------------

DOCUMENT = vchan.ROOT / "docs" / "simple.md"


def story(lines):
    """The names of the system calls, without those that only look: how often they have
    to depends on who is quick."""
    found = [re.match(r"(?:\d+ +)?(\w+)\(", line) for line in lines if "EAGAIN" not in line]
    return [match[1] for match in found if match and match[1] not in ("poll", "ppoll")]


def test_strace_of_an_echo_session_is_as_documented(address, tmp_path):
    """docs/simple.md shows one: the calls are still these, in this order."""
    told = re.search(r"```strace\n(.*?)```", DOCUMENT.read_text(), re.S)[1].splitlines()
    log = tmp_path / "strace"
    session = subprocess.Popen(
        ["strace", "-f", "-o", log, "-e", "trace=" + TRACED, programs.program("echo"),
         str(address.client), str(address.port)],
        env=programs.surroundings(VCHAN_DOMAIN=address.server))
    client = Task(address.open_client).result()
    client.write(b"hello\n")
    assert vchan.read_exactly(client, 6) == b"hello\n"
    Task(client.close).result()
    assert session.wait(vchan.SOON) == 0
    seen = log.read_text().splitlines()
    assert "clone" not in " ".join(story(seen))
    begin = next(i for i, line in enumerate(seen) if "eventfd2" in line)
    assert story(seen[begin:]) == story(told)


TRACED = ("network,epoll_create1,epoll_ctl,epoll_wait,eventfd2,timerfd_create,"
          "timerfd_settime,poll,ppoll,close,clone,clone3,exit_group")
