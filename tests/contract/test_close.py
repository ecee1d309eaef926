# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvchan_close: what is delivered, how long it takes, what is left (1.3)."""
import time

import pytest

import vchan
from vchan import DISCONNECTED, PAGE, Address, Holdings, Task, pattern, until


def test_close_of_null_is_fine():
    """1.3 close: NULL is fine."""
    vchan.library().libvchan_close(vchan.ffi.NULL)


# --- every state ---------------------------------------------------------------

def waiting(address):
    return address.open_server()


def waiting_with_greeting(address):
    server = address.open_server()
    server.write(bytes(PAGE))
    return server


def connected(address):
    return vchan.connected_pair(address=address)[0]


def connected_with_unread(address):
    server = address.open_server()
    address.connect_raw().sendall(bytes(10 * PAGE))
    until(lambda: server.data_ready == PAGE)
    return server


def disconnected(address):
    server = address.open_server()
    address.connect_raw().close()
    until(lambda: server.is_open == DISCONNECTED)
    return server


def disconnected_with_unsent(address):
    server = address.open_server()
    peer = address.connect_raw()
    until(lambda: server.is_open == vchan.CONNECTED)
    vchan.fill(server)
    peer.close()
    until(lambda: server.is_open == DISCONNECTED)
    return server


def client_connected(address):
    with address.listen_raw() as listener:
        client = address.open_client()
        vchan.accept_raw(listener)
    return client


def async_unfinished(address):
    return address.open_async()


def async_connected_unfinished(address):
    with address.listen_raw() as listener:
        client = address.open_async()
        vchan.accept_raw(listener)
        assert vchan.readable_for_good(client.watch_fd)
    return client


def async_failed(address):
    with vchan.environment(VCHAN_VSOCK_CONNECT_TIMEOUT_MS=1):
        client = address.open_async()
    assert vchan.readable_for_good(client.watch_fd)
    assert vchan.error_of(client.finish) == "ETIMEDOUT"
    return client


STATES = [waiting, waiting_with_greeting, connected, connected_with_unread,
          disconnected, disconnected_with_unsent, client_connected,
          async_unfinished, async_connected_unfinished, async_failed]
SERVER_STATES = STATES[:6]


def put_away_the_rest():
    while vchan.Vchan.opened:
        vchan.Vchan.opened[0].close()
    while vchan.raw_opened:
        vchan.raw_opened.pop().close()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_close_leaves_no_fd_mapping_or_thread(address, state):
    """1.3 close: then every fd, mapping and thread is gone; legal in every state."""
    before = Holdings.now()
    chan = state(address)
    opened = Holdings.now()
    assert opened.fds > before.fds
    chan.close()
    put_away_the_rest()
    assert Holdings.back_to(before)


@pytest.mark.parametrize("state", SERVER_STATES, ids=lambda state: state.__name__)
def test_address_is_served_again_by_the_very_next_call(address, state):
    """1.3 close: server_init right after close must not fail."""
    chan = state(address)
    chan.close()
    address.open_server()


def test_address_is_served_again_a_hundred_times(address):
    """1.3 close: data channels' ports are reused as soon as the end shows."""
    for _ in range(100):
        with address.open_server() as server:
            peer = address.connect_raw()
            until(lambda: server.is_open == vchan.CONNECTED)
            peer.close()


def test_address_is_served_again_while_the_old_peer_lives(address):
    """1.3 close: the old connection does not keep the address."""
    server = address.open_server()
    peer = address.connect_raw()
    until(lambda: server.is_open == vchan.CONNECTED)
    server.close()
    address.open_server()
    assert vchan.recv_all(peer) == b""


def test_nobody_listens_after_close(address):
    """1.3 close: the listening socket is gone, too."""
    address.open_server().close()
    assert vchan.refused(address.vsock_port)


# --- what was written ------------------------------------------------------------

