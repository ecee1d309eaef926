# SPDX-License-Identifier: LGPL-2.1-or-later
"""A thousand channels later the process holds what it held before (1.3)."""
import ctypes

import pytest

import vchan
from vchan import Address, CONNECTED, Holdings, Task, until

CYCLES = vchan.scaled(1000)
WARM_UP = 50
# What the allocator may keep, in KiB.
TOLERANCE = 1024
PR_SET_THP_DISABLE = 41


@pytest.fixture(autouse=True)
def no_huge_pages():
    """Or a stack that happens to lie on such a page's boundary is 2 MiB at once."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


def resident_kib():
    return vchan.number_in("/proc/self/status", "VmRSS:")


def cycle(address):
    """Open both ends, say something each way, close both."""
    server = address.open_server()
    client = address.open_client()
    client.write(b"ping")
    assert server.recv(4) == b"ping"
    server.write(b"pong")
    assert client.recv(4) == b"pong"
    client.close()
    server.close()


UNSERVED = Address.fresh()


def failed_cycle(address):
    """What goes wrong: a taken address, a client that gives up."""
    with address.open_server() as server:
        assert vchan.error_of(address.open_server) == "EADDRINUSE"
        assert server.is_open == vchan.WAITING
    # Elsewhere: what it has started may still reach a server of the next cycle.
    with vchan.environment(VCHAN_VSOCK_CONNECT_TIMEOUT_MS=1):
        assert vchan.error_of(UNSERVED.open_client) == "ETIMEDOUT"


def abandoned_cycle(address):
    """An asynchronous connect that is closed unfinished."""
    address.open_async().close()


@pytest.mark.deadline(300)
@pytest.mark.parametrize("what, cycles", [
    (cycle, CYCLES), (failed_cycle, CYCLES // 10), (abandoned_cycle, CYCLES // 2)],
    ids=lambda value: getattr(value, "__name__", ""))
def test_cycles_end_where_they_began(what, cycles, capfd):
    """1.3 close: every fd, mapping and thread is gone; and the memory."""
    address = Address.fresh()
    for _ in range(WARM_UP):
        what(address)
    before, memory = Holdings.now(), resident_kib()
    for _ in range(cycles):
        what(address)
    assert Holdings.back_to(before)
    assert resident_kib() - memory < TOLERANCE


def test_a_channel_costs_one_thread_and_few_fds(address):
    """1.3: one thread for a handle (qubesdb has one handle for each guest), or none."""
    before = Holdings.now()
    server = address.open_server()
    peer = address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    peer.close()
    during = Holdings.now()
    assert during.threads - before.threads <= (not vchan.SIMPLE)
    assert during.fds - before.fds <= 4 + vchan.SIMPLE
    assert during.mappings > before.mappings, "then Holdings sees no rings that leak"


def test_traffic_costs_no_memory(pair):
    """1.3: a ring is a ring: what goes through it leaves nothing behind."""
    server, client = pair
    exchange(server, client, 200)
    before = resident_kib()
    exchange(server, client, 2000)
    assert resident_kib() - before < TOLERANCE


def exchange(server, client, rounds):
    data = vchan.pattern(10_000)
    writing = Task(lambda: [client.write(data) for _ in range(rounds)])
    for _ in range(rounds):
        vchan.read_exactly(server, len(data))
    writing.result()
