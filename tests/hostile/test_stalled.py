# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small messages between a guest and its host, to a reader that stands still.

Both processors are busy with something else.  Again and again the writer sends small
messages without a pause while the reader does nothing, then the reader takes them all.
On the framed wire nothing is lost.  On the plain one a kernel that counts packets may
drop the connection (docs/plain-wire.md): then both ends are told, and begin again.
"""
import os
import subprocess
import sys
import time

import pytest

import vchan
from guest_puppet import GuestPuppet
from puppet import Puppet
from vchan import CONNECTED, until

# Four of these: half a minute in all, and ten minutes with VCHAN_TEST_SCALE=20.
SECONDS = min(150, vchan.scaled(7.5))
STILL_S = 0.5
SIZES = [16, 64, 100, 200, 400, 575]
MESSAGES = 2000
RING = 65536
BUSY_LOOP = "while True: pass"

pytestmark = [pytest.mark.deadline(180 + 3 * SECONDS),
              pytest.mark.usefixtures("real_domains")]


@pytest.fixture
def busy():
    """Every processor has something to do."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
             for _ in range(os.cpu_count())]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


class Channel:
    """A server here and its client in the guest, and which of them writes."""

    def __init__(self, guest, port, wire, writer):
        self.guest, self.port, self.wire = guest, port, wire
        self.here = Puppet.start(VCHAN_DOMAIN=0, VCHAN_VSOCK_WIRE=wire)
        self.there = GuestPuppet(guest, VCHAN_VSOCK_WIRE=wire)
        self.writer, self.reader = ((self.there, self.here) if writer == "guest" else
                                    (self.here, self.there))
        self.open()

    def open(self):
        self.here("server", self.guest.cid, self.port, RING, RING)
        self.there("client", 0, self.port)
        until(lambda: self.here("open") == CONNECTED)

    def open_again(self):
        for end in (self.here, self.there):
            end("close")
        self.open()

    def send_to_who_stands_still(self, size):
        """Did all of it arrive?  If not, both ends are told."""
        total = size * MESSAGES
        self.writer.begin("pour", total, size)
        time.sleep(STILL_S)
        told = vchan.error_of(self.reader, "drain", total)
        told = told, vchan.error_of(self.writer.answer)
        if told == ("", ""):
            return True
        assert told[0] == "ECONNRESET" and told[1] in ("", "EPIPE"), told
        # Who had written everything is told with its next word.
        if told[1] == "":
            until(lambda: vchan.error_of(self.writer, "write", "00") == "EPIPE")
        return False


@pytest.mark.parametrize("writer", ["guest", "host"])
@pytest.mark.parametrize("wire", ["framed", "plain"])
def test_small_messages_to_who_stands_still(busy, guest, port, wire, writer):
    """1.3: what was written arrives; 1.3: DISCONNECTED is told to both."""
    channel = Channel(guest, port, wire, writer)
    rounds = dropped = 0
    over = time.monotonic() + SECONDS
    while time.monotonic() < over or rounds == 0:
        arrived = channel.send_to_who_stands_still(SIZES[rounds % len(SIZES)])
        rounds += 1
        if not arrived:
            assert wire == "plain", f"lost in round {rounds}"
            dropped += 1
            channel.open_again()
    print(f"{wire} wire, from the {writer}: {rounds} times {MESSAGES} messages at a reader "
          f"that stood still for {STILL_S} s, {dropped} dropped and told")
