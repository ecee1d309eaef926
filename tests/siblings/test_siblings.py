# SPDX-License-Identifier: LGPL-2.1-or-later
"""A channel between two guests: the library's side of the relay (vchan/relay.h)."""
import itertools
import random

import pytest

import vchan
from framed_peer import HELLO, Hello
from relay_stub import (BUSY, DENIED, FRAMED, NO_MACHINE, OK, OTHERS, OURS, PRIVILEGED,
                        REFUSED, SILENT, answer)
from vchan import PAGE, pattern, until

WAITING, CONNECTED, DISCONNECTED = vchan.WAITING, vchan.CONNECTED, vchan.DISCONNECTED
SIZE = 300_000
ANSWER_WAIT_S = 10  # vchan/setup_client.c


@pytest.fixture
def guests(in_guest, cids, relay_port):
    """(server's, client's) programs in guests of their own; the relay's port is set."""
    return tuple(in_guest(cid, VCHAN_VSOCK_RELAY=relay_port) for cid in cids)


@pytest.fixture
def joined(guests, cids, port, relay):
    """The same, connected through a relay that does as it should; and the relay."""
    one = relay()
    server, client = guests
    server("server", cids[1], port, PAGE, PAGE)
    client("client", cids[0], port)
    until(lambda: server("open") == CONNECTED)
    return server, client, one


def connecting(client, server_cid, port):
    client.begin("client", server_cid, port)


# --- a relay that does as it should --------------------------------------------------

def test_request_says_whom_the_client_wants(joined, cids, port):
    """vchan/relay.h: the target, the vchan's port, and that it is for the framed wire."""
    requests = joined[2].requests
    assert [(r.source, r.flags, r.target, r.port) for r in requests] == [
        (cids[1], FRAMED, cids[0], port)]


def test_bytes_go_both_ways(joined):
    """Same calls, same bytes."""
    server, client, _ = joined
    for writer, reader in ((server, client), (client, server)):
        writer.begin("pour", SIZE, 1000)
        data = b""
        while len(data) < SIZE:
            data += reader.read(1 << 15)
        writer.answer()
        assert data == pattern(SIZE)


def test_frames_go_from_end_to_end(joined):
    """A writer is never more than a ring ahead of the program that reads."""
    server, client, _ = joined
    client("blocking", 0)
    written = vchan.write_until_full(lambda data: client("write", data.hex()))
    assert written <= 2 * PAGE
    assert server("ready") <= PAGE
    assert client("space") == 0


@pytest.mark.parametrize("gone, left", [(0, 1), (1, 0)])
def test_what_was_written_before_death_arrives_and_then_the_end(joined, gone, left):
    """Same death notices."""
    joined[gone].write(b"last words")
    joined[gone].kill()
    assert joined[left].read(100) == b"last words"
    until(lambda: joined[left]("open") == DISCONNECTED)
    assert vchan.error_of(joined[left].read, 1) == "ECONNRESET"


def test_close_delivers(joined):
    server, client, _ = joined
    server("send", b"hello".hex())
    server("close")
    assert client.read(100) == b"hello"
    assert vchan.error_of(client.read, 1) == "ECONNRESET"


def test_plain_server_is_reached_and_told_that_it_may_be_framed(guests, cids, port, relay):
    """A plain peer in another guest; RELAY_OURS lets a server of ours wait for its frames."""
    one = relay()
    server, client = guests
    server("raw-listen", cids[1] * 65536 + port)
    connecting(client, cids[0], port)
    client.answer()
    server("raw-accept")
    client.write(b"hello")
    assert server.raw_recv(5) == b"hello"
    assert {r.flags for r in one.requests} == {FRAMED, OURS}


def test_client_waits_for_its_server(guests, cids, port, relay):
    """A client waits as long as it takes for a server on a machine that exists."""
    one = relay()
    server, client = guests
    connecting(client, cids[0], port)
    until(lambda: len(one.requests) > 4)
    server("server", cids[1], port, PAGE, PAGE)
    client.answer()
    client.write(b"x")
    assert server.read(1) == b"x"


def test_asynchronous_client(guests, cids, port, relay):
    relay()
    server, client = guests
    client("async", cids[0], port)
    server("server", cids[1], port, PAGE, PAGE)
    until(lambda: client("finish", 1) == 0)
    client.write(b"x")
    assert server.read(1) == b"x"


def test_relay_that_restarts_ends_channels_and_serves_new_ones(joined, cids, port, relay,
                                                               relay_port):
    server, client, one = joined
    one.close()
    for puppet in (server, client):
        until(lambda one=puppet: one("open") == DISCONNECTED)
        puppet("close")
    relay(port=relay_port)
    server("server", cids[1], port, PAGE, PAGE)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"


