# SPDX-License-Identifier: LGPL-2.1-or-later
"""The patterns of the programs that use libvchan, each as they do it.

qrexec, qubesdb, the GUI and the audio modules; every promise of design 1.3
that they lean on, in the order in which they lean on it.
"""
import select
import struct

import pytest

import vchan
from puppet import Puppet
from vchan import (A_SECOND, Address, CONNECTED, DISCONNECTED, PAGE, Task,
                   WAITING, pattern, until)


# --- qrexec ------------------------------------------------------------------------

def test_qrexec_agent_greets_and_blocks_in_recv_before_anyone_came(address):
    """qrexec-agent: sends its greeting, then recv, while still WAITING."""
    agent = address.open_server()

    def handshake():
        assert agent.send(b"HELLO 3 ") == 8
        return agent.recv(8)

    shaking = Task(handshake)
    assert shaking.asleep()
    daemon = address.open_client()
    assert daemon.recv(8) == b"HELLO 3 "
    daemon.send(b"hello 3 ")
    assert shaking.result() == b"hello 3 "


def test_qrexec_agent_serves_requests_with_one_fd_and_a_one_second_poll(address):
    """qrexec-agent: fd taken once, for life; while (data_ready) recv."""
    agent = address.open_server()
    fd = agent.fd
    daemon = address.open_client()
    requests = [b"%8d" % number for number in range(100)]
    asking = Task(lambda: [daemon.send(request) for request in requests])
    got = []
    while len(got) < len(requests):
        if select.select([fd], [], [], 1)[0]:
            agent.wait()
        while agent.data_ready:
            got.append(agent.recv(8))
    assert got == requests
    asking.result()


def test_qrexec_agent_does_not_spin_at_end_of_stream(address):
    """qrexec-agent: a fd that stays readable at the end would spin for ever."""
    agent = address.open_server()
    daemon = address.open_client()
    until(lambda: agent.is_open == CONNECTED)
    daemon.close()
    turns = 0
    while select.select([agent.fd], [], [], 0.5)[0]:
        agent.wait()
        turns += 1
        assert turns < 20
    assert agent.is_open == DISCONNECTED


def test_qrexec_data_sends_the_exit_code_closes_and_exits(address):
    """qrexec-agent, data: send exit code, close, exit, in one breath."""
    client = address.open_server(65536, 65536)
    agent = Puppet.start(VCHAN_DOMAIN=address.client)
    agent("async", address.server, address.port)
    until(lambda: agent("poll-watch", 30_000) == 1 and agent("finish", 1) == 0)
    agent.begin("send", pattern(4000).hex())
    agent.begin("send", struct.pack("<i", 7).hex())
    agent.begin("close")
    agent.begin("exit", 0)
    assert vchan.read_until_end(client) == pattern(4000) + struct.pack("<i", 7)


def test_qrexec_data_child_holds_the_control_channel_and_nobody_minds(address):
    """qrexec-agent, data: in a forked child that never closes its copy."""
    agent = Puppet.serving(address)
    daemon = address.open_client()
    until(lambda: agent("open") == CONNECTED)
    child = agent.fork()
    other = Address.fresh()
    child("use", 1)
    child("env", "VCHAN_DOMAIN", other.client)
    data = other.open_server(65536, 65536)
    child("client", other.server, other.port)
    child.send(b"data")
    assert data.recv(4) == b"data"
    agent("close")
    until(lambda: daemon.is_open == DISCONNECTED, A_SECOND)


def test_qrexec_client_waits_for_the_first_pollin_as_the_connection(address):
    """qrexec's wait: polls for POLLIN or POLLHUP, acts on POLLIN alone."""
    server = address.open_server(65536, 65536)
    connecting = Task(address.open_client)
    events = vchan.poll(server.fd, 60_000, select.POLLIN | select.POLLHUP)
    assert events == select.POLLIN
    # The simple flavour's: "there is work", which a wait does.
    assert vchan.readable_for_good(server.fd)
    assert server.is_open == CONNECTED
    connecting.result()


def test_qrexec_client_in_a_guest_is_an_ordinary_user(address):
    """qrexec client in a guest: server, ring 64 KiB, an ordinary user."""
    puppet = Puppet.start(VCHAN_DOMAIN=address.server)
    puppet("setuid", 64321)
    puppet("server", address.client, address.port, 65536, 65536)
    address.open_client().write(b"hello")
    assert puppet.recv(5) == b"hello"


def test_qrexec_daemon_drops_its_uid_after_connecting(address):
    """qrexec-daemon: drops its uid after connecting."""
    server = address.open_server()
    daemon = Puppet.client_of(address)
    daemon("setuid", 64321)
    daemon.write(b"hello")
    assert server.recv(5) == b"hello"


def test_qrexec_daemon_reconnects_after_the_end(address):
    """qrexec-daemon: on is_open 0 it closes and connects again, blocking."""
    for number in range(5):
        server = address.open_server()
        client = address.open_client()
        client.write(b"%d" % number)
        assert server.recv(1) == b"%d" % number
        server.close()
        until(lambda: client.is_open == DISCONNECTED)
        client.close()


def test_qrexec_daemon_reconnecting_while_the_server_comes_late(address):
    """qrexec-daemon: the blocking connect waits for the agent's restart."""
    server, client = vchan.connected_pair(address=address)
    server.close()
    until(lambda: client.is_open == DISCONNECTED)
    client.close()
    reconnecting = Task(address.open_client)
    assert reconnecting.asleep()
    address.open_server()
    reconnecting.result()


