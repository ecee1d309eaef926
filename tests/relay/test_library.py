# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs with the library in two guests, through the relay on their host."""
import signal

import pytest

import programs
import relay_guests
import vchan
import volume
from guest_puppet import GuestPuppet
from vchan import A_SECOND, CONNECTED, DISCONNECTED, PAGE, SOON, until

pytestmark = pytest.mark.deadline(180)


@pytest.fixture
def joined(relay, guests, port):
    """A client in the first guest and its server in the second one."""
    client, server = GuestPuppet(guests[0]), GuestPuppet(guests[1])
    server("server", guests[0].cid, port, PAGE, PAGE)
    client("client", guests[1].cid, port)
    until(lambda: server("open") == CONNECTED)
    return client, server


def ends_soon(puppet, seconds=A_SECOND):
    until(lambda: puppet("open") == DISCONNECTED, seconds)


def test_bytes_both_ways_in_frames(joined, relay):
    client, server = joined
    client.write(b"to the server")
    assert server.read(13) == b"to the server"
    server.write(b"to the client")
    assert client.read(13) == b"to the client"
    assert relay.lines("event=opened .*wire=framed")


def test_who_is_not_allowed_is_told(relay, guests, port):
    stranger = GuestPuppet(guests[2])
    assert vchan.error_of(stranger, "client", guests[1].cid, port) == "EACCES"


def test_a_client_waits_for_its_server(relay, guests, port):
    client, server = GuestPuppet(guests[0]), GuestPuppet(guests[1])
    client.begin("client", guests[1].cid, port)
    relay.await_line("event=refused .*why=nobody-serves-it")
    server("server", guests[0].cid, port, PAGE, PAGE)
    client.answer()


@pytest.mark.parametrize("who", [0, 1])
def test_a_program_that_is_killed(joined, who):
    joined[who].write(b"last words")
    joined[who].kill()
    assert joined[1 - who].read(10) == b"last words"
    ends_soon(joined[1 - who])


@pytest.mark.parametrize("who", [0, 1])
def test_a_guest_that_is_killed(joined, guests, who):
    guests[who].kill()
    ends_soon(joined[1 - who])


def test_the_relay_is_killed_and_started_again(joined, relay, guests, port):
    client, server = joined
    relay.process.kill()
    relay.process.wait()
    ends_soon(client)
    ends_soon(server)
    relay.start()
    client("close")
    server("close")
    server("server", guests[0].cid, port, PAGE, PAGE)
    client("client", guests[1].cid, port)
    client.write(b"again")
    assert server.read(5) == b"again"


def in_guest(guest, words):
    return guest.popen(["env", "-u", "VCHAN_VSOCK_LOOPBACK", *map(str, words)],
                       env={"LD_LIBRARY_PATH": str(vchan.LIBRARY.parent)})


@pytest.mark.deadline(900)
def test_a_gibibyte_both_ways_while_a_third_does_all_it_can(relay, guests, port):
    """Every byte is checked; who is not allowed gets nowhere, and disturbs nobody."""
    source, target, third = guests
    flood = in_guest(third, [programs.program("flood"), vchan.CID_HOST, relay_guests.PORT,
                             850, 2])
    assert flood.stdout.readline(SOON) == b"flooding\n"
    stranger = GuestPuppet(third)
    plan = volume.trips(vchan.scaled(2000), volume.GIB)
    server = in_guest(target, volume.words("server", source.cid, port, plan))
    client = in_guest(source, volume.words("client", target.cid, port, plan))
    try:
        tried = 0
        while server.poll() is None and client.poll() is None and tried < 20:
            assert vchan.error_of(stranger, "client", target.cid, port) == "EACCES"
            tried += 1
        for end in (client, server):
            assert end.wait(800) == 0, end.stderr.read_available()
        moved = volume.bytes_moved(client.stdout.read_available().decode())
    finally:
        for process in (client, server, flood):
            process.kill()
    assert min(moved) >= volume.GIB
    assert relay.lines(f"event=closed .*source={source.cid} .*by=")
    assert not relay.lines(f"event=opened .*source={third.cid} ")
    assert tried


def test_the_policy_is_read_again_under_load(joined, relay):
    """Live channels go on, whatever the new one says."""
    client, server = joined
    relay.policy.write_text("# nobody\n")
    relay.process.send_signal(signal.SIGHUP)
    relay.await_line("event=policy-read .*rules=0")
    client.write(b"still here")
    assert server.read(10) == b"still here"
