# SPDX-License-Identifier: LGPL-2.1-or-later
"""Close racing against everything (design 1.3).

The end of one side falls into each call of the other, at moments that the
scheduler picks: whatever wins, the call returns what the contract says, and
nothing is left.
"""
import itertools
import random
import socket

import pytest

import vchan
from puppet import Puppet
from vchan import (A_SECOND, Address, CONNECTED, DISCONNECTED, Holdings, PAGE,
                   Task, until)

ROUNDS = 25


# --- the peer ends, we are in a call --------------------------------------------

def keep_reading(chan):
    while True:
        chan.read(100)


def keep_receiving(chan):
    while True:
        chan.recv(3)


def keep_writing(chan):
    while True:
        chan.write(bytes(1000))


def keep_sending(chan):
    while True:
        chan.send(bytes(PAGE))


def keep_waiting(chan):
    while chan.is_open == CONNECTED:
        chan.wait()


def keep_polling(chan):
    while chan.is_open == CONNECTED:
        assert vchan.readable(chan.fd)
        chan.wait()


def spin_on_data_ready(chan):
    while chan.is_open == CONNECTED:
        assert chan.data_ready >= 0


def spin_on_buffer_space(chan):
    while chan.is_open == CONNECTED:
        assert chan.buffer_space >= 0


def keep_reading_without_blocking(chan):
    chan.set_blocking(False)
    while True:
        chan.read(100)


def keep_writing_without_blocking(chan):
    chan.set_blocking(False)
    while True:
        chan.write(bytes(5000))


CALLS = {
    keep_reading: "ECONNRESET", keep_receiving: "ECONNRESET",
    keep_writing: "EPIPE", keep_sending: "EPIPE",
    keep_waiting: "", keep_polling: "",
    spin_on_data_ready: "", spin_on_buffer_space: "",
    keep_reading_without_blocking: "ECONNRESET",
    keep_writing_without_blocking: "EPIPE",
}


def close_now(peer):
    peer.close()


def close_after_sending(peer):
    peer.setblocking(False)
    try:
        peer.send(bytes(10_000))
    except OSError:
        pass
    peer.close()


def half_close(peer):
    peer.shutdown(socket.SHUT_WR)


def reset(peer):
    peer.shutdown(socket.SHUT_RDWR)


ENDS = [close_now, close_after_sending, half_close, reset]


def name_of(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("end", ENDS, ids=name_of)
@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_peer_ends_during(call, end):
    """1.3: its end shows, as the contract says for this call, within a second."""
    for number in range(ROUNDS):
        server, peer = vchan.with_raw_client()
        calling = Task(vchan.error_of, call, server)
        if number % 2:
            vchan.poll(peer.fileno(), random.randint(0, 3), 0)
        end(peer)
        assert calling.result(A_SECOND) == CALLS[call]
        until(lambda: server.is_open == DISCONNECTED, A_SECOND)
        peer.close()
        server.close()


@pytest.mark.parametrize("call", [keep_writing, keep_waiting, keep_receiving],
                         ids=name_of)
def test_peer_is_killed_during(call):
    """1.3: a connected peer's death shows, whatever we were doing."""
    for _ in range(5):
        address = Address.fresh()
        server = address.open_server()
        client = Puppet.client_of(address)
        until(lambda: server.is_open == CONNECTED)
        calling = Task(vchan.error_of, call, server)
        client.kill()
        assert calling.result(A_SECOND) == CALLS[call]
        server.close()
        client.put_away()


# --- we close, the peer does something ------------------------------------------------

def connects(address):
    return Task(vchan.error_of, address.connect_raw)


def connects_and_sends(address):
    def visit():
        with address.connect_raw() as peer:
            peer.sendall(bytes(100_000))
    return Task(vchan.error_of, visit)


def connects_and_leaves(address):
    return Task(vchan.error_of, lambda: address.connect_raw().close())


@pytest.mark.parametrize("peer", [connects, connects_and_sends,
                                  connects_and_leaves], ids=name_of)
def test_server_closes_while_a_client(peer):
    """1.3 close: legal in every state, and at every moment between two."""
    before = Holdings.now()
    for number in range(ROUNDS):
        address = Address.fresh()
        server = address.open_server()
        visiting = peer(address)
        if number % 2:
            vchan.poll(server.fd, random.randint(0, 2))
        server.close()
        visiting.result()
    leftovers_closed()
    assert Holdings.back_to(before)


def leftovers_closed():
    while vchan.raw_opened:
        vchan.raw_opened.pop().close()


def test_both_close_at_the_same_time():
    """1.3 close: whoever is first, both return and nothing is left."""
    before = Holdings.now()
    for _ in range(ROUNDS):
        server, client = vchan.connected_pair()
        server.write(b"x")
        closing = [Task(server.close), Task(client.close)]
        for task in closing:
            task.result()
    assert Holdings.back_to(before)


def test_close_while_the_peer_is_writing():
    """1.3 close: the peer's writer gets EPIPE, and close returns."""
    for _ in range(ROUNDS):
        server, client = vchan.connected_pair()
        writing = Task(vchan.error_of, keep_writing, client)
        vchan.readable(server.fd)
        Task(server.close).result(A_SECOND + 5)
        assert writing.result() == "EPIPE"
        client.close()


def test_server_comes_and_goes_while_clients_try(monkeypatch):
    """1.3 close: the address passes from server to server under fire."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "0")
    address = Address.fresh()
    stop = []
    trying = [Task(knock, address, stop) for _ in range(3)]
    for _ in range(60):
        address.open_server().close()
    stop.append(True)
    for task in trying:
        task.result()


def knock(address, stop):
    while not stop:
        vchan.error_of(lambda: address.connect_raw().close())


def test_async_client_closes_while_it_is_accepted(address):
    """1.3 close: an unfinished connect, at the moment when it succeeds."""
    before = Holdings.now()
    for number in range(ROUNDS):
        place = Address.fresh()
        client = place.open_async()
        with place.listen_raw() as listener:
            vchan.poll(client.watch_fd, number % 8)
            client.close()
            listener.close()
    leftovers_closed()
    assert Holdings.back_to(before)


def test_random_calls_and_a_random_end():
    """1.3: any order of legal calls, each at any moment, ends well."""
    dice = random.Random(20260101)
    for _ in range(100):
        server, peer = vchan.with_raw_client()
        server.set_blocking(False)
        peer.setblocking(False)
        steps = [lambda: server.write(bytes(dice.randint(1, 9000))),
                 lambda: server.read(dice.randint(1, 9000)),
                 lambda: server.send(bytes(dice.randint(1, PAGE))),
                 lambda: server.recv(dice.randint(1, PAGE)),
                 lambda: server.data_ready, lambda: server.buffer_space,
                 lambda: peer.send(bytes(dice.randint(1, 9000))),
                 lambda: peer.recv(9000)]
        ends = [peer.close, server.close]
        for step in itertools.chain(dice.choices(steps, k=10), [dice.choice(ends)]):
            assert vchan.error_of(step) in ("", "EAGAIN")
        peer.close()
        if server in vchan.Vchan.opened:
            until(lambda: server.is_open == DISCONNECTED)
            server.close()