def test_qrexec_message_of_65543_bytes_arrives_in_a_ring_of_a_page(address):
    """qrexec-daemon: one send of up to 65,543 bytes, to rings of 4096."""
    agent, daemon = vchan.connected_pair(address=address)
    sending = Task(daemon.send, pattern(65543))
    assert vchan.read_exactly(agent, 65543) == pattern(65543)
    assert sending.result() == 65543


def test_qrexec_client_that_was_told_first_finds_the_server_later(address):
    """qrexec client on the host: server_init after the other was told to connect."""
    connecting = Task(address.open_client)
    assert connecting.asleep()
    address.open_server(65536, 65536)
    connecting.result(A_SECOND)


def test_qrexec_data_loop_ends_with_all_bytes(address):
    """qrexec's data loop: leaves on is_open 0 and then data_ready 0."""
    server = address.open_server(65536, 65536)
    client = Puppet.client_of(address)
    client("pour", 60_000, 777)
    client.begin("exit", 0)
    got = b""
    while True:
        server.wait()
        while server.data_ready >= 8:
            got += server.recv(8)
        if server.is_open == DISCONNECTED and server.data_ready < 8:
            break
    assert got == pattern(60_000)


def test_qrexec_header_and_payload_up_to_buffer_space_do_not_block(raw_client):
    """qrexec's data loop: header plus payload up to buffer_space must not block."""
    server, _ = raw_client
    while (space := server.buffer_space) > 8:
        payload = min(space - 8, 4000)
        assert Task(server.send, struct.pack("<II", 1, payload)).result() == 8
        assert Task(server.send, bytes(payload)).result() == payload


# --- qubesdb ---------------------------------------------------------------------------

def test_qubesdb_spins_on_data_ready_until_3072_bytes_are_there(address):
    """qubesdb: spins on data_ready without waiting; needs 3,072 at once."""
    server = address.open_server()
    client = Puppet.client_of(address)
    client.begin("pour", 3072, 64)
    while server.data_ready < 3072:
        pass
    assert server.recv(3072) == pattern(3072)


def test_qubesdb_serves_many_guests_on_one_port():
    """qubesdb: one server per guest, all on port 111."""
    port = Address.fresh().port
    servers = [Address(2, guest, port).open_server() for guest in range(3, 23)]
    clients = [Address(0, guest, port).open_client() for guest in range(3, 23)]
    for guest, client in enumerate(clients):
        client.write(b"%2d" % guest)
    assert [int(server.recv(2)) for server in servers] == list(range(20))


def test_qubesdb_writes_zero_bytes_when_full_and_goes_on_later(raw_client):
    """qubesdb: writes 0 bytes when full and expects 0."""
    server, peer = raw_client
    total = vchan.fill(server)
    assert server.buffer_space == 0
    assert server.write(b"") == 0
    assert vchan.recv_exactly(peer, total) == pattern(total)


# --- GUI -----------------------------------------------------------------------------

def test_gui_agent_serves_again_after_the_end(address):
    """GUI agent: after the end close and at once server_init, unchecked."""
    for number in range(10):
        server = address.open_server()
        client = address.open_client()
        while server.is_open == WAITING:
            server.wait()
        client.write(b"%d" % number)
        assert server.recv(1) == b"%d" % number
        client.close()
        while server.is_open != DISCONNECTED:
            server.wait()
        server.close()


def test_gui_agent_writes_more_than_a_ring(pair):
    """GUI agent: writes of more than a ring."""
    server, client = pair
    writing = Task(server.write, pattern(1 << 20))
    assert vchan.read_exactly(client, 1 << 20) == pattern(1 << 20)
    assert writing.result() == 1 << 20


def test_gui_daemon_writes_what_buffer_space_allows_never_zero(raw_server):
    """GUI daemon: what buffer_space allows must not block; 0 or -1 is fatal."""
    client, peer = raw_server
    left = 2 << 20
    reading = Task(vchan.recv_exactly, peer, left)
    while left:
        space = min(client.buffer_space, left)
        if not space:
            client.wait()
            continue
        assert client.write(bytes(space)) == space
        left -= space
    reading.result()


# --- audio ------------------------------------------------------------------------------

@pytest.mark.parametrize("port", [4713, 4714])
def test_audio_daemon_connects_asynchronously(port):
    """audio daemon side: asks is_open before finish: it must be WAITING."""
    fresh = Address.fresh()
    address = Address(fresh.server, fresh.client, port)
    client = address.open_async()
    assert client.is_open == WAITING
    server = address.open_server(128, 8192)
    assert vchan.readable_for_good(client.watch_fd)
    assert client.is_open == WAITING
    assert client.finish(True) == 0
    server.write(pattern(500))
    until(lambda: client.data_ready >= 500)
    assert client.read(500) == pattern(500), "a short read is taken for death"


def test_audio_thread_waits_first_whenever_the_fd_was_readable(raw_client):
    """audio modules: a real-time thread calls wait first and must not block."""
    server, peer = raw_client
    left = 500 * 300
    sending = Task(lambda: [peer.sendall(bytes(300)) for _ in range(500)])
    while left:
        assert vchan.readable(server.fd)
        Task(server.wait).result()
        while ready := server.data_ready:
            left -= len(server.read(ready))
    sending.result()


def test_audio_fill_level_drives_the_clock(address):
    """audio modules: buffer_space falls by what is written, rises as it is read."""
    server = address.open_server(128, 8192)
    assert server.buffer_space == 8192
    server.write(bytes(1000))
    assert server.buffer_space == 7192
    peer = address.connect_raw()
    vchan.recv_exactly(peer, 1000)
    until(lambda: server.buffer_space == 8192)


def test_small_rings_of_audio_are_a_page(address):
    """audio modules: rings of 128 bytes: at least a page."""
    assert address.open_server(128, 128).buffer_space == PAGE
