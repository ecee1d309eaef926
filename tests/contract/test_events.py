# SPDX-License-Identifier: LGPL-2.1-or-later
"""fd_for_select and wait: what is an event, and when it is over (design 1.3)."""
import select
import socket
from select import POLLIN

import pytest

import vchan
from puppet import Puppet
from vchan import (ANY_EVENT, CONNECTED, DISCONNECTED, PAGE, Task, pattern,
                   poll, quiet, readable, settle, until)


@pytest.fixture
def settled(request, wire):
    """A connected server whose fd is quiet, and its peer: a plain socket, or
    one of ours that is used like a socket."""
    if wire == "ours":
        server, client = vchan.connected_pair()
        peer = vchan.OurPeer(client)
    else:
        server, peer = request.getfixturevalue("raw_client")
    settle(server)
    return server, peer


# --- the fd --------------------------------------------------------------------

def test_fd_is_the_same_for_life(address):
    """1.3: one fd for the handle's life (qrexec-agent asks once)."""
    server = address.open_server()
    seen = {server.fd}
    peer = address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    seen.add(server.fd)
    peer.sendall(b"x")
    server.recv(1)
    seen.add(server.fd)
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    seen.add(server.fd)
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["select", "poll", "epoll"])
def test_fd_works_in(settled, how):
    """1.3: safe in select, poll and epoll."""
    server, peer = settled
    waits = {"select": by_select, "poll": readable, "epoll": by_epoll}
    waiting = Task(waits[how], server.fd)
    assert waiting.asleep()
    peer.sendall(b"x")
    assert waiting.result()


def by_select(fd):
    return select.select([fd], [], [fd], vchan.SOON)[:1] == ([fd],)


def by_epoll(fd):
    with select.epoll() as epoll:
        epoll.register(fd, ANY_EVENT)
        return epoll.poll(vchan.SOON) == [(fd, POLLIN)]


# --- silent until connected ------------------------------------------------------

def test_fd_that_was_taken_before_the_connection_tells_of_data(address):
    """1.3: one fd for the handle's life: also for who asked while it was waiting."""
    server = address.open_server()
    fd = server.fd
    peer = address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    settle(server)
    peer.sendall(b"x")
    assert readable(fd)


def test_fd_is_silent_before_the_connection(address):
    """1.3: silent until the client has connected."""
    assert quiet(address.open_server().fd)


def test_fd_is_silent_after_a_greeting(address):
    """1.3: silent until the client has connected, though we wrote already."""
    server = address.open_server()
    server.write(bytes(100))
    assert quiet(server.fd)


def test_fd_is_silent_after_the_ring_was_full(address):
    """1.3: silent until the client has connected, though a write got 0."""
    server = address.open_server()
    server.set_blocking(False)
    server.write(bytes(PAGE))
    assert server.write(b"x") == 0
    assert quiet(server.fd)


