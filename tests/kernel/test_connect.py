# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the library relies on in AF_VSOCK: addresses, listening, connecting.

No code of ours runs here.  Where one of these fails on a new kernel, look at
what leans on it before anything else.
"""
import errno
import select
import socket
import struct
import time

import pytest

import vchan
from vchan import (CID_ANY, CID_HOST, CID_LOCAL, Task, accept_raw, raw_connect,
                   raw_listen, raw_socket)

SO_VM_SOCKETS_CONNECT_TIMEOUT = 6
# A CID above those that the lab gives to machines.
NOBODY = 0x7FFF1234


@pytest.fixture
def port():
    return vchan.Address.fresh().vsock_port


def connect_error(cid, port):
    return vchan.error_of(raw_connect, port, cid)


def wait_for_connect(sock):
    """The SO_ERROR of a non-blocking connect once POLLOUT says it is known."""
    assert vchan.poll(sock.fileno(), 30_000, select.POLLOUT) & select.POLLOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_local_peer_is_cid_1(port):
    """Over loopback the accepted peer is CID 1 when it connected to CID 1."""
    listener = raw_listen(port)
    raw_connect(port)
    assert accept_raw(listener).getpeername()[0] == CID_LOCAL


def test_listener_on_any_cid_is_reached_over_cid_1(port):
    """A server that bound VMADDR_CID_ANY is reached from its own machine."""
    listener = raw_listen(port, cid=CID_ANY)
    raw_connect(port, CID_LOCAL)
    accept_raw(listener)


def test_nobody_listens_is_econnreset_at_once(port):
    """Peer up, nobody listens: ECONNRESET at once, so that we try again."""
    assert connect_error(CID_LOCAL, port) == "ECONNRESET"


def test_no_such_machine_is_enodev_at_once(port):
    """Host to a CID that no machine has: ENODEV at once."""
    before = time.monotonic()
    assert connect_error(NOBODY, port) == "ENODEV"
    assert time.monotonic() - before < vchan.A_SECOND


def test_full_backlog_is_econnreset(port):
    """listen(fd, 1) holds 2 pending connections, the next gets ECONNRESET."""
    raw_listen(port, backlog=1)
    raw_connect(port)
    raw_connect(port)
    assert connect_error(CID_LOCAL, port) == "ECONNRESET"


def test_taken_port_is_eaddrinuse(port):
    """A port has one listener."""
    raw_listen(port)
    assert vchan.error_of(raw_listen, port) == "EADDRINUSE"


def test_port_is_free_as_soon_as_the_listener_is_closed(port):
    """A port can be bound again at once, while an accepted connection lives."""
    listener = raw_listen(port)
    raw_connect(port)
    connection = accept_raw(listener)
    listener.close()
    raw_listen(port)
    assert connection.fileno() >= 0


def test_closing_the_listener_resets_who_waits_in_its_backlog(port):
    """A client in the backlog of a closed listener learns it."""
    listener = raw_listen(port)
    waiting = raw_connect(port)
    listener.close()
    assert vchan.shut_out(waiting)


def test_closed_listener_is_econnreset(port):
    """A port whose listener was closed is like one that never had any."""
    raw_listen(port).close()
    assert connect_error(CID_LOCAL, port) == "ECONNRESET"


def test_nonblocking_connect_tells_success_by_pollout(port):
    """Non-blocking connect: EINPROGRESS or done, then POLLOUT, then SO_ERROR."""
    raw_listen(port)
    sock = raw_socket()
    sock.setblocking(False)
    assert sock.connect_ex((CID_LOCAL, port)) in (0, errno.EINPROGRESS)
    assert wait_for_connect(sock) == 0


def test_nonblocking_connect_tells_failure_by_so_error(port):
    """... and the reason of a failure is in SO_ERROR."""
    sock = raw_socket()
    sock.setblocking(False)
    error = sock.connect_ex((CID_LOCAL, port))
    if error == errno.EINPROGRESS:
        error = wait_for_connect(sock)
    assert error == errno.ECONNRESET


def test_connect_timeout_can_be_set():
    """SO_VM_SOCKETS_CONNECT_TIMEOUT takes a timeval."""
    one_second = struct.pack("qq", 1, 0)
    # Python would make a u64 of an option of a socket that it knows as vsock.
    with socket.socket(socket.AF_INET, fileno=raw_socket().detach()) as sock:
        option = socket.AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT
        sock.setsockopt(*option, one_second)
        assert sock.getsockopt(*option, 16) == one_second


def test_domain_2_leads_home_on_a_host(port):
    """On a host that is no guest itself, CID 2 is this machine, and says CID 1."""
    listener = raw_listen(port)
    try:
        raw_connect(port, CID_HOST)
    except OSError as error:
        pytest.skip(f"a guest itself: {error}")
    if not vchan.poll(listener.fileno(), 1000):
        pytest.skip("a guest itself: CID 2 leads to somebody else")
    assert accept_raw(listener).getpeername()[0] == CID_LOCAL


def test_shutdown_of_a_listener_does_not_free_its_port(port):
    """Only closing gives a port back."""
    listener = raw_listen(port)
    vchan.error_of(listener.shutdown, socket.SHUT_RDWR)
    assert vchan.error_of(raw_listen, port) == "EADDRINUSE"


def test_accepted_socket_is_connected_before_accept_returns(port):
    """What the client sent before it was accepted is not lost."""
    listener = raw_listen(port)
    raw_connect(port).sendall(b"early")
    assert vchan.recv_exactly(accept_raw(listener), 5) == b"early"


def test_listener_is_readable_only_when_somebody_waits(port):
    """poll on a listener says POLLIN when, and only when, somebody waits."""
    listener = raw_listen(port)
    assert vchan.quiet(listener.fileno(), 50)
    connecting = Task(raw_connect, port)
    assert vchan.readable(listener.fileno())
    connecting.result()
