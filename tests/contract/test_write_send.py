# SPDX-License-Identifier: LGPL-2.1-or-later
"""write and send, blocking and not (design 1.3, the table and below it)."""
import errno
import socket

import pytest

import vchan
from vchan import PAGE, Task, ffi, pattern

# More than every buffer on the way: two rings and the kernel's.
MUCH = 8 << 20


def test_blocking_write_writes_everything_and_returns_size(raw_client):
    """1.3: blocking write: everything; returns size."""
    server, peer = raw_client
    data = pattern(MUCH)
    writing = Task(server.write, data)
    assert vchan.recv_exactly(peer, MUCH) == data
    assert writing.result() == MUCH


def test_blocking_write_of_client_writes_everything(raw_server):
    """1.3: the same for a client."""
    client, peer = raw_server
    data = pattern(MUCH)
    writing = Task(client.write, data)
    assert vchan.recv_exactly(peer, MUCH) == data
    assert writing.result() == MUCH


def test_blocking_write_blocks_while_nobody_reads(raw_client):
    """1.3: blocking write: everything, so not before there is room for it."""
    server, _ = raw_client
    assert Task(server.write, bytes(MUCH)).asleep()


def test_blocking_write_that_fits_in_part_writes_everything(raw_client):
    """1.3: blocking write: everything; returns size."""
    server, peer = raw_client
    vchan.leave_room(server, 1000)
    writing = Task(server.write, bytes(2000))
    assert writing.asleep()
    reading = Task(vchan.recv_all, peer)
    assert writing.result() == 2000
    server.close()
    reading.result()


def test_blocking_write_never_returns_zero(raw_client):
    """1.3: never 0 for size > 0 (0 is fatal for the GUI daemon)."""
    server, peer = raw_client
    reading = Task(vchan.recv_exactly, peer, 1000 * 3000)
    assert {server.write(bytes(3000)) for _ in range(1000)} == {3000}
    reading.result()


def test_nonblocking_write_writes_what_fits(raw_client):
    """1.3: non-blocking write: what fits now."""
    server, peer = raw_client
    server.set_blocking(False)
    data = pattern(MUCH)
    count = server.write(data)
    assert 0 < count < MUCH
    assert vchan.recv_exactly(peer, count) == data[:count]


def test_nonblocking_write_returns_zero_when_full(raw_client):
    """1.3: non-blocking write: may be 0 (qubesdb expects it)."""
    server, _ = raw_client
    vchan.fill(server)
    server.set_blocking(False)
    assert server.write(b"x") == 0


def test_nonblocking_write_continues_exactly_where_it_stopped(raw_client):
    """1.3: what write returned is what it took, not a byte more or less."""
    server, peer = raw_client
    total = vchan.fill(server)
    assert vchan.recv_exactly(peer, total) == pattern(total)
    server.write(b"end")
    assert vchan.recv_exactly(peer, 3) == b"end"


def test_blocking_send_sends_all_at_once(raw_client):
    """1.3: blocking send: all at once, returns size."""
    server, peer = raw_client
    assert server.send(pattern(PAGE)) == PAGE
    assert vchan.recv_exactly(peer, PAGE) == pattern(PAGE)


def test_blocking_send_waits_until_all_fits(raw_client):
    """1.3: blocking send waits for room for all of it."""
    server, peer = raw_client
    total = vchan.fill(server)
    sending = Task(server.send, pattern(PAGE, total))
    assert sending.asleep()
    assert vchan.recv_exactly(peer, total + PAGE) == pattern(total + PAGE)
    assert sending.result() == PAGE


@pytest.mark.parametrize("blocking", [True, False])
def test_send_over_the_ring_is_emsgsize(raw_client, blocking):
    """1.3: send: size over the ring: -1/EMSGSIZE."""
    server, _ = raw_client
    server.set_blocking(blocking)
    assert vchan.error_of(server.send, bytes(PAGE + 1)) == "EMSGSIZE"


def test_send_over_the_ring_sends_nothing(raw_client):
    """1.3: send is all or nothing: after EMSGSIZE the stream is untouched."""
    server, peer = raw_client
    vchan.error_of(server.send, bytes(PAGE + 1))
    server.send(b"next")
    assert vchan.recv_exactly(peer, 4) == b"next"


def test_nonblocking_send_returns_size_when_it_fits(raw_client):
    """1.3: non-blocking send: size ..."""
    server, peer = raw_client
    server.set_blocking(False)
    assert server.send(b"hello") == 5
    assert vchan.recv_exactly(peer, 5) == b"hello"


