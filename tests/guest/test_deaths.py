# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is alive (1.3): programs and machines that end, seen from the other side."""
import errno
import random
import time

import pytest

import vchan
from guest_puppet import GuestPuppet, serve, serve_from_a_program
from vchan import A_SECOND, CONNECTED, DISCONNECTED, PAGE, WAITING, Task, Vchan, until


@pytest.fixture
def joined(guest, port):
    return serve(guest, port)


def test_death_of_the_guests_program_shows(joined):
    """1.3: a connected peer's death shows within a second."""
    server, client = joined
    vchan.settle(server)
    client.kill()
    assert vchan.readable(server.fd, A_SECOND)
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)


def test_death_of_the_guests_program_under_load_shows(joined):
    """1.3: the same, in the middle of a flood."""
    server, client = joined
    client.begin("flood", 4096)
    assert server.read(1)
    client.kill()
    reading = Task(vchan.read_until_end, server)
    assert reading.result()
    assert server.is_open == DISCONNECTED


def test_death_of_the_hosts_program_shows_in_the_guest(guest, port):
    """1.3: the same, the other way round."""
    server, client = serve_from_a_program(guest, port)
    server.write(b"x")
    assert client.recv(1) == b"x"
    client.begin("until-gone", int(A_SECOND * 1000))
    server.kill()
    assert client.answer()[0] == DISCONNECTED


@pytest.mark.deadline(180)
def test_killed_guest_shows_under_load(fresh_guest, port):
    """1.3: a connected peer's death shows within a second: its machine's."""
    guest = fresh_guest()
    server = Vchan.server(guest.cid, port)
    client = GuestPuppet(guest)
    client("client", 0, port)
    client.begin("flood", 4096)
    assert server.read(1)
    guest.kill()
    until(lambda: server.is_open == DISCONNECTED, A_SECOND)
    with pytest.raises(OSError) as failure:
        server.write(b"x")
    assert failure.value.errno == errno.EPIPE
    vchan.read_until_end(server)  # ends, with what arrived
    # The address is free, and nobody is there.
    server.close()
    with Vchan.server(guest.cid, port) as again:
        assert again.is_open == WAITING
    with pytest.raises(OSError) as failure, vchan.environment(
            VCHAN_VSOCK_BOOT_WAIT_MS=100):
        Vchan.client(guest.cid, port)
    assert failure.value.errno == errno.ENODEV


@pytest.mark.deadline(180)
def test_waiting_server_whose_guest_has_gone_is_disconnected(fresh_guest, port):
    """1.3: a host-side server in WAITING whose guest was there and has gone
    becomes DISCONNECTED within about 10 s."""
    guest = fresh_guest()
    server = Vchan.server(guest.cid, port)
    reader = Task(server.read, 1)
    assert reader.asleep()
    # It must have seen the guest once; it looks every 2 s, at once when made.
    assert vchan.nothing_to_tell(server.fd, 2500)
    assert server.is_open == WAITING
    guest.kill()
    killed = time.monotonic()
    assert vchan.readable_for_good(server.fd)
    assert server.is_open == DISCONNECTED
    assert time.monotonic() - killed < 10 + A_SECOND
    with pytest.raises(ConnectionResetError):
        reader.result()
    server.wait()
    assert vchan.quiet(server.fd)


def test_server_for_a_guest_that_never_was_keeps_waiting(port):
    """1.3: only a guest that was there can have gone."""
    server = Vchan.server(random.randint(32001, 32767), port)
    assert vchan.nothing_to_tell(server.fd, 7000)
    assert server.is_open == WAITING


@pytest.mark.deadline(120)
def test_client_waits_for_a_guest_that_boots(fresh_guest, port):
    """1.3: a client waits for a machine within the boot wait, and then for its server."""
    guest = fresh_guest(start=False)
    with vchan.environment(VCHAN_VSOCK_BOOT_WAIT_MS=60000):
        client = Task(Vchan.client, guest.cid, port)
        guest.start()
        server = GuestPuppet(guest)
        server("server", 0, port, PAGE, PAGE)
        client.result().write(b"x")
    assert server.recv(1) == b"x"


def test_paused_guest_is_not_dead(guest, joined):
    """A machine that stands still has not gone."""
    server, client = joined
    vchan.settle(server)
    guest.pause()
    try:
        server.write(b"still there?")
        assert vchan.quiet(server.fd, 3000)
        assert server.is_open == CONNECTED
    finally:
        guest.resume()
    assert client.recv(12) == b"still there?"


def test_plain_python_in_the_guest_is_a_peer(guest, port):
    """1.4: ten lines of Python can be the peer."""
    server = Vchan.server(guest.cid, port)
    program = ("import socket\n"
               "s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\n"
               f"s.connect((2, {guest.cid * 65536 + port}))\n"
               "s.sendall(s.recv(5).upper())\n")
    there = guest.popen(["/usr/bin/python3", "-c", program])
    server.write(b"hello")
    assert vchan.read_until_end(server) == b"HELLO"
    assert there.wait() == 0
