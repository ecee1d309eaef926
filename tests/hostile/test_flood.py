# SPDX-License-Identifier: LGPL-2.1-or-later
"""A crowd at both of a server's ports, as fast as it can, and the right client.

The strangers are another guest of this machine, or a program on it.  The right client
comes again and again and gets in each time, and the server's process neither grows nor
goes on working when the crowd has gone.
"""
import subprocess
import time

import pytest

import programs
import vchan
from lab import fixtures
from burden import Burden, back_to, cpu_seconds, is_idle
from guest_puppet import GuestPuppet
from puppet import Puppet
from vchan import A_SECOND, CONNECTED, PAGE, WAITING, until

SECONDS = min(60, vchan.scaled(5))
# "A second or two", times A_SECOND's five, and the crowd needs processors, too.
TO_GET_IN = 4 * A_SECOND
THREADS = 2
GROWTH_KIB = 1024
AT_THE_DOOR = 1  # a stranger that is about to be closed

pytestmark = [pytest.mark.deadline(120 + 2 * SECONDS),
              pytest.mark.usefixtures("real_domains")]


# --- the crowd -----------------------------------------------------------------------

class LocalCrowd:
    """flood.c on this machine: over loopback it comes from CID 1."""

    def __init__(self, vsock_port):
        self.process = subprocess.Popen(
            [programs.program("flood"), str(vchan.CID_LOCAL), str(vsock_port), "120",
             str(THREADS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "flooding\n"

    def leave(self):
        return self.process.communicate(timeout=vchan.SOON)[0].strip()

    def put_away(self):
        self.process.kill()
        self.process.communicate()


class GuestCrowd:
    """The same program in a guest."""

    def __init__(self, guest, vsock_port):
        self.process = guest.popen([str(word) for word in (
            programs.program("flood"), vchan.CID_HOST, vsock_port, 120, THREADS)])
        assert self.process.stdout.readline(vchan.SOON) == b"flooding\n"

    def leave(self):
        self.process.stdin.write(b"\n")
        return self.process.stdout.readline(vchan.SOON).decode().strip()

    def put_away(self):
        self.process.kill()


@pytest.fixture(scope="module")
def other_guest():
    """One that is not asked for; to be started."""
    fixtures.require_guests()
    machine = fixtures.labkit.Guest(memory="256M")
    yield machine
    machine.kill()


@pytest.fixture
def gather(request):
    """Starts a crowd of strangers, of one kind or the other, at a vsock port and the framed
    one that belongs to it."""
    crowds = []

    def begin(where, vsock_port):
        if where == "this-machine":
            crowds.append(LocalCrowd(vsock_port))
        else:
            other = fixtures.running(
                fixtures.use(request, request.getfixturevalue("other_guest")))
            crowds.append(GuestCrowd(other, vsock_port))
        return crowds[-1]

    yield begin
    for crowd in crowds:
        crowd.put_away()


# --- the right client ------------------------------------------------------------------

class Ours:
    """A client of ours in the guest."""

    def __init__(self, guest, port):
        self.puppet, self.port = GuestPuppet(guest), port

    def visit(self):
        """Comes and goes; how long it took to get in."""
        start = time.monotonic()
        self.puppet("client", 0, self.port)
        return time.monotonic() - start

    def leave(self):
        self.puppet("close")


PLAIN = """
import socket, sys
for line in sys.stdin:
    while True:
        peer = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            peer.connect((2, {port}))
            peer.sendall(b"x")
            peer.recv(1)
            break
        except ConnectionError:
            peer.close()
    print("in", flush=True)
    sys.stdin.readline()
    peer.close()
"""


class Plain:
    """A plain socket in the guest that tries until it is served."""

    def __init__(self, guest, port):
        self.process = guest.popen(
            ["/usr/bin/python3", "-c", PLAIN.format(port=guest.cid * 65536 + port)])

    def visit(self):
        start = time.monotonic()
        self.process.stdin.write(b"come\n")
        assert self.process.stdout.readline(vchan.SOON) == b"in\n"
        return time.monotonic() - start

    def leave(self):
        self.process.stdin.write(b"go\n")


def serve(server, guest, port):
    server("server", guest.cid, port, PAGE, PAGE)
    server.write(b"x")


@pytest.fixture
def stage(guest, port):
    """A server in a process of its own, for the guest; who has been served once."""
    server = Puppet.start(VCHAN_DOMAIN=0)
    serve(server, guest, port)
    GuestPuppet(guest)("client", 0, port)
    until(lambda: server("open") == CONNECTED)
    server("close")
    return server


def come_again_and_again(server, guest, port, client):
    """For a while: how long each time took until both ends were connected."""
    times, over = [], time.monotonic() + SECONDS
    while time.monotonic() < over or len(times) < 3:
        serve(server, guest, port)
        start = time.monotonic()
        client.visit()
        until(lambda: server("open") == CONNECTED)
        times.append(time.monotonic() - start)
        server("close")
        client.leave()
    return sorted(times)


@pytest.mark.parametrize("where, kind", [("this-machine", Ours), ("another-guest", Ours),
                                         ("another-guest", Plain)])
def test_right_client_gets_in_through_a_crowd(gather, stage, guest, port, where, kind):
    """1.4: accepts its client's CID, refuses all others without losing its place."""
    pid = stage.process.pid
    before = Burden.of(pid)
    serve(stage, guest, port)
    crowd = gather(where, guest.cid * 65536 + port)
    stage("close")
    times = come_again_and_again(stage, guest, port, kind(guest, port))
    during = Burden.of(pid)
    told = crowd.leave()
    print(f"{told}; {kind.__name__} got in {len(times)} times, after "
          f"{times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s (most); "
          f"memory {before.resident} KiB before, {during.resident} KiB in the crowd")
    assert times[-1] < TO_GET_IN
    assert during.is_within(before, GROWTH_KIB, AT_THE_DOOR), (before, during)
    back_to(pid, before)


@pytest.mark.parametrize("where", ["this-machine", "another-guest"])
def test_server_in_a_crowd_stays_silent_and_does_not_grow(gather, stage, guest, port, where):
    """1.3: silent until the client has connected; calls return, close is quick, and
    when the crowd has gone there is nothing to do."""
    pid = stage.process.pid
    serve(stage, guest, port)
    before = Burden.of(pid)
    crowd = gather(where, guest.cid * 65536 + port)
    start, spent = time.monotonic(), cpu_seconds(pid)
    while time.monotonic() < start + SECONDS:
        called = time.monotonic()
        # The simple flavour's fd may tell of strangers, for its next call.
        assert stage("poll", 20) == 0 or vchan.SIMPLE
        assert stage("open") == WAITING and stage("ready") == 0
        assert time.monotonic() - called < A_SECOND
        now = Burden.of(pid)
        assert now.is_within(before, GROWTH_KIB, AT_THE_DOOR), (before, now)
    spent = cpu_seconds(pid) - spent
    closing = time.monotonic()
    stage("close")
    closing = time.monotonic() - closing
    serve(stage, guest, port)
    told = crowd.leave()
    print(f"{told}; {spent:.2f} s of processor time in {SECONDS} s of crowd, "
          f"close took {closing:.3f} s")
    assert closing < A_SECOND
    assert is_idle(pid)
    assert back_to(pid, before)
    assert stage("open") == WAITING
    GuestPuppet(guest)("client", 0, port)
    until(lambda: stage("open") == CONNECTED)


def test_clients_of_the_right_machine_that_come_and_go_keep_no_call(stage, guest, port):
    """docs/wire.md, set-up: who leaves before it is connected is forgotten, however
    often: calls of the server's program return."""
    vsock_port = guest.cid * 65536 + port
    with_frames_only = Puppet.start(VCHAN_DOMAIN=0, VCHAN_VSOCK_WIRE="framed")
    with_frames_only("server", guest.cid, port, PAGE, PAGE)
    crowd = GuestCrowd(guest, vsock_port)
    try:
        for _ in range(50):
            called = time.monotonic()
            assert with_frames_only("open") == WAITING
            assert time.monotonic() - called < A_SECOND
        start = time.monotonic()
        GuestPuppet(guest)("client", 0, port)
        until(lambda: with_frames_only("open") == CONNECTED)
        print(f"got in after {time.monotonic() - start:.2f} s; {crowd.leave()}")
    finally:
        crowd.put_away()
