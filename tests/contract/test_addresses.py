# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains, CIDs and ports (design 1.4)."""
import fcntl
import socket
import struct

import pytest

import vchan
from puppet import Puppet
from vchan import CONNECTED, Task, Vchan, WAITING, environment, until

IOCTL_VM_SOCKETS_GET_LOCAL_CID = 0x7b9


def local_cid():
    with open("/dev/vsock", "rb") as device:
        answer = fcntl.ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4))
    return struct.unpack("I", answer)[0]


def listens(port):
    """Does anybody listen on this vsock port here?"""
    return not vchan.refused(port)


def free_port():
    return vchan.Address.fresh().port


@pytest.fixture
def real(monkeypatch):
    """Real addresses, as the host's domain 0."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "0")


# --- the mapping -----------------------------------------------------------------

@pytest.mark.parametrize("client", [3, 42, 777, 32767])
def test_server_listens_on_client_times_65536_plus_port(real, client):
    """1.4: the server listens on PORT_BASE + client_cid * 65536 + vchan_port."""
    port = free_port()
    Vchan.server(client, port)
    assert listens(client * 65536 + port)


@pytest.mark.parametrize("client", [0, 2])
def test_client_zero_counts_as_two(real, client, monkeypatch):
    """1.4: where a client_cid of 0 counts as 2."""
    monkeypatch.setenv("VCHAN_DOMAIN", "77")
    port = free_port()
    Vchan.server(client, port)
    assert listens(2 * 65536 + port)


@pytest.mark.parametrize("local, counts_as", [(0, 2), (2, 2), (5, 5), (32767, 32767)])
def test_client_connects_to_its_own_cid_times_65536_plus_port(real, local, counts_as):
    """1.4: the client connects on PORT_BASE + client_cid * 65536 + vchan_port."""
    port = free_port()
    listener = vchan.raw_listen(counts_as * 65536 + port)
    with environment(VCHAN_DOMAIN=local):
        Vchan.client(vchan.CID_LOCAL, port)
    vchan.accept_raw(listener)


def test_domain_n_is_cid_n(real):
    """1.4: domain N is CID N: domain 1 is this machine's CID 1."""
    port = free_port()
    listener = vchan.raw_listen(2 * 65536 + port, cid=vchan.CID_LOCAL)
    Vchan.client(1, port)
    vchan.accept_raw(listener)


def test_domain_zero_is_the_host(real):
    """1.4: domain 0 is the host (CID 2; 2 means the same)."""
    if local_cid() > vchan.CID_HOST:
        pytest.skip("a guest itself: CID 2 leads out of this machine")
    for domain in (0, 2):
        port = free_port()
        listener = vchan.raw_listen(2 * 65536 + port)
        Vchan.client(domain, port)
        vchan.accept_raw(listener)


def test_server_admits_its_own_machine(real):
    """1.4: a server for its own domain admits what comes over CID 1."""
    port = free_port()
    server = Vchan.server(0, port)
    vchan.raw_connect(2 * 65536 + port).sendall(b"hello")
    assert server.recv(5) == b"hello"


def test_every_client_and_port_has_a_place_of_its_own(real):
    """1.4: every (client, port) pair has its own: same port, many clients."""
    port = free_port()
    servers = [Vchan.server(client, port) for client in (3, 4, 5)]
    servers += [Vchan.server(3, port + n) for n in (1, 2)]
    assert [server.is_open for server in servers] == [WAITING] * 5


def test_no_mapped_port_is_privileged(address):
    """1.4: none is privileged: an ordinary user can serve port 1."""
    puppet = Puppet.start(VCHAN_DOMAIN=0)
    puppet("unenv", "VCHAN_VSOCK_LOOPBACK")
    puppet("setuid", 64321)
    assert puppet("server", 3 + address.client, 1, 4096, 4096) == 0


def test_port_base_moves_the_server(real, monkeypatch):
    """1.4, 1.5: VCHAN_VSOCK_PORT_BASE is 0 unless set."""
    monkeypatch.setenv("VCHAN_VSOCK_PORT_BASE", "1000000")
    port = free_port()
    Vchan.server(9, port)
    assert listens(1000000 + 9 * 65536 + port)


def test_port_base_moves_the_client(real, monkeypatch):
    """1.4: PORT_BASE + ... is where the client connects, too."""
    monkeypatch.setenv("VCHAN_VSOCK_PORT_BASE", "1000000")
    port = free_port()
    listener = vchan.raw_listen(1000000 + 2 * 65536 + port)
    Vchan.client(1, port)
    vchan.accept_raw(listener)


def test_port_base_moves_loopback(monkeypatch, address):
    """1.4: PORT_BASE + server * 2^23 + client * 2^14 + port."""
    monkeypatch.setenv("VCHAN_VSOCK_PORT_BASE", "70000")
    address.open_server()
    assert listens(70000 + address.vsock_port)


# --- limits ----------------------------------------------------------------------

OUT_OF_RANGE = [(32768, 1), (1 << 30, 1), (3, 65536), (3, 1 << 30)]


