# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the library relies on in AF_VSOCK: buffers, the end, half-close."""
import contextlib
import select
import socket
import subprocess
import sys

import pytest

import vchan
from vchan import accept_raw, pattern, raw_connect, raw_listen, raw_socket

SO_VM_SOCKETS_BUFFER_SIZE, SO_VM_SOCKETS_BUFFER_MAX_SIZE = 0, 2


@pytest.fixture
def port():
    return vchan.Address.fresh().vsock_port


@pytest.fixture
def ends(port):
    """Two plain sockets, connected."""
    listener = raw_listen(port)
    client = raw_connect(port)
    return client, accept_raw(listener)


def get(sock, option):
    return sock.getsockopt(socket.AF_VSOCK, option)


def put(sock, option, value):
    sock.setsockopt(socket.AF_VSOCK, option, value)


# --- buffers ------------------------------------------------------------------

def test_buffer_is_256_kib_by_default():
    """SO_VM_SOCKETS_BUFFER_SIZE: default 262144."""
    assert get(raw_socket(), SO_VM_SOCKETS_BUFFER_SIZE) == 262144


def test_buffer_above_the_maximum_is_cut_silently():
    """Raising it above BUFFER_MAX_SIZE is silently cut: set MAX first."""
    sock = raw_socket()
    put(sock, SO_VM_SOCKETS_BUFFER_SIZE, 4 << 20)
    assert get(sock, SO_VM_SOCKETS_BUFFER_SIZE) == 262144


def test_buffer_can_be_raised_after_its_maximum():
    """MAX, then SIZE."""
    sock = raw_socket()
    put(sock, SO_VM_SOCKETS_BUFFER_MAX_SIZE, 4 << 20)
    put(sock, SO_VM_SOCKETS_BUFFER_SIZE, 4 << 20)
    assert get(sock, SO_VM_SOCKETS_BUFFER_SIZE) == 4 << 20


def test_accepted_socket_inherits_the_listeners_buffer(port):
    """An accepted socket inherits the listener's."""
    listener = raw_listen(port)
    put(listener, SO_VM_SOCKETS_BUFFER_MAX_SIZE, 4 << 20)
    put(listener, SO_VM_SOCKETS_BUFFER_SIZE, 4 << 20)
    raw_connect(port)
    assert get(accept_raw(listener), SO_VM_SOCKETS_BUFFER_SIZE) == 4 << 20


def test_what_may_be_in_flight_is_bounded(ends):
    """A writer whose peer does not read is told to wait, sooner or later."""
    assert in_flight(ends[0]) <= 1 << 20


def in_flight(sock):
    """How much a plain socket takes while nobody reads."""
    sock.setblocking(False)
    total = 0
    with contextlib.suppress(BlockingIOError):
        while total < 64 << 20:
            total += sock.send(pattern(4096, total))
    return total


def test_room_wakes_a_poll_for_pollout(ends):
    """A full socket is POLLOUT again once the peer has read."""
    client, server = ends
    total = in_flight(client)
    assert vchan.poll(client.fileno(), 50, select.POLLOUT) == 0
    vchan.recv_exactly(server, total)
    assert vchan.poll(client.fileno(), 30_000, select.POLLOUT) == select.POLLOUT


# --- the end --------------------------------------------------------------------

def test_what_was_sent_before_close_is_delivered_then_zero(ends):
    """recv after the peer closed: what was sent before, then 0."""
    client, server = ends
    client.sendall(pattern(200_000))
    client.close()
    assert vchan.recv_all(server) == pattern(200_000)


def test_nothing_is_lost_when_the_sender_closes_with_data_unread(ends):
    """200,000 bytes sent, then close with unread data of its own: all arrived."""
    client, server = ends
    server.sendall(b"unread")
    client.sendall(pattern(200_000))
    client.close()
    assert vchan.recv_all(server) == pattern(200_000)


SEND_AND_DIE = """
import os, socket, sys
sock = socket.socket(socket.AF_VSOCK)
sock.connect((1, int(sys.argv[1])))
sock.sendall(bytes(250_000))
os._exit(0)
"""


def test_nothing_is_lost_when_the_sender_exits(port):
    """250,000 bytes sent, then _exit: all arrived."""
    listener = raw_listen(port)
    with subprocess.Popen([sys.executable, "-c", SEND_AND_DIE, str(port)]):
        assert vchan.recv_all(accept_raw(listener)) == bytes(250_000)


