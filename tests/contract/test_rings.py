# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large the rings are (design 1.3, "Rings")."""
import errno
import itertools

import pytest

import vchan
from vchan import Vchan, PAGE, CLIENT_RING

GIB = 1 << 30


def expected_ring(size):
    """The next power of two, and at least a page."""
    ring = PAGE
    while ring < size:
        ring *= 2
    return ring


def largest_recv(chan):
    """The read ring's size: the largest recv that is not EMSGSIZE."""
    chan.set_blocking(False)
    low, high = 1, 2 * GIB - 1
    while low < high:
        middle = (low + high + 1) // 2
        if vchan.error_of(chan._call, "recv", SCRATCH, middle) == "EMSGSIZE":
            high = middle - 1
        else:
            low = middle
    return low


# Never written to: the channels in this file are empty.
SCRATCH = vchan.ffi.new("char[1]")

SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, 5000, 3 * PAGE, 65536, 65537, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_write_ring_is_next_power_of_two_and_at_least_a_page(address, size):
    """1.3: a power of two, at least the size asked for and at least one page."""
    server = address.open_server(write_min=size)
    assert server.buffer_space == expected_ring(size)


@pytest.mark.parametrize("size", SIZES)
def test_read_ring_is_next_power_of_two_and_at_least_a_page(address, size):
    """1.3: a power of two, at least the size asked for and at least one page."""
    assert largest_recv(address.open_server(read_min=size)) == expected_ring(size)


def test_read_min_and_write_min_are_not_confused(address):
    """1.3: a server takes read_min and write_min from its caller."""
    server = address.open_server(read_min=8 * PAGE, write_min=2 * PAGE)
    assert (largest_recv(server), server.buffer_space) == (8 * PAGE, 2 * PAGE)


def test_ring_of_one_gib_is_allowed(address):
    """1.3: over 1 GiB is EINVAL; 1 GiB itself is not over."""
    assert address.open_server(write_min=GIB).buffer_space == GIB


@pytest.mark.parametrize("read_min, write_min", [
    (GIB + 1, 0), (0, GIB + 1), (1 << 40, 0), (0, 1 << 40), (2**64 - 1, 0),
    (0, 2**64 - 1)])
def test_ring_over_one_gib_is_einval(address, read_min, write_min):
    """1.3: over 1 GiB: EINVAL."""
    with pytest.raises(OSError) as caught:
        address.open_server(read_min, write_min)
    assert caught.value.errno == errno.EINVAL


def test_client_write_ring_is_128_kib(raw_server):
    """1.3: a client gets 128 KiB each way: a send of that size is legal."""
    client, peer = raw_server
    client.set_blocking(False)
    assert vchan.error_of(client.send, bytes(CLIENT_RING + 1)) == "EMSGSIZE"
    assert client.send(bytes(CLIENT_RING)) in (0, CLIENT_RING)


def test_client_read_ring_is_128_kib(raw_server):
    """1.3: a client gets 128 KiB each way."""
    assert largest_recv(raw_server[0]) == CLIENT_RING


def test_client_sends_65543_bytes_at_once(raw_server):
    """1.3: real clients send up to 65,543 bytes in one libvchan_send."""
    client, peer = raw_server
    data = vchan.pattern(65543)
    assert client.send(data) == len(data)
    assert vchan.recv_exactly(peer, len(data)) == data


@pytest.mark.parametrize("asked", [1, 4096, 5000, 1 << 20])
def test_client_ring_variable_sets_both_client_rings(monkeypatch, asked):
    """1.3, 1.5: VCHAN_VSOCK_CLIENT_RING changes the client's 128 KiB."""
    monkeypatch.setenv("VCHAN_VSOCK_CLIENT_RING", str(asked))
    client, peer = vchan.with_raw_server()
    ring = expected_ring(asked)
    assert largest_recv(client) == ring
    assert vchan.error_of(client.send, bytes(ring + 1)) == "EMSGSIZE"
    assert client.send(bytes(ring)) in (0, ring)


def test_client_ring_variable_does_not_touch_a_server(monkeypatch, address):
    """1.3: a server takes its sizes from its caller."""
    monkeypatch.setenv("VCHAN_VSOCK_CLIENT_RING", "65536")
    server = address.open_server(PAGE, PAGE)
    assert server.buffer_space == PAGE


def test_content_survives_wrapping_around_the_ring(raw_client):
    """1.3: the ring is one stream of bytes, wherever its end lies."""
    server, peer = raw_client
    position = 0
    for size in [1000, 3000, 4096, 1, 4095, 2500, 2500, 4096] * 8:
        peer.sendall(vchan.pattern(size, position))
        assert server.recv(size) == vchan.pattern(size, position)
        position += size


def test_rings_belong_to_one_handle_only(address):
    """1.3: two rings per channel; another channel has its own."""
    one, other = address.open_server(), vchan.Address.fresh().open_server()
    one.write(b"x" * 100)
    assert (one.buffer_space, other.buffer_space) == (PAGE - 100, PAGE)
    assert isinstance(other, Vchan)


def test_a_byte_costs_no_huge_page():
    """1.3: programs have a hundred channels that idle, with rings of any size.

    What a kernel that gives huge pages to shared memory puts behind a mapped page
    does not show in the process; in the machine's count others' memory does, now and then.
    """
    vchan.until(lambda: memory_of_a_byte_each_way(10) < 10 * 256)


def memory_of_a_byte_each_way(count):
    """KiB of shared memory that so many channels cost the machine."""
    before = vchan.number_in("/proc/meminfo", "Shmem:")
    pairs = [vchan.connected_pair(1 << 16, 1 << 16) for _ in range(count)]
    for server, client in pairs:
        client.write(b"x")
        assert server.recv(1) == b"x"
        server.write(b"x")
        assert client.recv(1) == b"x"
    cost = vchan.number_in("/proc/meminfo", "Shmem:") - before
    for end in itertools.chain(*pairs):
        end.close()
    return cost