# --- what it may answer --------------------------------------------------------------

def saying(*pieces):
    """A relay that answers each with these bytes, and then keeps still."""
    def behave(_, sock):
        for piece in pieces:
            sock.sendall(piece)
        vchan.recv_all(sock)
    return behave


def test_denied_is_eacces_at_once(guests, cids, port, relay):
    """Time will not mend a policy."""
    one = relay(saying(answer(DENIED)))
    assert vchan.error_of(guests[1], "client", cids[0], port) == "EACCES"
    assert len(one.requests) == 1


def test_denied_says_what_the_policy_lacks(in_guest, cids, port, relay, relay_port, tmp_path):
    relay(saying(answer(DENIED)))
    with open(tmp_path / "log", "wb") as log:
        client = in_guest(cids[1], stderr=log, VCHAN_VSOCK_RELAY=relay_port)
        assert vchan.error_of(client, "client", cids[0], port) == "EACCES"
    assert f"{cids[0]} {port}" in (tmp_path / "log").read_text()


def until_error(name, client, server_cid, port):
    """The seconds until it fails so."""
    def fail():
        assert vchan.error_of(client, "client", server_cid, port) == name
    return vchan.quickest(fail)


def test_no_such_guest_is_enodev_after_the_boot_wait(guests, cids, port, relay):
    guests[1]("env", "VCHAN_VSOCK_BOOT_WAIT_MS", "100")
    one = relay(saying(answer(NO_MACHINE)))
    assert until_error("ENODEV", guests[1], cids[0], port) < 4, "the default is 5 s"
    assert len(one.requests) > 3


@pytest.mark.parametrize("status", [REFUSED, BUSY, SILENT])
def test_other_answers_mean_try_again(guests, cids, port, relay, status):
    """... until the relay has another."""
    server, client = guests
    server("server", cids[1], port, PAGE, PAGE)
    count = itertools.count()

    def behave(request, sock):
        if next(count) < 5:
            sock.sendall(answer(status))
        else:
            one.join(request, sock)

    one = relay(behave)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"


@pytest.mark.parametrize("bad", [
    answer(OK, magic=b"HTTP/1.1"), answer(OK, version=2), answer(SILENT + 1), answer(OK)[:7]])
def test_broken_answers_mean_try_again(guests, cids, port, relay, bad):
    """Nothing of it is taken for the channel's bytes."""
    server, client = guests
    server("server", cids[1], port, PAGE, PAGE)
    client("env", "VCHAN_VSOCK_CONNECT_TIMEOUT_MS", 5000)  # less than for a silent one
    first = itertools.count()

    def behave(request, sock):
        if next(first) == 0:
            sock.sendall(bad)
        else:
            one.join(request, sock)

    one = relay(behave)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"


def test_answer_may_come_in_pieces_and_with_what_follows(guests, cids, port, relay):
    """Bytes behind the answer are the channel's."""
    hello = HELLO.pack(*Hello(read_ring=PAGE, write_ring=PAGE))
    whole = answer(OK) + hello
    one = relay(saying(*(whole[i:i + 1] for i in range(len(whole)))))
    assert guests[1]("client", cids[0], port) == 0
    assert guests[1]("open") == CONNECTED
    assert len(one.requests) == 1


