# SPDX-License-Identifier: LGPL-2.1-or-later
"""After the peer has left (design 1.3, DISCONNECTED)."""
import socket

import pytest

import vchan
from vchan import DISCONNECTED, PAGE, Task, pattern


def gone(chan):
    """Wait until the handle knows that its peer has left."""
    vchan.until(lambda: chan.is_open == DISCONNECTED)


def end(peer):
    """The peer leaves; whatever it was, raw socket or vchan."""
    peer.close()


def test_peer_close_shows_as_disconnected(raw_client):
    """1.3: is_open becomes 0."""
    server, peer = raw_client
    end(peer)
    gone(server)


def test_close_of_a_vchan_client_shows(pair):
    """1.3: the peer is one of ours."""
    server, client = pair
    client.close()
    gone(server)


def test_close_of_a_vchan_server_shows(pair):
    """1.3: the same in the other direction."""
    server, client = pair
    server.close()
    gone(client)


def test_disconnected_shows_without_any_other_call(raw_client):
    """1.3: is_open alone notices, though unread data sits there."""
    server, peer = raw_client
    peer.sendall(bytes(100))
    end(peer)
    gone(server)


def test_disconnected_shows_while_more_than_a_ring_is_unread(raw_client):
    """1.3: the end is seen, however much is unread before it."""
    server, peer = raw_client
    peer.sendall(bytes(20 * PAGE))
    end(peer)
    gone(server)


def test_disconnected_is_final_for_a_server(address):
    """1.3: DISCONNECTED is final, there is no reconnect."""
    server = address.open_server()
    end(address.connect_raw())
    gone(server)
    assert vchan.refused(address.vsock_port)
    assert server.is_open == DISCONNECTED


def test_disconnected_is_final_for_a_client(raw_server, address):
    """1.3: no reconnect, though the address is served again."""
    listener = address.listen_raw()
    client = address.open_client()
    end(vchan.accept_raw(listener))
    gone(client)
    assert vchan.quiet(listener.fileno())
    assert client.is_open == DISCONNECTED


@pytest.mark.parametrize("call", ["write", "send"])
@pytest.mark.parametrize("blocking", [True, False])
def test_writes_fail_even_with_room(raw_client, call, blocking):
    """1.3 DISCONNECTED: writes fail even with room in the ring."""
    server, peer = raw_client
    end(peer)
    gone(server)
    server.set_blocking(blocking)
    errors = {vchan.error_of(getattr(server, call), b"x") for _ in range(3)}
    assert errors == {"EPIPE"}


def test_write_fails_once_the_end_was_seen_with_unread_data(raw_client):
    """1.3 DISCONNECTED: writes fail, whatever there is to read."""
    server, peer = raw_client
    peer.sendall(bytes(100))
    end(peer)
    gone(server)
    assert vchan.error_of(server.write, b"x") == "EPIPE"


def test_what_was_sent_before_closing_is_read_to_the_last_byte(raw_client):
    """1.3 DISCONNECTED: what the peer sent can still be read."""
    server, peer = raw_client
    peer.sendall(pattern(50_000))
    end(peer)
    gone(server)
    assert vchan.read_until_end(server) == pattern(50_000)


def test_what_a_vchan_peer_sent_before_closing_is_read(pair):
    """1.3 DISCONNECTED: the same when the peer is one of ours."""
    server, client = pair

    def send_and_leave():
        client.write(pattern(50_000))
        client.close()

    leaving = Task(send_and_leave)
    assert vchan.read_until_end(server) == pattern(50_000)
    leaving.result()


def test_reading_goes_on_after_a_write_has_failed(raw_client):
    """1.3 DISCONNECTED: ... also after a write has failed (95,904 bytes lost once)."""
    server, peer = raw_client
    peer.sendall(pattern(100_000))
    end(peer)
    gone(server)
    assert vchan.error_of(server.write, b"x") == "EPIPE"
    assert vchan.read_until_end(server) == pattern(100_000)


def test_reading_goes_on_after_the_write_that_noticed(raw_client):
    """1.3 DISCONNECTED: the write that hits the closed socket loses nothing."""
    server, peer = raw_client
    peer.sendall(pattern(50_000))
    end(peer)
    vchan.until(lambda: vchan.error_of(server.write, b"x") == "EPIPE")
    assert vchan.read_until_end(server) == pattern(50_000)


def test_peer_that_closes_with_data_unread_loses_nothing_of_its_own(raw_client):
    """1.3 DISCONNECTED: to the last byte, though the peer did not read ours."""
    server, peer = raw_client
    server.write(bytes(1000))
    peer.sendall(pattern(50_000))
    end(peer)
    assert vchan.read_until_end(server) == pattern(50_000)


def test_not_open_and_nothing_ready_means_that_nothing_is_left(raw_client):
    """1.3: is_open() == 0, then data_ready() == 0: nothing left, now or later."""
    server, peer = raw_client
    peer.sendall(pattern(30_000))
    end(peer)
    got = b""
    while True:
        # qrexec's loop: in this order.
        is_open, ready = server.is_open, server.data_ready
        if not is_open and not ready:
            break
        got += server.read(ready) if ready else b""
    assert got == pattern(30_000)
    assert vchan.error_of(server.read, 1) == "ECONNRESET"


def test_buffer_space_is_zero(raw_client):
    """1.3 DISCONNECTED: nothing can be written, so there is no room."""
    server, peer = raw_client
    end(peer)
    gone(server)
    assert server.buffer_space == 0


def test_wait_returns_zero_at_once_every_time(raw_client):
    """1.3: wait returns 0 at once when disconnected."""
    server, peer = raw_client
    end(peer)
    gone(server)
    assert {Task(server.wait).result() for _ in range(5)} == {0}


def test_half_close_of_the_peer_counts_as_its_end(raw_client):
    """1.3: a peer that shuts down its sending side has ended."""
    server, peer = raw_client
    peer.sendall(b"last words")
    peer.shutdown(socket.SHUT_WR)
    gone(server)
    assert vchan.read_until_end(server) == b"last words"


def test_what_was_written_before_a_half_close_is_delivered(raw_client):
    """1.3: what we wrote before the peer's half-close still arrives."""
    server, peer = raw_client
    server.write(b"hello")
    peer.shutdown(socket.SHUT_WR)
    gone(server)
    assert vchan.recv_exactly(peer, 5) == b"hello"


def test_data_ready_never_goes_negative_at_the_end(raw_client):
    """1.3: data_ready and buffer_space are never negative."""
    server, peer = raw_client
    peer.sendall(b"x")
    end(peer)
    gone(server)
    server.recv(1)
    vchan.error_of(server.recv, 1)
    vchan.error_of(server.write, b"x")
    assert (server.data_ready, server.buffer_space) == (0, 0)
