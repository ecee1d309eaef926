# SPDX-License-Identifier: LGPL-2.1-or-later
"""From gathered small writes to direct large ones and back (vchan/conn.c).

Small writes in a row gather in the write ring, which the thread sends; large
ones, and small ones after a pause, leave in the caller's thread.  Each passage
from one to the other is taken here with the ring empty, half full and full.
"""
import itertools

import pytest

import vchan
from vchan import DISCONNECTED, Task, connected_pair, pattern, read_exactly, until

RING = 64 << 10
SMALL, LARGE, BEYOND = 16, 20_000, 100_000  # gathers; goes directly; more than a ring
STREAM = [SMALL] * 20  # long enough to be one
PASSAGES = {
    "to-direct": [*STREAM, LARGE, SMALL, LARGE],
    "to-gathered": [LARGE, *STREAM, SMALL],
    "beyond-the-ring": [*STREAM, BEYOND, *STREAM],
    "to-and-fro": [*STREAM, LARGE] * 5,
}

pytestmark = [
    pytest.mark.parametrize("fill", ["empty", "half", "full"]),
    pytest.mark.parametrize("passage", PASSAGES.values(), ids=list(PASSAGES)),
]
either_mode = pytest.mark.parametrize("blocking", [True, False],
                                      ids=["blocking", "non-blocking"])


class Writer:
    """Writes a pattern that tells its position."""

    def __init__(self, chan, blocking, position):
        self.chan, self.blocking, self.position = chan, blocking, position

    def put(self, size):
        end = self.position + size
        while self.position < end:
            count = self.chan.write(pattern(end - self.position, self.position))
            self.position += count
            if not count:
                assert vchan.readable(self.chan.fd), "no event told of room"
                self.chan.wait()

    def follow(self, sizes):
        self.chan.set_blocking(self.blocking)
        for size in sizes:
            self.put(size)
        return self.position


def begin(fill, blocking):
    """A pair; the writer at its first end, where the ring is so full; the position
    of the reader at the other."""
    first, second = connected_pair(RING, RING)
    written = 0 if fill == "empty" else vchan.fill(first)
    taken = 0
    while fill == "half" and first.buffer_space < RING // 2:
        assert second.read(SMALL * 64) == pattern(SMALL * 64, taken)
        taken += SMALL * 64
    return Writer(first, blocking, written), second, taken


@either_mode
def test_order_is_kept(fill, passage, blocking):
    """1.3: a reliable stream of bytes, however they are sent."""
    writer, reader, taken = begin(fill, blocking)
    total = writer.position + sum(passage)
    writing = Task(writer.follow, passage)
    assert read_exactly(reader, total - taken) == pattern(total - taken, taken)
    assert writing.result() == total


def test_order_is_kept_while_the_other_thread_reads(fill, passage):
    """1.3: one thread reading while another writes, and the peer does the same."""
    writer, reader, taken = begin(fill, blocking=True)
    total = writer.position + sum(passage)
    back = Writer(reader, True, 0)
    tasks = [Task(writer.follow, passage), Task(back.follow, passage * 2)]
    reading = Task(read_exactly, writer.chan, 2 * sum(passage))
    assert read_exactly(reader, total - taken) == pattern(total - taken, taken)
    assert reading.result() == pattern(2 * sum(passage))
    assert [task.result() for task in tasks] == [total, 2 * sum(passage)]


@either_mode
def test_peer_that_dies_in_between_ends_the_writer(fill, passage, blocking):
    """1.3 DISCONNECTED: EPIPE, at whatever point of it; what arrived was in order."""
    writer, reader, taken = begin(fill, blocking)
    writing = Task(writer.follow, itertools.cycle(passage))
    some = 2 * RING + 1000
    assert read_exactly(reader, some) == pattern(some, taken)
    reader.close()
    with pytest.raises(BrokenPipeError):
        writing.result()
    until(lambda: writer.chan.is_open == DISCONNECTED)