def test_fd_is_silent_while_strangers_are_turned_away(monkeypatch):
    """1.3: a refused connection is no event (CID 1 is not domain 9's)."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "2")
    port = vchan.Address.fresh().port
    server = vchan.Vchan.server(9, port)
    stranger = vchan.raw_connect(9 * 65536 + port)
    assert vchan.shut_out(stranger)
    assert quiet(server.fd)
    assert server.is_open == vchan.WAITING


def test_first_readiness_of_a_server_means_connected(address):
    """1.3: programs take the first readiness of a server for "connected"."""
    server = address.open_server()
    fd = server.fd
    connecting = Task(address.connect_raw)
    assert vchan.readable_for_good(fd)
    assert server.is_open == CONNECTED
    connecting.result()


def test_connected_is_an_event_for_the_server(address):
    """1.3: something happened: connected."""
    server = address.open_server()
    address.connect_raw()
    assert readable(server.fd)


def test_connected_is_an_event_for_the_client(raw_server):
    """1.3: something happened: connected; the same for a blocking client."""
    assert readable(raw_server[0].fd)


def test_connected_event_survives_a_read(address):
    """1.3: a read never swallows any other event; here: connected."""
    server = address.open_server()
    peer = address.connect_raw()
    peer.sendall(b"x")
    assert server.recv(1) == b"x"
    assert readable(server.fd)


def test_connected_event_survives_data_ready(address):
    """1.3: only wait clears the fd; data_ready does not."""
    server = address.open_server()
    address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    assert server.data_ready == 0
    assert readable(server.fd)


# --- data ------------------------------------------------------------------------

def test_data_is_an_event(settled):
    """1.3: something happened: data arrived."""
    server, peer = settled
    peer.sendall(b"x")
    assert readable(server.fd)


def test_unread_data_keeps_the_fd_readable_until_wait(settled):
    """1.3: only libvchan_wait clears it: polling does not."""
    server, peer = settled
    peer.sendall(b"x")
    assert readable(server.fd)
    assert readable(server.fd)


def test_data_ready_does_not_clear_the_fd(settled):
    """1.3: data moved by data_ready keeps the fd readable until wait."""
    server, peer = settled
    peer.sendall(b"x")
    until(lambda: server.data_ready == 1)
    assert readable(server.fd)


def test_wait_clears_the_fd_with_data_unread(settled):
    """1.3: after wait the fd is quiet, also while unread data sits there."""
    server, peer = settled
    peer.sendall(b"x")
    assert readable(server.fd)
    server.wait()
    assert quiet(server.fd)
    assert server.recv(1) == b"x"


def test_wait_clears_the_fd_after_data_ready(settled):
    """1.3: after wait the fd is quiet, whoever moved the data."""
    server, peer = settled
    peer.sendall(b"x")
    until(lambda: server.data_ready == 1)
    server.wait()
    assert quiet(server.fd)


@pytest.mark.own_wires
def test_more_than_a_ring_unread_is_quiet_after_wait(settled):
    """1.3: after wait the fd is quiet, though the ring and the kernel are full."""
    server, peer = settled
    peer.sendall(bytes(10 * PAGE))
    until(lambda: server.data_ready == PAGE)
    settle(server)
    assert server.data_ready == PAGE
    assert quiet(server.fd)


def test_next_byte_is_a_new_event_with_data_unread(settled):
    """1.3: quiet until the next event, and then not."""
    server, peer = settled
    peer.sendall(b"x")
    readable(server.fd)
    server.wait()
    peer.sendall(b"y")
    assert readable(server.fd)


@pytest.mark.own_wires
def test_data_left_in_the_kernel_is_an_event_once_there_is_room(settled):
    """1.3: no event may be lost: what did not fit into the ring is told."""
    server, peer = settled
    peer.sendall(pattern(3 * PAGE))
    until(lambda: server.data_ready == PAGE)
    settle(server)
    assert server.recv(PAGE) == pattern(PAGE)
    assert server.data_ready > 0 or readable(server.fd)
    assert vchan.read_exactly(server, 2 * PAGE) == pattern(2 * PAGE, PAGE)


def test_reader_of_exactly_data_ready_wakes_for_what_was_left(settled):
    """1.3: also one that read exactly what data_ready had said."""
    server, peer = settled
    sending = Task(peer.sendall, pattern(3 * PAGE))
    until(lambda: server.data_ready == PAGE)
    settle(server)
    got = server.recv(PAGE)
    while len(got) < 3 * PAGE:
        assert readable(server.fd)
        server.wait()
        got += server.recv(server.data_ready)
    assert got == pattern(3 * PAGE)
    sending.result()


# wait and data_ready take in a portion of what is there, where a ring could hold more.

LARGE = 64 << 10


def read_as_told(chan, total):
    """As a reader that sleeps when it has read exactly what data_ready had said."""
    got = b""
    while len(got) < total:
        assert readable(chan.fd), f"asleep for ever at {len(got)} of {total}"
        chan.wait()
        got += chan.recv(chan.data_ready)
    return got


def test_reader_of_a_portion_wakes_for_the_next():
    """1.3: also one that read exactly what data_ready had said."""
    server, client = vchan.connected_pair(LARGE, LARGE)
    sending = Task(client.write, pattern(20 * LARGE))
    assert read_as_told(server, 20 * LARGE) == pattern(20 * LARGE)
    sending.result()


def test_reader_of_a_portion_wakes_for_the_next_after_the_end():
    """1.3 DISCONNECTED: what the peer sent before can still be read to the last byte."""
    for _ in range(20):
        server, client = vchan.connected_pair(LARGE, LARGE)
        client.write(pattern(LARGE))
        client.close()
        until(lambda: server.is_open == DISCONNECTED)
        assert read_as_told(server, LARGE) == pattern(LARGE)
        server.close()


def test_data_ready_alone_sees_a_whole_ring():
    """1.3: data_ready makes progress by itself."""
    server, client = vchan.connected_pair(LARGE, LARGE)
    client.write(pattern(LARGE))
    until(lambda: server.data_ready == LARGE)
    assert server.recv(LARGE) == pattern(LARGE)


def test_read_returns_all_that_is_there():
    """1.2: the smaller of what was asked for and what is there, as on Xen."""
    server, client = vchan.connected_pair(LARGE, LARGE)

    def read_at_once():
        client.write(pattern(LARGE))
        settle(server)  # all of it has come, or nearly always
        assert server.data_ready > 0
        got = server.read(LARGE)
        whole = len(got) == LARGE
        while len(got) < LARGE:
            got += server.read(LARGE - len(got))
        assert got == pattern(LARGE)
        return whole

    until(read_at_once)


@pytest.mark.parametrize("wants_room", [False, True], ids=["", "and wants room"])
def test_who_does_not_read_is_left_alone(wants_room):
    """1.3: after wait the fd is quiet, also while unread data sits there."""
    server, client = vchan.connected_pair(LARGE, LARGE)
    if wants_room:
        vchan.fill(server)
    client.set_blocking(False)
    total = sum(client.write(pattern(LARGE)) for _ in range(15))
    settle(server)
    wakings = 0
    while server.data_ready and not quiet(server.fd):
        server.wait()
        wakings += 1
        assert wakings < 20
    assert len(vchan.read_exactly(server, total)) == total


def test_read_may_leave_the_fd_readable_and_wait_then_returns(settled):
    """1.3: wait after a poll that said readable returns, the data read or not."""
    server, peer = settled
    for _ in range(20):
        peer.sendall(b"x")
        assert readable(server.fd)
        assert server.recv(1) == b"x"
        assert Task(server.wait).result() == 0


def test_wait_returns_after_a_poll_and_a_nonblocking_drain(settled):
    """1.3: the real-time thread calls wait first and must not block."""
    server, peer = settled
    server.set_blocking(False)
    for _ in range(20):
        peer.sendall(bytes(300))
        assert readable(server.fd)
        left = 300
        while left:
            left -= len(server.read(left))
        assert Task(server.wait).result() == 0


def test_wait_blocks_until_data_arrives(settled):
    """1.3 wait: blocks until an event, returns 0."""
    server, peer = settled
    waiting = Task(server.wait)
    assert waiting.asleep()
    peer.sendall(b"x")
    assert waiting.result() == 0


def test_wait_that_was_woken_by_data_clears_the_fd(settled):
    """1.3 wait: clears the event."""
    server, peer = settled
    waiting = Task(server.wait)
    assert waiting.asleep()
    peer.sendall(b"x")
    waiting.result()
    assert quiet(server.fd)


# --- room ------------------------------------------------------------------------

def test_room_is_an_event_for_who_was_told_zero(settled):
    """1.3: room came free after someone saw too little; here: write got 0."""
    server, peer = settled
    total = vchan.fill(server)
    server.set_blocking(False)
    settle(server)
    assert server.write(b"x") == 0
    assert quiet(server.fd)
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)


def test_room_is_an_event_for_who_asked_buffer_space(settled):
    """1.3: room came free after someone saw too little; here: buffer_space 0."""
    server, peer = settled
    total = vchan.fill(server)
    settle(server)
    assert server.buffer_space == 0
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)


def test_room_is_an_event_for_who_only_asked_buffer_space(settled):
    """1.3: someone saw too little; here: nobody ever wrote more than fits."""
    server, peer = settled
    total = 0
    while size := vchan.space_that_stays(server):
        total += server.write(bytes(size))
    settle(server)
    assert server.buffer_space == 0
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)


def test_room_is_an_event_for_who_could_not_send(settled):
    """1.3: room came free after someone saw too little; here: send got 0."""
    server, peer = settled
    total = vchan.fill(server)
    server.set_blocking(False)
    settle(server)
    assert server.send(bytes(100)) == 0
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)


def test_room_is_an_event_for_who_found_too_little_but_not_none(settled):
    """1.3: too little is enough: a send that needs more than there is."""
    server, peer = settled
    total = vchan.leave_room(server, 1000)
    settle(server)
    server.set_blocking(False)
    assert server.send(bytes(PAGE)) == 0
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)
    until(lambda: server.buffer_space == PAGE)


def test_room_event_survives_a_read(settled):
    """1.3: a read never swallows any other event; here: room."""
    server, peer = settled
    total = vchan.fill(server)
    settle(server)
    server.set_blocking(False)
    assert server.write(b"x") == 0
    vchan.recv_exactly(peer, total)
    assert readable(server.fd)
    peer.sendall(b"y")
    until(lambda: server.read(1) == b"y")
    assert readable(server.fd)


def test_wait_returns_for_room(settled):
    """1.3: wait blocks until an event; room is one."""
    server, peer = settled
    total = vchan.fill(server)
    settle(server)
    server.set_blocking(False)
    assert server.write(b"x") == 0
    waiting = Task(server.wait)
    assert waiting.asleep()
    vchan.recv_exactly(peer, total)
    assert waiting.result() == 0


def test_blocked_writer_is_woken_by_room(settled):
    """1.3: a blocked writer goes on as soon as the peer reads."""
    server, peer = settled
    total = vchan.fill(server)
    writing = Task(server.write, pattern(10, total))
    assert writing.asleep()
    vchan.recv_exactly(peer, total)
    assert writing.result() == 10


def test_room_that_nobody_missed_is_no_event(settled):
    """1.3: quiet until an event; room is none when all had fitted."""
    server, peer = settled
    server.write(bytes(100))
    vchan.recv_exactly(peer, 100)
    assert quiet(server.fd)


def test_room_after_a_stream_that_nobody_missed_is_no_event(settled):
    """1.3: the same when the writes had gathered in the ring."""
    server, peer = settled
    for _ in range(100):
        server.write(b"12345678")
    vchan.recv_exactly(peer, 800)
    assert quiet(server.fd)


# --- the end -----------------------------------------------------------------------

def test_disconnected_is_an_event(settled):
    """1.3: something happened: disconnected."""
    server, peer = settled
    peer.close()
    assert readable(server.fd)
    until(lambda: server.is_open == DISCONNECTED)


def test_wait_returns_for_the_end(settled):
    """1.3: wait blocks until an event; disconnected is one."""
    server, peer = settled
    waiting = Task(server.wait)
    assert waiting.asleep()
    peer.close()
    assert waiting.result() == 0


def test_disconnected_event_survives_data_ready(settled):
    """1.3: data_ready swallows no event; here: disconnected."""
    server, peer = settled
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    assert server.data_ready == 0
    assert readable(server.fd)


def test_disconnected_event_survives_reads(settled):
    """1.3: a read never swallows any other event; here: disconnected."""
    server, peer = settled
    peer.sendall(b"bye")
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    assert vchan.read_until_end(server) == b"bye"
    assert readable(server.fd)


def test_disconnected_event_follows_a_wait_for_data(settled):
    """1.3: no event may be lost: the end after the data was waited for."""
    server, peer = settled
    peer.sendall(b"x")
    assert readable(server.fd)
    server.wait()
    peer.close()
    assert readable(server.fd)


def test_quiet_at_end_of_stream_after_wait(settled):
    """1.3: quiet also at end of stream (qrexec-agent would spin for ever)."""
    server, peer = settled
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    settle(server)
    assert quiet(server.fd)


def test_quiet_at_end_of_stream_with_unread_data(settled):
    """1.3: quiet at end of stream, and while unread data sits there."""
    server, peer = settled
    peer.sendall(bytes(PAGE))
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    settle(server)
    assert quiet(server.fd)
    assert vchan.read_until_end(server) == bytes(PAGE)


@pytest.mark.own_wires
@pytest.mark.parametrize("how", ["close", "half-close", "kill"])
def test_never_hup_or_err_at_the_end(how):
    """1.3: POLLIN only: never POLLHUP or POLLERR, programs spin on those."""
    server, leave = ending(how)
    settle(server)
    leave()
    assert readable(server.fd)
    until(lambda: server.is_open == DISCONNECTED)
    assert readable(server.fd)
    settle(server)
    assert quiet(server.fd)


def ending(how):
    """A server, and a function that makes its peer leave in that way."""
    if how == "kill":
        address = vchan.Address.fresh()
        server = address.open_server()
        client = Puppet.client_of(address)
        until(lambda: server.is_open == CONNECTED)
        server.write(bytes(100))
        return server, client.kill
    server, peer = vchan.with_raw_client()
    if how == "half-close":
        return server, lambda: peer.shutdown(socket.SHUT_WR)
    return server, peer.close


def test_never_hup_when_the_peer_closes_with_data_unread(settled):
    """1.3: never POLLERR, though the connection was reset."""
    server, peer = settled
    server.write(bytes(1000))
    peer.close()
    assert readable(server.fd)


def test_epoll_sees_pollin_only(settled):
    """1.3: POLLIN only, in epoll too, where HUP and ERR cannot be masked."""
    server, peer = settled
    peer.sendall(b"x")
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    assert by_epoll(server.fd)


def test_failed_write_is_followed_by_the_disconnected_event(settled):
    """1.3: a write that notices the end does not swallow the event."""
    server, peer = settled
    peer.close()
    until(lambda: vchan.error_of(server.write, b"x") == "EPIPE")
    assert readable(server.fd)


# --- many ----------------------------------------------------------------------------

@pytest.mark.deadline(240)
def test_hundred_thousand_one_byte_writes_with_nobody_reading():
    """1.3: a wake-up that nobody takes never fills up (65,536 once did)."""
    count = 100_000
    server, client = vchan.connected_pair(1 << 17, 1 << 17)
    writing = [Task(one_by_one, chan, count) for chan in (server, client)]
    for task in writing:
        task.result(200)
    for chan in (server, client):
        assert vchan.read_exactly(chan, count) == pattern(count)
        assert readable(chan.fd)


def one_by_one(chan, count):
    data = pattern(count)
    for position in range(count):
        assert chan.write(data[position:position + 1]) == 1


@pytest.mark.deadline(240)
def test_reader_that_sleeps_after_reading_what_was_ready_ten_thousand_times():
    """1.3: no event may be lost, with a writer that fills the ring each time."""
    rounds = vchan.scaled(10_000)
    server, client = vchan.connected_pair()
    total = rounds * PAGE
    writing = Task(write_rounds, client, rounds)
    got = sleeps = 0
    while got < total:
        assert readable(server.fd), f"asleep for ever at {got} of {total}"
        server.wait()
        sleeps += 1
        ready = server.data_ready
        assert server.recv(ready) == pattern(ready, got)
        got += ready
    writing.result()
    assert sleeps > 0


def write_rounds(chan, rounds):
    for number in range(rounds):
        chan.write(pattern(PAGE, number * PAGE))


def test_reader_that_empties_and_sleeps_wakes_for_every_message(settled):
    """1.3: reads until data_ready is 0, sleeps, wakes for the next byte, always."""
    server, peer = settled
    for number in range(2000):
        peer.sendall(b"%4d" % number)
        got = b""
        while len(got) < 4:
            assert readable(server.fd)
            server.wait()
            while ready := server.data_ready:
                got += server.read(ready)
        assert got == b"%4d" % number


def test_wait_alone_carries_a_conversation():
    """1.3: wait never misses an event: both ends sleep in nothing else."""
    server, client = vchan.connected_pair()
    rounds = 1000
    answering = Task(answer_by_wait, server, rounds)
    for number in range(rounds):
        client.write(b"%8d" % number)
        assert take_by_wait(client) == b"%8d" % number
    answering.result()


def answer_by_wait(chan, rounds):
    for _ in range(rounds):
        chan.write(take_by_wait(chan))


def take_by_wait(chan):
    while chan.data_ready < 8:
        chan.wait()
    return chan.recv(8)


def test_nonblocking_writer_that_sleeps_on_the_fd_moves_everything(settled):
    """1.3: a writer told 0 is woken by room each time, for 4 MiB."""
    server, peer = settled
    server.set_blocking(False)
    total, sent = 4 << 20, 0
    reading = Task(vchan.recv_exactly, peer, total)
    data = pattern(total)
    while sent < total:
        count = server.write(data[sent:sent + 50_000])
        sent += count
        if not count:
            assert readable(server.fd), f"asleep for ever at {sent}"
            server.wait()
    assert reading.result() == data
