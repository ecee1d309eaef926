# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest and host, either as the server, either as the client (1.4)."""
import errno

import pytest

import vchan
import volume
from guest_puppet import serve
from vchan import CONNECTED, PAGE, Vchan, pattern, until


def vsock_port(client, port):
    """1.4: client_cid * 65536 + vchan_port."""
    return client * 65536 + port


@pytest.fixture
def host_serves(guest, port):
    return serve(guest, port)


@pytest.fixture
def guest_serves(guest, in_guest, port):
    """A server in the guest and its client here."""
    server = in_guest()
    server("server", 0, port, PAGE, PAGE)
    return Vchan.client(guest.cid, port), server


@pytest.mark.parametrize("ends", ["host_serves", "guest_serves"])
def test_bytes_go_both_ways(ends, request):
    """1.4: server and client on either side."""
    here, there = request.getfixturevalue(ends)
    here.write(b"to the guest")
    assert there.recv(12) == b"to the guest"
    there.write(b"to the host")
    assert here.recv(11) == b"to the host"


@pytest.mark.parametrize("ends", ["host_serves", "guest_serves"])
def test_events_cross_machines(ends, request):
    """1.3 fd_for_select: readable when data arrived, quiet after wait."""
    here, there = request.getfixturevalue(ends)
    vchan.settle(here)
    there.write(b"x")
    assert vchan.readable(here.fd)
    here.wait()
    assert vchan.quiet(here.fd)
    assert here.read(1) == b"x"


@pytest.mark.parametrize("ends", ["host_serves", "guest_serves"])
def test_a_greeting_and_a_close_arrive_whole(ends, request):
    """1.3 close: what was written is delivered."""
    here, there = request.getfixturevalue(ends)
    data = pattern(PAGE)
    there.write(data)
    there("close")
    assert vchan.read_until_end(here) == data


def test_greeting_written_before_the_guest_came(guest, in_guest, port):
    """1.3 WAITING: programs send their greeting before anyone connected."""
    Vchan.server(guest.cid, port).write(b"hello")
    client = in_guest()
    client("client", 0, port)
    assert client.recv(5) == b"hello"


def test_guest_waits_for_a_server_on_its_host(guest, in_guest, port):
    """1.3: a client waits as long as it takes for a server."""
    client = in_guest()
    client.begin("client", 0, port)
    server = Vchan.server(guest.cid, port)
    client.answer()
    until(lambda: server.is_open == CONNECTED)


def test_port_is_served_again_at_once_after_a_guest(guest, in_guest, port):
    """1.3 close: the address can be served again by the very next call."""
    for _ in range(5):
        server = Vchan.server(guest.cid, port)
        client = in_guest()
        client("client", 0, port)
        until(lambda server=server: server.is_open == CONNECTED)
        server.close()


def test_guest_serves_again_at_once(guest, in_guest, port):
    """1.3 close, in the guest."""
    server = in_guest()
    for _ in range(5):
        server("server", 0, port, PAGE, PAGE)
        with Vchan.client(guest.cid, port) as client:
            client.write(b"x")
            assert server.recv(1) == b"x"
        server("close")


# --- plain sockets -----------------------------------------------------------

def test_plain_socket_in_the_guest_reaches_the_server(guest, in_guest, port):
    """1.4: the bytes on the wire are the program's bytes; the address is known."""
    server = Vchan.server(guest.cid, port)
    peer = in_guest()
    peer("raw-connect", 2, vsock_port(guest.cid, port))
    server.write(b"plain")
    assert peer.raw_recv(5) == b"plain"


def test_plain_socket_on_the_host_reaches_the_guests_server(guest, in_guest, port):
    """1.4: domain 0 counts as CID 2 in the port."""
    server = in_guest()
    server("server", 0, port, PAGE, PAGE)
    peer = vchan.raw_connect(vsock_port(2, port), guest.cid)
    peer.sendall(b"plain")
    assert server.recv(5) == b"plain"


# --- who may -----------------------------------------------------------------

def test_another_domain_is_refused_and_the_place_kept(guest, in_guest, port):
    """1.4: a server accepts the first connection from its client's CID only."""
    other = guest.cid + 1 if guest.cid < 32767 else guest.cid - 1
    server = Vchan.server(other, port)
    stranger = in_guest()
    stranger("raw-connect", 2, vsock_port(other, port))
    # Turned away: it sees its end, or a reset, and not a byte.
    try:
        assert stranger.raw_recv(1) == b""
    except OSError as error:
        assert error.errno == errno.ECONNRESET
    assert server.is_open == vchan.WAITING


def test_loopback_peer_is_refused_by_a_guests_server(guest, port):
    """1.4: a local program is not the guest."""
    server = Vchan.server(guest.cid, port)
    assert vchan.shut_out(vchan.raw_connect(vsock_port(guest.cid, port)))
    assert server.is_open == vchan.WAITING


def test_loopback_mode_is_deaf_to_guests(guest, in_guest, monkeypatch):
    """1.4 loopback: the CID check admits local peers only."""
    monkeypatch.setenv("VCHAN_VSOCK_LOOPBACK", "1")
    address = vchan.Address.fresh()
    server = address.open_server()
    stranger = in_guest()
    with pytest.raises(OSError):
        stranger("raw-connect", 2, address.vsock_port)
    assert server.is_open == vchan.WAITING


# --- the local domain --------------------------------------------------------

def test_domain_unset_in_the_guest_is_its_cid(guest, in_guest, port):
    """1.4: VCHAN_DOMAIN unset, the kernel is asked for the local CID."""
    listener = vchan.raw_listen(vsock_port(guest.cid, port))
    client = in_guest()
    client("client", 0, port)
    _, (cid, _port) = listener.accept()
    assert cid == guest.cid


def test_domain_set_in_the_guest(guest, in_guest, port):
    """Users set VCHAN_DOMAIN to the guest's CID."""
    server = Vchan.server(guest.cid, port)
    in_guest(VCHAN_DOMAIN=guest.cid)("client", 0, port)
    until(lambda: server.is_open == CONNECTED)


def test_domain_two_is_the_host(guest, in_guest, port):
    """1.4: 2 means the same as 0."""
    server = Vchan.server(guest.cid, port)
    in_guest()("client", 2, port)
    until(lambda: server.is_open == CONNECTED)


# --- much --------------------------------------------------------------------

@pytest.mark.deadline(600)
@pytest.mark.parametrize("guest_role", ["server", "client"])
def test_round_trips_and_bulk_with_every_byte_checked(guest, port, guest_role):
    """Random sizes, 1 byte to 1 MiB, write, send, read, recv, blocking and not.

    A machine in an emulated machine is slow: VCHAN_TEST_SCALE=40 makes these
    200,000 round trips and 1 GiB in each direction, for each role.
    """
    plan = volume.trips(volume.TRIPS // 40, volume.GIB // 40)
    here_role = "client" if guest_role == "server" else "server"
    there = guest.popen(
        ["env", "-u", "VCHAN_VSOCK_LOOPBACK", *volume.words(guest_role, 0, port, plan)],
        env={"LD_LIBRARY_PATH": str(vchan.LIBRARY.parent)})
    here = volume.start(here_role, guest.cid, port, plan)
    try:
        out, back = volume.collect(here, 500)
        assert there.wait(60) == 0, there.stderr.read_available()
    finally:
        there.kill()
    assert min(out, back) >= volume.GIB // 40