@pytest.fixture
def patient(monkeypatch):
    """A linger long enough for any peer that does read."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")


def test_close_delivers_what_was_written(patient):
    """1.3 close: what was written is delivered if the peer reads it."""
    server, peer = vchan.with_raw_client(write_min=1 << 20)
    total = vchan.fill(server)
    closing = Task(server.close)
    assert closing.asleep()
    assert vchan.recv_all(peer) == pattern(total)
    closing.result()


def test_close_of_a_client_delivers_what_was_written(patient):
    """1.3 close: the same for a client."""
    client, peer = vchan.with_raw_server()
    total = vchan.fill(client)
    closing = Task(client.close)
    assert vchan.recv_all(peer) == pattern(total)
    closing.result()


def test_close_delivers_small_messages_still_gathering(patient):
    """1.3 close: what the library still held back is delivered, too."""
    for count in range(1, 40):
        server, peer = vchan.with_raw_client()
        for number in range(count):
            server.write(pattern(7, 7 * number))
        server.close()
        assert vchan.recv_all(peer) == pattern(7 * count)


def test_close_delivers_to_a_vchan_peer(patient):
    """1.3 close: send exit code, close, exit, in one breath (qrexec-agent)."""
    server, client = vchan.connected_pair()
    total = vchan.fill(client)
    closing = Task(client.close)
    assert vchan.read_until_end(server) == pattern(total)
    closing.result()


def test_close_with_data_unread_delivers_what_was_written(patient):
    """1.3 close: delivered, though we did not read what the peer sent."""
    server, peer = vchan.with_raw_client()
    peer.sendall(bytes(1000))
    until(lambda: server.data_ready == 1000)
    server.write(pattern(PAGE))
    server.close()
    assert vchan.recv_all(peer) == pattern(PAGE)


def test_close_delivers_while_the_peer_keeps_sending(patient):
    """1.3 close: what comes in meanwhile does not stop what goes out."""
    server, peer = vchan.with_raw_client(write_min=1 << 20)
    total = vchan.fill(server)
    closing = Task(server.close)
    peer.sendall(bytes(1000))
    assert vchan.recv_all(peer) == pattern(total)
    closing.result()


def test_peer_that_never_reads_cannot_hang_close(monkeypatch):
    """1.3 close: waits at most VCHAN_VSOCK_LINGER_MS."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "300")
    server, _ = vchan.with_raw_client()
    vchan.fill(server)
    Task(server.close).result(0.3 + vchan.A_SECOND)


def test_linger_is_ten_seconds_by_default(monkeypatch):
    """1.3 close: default 10,000 ms: not much less, and not for ever."""
    monkeypatch.delenv("VCHAN_VSOCK_LINGER_MS")
    server, _ = vchan.with_raw_client()
    vchan.fill(server)
    before = time.monotonic()
    Task(server.close).result(40)
    assert time.monotonic() - before > 9


def test_linger_of_zero_waits_for_nobody(monkeypatch):
    """1.3, 1.5: VCHAN_VSOCK_LINGER_MS=0 is a value like any other."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "0")
    server, _ = vchan.with_raw_client()
    vchan.fill(server)
    Task(server.close).result(vchan.A_SECOND)


def test_close_while_waiting_does_not_linger(monkeypatch, address):
    """1.3 close: there is nobody to deliver a greeting to."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")
    server = address.open_server()
    server.write(b"hello")
    Task(server.close).result(vchan.A_SECOND)


def test_close_with_nothing_unsent_does_not_linger(patient):
    """1.3 close: waits for what was written; when that is through, for nothing."""
    server, peer = vchan.with_raw_client()
    server.write(b"hello")
    assert vchan.recv_exactly(peer, 5) == b"hello"
    Task(server.close).result()


def test_close_ends_when_the_peer_leaves(patient):
    """1.3 close: waits only as long as the peer may still read."""
    server, peer = vchan.with_raw_client()
    vchan.fill(server)
    closing = Task(server.close)
    assert closing.asleep()
    peer.close()
    closing.result()


def test_linger_counts_from_close_for_a_slow_reader(patient):
    """1.3 close: a peer that reads little by little gets everything."""
    server, peer = vchan.with_raw_client(write_min=1 << 18)
    total = vchan.fill(server)
    closing = Task(server.close)
    got = bytearray()
    while piece := peer.recv(20_000):
        got += piece
        vchan.quiet(peer.fileno(), 1)
    assert got == pattern(total)
    closing.result()


def test_both_ends_may_close_at_once(monkeypatch):
    """1.3 close: neither end hangs when both close with data unread."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "2000")
    server, client = vchan.connected_pair()
    vchan.fill(server)
    vchan.fill(client)
    for task in [Task(server.close), Task(client.close)]:
        task.result()


def test_closing_one_channel_leaves_the_others_alone(pair):
    """1.3: different handles are independent, at close too."""
    server, client = pair
    other = Address.fresh().open_server()
    other.close()
    client.write(b"still here")
    assert server.recv(10) == b"still here"
