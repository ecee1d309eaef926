# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that are switched off, reset, paused and restored in the middle of traffic.

In both directions: FROM_GUEST, the guest floods its host; TO_GUEST, the host the guest.
"""
import select
import socket
import time

import pytest

import vchan
from bare_guest import BareGuest
from guest_puppet import GuestPuppet
from lab.fixtures import require_guests, use
from puppet import Puppet
from vchan import A_SECOND, CONNECTED, DISCONNECTED, PAGE, WAITING

FROM_GUEST, TO_GUEST = "from the guest", "to the guest"
DIRECTIONS = [FROM_GUEST, TO_GUEST]
CHUNK = 3000
PAUSE = 20  # seconds, as the issue says
PAUSED_BYTES = 8 << 20
long = pytest.mark.long


class Bare:
    """A bare guest that tests share, as a boot is what takes long."""

    def __init__(self):
        self.guest = None

    def get(self):
        """One that is in order: what a test has failed with is not used again."""
        if not (self.guest and self.guest.alive() and self.guest.in_order):
            self.stop()
            self.guest = BareGuest()
        return self.guest

    def stop(self):
        if self.guest:
            self.guest.kill()

    def restored(self, path):
        self.guest = self.guest.restored(path)
        self.guest.in_order = False
        return self.guest


@pytest.fixture(scope="module")
def bares():
    bare = Bare()
    yield bare
    bare.stop()


@pytest.fixture
def bare(bares, request):
    """The shared bare guest, with a puppet without channels in it."""
    require_guests()
    guest = use(request, bares.get())
    if not guest.alive():
        guest.start()
        guest.may_reboot()
    guest.in_order = False
    return guest


class Flow:
    """A server here, its client in the guest, and bytes in one direction."""

    def __init__(self, guest, port, direction):
        self.direction, self.guest = direction, guest
        for number in (2, 1, 0):  # what an earlier test has left
            guest.puppet("use", number)
            guest.puppet("close")
        self.server = Puppet.start(VCHAN_DOMAIN=0)
        self.server("server", guest.cid, port, PAGE, PAGE)
        guest.puppet("client", 0, port)
        if direction == FROM_GUEST:
            guest.puppet("beside", "flood", CHUNK)
            self.server("drain", 500_000)
            self.server("beside", "swallow")
        else:
            guest.puppet("beside", "swallow")
            self.server("beside", "flood", CHUNK)
            # More than the kernels hold: so the guest reads.
            time.sleep(0.5)

    def host_notices(self):
        """Soon; what arrived was right; nothing more can be written."""
        begin = time.monotonic()
        self.server.begin("join")
        assert vchan.error_of(self.server.answer) == (
            "" if self.direction == FROM_GUEST else "EPIPE")
        took = time.monotonic() - begin
        assert took < A_SECOND, took
        assert self.server("open") == DISCONNECTED
        assert vchan.error_of(self.server.write, b"x") == "EPIPE"
        self.server("close")

    def goes_on(self, port):
        """Both serve, and connect, again."""
        puppet = self.guest.puppet
        self.server("server", self.guest.cid, port, PAGE, PAGE)
        assert self.server("open") == WAITING
        puppet("use", 1)
        puppet("client", 0, port)
        talk(self.server, puppet)
        puppet("use", 2)
        puppet("server", 0, port, PAGE, PAGE)
        self.server("use", 1)
        self.server("client", self.guest.cid, port)
        talk(self.server, puppet)
        self.guest.in_order = True


def talk(one, other):
    one.write(b"to you")
    assert other.recv(6) == b"to you"
    other.write(b"to me")
    assert one.recv(5) == b"to me"


# --- reset, restored, switched off -----------------------------------------------------

@pytest.mark.deadline(300)
@pytest.mark.parametrize("direction", [
    FROM_GUEST,
    # Without a thread a writer that waits learns of it with the next call only.
    *([] if vchan.SIMPLE else [pytest.param(TO_GUEST, marks=long)])])
def test_guest_that_starts_again_under_load(bare, port, direction):
    """1.3: a connected peer's death shows within a second: its machine's.

    The machine is another one, though its QEMU and its CID are the same, and nobody
    tells its host: vhost keeps the connections of the machine that was there.
    """
    flow = Flow(bare, port, direction)
    bare.restart()
    bare.await_puppet()
    flow.host_notices()
    flow.goes_on(port)


@pytest.mark.deadline(300)
def test_idle_guest_that_starts_again_is_noticed(bare, port):
    """The same of a channel on which nothing happens."""
    bare.puppet("use", 0)
    server = Puppet.start(VCHAN_DOMAIN=0)
    server("server", bare.cid, port, PAGE, PAGE)
    bare.puppet("client", 0, port)
    talk(server, bare.puppet)
    bare.restart()
    bare.await_puppet()
    if vchan.SIMPLE:  # in calls, and only there
        vchan.until(lambda: server("open") == DISCONNECTED, A_SECOND)
    else:
        assert server("until-gone", int(A_SECOND * 1000)) == DISCONNECTED
    bare.in_order = True


@long
@pytest.mark.deadline(300)
def test_a_credit_update_is_answered_by_a_guest_that_has_started_again(bare, port):
    """What the kernels do: a way to find out without sending a byte of data."""
    bare.puppet("use", 3)
    bare.puppet("raw-listen", port)
    peer = vchan.raw_connect(port, bare.cid)
    bare.puppet("raw-accept")
    bare.restart()
    bare.await_puppet()
    assert vchan.quiet(peer.fileno(), 2000)
    peer.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_SIZE, 100_000)
    assert vchan.poll(peer.fileno(), int(A_SECOND * 1000)) & select.POLLRDHUP
    bare.in_order = True


@long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_guest_restored_from_a_snapshot(bare, bares, port, direction, tmp_path):
    """Its channels are those of another time: both ends notice, and begin anew."""
    flow = Flow(bare, port, direction)
    bare.save(tmp_path / "snapshot")
    bare.kill()
    flow.host_notices()
    flow.guest = bares.restored(tmp_path / "snapshot")
    flow.guest.puppet.begin("join")
    # A flood ends with EPIPE; what was swallowed was right.
    assert vchan.error_of(flow.guest.puppet.answer, A_SECOND) == (
        "EPIPE" if direction == FROM_GUEST else "")
    assert flow.guest.puppet("open") == DISCONNECTED
    flow.guest.puppet("close")
    flow.goes_on(port)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("direction, how", [(FROM_GUEST, "off"), (TO_GUEST, "kill")])
def test_guest_that_ends_under_load(bare, port, direction, how):
    """1.3: a connected peer's death shows within a second: its machine's."""
    flow = Flow(bare, port, direction)
    if how == "off":
        bare.asked_to_end = True
        bare.puppet.begin("machine-off")
        bare.qemu.wait(vchan.SOON)
    else:
        bare.kill()
    flow.host_notices()
    flow.server("server", bare.cid, port, PAGE, PAGE)  # the address is free


# --- paused ---------------------------------------------------------------------------

@pytest.mark.deadline(240)
def test_guest_that_is_paused_under_load_loses_nothing(guest, port):
    """A machine that stands still has not gone: both directions go on, every byte."""
    ends = []
    for number, (sender, receiver) in enumerate([("pour", "drain"), ("drain", "pour")]):
        server, client = Puppet.start(VCHAN_DOMAIN=0), GuestPuppet(guest)
        server("server", guest.cid, port + number, PAGE, PAGE)
        client("client", 0, port + number)
        ends += [(client, sender), (server, receiver)]
    for end, command in ends:
        end.begin(command, PAUSED_BYTES, *([CHUNK] if command == "pour" else []))
    guest.pause()
    time.sleep(PAUSE)
    guest.resume()
    assert [end.answer(120)[0] for end, _ in ends] == [PAUSED_BYTES] * 4
    assert [end("open") for end, _ in ends] == [CONNECTED] * 4
