# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that come and go, and more than one of them (1.3, 1.4)."""
import pytest

import vchan
from guest_puppet import GuestPuppet, serve
from lab.fixtures import Shared, require_guests, running, use
from vchan import A_SECOND, CONNECTED, DISCONNECTED, PAGE, WAITING, Task, Vchan, until

pytestmark = pytest.mark.deadline(180)


@pytest.fixture(scope="module")
def another():
    shared = Shared()
    yield shared
    shared.stop()


@pytest.fixture
def doomed(another, request):
    """A second guest, that the test may kill."""
    require_guests()
    return running(use(request, another.get()))


@pytest.fixture
def joined(doomed, port):
    """A server here whose client is in the doomed guest."""
    return serve(doomed, port)[0]


# --- several guests ------------------------------------------------------------

def test_another_guest_is_refused_and_the_right_one_let_in(guest, doomed, port):
    """1.4: accepts the first connection from its client's CID, refuses others."""
    server = Vchan.server(guest.cid, port)
    stranger = GuestPuppet(doomed)
    stranger("raw-connect", vchan.CID_HOST, guest.cid * 65536 + port)
    assert vchan.error_of(stranger.raw_recv, 1) in ("", "ECONNRESET")
    assert server.is_open == WAITING
    GuestPuppet(guest)("client", 0, port)
    until(lambda: server.is_open == CONNECTED)


def test_the_same_port_serves_every_guest(guest, doomed, port):
    """1.4: every guest's host-side server uses the same port number."""
    machines = [guest, doomed]
    servers = [Vchan.server(machine.cid, port) for machine in machines]
    for machine, server in zip(machines, servers):
        client = GuestPuppet(machine)
        client("client", 0, port)
        client.write(b"%8d" % machine.cid)
        assert server.recv(8) == b"%8d" % machine.cid


def test_death_of_one_guest_leaves_the_others_channels_alone(guest, joined,
                                                             doomed, port):
    """1.3: different handles are independent, their machines too."""
    other = serve(guest, port)[0]
    doomed.kill()
    until(lambda: joined.is_open == DISCONNECTED, A_SECOND)
    assert other.is_open == CONNECTED


# --- guests that die --------------------------------------------------------------

def test_guest_that_dies_is_told_to_all_who_wait(doomed, port):
    """1.3: within a second EPIPE to who writes, ECONNRESET to who reads, and POLLIN and no
    more, never POLLHUP or POLLERR, to who polls; quiet after wait."""
    writer, reader, idle = [serve(doomed, (port + n) % 65536)[0] for n in range(3)]
    writing = Task(vchan.error_of, writer.write, bytes(8 << 20))
    reading = Task(vchan.error_of, reader.read, 1)
    assert writing.asleep() and reading.asleep()
    vchan.settle(idle)
    doomed.kill()
    assert vchan.readable(idle.fd, A_SECOND)
    assert writing.result(A_SECOND) == "EPIPE"
    assert reading.result(A_SECOND) == "ECONNRESET"
    until(lambda: idle.is_open == DISCONNECTED)
    vchan.settle(idle)
    assert vchan.quiet(idle.fd)


def test_close_does_not_linger_for_a_dead_guest(monkeypatch, doomed, port):
    """1.3 close: what was written is delivered if the peer reads it."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")
    server = serve(doomed, port)[0]
    vchan.fill(server)
    doomed.kill()
    Task(server.close).result(A_SECOND)


def test_guest_that_powers_off_shows(joined, doomed):
    """1.3: death shows within a second; an orderly end of the machine, too."""
    doomed.poweroff()
    until(lambda: joined.is_open == DISCONNECTED, A_SECOND)
    assert not doomed.lost()


def test_client_that_waits_gives_up_when_the_guest_dies(doomed, port):
    """1.3: no such machine for BOOT_WAIT_MS in a row: ENODEV."""
    connecting = Task(vchan.error_of, Vchan.client, doomed.cid, port)
    assert connecting.asleep()
    doomed.kill()
    assert connecting.result(5 + 3 * A_SECOND) == "ENODEV"


# --- waiting ------------------------------------------------------------------------

def test_waiting_server_is_patient_while_its_guest_lives(guest, port):
    """1.3: WAITING turning into 0 means that the guest died, and nothing else."""
    server = Vchan.server(guest.cid, port)
    assert vchan.nothing_to_tell(server.fd, 15_000)
    assert server.is_open == WAITING


def test_waiting_server_sees_its_guest_through_boot(fresh_guest, port):
    """1.3: ... whose guest was there and has gone: not one still to come."""
    machine = fresh_guest(start=False)
    server = Vchan.server(machine.cid, port)
    machine.start()
    assert server.is_open == WAITING
    GuestPuppet(machine)("client", 0, port)
    until(lambda: server.is_open == CONNECTED)


def test_close_lingers_for_a_guest_that_reads(monkeypatch, guest, in_guest, port):
    """1.3 close: what was written is delivered if the peer reads it."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")
    server = Vchan.server(guest.cid, port, PAGE, 1 << 20)
    client = in_guest()
    client("client", 0, port)
    until(lambda: server.is_open == CONNECTED)
    total = vchan.fill(server)
    closing = Task(server.close)
    assert client("swallow", seconds=60) == total
    closing.result()
