# SPDX-License-Identifier: LGPL-2.1-or-later
"""Much data, every byte checked, over loopback (volume/volume.c)."""
import pytest

import volume

# How much of it: all over the framed wire, and a part once more over the plain one.
SHARE = {"auto": 1, "plain": 0.1}


def run_both(address, plan, seconds):
    """Both ends in processes of their own; what the client moved."""
    server = volume.start("server", address.client, address.port, plan,
                          VCHAN_DOMAIN=address.server)
    client = volume.start("client", address.server, address.port, plan,
                          VCHAN_DOMAIN=address.client)
    try:
        moved = volume.collect(client, seconds)
        assert volume.collect(server, seconds) == moved[::-1]
    finally:
        server.kill()
        client.kill()
    return moved


@pytest.mark.deadline(900)
def test_200_000_round_trips_and_a_gibibyte_each_way(address, wire):
    """1.3: random sizes, 1 byte to 1 MiB, write, send, read, recv, blocking and not."""
    size = int(volume.GIB * SHARE[wire])
    plan = volume.trips(int(volume.TRIPS * SHARE[wire]), size)
    out, back = run_both(address, plan, 880)
    assert min(out, back) >= size


@pytest.mark.deadline(300)
def test_two_threads_at_full_speed_for_a_minute(address, wire):
    """1.3: one thread reading while another writes, at both ends at once."""
    seconds = max(1, int(volume.SECONDS * SHARE[wire]))
    out, back = run_both(address, volume.duplex(seconds), seconds + 200)
    assert min(out, back) > 1 << 20
