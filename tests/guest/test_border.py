# SPDX-License-Identifier: LGPL-2.1-or-later
"""What behaves between machines as it does within one: 1.3 across virtio."""
import socket

import pytest

import vchan
import volume
from guest_puppet import serve, serve_from_a_program
from vchan import (A_SECOND, CID_HOST, CONNECTED, DISCONNECTED, PAGE, Task,
                   Vchan, WAITING, pattern, until)


@pytest.fixture
def joined(guest, port):
    return serve(guest, port, ring=65536)


# --- connecting ----------------------------------------------------------------

def test_host_waits_for_a_server_in_the_guest(guest, in_guest, port):
    """1.3: a client waits as long as it takes on a machine that exists."""
    connecting = Task(Vchan.client, guest.cid, port)
    assert connecting.asleep()
    in_guest()("server", 0, port, PAGE, PAGE)
    connecting.result()


def test_asynchronous_connect_to_a_guest(guest, in_guest, port):
    """1.3 async: 1 not yet, watch_fd tells, 0 connected."""
    client = Vchan.client_async(guest.cid, port)
    assert client.finish() == 1
    in_guest()("server", 0, port, PAGE, PAGE)
    assert vchan.readable_for_good(client.watch_fd)
    assert client.finish() == 0


def test_asynchronous_connect_from_a_guest(guest, in_guest, port):
    """1.3 async: the same in the guest."""
    client = in_guest()
    client("async", 0, port)
    assert client("open") == WAITING
    with Vchan.server(guest.cid, port):
        vchan.until(lambda: client("poll-watch", 30_000) == 1 and client("finish", 1) == 0)


def test_fd_is_silent_until_the_guest_has_connected(guest, in_guest, port):
    """1.3: silent until the client has connected."""
    server = Vchan.server(guest.cid, port)
    assert vchan.nothing_to_tell(server.fd)
    in_guest()("client", 0, port)
    assert vchan.readable_for_good(server.fd)
    assert server.is_open == CONNECTED


def test_second_client_is_refused_once_the_first_is_in(guest, in_guest, joined,
                                                       port):
    """1.4: then closes its listening socket, so that a second client waits."""
    with pytest.raises(ConnectionResetError):
        in_guest()("raw-connect", CID_HOST, guest.cid * 65536 + port)


def test_plain_server_in_the_guest(guest, in_guest, port):
    """1.4: the client connects where its own CID, 2, says."""
    peer = in_guest()
    peer("raw-listen", 2 * 65536 + port)
    client = Vchan.client(guest.cid, port)
    peer("raw-accept")
    client.write(b"hello")
    assert peer.raw_recv(5) == b"hello"


def test_client_in_the_guest_tells_by_its_port_that_it_will_try_frames(guest, in_guest,
                                                                     port):
    """docs/wire.md, set-up: no device between the two changes the port."""
    with vchan.raw_listen(guest.cid * 65536 + port) as listener:
        in_guest()("client", 0, port)
        assert vchan.accept_raw(listener).getpeername()[1] in vchan.OUR_PORTS


# --- data -----------------------------------------------------------------------

@pytest.mark.parametrize("size", [16, 100, 129, 200, 400, 600])
def test_small_messages_to_a_stalled_reader(joined, size):
    """Facts: kernels that count packets reset a connection whose reader lags."""
    server, client = joined
    # Fits into the rings and the kernel's buffer: nobody reads until all is out.
    pouring = Task(client, "pour", 200_000, size)
    if vchan.SIMPLE:
        # But somebody has to take it in, or the kernel has all these packets.
        vchan.until(lambda: (server.data_ready, pouring.is_alive())[1] is False)
    assert pouring.result() == 200_000
    assert vchan.read_exactly(server, 200_000) == pattern(200_000)


@pytest.mark.parametrize("size", [100, 256, 1000])
def test_stream_of_small_messages_to_a_slow_reader(joined, size):
    """Facts: a reader that is merely slower than the writer is enough."""
    server, client = joined
    total = 600 * 1000
    client.begin("pour", total, size)
    got = b""
    while len(got) < total:
        got += server.read(300)
    assert got == pattern(total)
    assert client.answer()[0] == total


def test_room_in_the_guest_is_an_event(joined):
    """1.3: room came free after someone saw too little."""
    server, client = joined
    total = vchan.fill(server)
    vchan.settle(server)
    server.set_blocking(False)
    assert server.write(b"x") == 0
    assert client("drain", total) == total
    assert vchan.readable(server.fd)


@pytest.mark.deadline(300)
def test_two_threads_an_end_at_full_speed(guest, port):
    """1.3: one thread reading while another writes, on both sides."""
    plan = volume.duplex(volume.SECONDS // 2 or 1)
    there = guest.popen(
        ["env", "-u", "VCHAN_VSOCK_LOOPBACK", *volume.words("client", 0, port, plan)],
        env={"LD_LIBRARY_PATH": str(vchan.LIBRARY.parent)})
    here = volume.start("server", guest.cid, port, plan)
    try:
        out, back = volume.collect(here, 240)
        assert there.wait(60) == 0, there.stderr.read_available()
    finally:
        there.kill()
    assert min(out, back) > 0


# --- the end -----------------------------------------------------------------------

@pytest.mark.parametrize("death", [("close",), ("exit", 0), ("exit-now", 0)])
def test_end_in_the_guest_shows_within_a_second(joined, death):
    """1.3: a connected peer's death shows within a second."""
    server, client = joined
    client.begin(*death)
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)


def test_exit_on_the_host_shows_in_the_guest(guest, port):
    """1.3: a connected peer's death shows within a second, the other way."""
    server, client = serve_from_a_program(guest, port)
    server.write(b"bye")
    client.begin("until-gone", int(A_SECOND * 1000))
    server.begin("exit", 0)
    assert client.answer()[0] == DISCONNECTED
    assert client.recv(3) == b"bye"


def test_half_close_of_a_plain_peer_here_shows_in_the_guest(guest, in_guest, port):
    """1.3: what was sent before the end is read to the last byte."""
    server = in_guest()
    server("server", 0, port, PAGE, PAGE)
    peer = vchan.raw_connect(2 * 65536 + port, guest.cid)
    peer.sendall(pattern(20_000))
    peer.shutdown(socket.SHUT_WR)
    assert server("swallow") == 20_000
    assert server("open") == DISCONNECTED
