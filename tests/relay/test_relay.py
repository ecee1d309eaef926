# SPDX-License-Identifier: LGPL-2.1-or-later
"""The relay between real guests, over real vsock.

Here is what has to do with the kernel's vsock; all else is tests/tools/test_relay.py's.
The guests' ends are plain sockets that say relay.h's request by themselves.
"""
import pathlib
import signal

import pytest

import programs
import relay_guests
import vchan
from relay_guests import BUSY, DENIED, NO_MACHINE, OK, REFUSED
from vchan import A_SECOND, SOON

pytestmark = pytest.mark.deadline(180)
PEER = pathlib.Path(__file__).with_name("peer.py")


def peer(guest, *words):
    return guest.popen(["/usr/bin/python3", "-B", str(PEER), *map(str, words)])


def ends_soon(puppet, seconds=A_SECOND):
    """Its connection is over, whatever was the end."""
    puppet.begin("raw-recv", 1)
    try:
        return puppet.answer(seconds)[0] == 0
    except ConnectionResetError:
        return True


def echo_once(ends, words=b"ping"):
    source, target = ends
    source.raw_send(words)
    assert target.raw_recv(len(words)) == words
    target.raw_send(words)
    assert source.raw_recv(len(words)) == words


# --- who may reach whom ---------------------------------------------------------

def test_two_guests_that_may_talk(ends, relay):
    echo_once(ends)
    source, target = ends
    assert relay.lines(f"event=opened .*source={source.cid} .*target={target.cid} ")


def test_the_target_sees_its_host_and_a_low_port(guests, relay, port):
    """And what is said with the request is not lost."""
    source, target, _ = guests
    server = peer(target, "serve", source.cid * 65536 + port)
    assert server.stdout.readline() == b"listening\n"
    client = peer(source, "ask", target.cid, port, 5000)
    assert client.stdout.readline() == b"0\n"
    cid, from_port, said = server.stdout.readline().split()
    assert (int(cid), said) == (2, b"x" * 16)
    assert 256 <= int(from_port) < 1024


def test_a_privileged_source_comes_from_the_first_ports(guests, relay, port):
    source, target, _ = guests
    server = peer(target, "serve", source.cid * 65536 + port)
    assert server.stdout.readline() == b"listening\n"
    client = peer(source, "ask", target.cid, port, 777)
    assert client.stdout.readline() == b"0\n"
    assert 1 <= int(server.stdout.readline().split()[1]) <= 255


def test_the_one_that_may_not(raw, relay, port):
    source, target, other = raw
    target.listen(other.cid, port)
    assert other.ask(target.cid, port) == DENIED
    assert target.cid != other.cid and target.ask(source.cid, port) == DENIED
    assert len(relay.lines("event=refused .*why=policy")) == 2


def test_nobody_can_be_another_source(guests, raw, relay, port):
    """Its kernel does not let it, its request cannot say it, its host would know."""
    source, target, other = raw
    said = peer(guests[2], "pretend", source.cid).stdout.readline()
    assert said == b"EADDRNOTAVAIL\n"
    other("raw-connect", vchan.CID_HOST, relay_guests.PORT)
    other.raw_send(relay_guests.request(target.cid, port, reserved=source.cid))
    assert ends_soon(other)
    assert relay.await_line(f"event=malformed .*source={other.cid} ")


def test_nobody_serves(raw, relay, port):
    assert raw[0].ask(raw[1].cid, port) == REFUSED


def test_no_such_guest(raw, relay, port):
    relay.policy.write_text("allow * -> * *\n")
    relay.process.send_signal(signal.SIGHUP)
    relay.await_line("event=policy-read", 2)
    assert raw[0].ask(32001, port) == NO_MACHINE


# --- the end ---------------------------------------------------------------------

@pytest.mark.parametrize("who", ["source", "target"])
def test_a_program_that_is_killed(ends, relay, who):
    dying, other = ends if who == "source" else ends[::-1]
    dying.raw_send(b"last words")
    dying.kill()
    assert other.raw_recv(10) == b"last words"
    assert ends_soon(other)
    relay.await_line(f"event=closed .*by={who}")


@pytest.mark.long  # programs with the library see it each time (test_library.py)
@pytest.mark.parametrize("who", [0, 1])
def test_a_guest_that_is_killed(guests, ends, who):
    guests[who].kill()
    assert ends_soon(ends[1 - who])


def test_a_guest_that_is_reset(guests, ends):
    """No packet tells of it: the relay finds out by asking, once its kernel is up again."""
    qmp = guests[1].qemu.qmp
    qmp("set-action", reboot="reset")
    qmp("system_reset")
    try:
        assert ends_soon(ends[0], guests[1].timeout)
    finally:
        guests[1].kill()


def test_the_relay_is_killed_and_started_again(ends, raw, relay, port):
    """Both ends see it, and all is as before, at once."""
    relay.process.kill()
    relay.process.wait()
    assert ends_soon(ends[0]) and ends_soon(ends[1])
    relay.start()
    source, target, _ = raw
    target("raw-close")
    source.reach(target, port)
    target("raw-accept")
    echo_once((source, target))


# --- a guest that does what it can --------------------------------------------------

def test_a_flood_leaves_others_their_place(guests, raw, relay, port):
    source, target, other = raw
    relay.stop()
    relay.start("--rate", 20)  # a flood in an emulated guest is a slow one
    flood = guests[2].popen(list(map(str, [
        programs.program("flood"), vchan.CID_HOST, relay_guests.PORT, 120, 4])))
    assert flood.stdout.readline(SOON) == b"flooding\n"
    for number in range(5):
        target.listen(source.cid, (port + number) % 65536)
        vchan.until(lambda n=number: tries(source, target.cid, (port + n) % 65536), SOON)
        target("raw-accept")
        echo_once((source, target))
        source("raw-close")
        target("raw-close")
    flood.stdin.close()
    assert flood.wait() == 0
    assert len(relay.log.splitlines()) < 5000
    assert relay.lines(f"event=refused source={other.cid} .*why=rate")
    assert other.cid == guests[2].cid


def tries(puppet, target, port):
    """A queue that is full, or an answer that it should come later, are no failure."""
    try:
        status = puppet.ask(target, port)
    except OSError:
        return False
    assert status in (OK, BUSY)
    return status == OK


@pytest.mark.deadline(300)
def test_a_stalled_channel_stops_nobody(ends, guests, relay, port):
    """As much as goes into the one that nobody reads; another one goes on."""
    source, target, _ = guests
    other = (port + 1) % 65536
    server = peer(target, "stall", source.cid * 65536 + other)
    assert server.stdout.readline() == b"listening\n"
    writer = peer(source, "fill", target.cid, other)
    assert writer.stdout.readline(SOON) == b"full\n"
    for _ in range(50):
        echo_once(ends)
    server.stdin.write(b"go on\n")
    count = int(writer.stdout.readline(SOON))
    assert int(server.stdout.readline(SOON)) == count