@pytest.mark.parametrize("domain, port", OUT_OF_RANGE)
def test_server_beyond_the_mapping_is_erange(real, domain, port, capfd):
    """1.4: client_cid below 32768, port below 65536, else ERANGE, said clearly."""
    assert vchan.error_of(Vchan.server, domain, port) == "ERANGE"
    assert_one_line(capfd.readouterr().err, "libvchan_server_init", domain, port)


def test_client_port_beyond_the_mapping_is_erange(real, capfd):
    """1.4: vchan_port must be below 65536, else ERANGE, said clearly."""
    assert vchan.error_of(Vchan.client, 3, 65536) == "ERANGE"
    assert_one_line(capfd.readouterr().err, "libvchan_client_init", 3, 65536)


def test_client_whose_own_cid_is_beyond_the_mapping_is_erange(real, monkeypatch):
    """1.4: client_cid must be below 32768, and the client knows its own."""
    monkeypatch.setenv("VCHAN_DOMAIN", "32768")
    assert vchan.error_of(Vchan.client, 0, 512) == "ERANGE"


def test_async_client_beyond_the_mapping_is_erange(real):
    """1.4: the same for an asynchronous client, at once."""
    assert vchan.error_of(Vchan.client_async, 3, 65536) == "ERANGE"


def test_port_base_beyond_two_to_the_31_is_erange(real, monkeypatch):
    """1.4: and the result below 2^31, else ERANGE."""
    base = 2**31 - 3 * 65536 - 512
    monkeypatch.setenv("VCHAN_VSOCK_PORT_BASE", str(base))
    assert vchan.error_of(Vchan.server, 3, 512) == "ERANGE"
    monkeypatch.setenv("VCHAN_VSOCK_PORT_BASE", str(base - 1))
    Vchan.server(3, 512)


def test_largest_client_and_port_are_in_range(real):
    """1.4: 32767 and 65535 are below the limits."""
    Vchan.server(32767, 65535)
    assert listens(32767 * 65536 + 65535)


@pytest.mark.parametrize("domain, port", [(-1, 5), (5, -1), (-2**31, 5)])
@pytest.mark.parametrize("call", ["server", "client", "client_async"])
@pytest.mark.parametrize("loopback", ["0", "1"])
def test_negative_numbers_are_einval(monkeypatch, domain, port, call, loopback):
    """1.4: negative numbers: EINVAL."""
    monkeypatch.setenv("VCHAN_VSOCK_LOOPBACK", loopback)
    monkeypatch.setenv("VCHAN_DOMAIN", "3")
    assert vchan.error_of(getattr(Vchan, call), domain, port) == "EINVAL"


@pytest.mark.parametrize("server, client, port", [
    (256, 5, 1), (5, 512, 1), (5, 5, 16384)])
def test_loopback_beyond_its_mapping_is_erange(server, client, port):
    """1.4: servers below 256, clients below 512, ports below 16384."""
    wrong = vchan.Address(server, client, port)
    assert vchan.error_of(wrong.open_server) == "ERANGE"
    assert vchan.error_of(wrong.open_client) == "ERANGE"


def test_largest_loopback_address_is_in_range():
    """1.4: 255, 511 and 16383 are below the limits."""
    largest = vchan.Address(255, 511, 16383)
    largest.open_server()
    assert listens(2**31 - 1)


# --- loopback ----------------------------------------------------------------------

def test_loopback_server_listens_where_the_formula_says():
    """1.4: PORT_BASE + server * 2^23 + client * 2^14 + port."""
    port = free_port()
    vchan.Address(17, 300, port).open_server()
    assert listens(17 * 2**23 + 300 * 2**14 + port)


def test_loopback_client_connects_where_the_formula_says():
    """1.4: connections go to CID 1, at the same port."""
    port = free_port()
    listener = vchan.raw_listen(17 * 2**23 + 300 * 2**14 + port,
                                cid=vchan.CID_LOCAL)
    vchan.Address(17, 300, port).open_client()
    vchan.accept_raw(listener)


ZERO_AND_TWO = [(0, 7, (2, 7)), (7, 0, (7, 2)), (2, 7, (2, 7)), (7, 2, (7, 2))]


@pytest.mark.parametrize("server, client, place", ZERO_AND_TWO)
def test_loopback_server_zero_counts_as_two(server, client, place):
    """1.4: 0 counts as 2, for server and client alike; here: listening."""
    port = free_port()
    vchan.Address(server, client, port).open_server()
    assert listens(vchan.Address(*place, port).vsock_port)


@pytest.mark.parametrize("server, client, place", ZERO_AND_TWO)
def test_loopback_client_zero_counts_as_two(server, client, place):
    """1.4: 0 counts as 2, for server and client alike; here: connecting."""
    port = free_port()
    listener = vchan.Address(*place, port).listen_raw()
    vchan.Address(server, client, port).open_client()
    vchan.accept_raw(listener)


def test_loopback_keeps_pretended_domains_apart():
    """1.4: any number of pretended domains share the machine."""
    port = free_port()
    servers = [vchan.Address(s, c, port).open_server()
               for s in (3, 4, 5) for c in (6, 7)]
    clients = [vchan.Address(s, c, port).open_client()
               for s in (3, 4, 5) for c in (6, 7)]
    for number, client in enumerate(clients):
        client.write(b"%2d" % number)
    assert [server.recv(2) for server in servers] == [b"%2d" % n for n in range(6)]


