# SPDX-License-Identifier: LGPL-2.1-or-later
"""client_init_async and its finish (design 1.3, asynchronous connect)."""
import pytest

import vchan
from vchan import (CONNECTED, WAITING, PAGE, Task, nothing_to_tell, pattern, quiet,
                   readable, readable_for_good)


@pytest.fixture
def connecting(address):
    """An asynchronous client, and nobody to connect to."""
    return address.open_async()


@pytest.fixture
def accepted(address):
    """An asynchronous client that is connected but not finished; its peer."""
    return connected_async(address)


def connected_async(address):
    with address.listen_raw() as listener:
        client = address.open_async()
        peer = vchan.accept_raw(listener)
    assert readable_for_good(client.watch_fd)
    return client, peer


def failed_async(address):
    with vchan.environment(VCHAN_VSOCK_CONNECT_TIMEOUT_MS=50):
        client = address.open_async()
    assert readable_for_good(client.watch_fd)
    return client


def test_returns_at_once_without_a_server(address):
    """1.3 async: returns at once, whether or not a server is there."""
    Task(address.open_async).result()


def test_returns_at_once_with_a_full_backlog(address):
    """1.3 async: an async connect that blocks defeats every timeout."""
    listener = address.listen_raw(backlog=0)
    others = [Task(address.connect_raw) for _ in range(3)]
    client = Task(address.open_async).result()
    assert client.is_open == WAITING
    listener.close()
    for other in others:
        other.join(vchan.SOON)


def test_watch_fd_becomes_readable_on_success(address):
    """1.3 async: watch_fd becomes readable on success."""
    client = address.open_async()
    listener = address.listen_raw()
    assert readable_for_good(client.watch_fd)
    assert client.finish() == 0
    vchan.accept_raw(listener)


def test_watch_fd_becomes_readable_on_failure(address):
    """1.3 async: ... and on failure (POLLIN)."""
    client = failed_async(address)
    assert vchan.error_of(client.finish) == "ETIMEDOUT"


def test_watch_fd_is_quiet_while_connecting(connecting):
    """1.3 async: not readable before the outcome is known."""
    assert nothing_to_tell(connecting.watch_fd)


def test_finish_returns_one_when_called_early(connecting):
    """1.3 async: finish returns 1 not yet, and may be called early."""
    assert [connecting.finish() for _ in range(3)] == [1, 1, 1]


def test_watch_fd_still_works_after_an_early_finish(address):
    """1.3 async: 1 not yet (wait again on the same fd)."""
    client = address.open_async()
    assert client.finish() == 1
    listener = address.listen_raw()
    assert readable_for_good(client.watch_fd)
    assert client.finish() == 0
    assert client.is_open == CONNECTED
    listener.close()


def test_finish_never_blocks(connecting):
    """1.3 async: finish says 1, it does not wait."""
    assert Task(connecting.finish).result() == 1


def test_finish_returns_zero_when_connected(accepted):
    """1.3 async: finish returns 0 connected."""
    client, _ = accepted
    assert client.finish() == 0
    assert client.is_open == CONNECTED


