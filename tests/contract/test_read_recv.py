# SPDX-License-Identifier: LGPL-2.1-or-later
"""read and recv, blocking and not (design 1.3, the table and below it)."""
import errno

import pytest

import vchan
from vchan import PAGE, Task, pattern


def arrived(chan, size):
    """Wait until that many bytes are ready."""
    vchan.until(lambda: chan.data_ready >= size)


def test_blocking_read_waits_for_a_byte(raw_client):
    """1.3: blocking read: at least 1 byte."""
    server, peer = raw_client
    reading = Task(server.read, 100)
    assert reading.asleep()
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_blocking_read_returns_what_is_there(raw_client):
    """1.3: blocking read: does not wait for all that was asked for."""
    server, peer = raw_client
    peer.sendall(b"hello")
    arrived(server, 5)
    assert server.read(100) == b"hello"


def test_read_returns_at_most_a_rings_worth(raw_client):
    """1.3: read: at most a ring's worth."""
    server, peer = raw_client
    peer.sendall(bytes(10 * PAGE))
    arrived(server, PAGE)
    assert 1 <= len(server.read(10 * PAGE)) <= PAGE


def test_direct_read_returns_at_most_a_rings_worth(raw_client):
    """1.3: the same for a read that finds the ring empty."""
    server, peer = raw_client
    reading = Task(server.read, 10 * PAGE)
    reading.asleep()
    peer.sendall(bytes(10 * PAGE))
    assert 1 <= len(reading.result()) <= PAGE


def test_read_returns_no_more_than_asked(raw_client):
    """1.3: read: at most size bytes; the rest stays for the next."""
    server, peer = raw_client
    peer.sendall(b"hello")
    arrived(server, 5)
    assert (server.read(2), server.read(3)) == (b"he", b"llo")


def test_nonblocking_read_returns_zero_when_empty(raw_client):
    """1.3: non-blocking read: may be 0."""
    server, _ = raw_client
    server.set_blocking(False)
    assert server.read(10) == b""


def test_nonblocking_read_returns_what_is_there(raw_client):
    """1.3: non-blocking read: what is there, without data_ready before."""
    server, peer = raw_client
    server.set_blocking(False)
    peer.sendall(b"hello")
    assert vchan.until(lambda: server.read(100)) == b"hello"


def test_blocking_recv_waits_for_all(raw_client):
    """1.3: blocking recv: exactly size."""
    server, peer = raw_client
    receiving = Task(server.recv, 10)
    peer.sendall(b"01234")
    assert receiving.asleep()
    peer.sendall(b"56789")
    assert receiving.result() == b"0123456789"


def test_recv_takes_no_more_than_size(raw_client):
    """1.3: recv: exactly size."""
    server, peer = raw_client
    peer.sendall(b"0123456789")
    arrived(server, 10)
    assert (server.recv(3), server.data_ready) == (b"012", 7)


def test_recv_of_a_whole_ring(raw_client):
    """1.3: recv: up to the ring's size is legal."""
    server, peer = raw_client
    peer.sendall(pattern(PAGE))
    assert server.recv(PAGE) == pattern(PAGE)


@pytest.mark.parametrize("blocking", [True, False])
def test_recv_over_the_ring_is_emsgsize(raw_client, blocking):
    """1.3: recv: over the ring: -1/EMSGSIZE."""
    server, _ = raw_client
    server.set_blocking(blocking)
    assert vchan.error_of(server.recv, PAGE + 1) == "EMSGSIZE"


def test_recv_over_the_ring_takes_nothing(raw_client):
    """1.3: after EMSGSIZE every byte is still there."""
    server, peer = raw_client
    peer.sendall(b"hello")
    arrived(server, 5)
    vchan.error_of(server.recv, PAGE + 1)
    assert server.recv(5) == b"hello"


def test_nonblocking_recv_is_all_or_nothing(raw_client):
    """1.3: non-blocking recv: size, or 0."""
    server, peer = raw_client
    server.set_blocking(False)
    peer.sendall(b"0123")
    arrived(server, 4)
    assert server.recv(5) == b""
    peer.sendall(b"4")
    assert vchan.until(lambda: server.recv(5)) == b"01234"


def test_data_ready_can_be_received_without_blocking(raw_client):
    """1.3: never block for what data_ready promised."""
    server, peer = raw_client
    peer.sendall(bytes(1000))
    ready = vchan.until(lambda: server.data_ready)
    assert len(Task(server.recv, ready).result()) == ready