# --- the local domain ----------------------------------------------------------------

def test_local_domain_is_vchan_domain(real, monkeypatch):
    """1.4: the local domain is VCHAN_DOMAIN."""
    monkeypatch.setenv("VCHAN_DOMAIN", "1234")
    port = free_port()
    listener = vchan.raw_listen(1234 * 65536 + port)
    Vchan.client(1, port)
    vchan.accept_raw(listener)


def test_local_domain_unset_is_asked_of_the_kernel(real, monkeypatch):
    """1.4: unset, the kernel is asked for the local CID."""
    monkeypatch.delenv("VCHAN_DOMAIN")
    port = free_port()
    listener = vchan.raw_listen((local_cid() or 2) * 65536 + port)
    Vchan.client(1, port)
    vchan.accept_raw(listener)


# --- who is let in ----------------------------------------------------------------------

def test_strangers_are_refused_without_losing_the_place(real):
    """1.4: accepts its client's CID and refuses all others, however many."""
    port = free_port()
    server = Vchan.server(9, port)
    for _ in range(50):
        stranger = vchan.raw_connect(9 * 65536 + port)
        assert vchan.shut_out(stranger)
        stranger.close()
    assert server.is_open == WAITING
    assert listens(9 * 65536 + port)


def test_strangers_see_no_byte_of_the_greeting(real):
    """1.4: refused means refused: the greeting is not for them."""
    port = free_port()
    server = Vchan.server(9, port)
    server.write(b"secret")
    assert vchan.shut_out(vchan.raw_connect(9 * 65536 + port))


def test_what_strangers_send_is_not_read(real):
    """1.4: refused: their bytes do not reach the program."""
    port = free_port()
    server = Vchan.server(9, port)
    stranger = vchan.raw_connect(9 * 65536 + port)
    try:
        stranger.sendall(b"evil")
    except OSError:
        pass
    vchan.shut_out(stranger)
    assert (server.is_open, server.data_ready) == (WAITING, 0)


def test_a_second_client_is_refused_once_the_first_is_in(address):
    """1.4: then closes its listening socket."""
    server = address.open_server()
    address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    until(lambda: not listens(address.vsock_port))


def test_a_second_client_waits_for_the_next_server(address):
    """1.4: a second client waits for the next server, not in a backlog."""
    server, first = vchan.connected_pair(address=address)
    second = Task(address.open_client)
    assert second.asleep()
    server.close()
    replacement = address.open_server()
    client = second.result()
    client.write(b"hello")
    assert replacement.recv(5) == b"hello"
    assert first.is_open == vchan.DISCONNECTED


def test_a_second_client_does_not_disturb_the_first(address):
    """1.4: the first connection is the client."""
    server, first = vchan.connected_pair(address=address)
    second = Task(address.open_client)
    second.asleep()
    first.write(b"hello")
    assert server.recv(5) == b"hello"
    server.close()
    with address.open_server():
        second.result()


def test_a_taken_address_is_eaddrinuse(address, capfd):
    """1.4: one server per address; the other is told so."""
    address.open_server()
    assert vchan.error_of(address.open_server) == "EADDRINUSE"
    assert_one_line(capfd.readouterr().err, "libvchan_server_init",
                    address.client, address.port)


def assert_one_line(text, call, domain, port):
    lines = text.splitlines()
    assert len(lines) == 1, text
    for word in (call, str(domain), str(port)):
        assert word in lines[0]


# --- the wire --------------------------------------------------------------------------

def test_nothing_is_sent_that_the_program_did_not_write(raw_client):
    """1.4: the bytes on this wire are the program's: nothing before them."""
    _, peer = raw_client
    assert vchan.quiet(peer.fileno())


def test_nothing_precedes_or_follows_what_the_server_wrote(raw_client):
    """1.4: nothing before, between or after them."""
    server, peer = raw_client
    pieces = [b"a", b"bc" * 100, b"d" * 5000, b"e"]
    for piece in pieces:
        server.write(piece)
    server.close()
    assert vchan.recv_all(peer) == b"".join(pieces)


def test_nothing_precedes_or_follows_what_the_client_wrote(raw_server):
    """1.4: nothing before, between or after them."""
    client, peer = raw_server
    client.send(b"one")
    client.write(b"two")
    client.close()
    assert vchan.recv_all(peer) == b"onetwo"


def test_every_byte_of_a_plain_peer_reaches_the_program(raw_client):
    """1.4: ten lines of Python can be the peer: all byte values pass."""
    server, peer = raw_client
    peer.sendall(bytes(range(256)))
    assert server.recv(256) == bytes(range(256))


def test_plain_peer_may_close_at_once(address):
    """1.4: plain peers are welcome, the shortest visit included."""
    server = address.open_server()
    with socket.socket(socket.AF_VSOCK) as peer:
        peer.connect((vchan.CID_LOCAL, address.vsock_port))
        peer.sendall(b"ping")
    assert vchan.read_until_end(server) == b"ping"
