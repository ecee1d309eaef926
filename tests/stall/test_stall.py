# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small messages to a reader that lags (programs/stall.c).

Newer kernels drop a connection of which too many packets are unread, and what
is in it.  The framed wire never lets it come to that.  The plain wire cannot
help it, whatever it does (docs/plain-wire.md); but it never loses a byte, nor
waits for one, in silence.
"""
import subprocess

import pytest

import programs
import vchan

SIZES = [16, 64, 100, 200, 400, 575]
MESSAGES = vchan.scaled(5000)
SILENCE = str(vchan.scaled(15))  # seconds without a call
RINGS = [65536, 4096]
BUFFERS = [256 << 10, 4 << 20]  # the kernel's: its own choice, and ours
PATIENCE = 150

ALL_ARRIVED, DIED_LOUDLY = 0, 1

pytestmark = [
    pytest.mark.deadline(PATIENCE + 30),
    pytest.mark.parametrize("reader", [SILENCE, "bytes"], ids=["silent", "byte-by-byte"]),
]


def stall(address, reader, ring, **variables):
    """All message sizes, streaming and paced: how it ended, and what it said."""
    words = [programs.program("stall"), address.server, address.client, address.port,
             ring, reader, MESSAGES, PATIENCE, *SIZES]
    done = subprocess.run([str(word) for word in words], text=True, timeout=PATIENCE + 20,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=programs.surroundings(**variables))
    print(done.stdout)
    return done


@pytest.mark.parametrize("ring", RINGS)
def test_framed_wire_delivers_every_byte(address, reader, ring):
    """Streaming and paced, whatever the reader does and however long it does nothing."""
    done = stall(address, reader, ring, VCHAN_VSOCK_WIRE="framed")
    assert done.returncode == ALL_ARRIVED, done.stdout
    assert done.stdout.count("errno 0 and 0") == 2 * len(SIZES)


@pytest.mark.parametrize("buffer_size", BUFFERS)
def test_plain_wire_delivers_every_byte_or_says_so(address, reader, buffer_size):
    """Either all arrives, or both ends get an error; no silent loss, no hang."""
    done = stall(address, reader, RINGS[0], VCHAN_VSOCK_WIRE="plain",
                 VCHAN_VSOCK_BUFFER_SIZE=buffer_size)
    assert done.returncode in (ALL_ARRIVED, DIED_LOUDLY), done.stdout
    assert len(done.stdout.splitlines()) >= 2 * len(SIZES)
