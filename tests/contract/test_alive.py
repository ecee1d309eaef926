# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is alive, and how soon that shows (design 1.3)."""
import time

import pytest

import vchan
from puppet import Puppet
from vchan import A_SECOND, CONNECTED, DISCONNECTED, Task, until, Vchan

# A CID that no machine has: above those that the lab gives out.
NOBODY = 0x7FFF1234


@pytest.fixture
def host(monkeypatch):
    """No loopback: we are the host, domain 0."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "0")


def seconds(call, *arguments):
    """How long a call takes, and the name of its errno."""
    before = time.monotonic()
    name = vchan.error_of(call, *arguments)
    return time.monotonic() - before, name


def test_client_waits_for_a_server_on_a_machine_that_exists(monkeypatch, address):
    """1.3: a client waits as long as it takes (BOOT_WAIT is not for that)."""
    monkeypatch.setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "100")
    connecting = Task(address.open_client)
    connecting.join(2)
    assert connecting.is_alive()
    server = address.open_server()
    connecting.result()
    until(lambda: server.is_open == CONNECTED)


def test_client_finds_a_server_that_comes_late_soon(address):
    """1.3: it tries again often enough: within a second of the server."""
    connecting = Task(address.open_client)
    assert connecting.asleep()
    address.open_server()
    connecting.result(A_SECOND)


def test_client_that_has_waited_for_long_tries_as_often(address, tmp_path):
    """1.3: ... however late it comes.  Forty attempts are four seconds; with pauses of a
    second, or without end, they are not soon over."""
    log = tmp_path / "log"
    with open(log, "wb") as file:
        client = Puppet.start(stderr=file, VCHAN_DOMAIN=address.client,
                              VCHAN_VSOCK_LOG="debug")
    client.begin("client", address.server, address.port)
    until(lambda: max(log.read_text().count(f"attempt, {wire} ")
                      for wire in ("framed", "plain")) >= 40)


def test_client_waits_for_a_port_whose_backlog_is_full(address):
    """1.3: a full backlog is not the end: the client comes through later."""
    listener = address.listen_raw(backlog=0)
    first = address.connect_raw()
    connecting = Task(address.open_client)
    assert connecting.asleep()
    while connecting.is_alive():
        if vchan.poll(listener.fileno(), 50):
            vchan.accept_raw(listener)
    connecting.result()
    first.close()


def find_no_machine():
    assert vchan.error_of(Vchan.client, NOBODY, 512) == "ENODEV"


def test_no_such_machine_is_enodev(host, monkeypatch):
    """1.3: the machine does not exist for BOOT_WAIT_MS in a row: ENODEV."""
    monkeypatch.setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "300")
    assert 0.25 < vchan.quickest(find_no_machine) < 4, "the default is 5 s"


def test_boot_wait_is_five_seconds_by_default(host):
    """1.3: default 5,000: a machine may need a moment to boot."""
    took, name = seconds(Vchan.client, NOBODY, 512)
    assert name == "ENODEV"
    assert 4.5 < took < 5 + 5 * A_SECOND


def test_boot_wait_of_zero_gives_up_at_once(host, monkeypatch):
    """1.5: VCHAN_VSOCK_BOOT_WAIT_MS=0 is a value like any other."""
    monkeypatch.setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "0")
    assert vchan.quickest(find_no_machine) < 4


def test_connect_timeout_is_etimedout(monkeypatch, address):
    """1.3: CONNECT_TIMEOUT_MS is over: it fails with ETIMEDOUT."""
    monkeypatch.setenv("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "300")
    took, name = seconds(address.open_client)
    assert name == "ETIMEDOUT"
    assert 0.25 < took < 0.3 + A_SECOND


def test_connect_timeout_also_ends_the_wait_for_a_machine(host, monkeypatch):
    """1.3: or CONNECT_TIMEOUT_MS is over, whichever comes first."""
    monkeypatch.setenv("VCHAN_VSOCK_BOOT_WAIT_MS", "50000")
    monkeypatch.setenv("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "300")
    assert seconds(Vchan.client, NOBODY, 512)[1] == "ETIMEDOUT"


def test_connect_timeout_does_not_end_a_connection(monkeypatch):
    """1.3: it is about connecting; a connected client stays."""
    monkeypatch.setenv("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "300")
    client, peer = vchan.with_raw_server()
    vchan.settle(client)
    assert vchan.quiet(client.fd, 600)
    assert client.is_open == CONNECTED
    peer.close()


# --- death ---------------------------------------------------------------------

@pytest.mark.parametrize("death", [("exit", 0), ("exit-now", 0), ("kill", 9),
                                   ("kill", 11), ("close",)])
def test_death_of_the_clients_program_shows_within_a_second(address, death):
    """1.3: a connected peer's death shows within a second."""
    server = address.open_server()
    client = Puppet.client_of(address)
    until(lambda: server.is_open == CONNECTED)
    client.begin(*death)
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)


@pytest.mark.parametrize("death", [("exit", 0), ("exit-now", 0), ("kill", 9)])
def test_death_of_the_servers_program_shows_within_a_second(address, death):
    """1.3: the same for the client."""
    server = Puppet.serving(address)
    client = address.open_client()
    server.begin(*death)
    until(lambda: client.is_open == DISCONNECTED, A_SECOND)


def test_death_shows_on_the_fd_within_a_second(address):
    """1.3: ... to a program that sleeps on the fd."""
    server = address.open_server()
    client = Puppet.client_of(address)
    vchan.until(lambda: server.is_open == CONNECTED)
    vchan.settle(server)
    client.kill()
    assert vchan.readable(server.fd, A_SECOND)


def test_death_shows_although_a_forked_child_lives(address):
    """1.3: a forked service does not keep a dead parent's channel open."""
    server = address.open_server()
    client = Puppet.client_of(address)
    child = client.fork()
    until(lambda: server.is_open == CONNECTED)
    client.kill()
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)
    assert child("pid") == child.pid


def test_death_shows_under_load(address):
    """1.3: ... also while the peer was sending with all its might."""
    server = address.open_server()
    client = Puppet.client_of(address)
    client.begin("flood", 1000)
    assert vchan.read_exactly(server, 100_000) == vchan.pattern(100_000)
    client.kill()
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)


def test_stopped_peer_is_not_dead(address):
    """1.3: death shows, and nothing else does: a stopped program is not dead."""
    server = address.open_server()
    client = Puppet.client_of(address)
    until(lambda: server.is_open == CONNECTED)
    vchan.settle(server)
    client.signal(19)
    assert vchan.quiet(server.fd, 1500)
    assert server.is_open == CONNECTED
    client.signal(18)
    assert client.write(b"x") == 1
    assert server.recv(1) == b"x"
