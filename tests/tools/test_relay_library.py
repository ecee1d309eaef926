# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two programs with the library, in guests of one host, through the relay on it; natively."""
import random

import pytest

import relay_guests
import vchan
import volume
from puppet import Puppet
from relay_guests import World
from vchan import CONNECTED, DISCONNECTED, PAGE, until

pytestmark = pytest.mark.usefixtures("tool_built")


@pytest.fixture(autouse=True)
def real_domains(clean_environment, monkeypatch):
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")


@pytest.fixture
def world(tmp_path):
    """Guest 43 serves, 42 may be its client, and nobody else."""
    world = World(tmp_path, "allow 42 -> 43 *\n")
    world.start()
    yield world
    world.put_away()


def variables(world, cid, **more):
    return {"LD_PRELOAD": relay_guests.FAKE, "FAKE_VSOCK": world.word, "FAKE_VSOCK_CID": cid,
            "VCHAN_DOMAIN": cid, **more}


@pytest.fixture
def in_guest(world):
    return lambda cid, **more: Puppet.start(**variables(world, cid, **more))


@pytest.fixture
def joined(world, in_guest):
    server, client = in_guest(43), in_guest(42)
    server("server", 42, 512, PAGE, PAGE)
    client("client", 43, 512)
    until(lambda: server("open") == CONNECTED)
    return server, client


@pytest.mark.parametrize("wire", ["auto", "framed", "plain"])
def test_bytes_both_ways(world, in_guest, wire):
    server, client = (in_guest(cid, VCHAN_VSOCK_WIRE=wire) for cid in (43, 42))
    server("server", 42, 512, PAGE, PAGE)
    client("client", 43, 512)
    client.write(b"to the server")
    assert server.read(13) == b"to the server"
    server.write(b"to the client")
    assert client.read(13) == b"to the client"
    kind = "plain" if wire == "plain" else "framed"
    assert world.lines(f"event=opened .*source=42 .*target=43 port=512 wire={kind} ")


def test_a_client_of_ours_and_a_plain_server(world, in_guest):
    server, client = in_guest(43, VCHAN_VSOCK_WIRE="plain"), in_guest(42)
    server("server", 42, 512, PAGE, PAGE)
    client("client", 43, 512)
    client.write(b"hello")
    assert server.read(5) == b"hello"


def test_a_client_waits_for_its_server(world, in_guest):
    server, client = in_guest(43), in_guest(42)
    client.begin("client", 43, 512)
    world.await_line("event=refused .*why=nobody-serves-it", 3)
    server("server", 42, 512, PAGE, PAGE)
    client.answer()
    until(lambda: server("open") == CONNECTED)


@pytest.mark.parametrize("dying", [0, 1])
def test_death_arrives_at_the_other_guest(joined, dying):
    joined[dying].write(b"last words")
    joined[dying].kill()
    assert joined[1 - dying].read(10) == b"last words"
    until(lambda: joined[1 - dying]("open") == DISCONNECTED)


def test_death_of_the_relay_arrives_at_both(joined, world):
    world.process.kill()
    for end in joined:
        until(lambda end=end: end("open") == DISCONNECTED)


def test_a_channel_can_be_made_again_at_once(joined, world, in_guest):
    server, client = joined
    for _ in range(5):
        client("close")
        until(lambda: server("open") == DISCONNECTED)
        server("close")
        server("server", 42, 512, PAGE, PAGE)
        client("client", 43, 512)
        until(lambda: server("open") == CONNECTED)


def test_who_is_not_allowed_is_told(world, in_guest):
    """EACCES at once, and nobody waits in vain."""
    stranger = in_guest(66)
    assert vchan.error_of(stranger, "client", 43, 512) == "EACCES"
    world.await_line("event=refused .*source=66 .*why=policy")


def test_much_data_every_byte_checked(world):
    """Round trips of all sizes, and both directions at once."""
    port = random.randint(1, 65535)
    plan = volume.trips(vchan.scaled(2000), vchan.scaled(20 << 20))
    server = volume.start("server", 42, port, plan, **variables(world, 43))
    client = volume.start("client", 43, port, plan, **variables(world, 42))
    try:
        moved = volume.collect(client, 50)
        assert volume.collect(server, 50) == moved[::-1]
    finally:
        server.kill()
        client.kill()
