# SPDX-License-Identifier: LGPL-2.1-or-later
"""A plain peer that gives up one direction only (1.3).

A peer that reads no more is not seen to have gone before a write has failed:
so here it is certain that the library's own send meets the end.
"""
import errno
import socket

import pytest

import vchan
from puppet import Puppet
from vchan import CONNECTED, DISCONNECTED, pattern, until


def fails_with(write, number):
    """Write a byte; has it failed with this errno?"""
    try:
        write(b"x")
    except OSError as error:
        assert error.errno == number
        return True
    return False


def test_write_that_meets_the_end_is_epipe(raw_client):
    """1.3: EPIPE writing to a disconnected peer, and then for good."""
    server, peer = raw_client
    peer.shutdown(socket.SHUT_RD)
    until(lambda: fails_with(server.write, errno.EPIPE))
    assert server.is_open == DISCONNECTED
    assert fails_with(server.write, errno.EPIPE)


def test_write_that_meets_the_end_raises_no_sigpipe(address):
    """1.3: SIGPIPE is never raised.  (In this process Python ignores it.)"""
    server = Puppet.serving(address)
    peer = address.connect_raw()
    until(lambda: server("open") == CONNECTED)
    peer.shutdown(socket.SHUT_RD)
    until(lambda: fails_with(server.write, errno.EPIPE))
    assert server("open") == DISCONNECTED


def test_reading_goes_on_after_a_write_that_met_the_end(raw_client):
    """1.3 DISCONNECTED: can still be read to the last byte, also after a write failed."""
    server, peer = raw_client
    data = pattern(10000)
    peer.sendall(data)
    peer.shutdown(socket.SHUT_RD)
    until(lambda: fails_with(server.write, errno.EPIPE))
    peer.close()
    assert vchan.read_until_end(server) == data


def test_full_ring_is_delivered_after_a_half_close(raw_client):
    """1.3 close: what was written is delivered if the peer reads it."""
    server, peer = raw_client
    total = vchan.fill(server)
    peer.shutdown(socket.SHUT_WR)
    until(lambda: server.is_open == DISCONNECTED)
    reading = vchan.Task(vchan.recv_exactly, peer, total)
    # The simple flavour sends what is left in the calls to come.
    until(lambda: (server.is_open, reading.is_alive()) == (DISCONNECTED, False))
    assert reading.result() == pattern(total)


def test_writer_that_found_the_ring_empty_is_woken_by_a_half_close(raw_client):
    """1.3 DISCONNECTED: writes fail, also one that is blocked in the kernel."""
    server, peer = raw_client
    writer = vchan.Task(server.write, bytes(32 << 20))
    assert writer.asleep()
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        writer.result()