def test_data_ready_makes_progress_by_itself(raw_client):
    """1.3: a program may spin on data_ready and nothing else (qubesdb does)."""
    server, peer = raw_client
    peer.sendall(bytes(3072))
    vchan.until(lambda: server.data_ready == 3072)


def test_data_ready_is_zero_when_nothing_came(raw_client):
    """1.3: data_ready is never negative; nothing is 0."""
    assert raw_client[0].data_ready == 0


def test_data_ready_promises_no_more_than_the_ring(raw_client):
    """1.3: what data_ready promises, recv can take: at most the ring."""
    server, peer = raw_client
    peer.sendall(bytes(10 * PAGE))
    vchan.until(lambda: server.data_ready == PAGE)
    assert len(server.recv(PAGE)) == PAGE


def test_data_beyond_the_ring_follows(raw_client):
    """1.3: bytes that waited in the kernel come when the ring has room."""
    server, peer = raw_client
    peer.sendall(pattern(20 * PAGE))
    arrived(server, PAGE)
    assert vchan.read_exactly(server, 20 * PAGE) == pattern(20 * PAGE)


def test_read_after_the_peer_left_is_econnreset(raw_client):
    """1.3: ECONNRESET reading once nothing is left."""
    server, peer = raw_client
    peer.close()
    assert vchan.error_of(server.read, 1) == "ECONNRESET"


def test_end_of_stream_is_never_zero_in_blocking_mode(raw_client):
    """1.3: never 0 at end of stream in blocking mode, however often asked."""
    server, peer = raw_client
    peer.sendall(b"bye")
    peer.close()
    assert vchan.read_until_end(server) == b"bye"
    errors = {vchan.error_of(server.read, 1) for _ in range(5)}
    assert errors == {"ECONNRESET"}


def test_nonblocking_read_after_the_end_is_econnreset(raw_client):
    """1.3: ECONNRESET reading from a disconnected peer, non-blocking too."""
    server, peer = raw_client
    peer.close()
    vchan.until(lambda: server.is_open == vchan.DISCONNECTED)
    server.set_blocking(False)
    assert vchan.error_of(server.read, 1) == "ECONNRESET"


@pytest.mark.parametrize("blocking", [True, False])
def test_recv_of_more_than_is_left_is_econnreset(raw_client, blocking):
    """1.3: recv fails when the peer left before sending all of it."""
    server, peer = raw_client
    peer.sendall(b"abc")
    peer.close()
    vchan.until(lambda: server.is_open == vchan.DISCONNECTED)
    server.set_blocking(blocking)
    assert vchan.error_of(server.recv, 4) == "ECONNRESET"


def test_what_recv_could_not_take_can_still_be_read(raw_client):
    """1.3: what the peer sent can be read to the last byte, a failed recv or not."""
    server, peer = raw_client
    peer.sendall(b"abc")
    peer.close()
    vchan.error_of(server.recv, 4)
    assert server.read(10) == b"abc"


@pytest.mark.parametrize("call", ["read", "recv"])
def test_blocked_reader_fails_when_the_peer_leaves(raw_client, call):
    """1.3: ECONNRESET also for a reader that was blocked when the peer left."""
    server, peer = raw_client
    reading = Task(getattr(server, call), 10)
    assert reading.asleep()
    peer.close()
    with pytest.raises(OSError) as caught:
        reading.result()
    assert caught.value.errno == errno.ECONNRESET


def test_set_blocking_switches_back(raw_client):
    """1.3: set_blocking chooses the mode, either way."""
    server, peer = raw_client
    server.set_blocking(False)
    assert server.read(1) == b""
    server.set_blocking(True)
    reading = Task(server.read, 1)
    assert reading.asleep()
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_a_handle_starts_in_blocking_mode(raw_server):
    """1.3: blocking is the default; here for a client."""
    client, peer = raw_server
    reading = Task(client.read, 1)
    assert reading.asleep()
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_recv_into_the_middle_of_a_stream_of_odd_sizes(raw_server):
    """1.3: recv and read see one stream, whatever the sizes."""
    client, peer = raw_server
    peer.sendall(pattern(100_000))
    got = b"".join(client.recv(1 + n * 37 % 4000) if n % 2 else
                   client.read(1 + n * 53 % 900) for n in range(40))
    assert got == pattern(len(got))