def test_nonblocking_send_is_all_or_nothing(monkeypatch):
    """1.3: ... or 0 when it does not fit now; never a part of it."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")  # close is to deliver all of it
    server, peer = vchan.with_raw_client()
    server.set_blocking(False)
    size, accepted, zeros = 3000, 0, 0
    while zeros < 20:
        count = server.send(pattern(size, accepted))
        assert count in (0, size)
        accepted += count
        zeros = 0 if count else zeros + vchan.quiet(peer.fileno(), 5) + 1
    server.set_blocking(True)
    closing = Task(server.close)
    assert vchan.recv_all(peer) == pattern(accepted)
    closing.result()


@pytest.mark.parametrize("call", ["write", "send", "read", "recv"])
@pytest.mark.parametrize("blocking", [True, False])
def test_size_zero_returns_zero_when_connected(raw_client, call, blocking):
    """1.3: size 0 returns 0 at once, in any state; here: connected, empty."""
    server, _ = raw_client
    server.set_blocking(blocking)
    assert server._call(call, ffi.NULL, 0) == 0


@pytest.mark.parametrize("call", ["write", "send"])
def test_size_zero_returns_zero_when_full(raw_client, call):
    """1.3: size 0 returns 0 at once, also when nothing fits."""
    server, _ = raw_client
    vchan.fill(server)
    assert server._call(call, ffi.NULL, 0) == 0


@pytest.mark.parametrize("call", ["write", "send", "read", "recv"])
def test_size_zero_returns_zero_while_waiting(address, call):
    """1.3: size 0 returns 0 at once, in any state; here: waiting."""
    server = address.open_server()
    assert server._call(call, ffi.NULL, 0) == 0


@pytest.mark.parametrize("call", ["write", "send", "read", "recv"])
def test_null_buffer_is_einval(raw_client, call):
    """1.3: EINVAL for bad arguments; here: a NULL buffer of 1 byte."""
    server, _ = raw_client
    assert vchan.error_of(server._call, call, ffi.NULL, 1) == "EINVAL"


def test_write_over_int_max_is_einval(raw_client):
    """1.3: EINVAL for bad arguments; bytes come out as an int."""
    server, _ = raw_client
    byte = ffi.new("char[1]")
    assert vchan.error_of(server._call, "write", byte, 2**31) == "EINVAL"


def test_buffer_space_can_be_written_without_blocking(raw_client):
    """1.3: never block for what buffer_space promised, though nobody reads."""
    server, _ = raw_client
    while (space := server.buffer_space) > 0:
        assert Task(server.write, bytes(space)).result() == space


def test_buffer_space_can_be_sent_without_blocking(raw_server):
    """1.3: the same with send, piece by piece, as the GUI daemon does."""
    client, _ = raw_server
    while (space := client.buffer_space) > 0:
        size = min(space, 10_000)
        assert Task(client.send, bytes(size)).result() == size


def test_buffer_space_is_never_negative_when_full(raw_client):
    """1.3: buffer_space is never negative."""
    server, _ = raw_client
    vchan.fill(server)
    assert server.buffer_space == 0


def test_buffer_space_comes_back_when_the_peer_reads(raw_client):
    """1.3: room that came free is there to be written to."""
    server, peer = raw_client
    total = vchan.fill(server)
    vchan.recv_exactly(peer, total)
    vchan.until(lambda: server.buffer_space == PAGE)


def test_write_to_disconnected_peer_is_epipe(raw_client):
    """1.3: EPIPE writing to a disconnected peer."""
    server, peer = raw_client
    peer.close()
    vchan.until(lambda: server.is_open == vchan.DISCONNECTED)
    assert vchan.error_of(server.write, b"x") == "EPIPE"


def test_send_to_disconnected_peer_is_epipe(raw_client):
    """1.3: EPIPE writing to a disconnected peer; with send."""
    server, peer = raw_client
    peer.close()
    vchan.until(lambda: server.is_open == vchan.DISCONNECTED)
    assert vchan.error_of(server.send, b"x") == "EPIPE"


@pytest.mark.parametrize("call", ["write", "send"])
def test_blocked_writer_fails_when_the_peer_leaves(raw_client, call):
    """1.3: EPIPE also for a writer that was blocked when the peer left."""
    server, peer = raw_client
    vchan.fill(server)
    writing = Task(getattr(server, call), bytes(PAGE))
    assert writing.asleep()
    peer.close()
    with pytest.raises(OSError) as caught:
        writing.result()
    assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("size", [1, PAGE, MUCH], ids=["gathering", "small", "large"])
def test_blocked_writer_fails_at_half_close(raw_client, size):
    """1.3: EPIPE also when the peer only ends its own direction."""
    server, peer = raw_client
    vchan.fill(server)
    writing = Task(vchan.error_of, server.write, bytes(size))
    assert writing.asleep()
    peer.shutdown(socket.SHUT_WR)
    assert writing.result() == "EPIPE"


def test_write_of_more_than_int_would_hold_is_not_attempted(raw_client):
    """1.3: after EINVAL for the size the channel goes on as if not asked."""
    server, peer = raw_client
    vchan.error_of(server._call, "write", ffi.new("char[1]"), 2**32 + 5)
    server.write(b"fine")
    assert vchan.recv_exactly(peer, 4) == b"fine"
