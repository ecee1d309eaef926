# SPDX-License-Identifier: LGPL-2.1-or-later
"""Three guests, and the relay on this machine, which is their host."""
import concurrent.futures
import random

import pytest

import relay_guests
import vchan
from lab.fixtures import Shared, require_guests, running, use
from guest_puppet import GuestPuppet


@pytest.fixture(autouse=True)
def real_domains(clean_environment, monkeypatch):
    """This machine is the host, whatever else it may be."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "0")


@pytest.fixture(scope="session")
def machines():
    machines = [Shared() for _ in range(3)]
    yield machines
    for machine in machines:
        machine.stop()


@pytest.fixture
def guests(machines, request):
    """Two that may talk, and one that may not; a test may kill them."""
    require_guests()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = [use(request, guest) for guest in pool.map(Shared.get, machines)]
        return list(pool.map(running, found))


class Relay(relay_guests.World):
    """A real one, on this machine."""

    def start(self, *options, wait=True, **variables):
        return super().start(*options, wait=wait, preload=None, **variables)


@pytest.fixture
def relay(guests, tmp_path):
    """It lets the first guest reach the second one."""
    relay = Relay(tmp_path, f"allow {guests[0].cid} -> {guests[1].cid} *\n")
    try:
        relay.start()
        yield relay
        if relay.process.poll() is None:
            relay.stop()
    finally:
        relay.put_away()


@pytest.fixture
def port():
    """A vchan port that no other test uses."""
    return random.randint(1, 65535)


class RawGuest(GuestPuppet):
    """A puppet with a plain socket, which speaks to the relay by itself."""

    def __init__(self, guest):
        super().__init__(guest)
        self.cid = guest.cid

    def ask(self, target, port, flags=0):
        """The status that the relay answers; a channel, if it is OK."""
        self("raw-connect", vchan.CID_HOST, relay_guests.PORT)
        self.raw_send(relay_guests.request(target, port, flags))
        return relay_guests.answer_of(self.raw_recv(16))

    def reach(self, target, port):
        """A channel with another RawGuest, whose end is to be accepted."""
        target.listen(self.cid, port)
        while (status := self.ask(target.cid, port)) == relay_guests.SILENT:
            # It had no processor for two seconds, and what has come is dead.
            target("raw-close")
            target.listen(self.cid, port)
        assert status == relay_guests.OK

    def listen(self, source, port):
        self("raw-listen", source * 65536 + port)

    def raw_send(self, data):
        self("raw-send", data.hex())


@pytest.fixture
def raw(guests):
    """A RawGuest in each."""
    return [RawGuest(guest) for guest in guests]


@pytest.fixture
def ends(relay, raw, port):
    """A channel of plain sockets: its source, its target."""
    source, target, _ = raw
    source.reach(target, port)
    target("raw-accept")
    return source, target