def test_send_after_the_peer_closed_is_epipe(ends):
    """send after the peer closed: EPIPE, without a signal if MSG_NOSIGNAL."""
    client, server = ends
    server.close()
    vchan.until(lambda: error_of_send(client))
    assert error_of_send(client) == "EPIPE"


def error_of_send(sock):
    return vchan.error_of(sock.send, b"x", socket.MSG_NOSIGNAL)


def test_half_close_is_the_end_of_one_direction(ends):
    """virtio gives full POSIX half-close."""
    client, server = ends
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert vchan.recv_all(server) == b"last"
    server.sendall(b"answer")
    assert vchan.recv_exactly(client, 6) == b"answer"


def test_half_close_shows_as_rdhup(ends):
    """EPOLLRDHUP: the peer shut down its sending side, data unread or not."""
    client, server = ends
    client.sendall(b"unread")
    client.shutdown(socket.SHUT_WR)
    assert vchan.poll(server.fileno(), 30_000, select.POLLRDHUP) & select.POLLRDHUP


def test_close_shows_as_rdhup(ends):
    """A closed peer shows to a poll for hang-up only, with data unread."""
    client, server = ends
    client.sendall(bytes(100_000))
    client.close()
    assert vchan.poll(server.fileno(), 30_000, select.POLLRDHUP) & select.POLLRDHUP


def test_data_does_not_wake_a_poll_for_hang_up(ends):
    """The connection thread sleeps in poll for hang-up only."""
    client, server = ends
    client.sendall(b"x")
    assert vchan.poll(server.fileno(), 100, select.POLLRDHUP) == 0


# --- epoll, edge-triggered ----------------------------------------------------------

@pytest.fixture
def edges(ends):
    """(peer, socket, epoll fd): the socket in an edge-triggered epoll set."""
    peer, sock = ends
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    epoll.poll(0)
    yield peer, sock, epoll
    epoll.close()


def test_epoll_fd_is_readable_on_arrival(edges):
    """That makes the epoll fd itself pollable with event-channel manners."""
    peer, _, epoll = edges
    assert vchan.quiet(epoll.fileno(), 50)
    peer.sendall(b"x")
    assert vchan.readable(epoll.fileno())


def test_epoll_fd_is_quiet_after_epoll_wait_with_data_unread(edges):
    """... not readable again after epoll_wait consumed it."""
    peer, _, epoll = edges
    peer.sendall(b"x")
    vchan.readable(epoll.fileno())
    epoll.poll(0)
    assert vchan.quiet(epoll.fileno())


def test_epoll_fd_is_readable_again_on_the_next_arrival(edges):
    """... readable again on the next arrival."""
    peer, _, epoll = edges
    for _ in range(100):
        peer.sendall(b"x")
        assert vchan.readable(epoll.fileno())
        epoll.poll(0)


def test_epoll_fd_is_readable_once_on_the_peers_close(edges):
    """... and once on the peer's close."""
    peer, _, epoll = edges
    peer.close()
    assert vchan.readable(epoll.fileno())
    vchan.until(lambda: not epoll.poll(0) and vchan.quiet(epoll.fileno(), 50))
    assert vchan.quiet(epoll.fileno())


def test_own_sends_and_the_peers_reads_cause_no_edge(edges):
    """The socket's own sends and the peer's reads cause no edge."""
    peer, sock, epoll = edges
    sock.sendall(bytes(100_000))
    vchan.recv_exactly(peer, 100_000)
    assert vchan.quiet(epoll.fileno())


def test_epoll_fd_stays_readable_when_data_is_read_before_epoll_wait(edges):
    """An epoll fd whose data is gone may say so: poll looks again."""
    peer, sock, epoll = edges
    peer.sendall(b"x")
    assert vchan.readable(epoll.fileno())
    sock.recv(1)
    # Either answer is safe for us; an error would not be.
    assert vchan.poll(epoll.fileno(), 50) in (0, select.POLLIN)


def test_epoll_fd_never_reports_hup(edges):
    """The epoll fd shows a dead socket as POLLIN, never as POLLHUP."""
    peer, _, epoll = edges
    peer.close()
    assert vchan.poll(epoll.fileno(), 30_000) == select.POLLIN