def test_finish_returns_minus_one_when_it_failed(monkeypatch):
    """1.3 async: -1 failed; here: there is no such machine (ENODEV)."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "2")
    monkeypatch.setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "100")
    client = vchan.Vchan.client_async(NOBODY, 512)
    assert readable_for_good(client.watch_fd)
    assert vchan.error_of(client.finish) == "ENODEV"


# A CID above those that the lab gives to machines.
NOBODY = 0x7FFF1234


def test_failed_finish_keeps_saying_so(address):
    """1.3 async: the outcome does not change."""
    client = failed_async(address)
    errors = [vchan.error_of(client.finish) for _ in range(3)]
    assert errors == ["ETIMEDOUT"] * 3


def test_fd_of_a_failed_connect_is_epipe(address):
    """1.3 async: after it failed there is nothing to select on."""
    client = failed_async(address)
    vchan.error_of(client.finish)
    assert vchan.error_of(lambda: client.fd) == "EPIPE"


@pytest.mark.parametrize("state", ["connecting", "accepted"])
class TestUntilFinished:
    """1.3 async: until finish returned 0 ..."""

    @pytest.fixture
    def client(self, state, request):
        value = request.getfixturevalue(state)
        return value[0] if isinstance(value, tuple) else value

    def test_is_open_is_waiting(self, client):
        """... is_open is 2 (the audio daemon asks before finish)."""
        assert client.is_open == WAITING

    def test_read_is_eagain(self, client):
        """... read gives -1/EAGAIN."""
        assert vchan.error_of(client.read, 1) == "EAGAIN"

    def test_recv_is_eagain(self, client):
        """... recv gives -1/EAGAIN."""
        assert vchan.error_of(client.recv, 1) == "EAGAIN"

    def test_write_is_eagain(self, client):
        """... write gives -1/EAGAIN."""
        assert vchan.error_of(client.write, b"x") == "EAGAIN"

    def test_send_is_eagain(self, client):
        """... send gives -1/EAGAIN."""
        assert vchan.error_of(client.send, b"x") == "EAGAIN"

    def test_fd_for_select_is_eagain(self, client):
        """... fd_for_select gives -1/EAGAIN."""
        assert vchan.error_of(lambda: client.fd) == "EAGAIN"

    def test_data_ready_is_zero(self, client):
        """... data_ready is 0."""
        assert client.data_ready == 0

    def test_buffer_space_is_zero(self, client):
        """... buffer_space is 0."""
        assert client.buffer_space == 0

    def test_wait_returns_zero_at_once(self, client):
        """... wait returns 0."""
        assert Task(client.wait).result() == 0

    def test_close_is_legal(self, client):
        """... close is legal."""
        Task(client.close).result(vchan.A_SECOND)


def test_wait_does_not_eat_the_outcome(address):
    """1.3 async: watch_fd becomes readable, though wait was called early."""
    client = address.open_async()
    client.wait()
    listener = address.listen_raw()
    assert readable_for_good(client.watch_fd)
    assert client.finish() == 0
    listener.close()


def test_finish_true_sets_blocking_mode(accepted):
    """1.3 async: `blocking` sets the mode."""
    client, peer = accepted
    assert client.finish(True) == 0
    reading = Task(client.read, 1)
    assert reading.asleep()
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_finish_false_sets_nonblocking_mode(accepted):
    """1.3 async: `blocking` sets the mode."""
    client, _ = accepted
    client.finish(False)
    assert client.read(1) == b""


def test_finish_of_a_server_is_einval(address):
    """1.3: EINVAL for bad arguments."""
    assert vchan.error_of(address.open_server().finish) == "EINVAL"


def test_what_the_peer_sent_before_finish_is_there(accepted):
    """1.3 async: no byte is lost between connecting and finishing."""
    client, peer = accepted
    peer.sendall(pattern(1000))
    client.finish()
    assert client.recv(1000) == pattern(1000)


def test_what_a_gone_peer_sent_before_finish_is_there(accepted):
    """1.3: what the peer sent before it closed can still be read."""
    client, peer = accepted
    peer.sendall(b"bye")
    peer.close()
    assert client.finish() == 0
    assert vchan.read_until_end(client) == b"bye"


def test_fd_is_readable_once_after_finish(accepted):
    """1.3: connected is an event for an asynchronous client, too."""
    client, _ = accepted
    client.finish()
    assert readable(client.fd)
    client.wait()
    assert quiet(client.fd)


def test_data_is_an_event_after_finish(accepted):
    """1.3: the fd of an asynchronous client works like any other."""
    client, peer = accepted
    client.finish()
    vchan.settle(client)
    peer.sendall(b"x")
    assert readable(client.fd)


def test_two_of_our_own_connect_asynchronously(address):
    """1.3 async: against a server of ours that comes later."""
    client = address.open_async()
    server = address.open_server()
    assert readable_for_good(client.watch_fd)
    assert client.finish() == 0
    client.write(b"hello")
    assert server.recv(5) == b"hello"


def test_close_during_connect_leaves_the_address_free(address):
    """1.3 async: a closed attempt does not connect behind our back."""
    client = address.open_async()
    client.close()
    server = address.open_server(PAGE, PAGE)
    assert quiet(server.fd)
    assert server.is_open == WAITING


def test_many_closes_at_random_moments_of_connecting(address):
    """1.3 async: close is legal whenever it comes."""
    listener = address.listen_raw(backlog=100)
    before = vchan.Holdings.now()
    for number in range(60):
        client = address.open_async()
        vchan.poll(client.watch_fd, number % 4)
        client.close()
    assert vchan.Holdings.back_to(before)
    listener.close()