def test_silent_relay_and_the_connect_timeout(guests, cids, port, relay):
    relay(saying())
    guests[1]("env", "VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "100")
    assert until_error("ETIMEDOUT", guests[1], cids[0], port) < ANSWER_WAIT_S - 1


def test_relay_that_was_silent_is_asked_again(guests, cids, port, relay):
    """It may have been started anew; no connect timeout need be set."""
    def behave(request, sock):
        if len(one.requests) > 1:
            one.join(request, sock)
        else:
            vchan.recv_all(sock)

    one = relay(behave)
    server, client = guests
    server("server", cids[1], port, PAGE, PAGE)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"


def test_client_that_is_closed_while_the_relay_is_silent(guests, cids, port, relay):
    one = relay(saying())
    guests[1]("async", cids[0], port)
    until(lambda: one.requests)
    assert guests[1]("close") == 0


# --- no relay ------------------------------------------------------------------------

def test_missing_relay_is_waited_for_and_named_once(in_guest, cids, port, relay, relay_port,
                                                    tmp_path):
    """A clear message, and no end: it may be started later."""
    def said(what):
        return sum(what in line for line in (tmp_path / "log").read_text().splitlines())

    with open(tmp_path / "log", "wb") as log:
        client = in_guest(cids[1], stderr=log, VCHAN_VSOCK_RELAY=relay_port,
                          VCHAN_VSOCK_BOOT_WAIT_MS=50, VCHAN_VSOCK_LOG="debug")
        connecting(client, cids[0], port)
        until(lambda: said("vchan-vsock relay"))
        attempts = said("attempt, ")
        until(lambda: said("attempt, ") > attempts + 3)
        server = in_guest(cids[0], VCHAN_VSOCK_RELAY=relay_port)
        server("server", cids[1], port, PAGE, PAGE)
        relay()
        client.answer()
    assert said("vchan-vsock relay") == said(f"port {relay_port} of the host") == 1


def test_auto_takes_the_documented_port(in_guest, cids, port, relay):
    relay(port=768)
    server, client = (in_guest(cid) for cid in cids)
    server("server", cids[1], port, PAGE, PAGE)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"


def test_auto_waits_for_a_relay_too(in_guest, cids, port, relay):
    """... though it tries the straight way between."""
    server, client = (in_guest(cid) for cid in cids)
    server("server", cids[1], port, PAGE, PAGE)
    connecting(client, cids[0], port)
    assert client.asleep(in_a_row=False)
    relay(port=768)
    client.answer()
    assert client("open") == CONNECTED


def test_never_means_the_straight_way(in_guest, cids, port, relay):
    """VCHAN_VSOCK_RELAY=never: as if there were no relay."""
    one = relay(port=768)
    client = in_guest(cids[1], VCHAN_VSOCK_RELAY="never", VCHAN_VSOCK_CONNECT_TIMEOUT_MS=200)
    assert vchan.error_of(client, "client", cids[0], port) == "ETIMEDOUT"
    assert not one.requests


@pytest.mark.parametrize("value", ["", "0", "no", "768 ", "-1", "2147483648", "Auto"])
def test_bad_values_are_einval(in_guest, cids, port, value):
    client = in_guest(cids[1], stderr=-3, VCHAN_VSOCK_RELAY=value)
    assert vchan.error_of(client, "client", cids[0], port) == "EINVAL"


def test_host_and_its_guest_need_no_relay(in_guest, cids, port, relay_port, monkeypatch):
    """Only two guests do."""
    monkeypatch.setenv("VCHAN_VSOCK_RELAY", str(relay_port))
    guest = in_guest(cids[0], VCHAN_VSOCK_RELAY=relay_port)
    guest("server", 0, port, PAGE, PAGE)
    host = vchan.Vchan.client(cids[0], port)
    host.write(b"x")
    assert guest.read(1) == b"x"


# --- whom a server admits ------------------------------------------------------------

def knock(cid, vsock_port, source):
    return vchan.raw_connect(vsock_port, cid, source)


def serving(in_guest, cids, port, **variables):
    server = in_guest(cids[0], **variables)
    server("server", cids[1], port, PAGE, PAGE)
    return server, cids[1] * 65536 + port


def one_of(ports):
    return random.choice(list(ports))


def test_server_admits_root_on_the_host(in_guest, cids, port):
    """A source port below 1024: the relay, which vouches for the client."""
    server, vsock_port = serving(in_guest, cids, port)
    knock(cids[0], vsock_port, one_of(OTHERS)).sendall(b"x")
    assert server.read(1) == b"x"


def test_server_refuses_other_users_of_the_host(in_guest, cids, port):
    server, vsock_port = serving(in_guest, cids, port)
    assert vchan.shut_out(knock(cids[0], vsock_port, None))
    assert server("open") == WAITING


def test_server_refuses_the_host_when_no_relay_is_wanted(in_guest, cids, port):
    server, vsock_port = serving(in_guest, cids, port, VCHAN_VSOCK_RELAY="never")
    assert vchan.shut_out(knock(cids[0], vsock_port, one_of(OTHERS)))
    assert server("open") == WAITING


def test_server_that_requires_privileged_knows_whose_source_was(in_guest, cids, port):
    """The relay's ports below 256 are for clients that had one below 1024."""
    server, vsock_port = serving(in_guest, cids, port, VCHAN_VSOCK_REQUIRE_PRIVILEGED=1)
    assert vchan.shut_out(knock(cids[0], vsock_port, one_of(OTHERS)))
    knock(cids[0], vsock_port, one_of(PRIVILEGED)).sendall(b"x")
    assert server.read(1) == b"x"


def test_privileged_client_is_admitted_through_the_relay(in_guest, cids, port, relay,
                                                         relay_port):
    variables = {"VCHAN_VSOCK_RELAY": relay_port, "VCHAN_VSOCK_REQUIRE_PRIVILEGED": 1}
    one = relay()
    server, client = (in_guest(cid, **variables) for cid in cids)
    server("server", cids[1], port, PAGE, PAGE)
    client("client", cids[0], port)
    client.write(b"x")
    assert server.read(1) == b"x"
    assert all(request.source_port < 1024 for request in one.requests)
