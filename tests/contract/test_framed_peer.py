# SPDX-License-Identifier: LGPL-2.1-or-later
"""The framed wire as an independent peer sees it (docs/wire.md)."""
import time

import pytest

import vchan
from framed_peer import (ASK, BUFFER, COUNT, END, HELLO, HELLO_WAIT, LENGTH, FramedPeer,
                         Hello, be_client_of, be_server_of, documented_bytes, header, meet,
                         meet_client, meet_server)
from puppet import Puppet
from vchan import CONNECTED, DISCONNECTED, PAGE, WAITING, Address, Task, pattern, until

LARGE = 64 << 10  # from this ring on the window is no less than a MiB
MIB = 1 << 20
WINDOWS = [(4096, 4096), (32768, 32768), (LARGE, MIB), (2 * MIB, 2 * MIB)]
BAD_HELLOS = {"magic": HELLO.pack(*Hello(magic=b"vch1wirf")),
              "zeros": bytes(HELLO.size),
              "text": b"GET / HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n"[:HELLO.size],
              "version 0": HELLO.pack(*Hello(version=0))}


@pytest.fixture(autouse=True)
def raw_sockets_are_the_peers():
    """They speak frames themselves: each test runs once (conftest.py)."""


@pytest.fixture(params=["server", "client"])
def role(request):
    """Which end is ours."""
    return request.param


def silent(peer):
    """Does the peer hear nothing for a while?"""
    return vchan.quiet(peer.sock.fileno())


def receive_end(peer):
    """What comes before END: the payload, and the last header."""
    data = b""
    while not (frame := peer.receive()).end:
        data += frame.payload
    return data, frame


def receive_ask(peer):
    """It came with the payload, or comes behind it."""
    while not peer.asks:
        assert peer.receive().payload == b""


def still_works(ours, peer):
    """A word each way."""
    ours.write(b"to the peer")
    peer.send(b"to us")
    return peer.receive_payload(11) == b"to the peer" and ours.recv(5) == b"to us"


# --- hello -------------------------------------------------------------------

def test_client_says_its_hello_first_and_exactly():
    """docs/wire.md, hello: a client has no sizes, and no window but the rule's."""
    client, peer = meet_client()
    assert peer.heard == Hello(b"vch1wire", 1, 0, 0, 0, 0, 0, BUFFER)


def test_server_says_its_rings_and_window():
    """docs/wire.md, hello: a server's sizes, rounded up, and its receive window."""
    server, peer = meet_server(5000, 100_000)
    assert peer.heard == Hello(b"vch1wire", 1, 0, 0, 8192, 131072, 8192, BUFFER)


def test_server_answers_only_a_hello(address):
    """docs/wire.md, hello: the client's comes first."""
    address.open_server()
    assert silent(FramedPeer.connect(address))


def test_hello_tells_the_size_of_the_kernel_buffer(role, monkeypatch):
    """docs/wire.md, hello: buffer is the socket's own."""
    monkeypatch.setenv("VCHAN_VSOCK_BUFFER_SIZE", "262144")
    _, peer = meet(role)
    assert peer.heard.buffer == 262144


@pytest.mark.parametrize("ring, window", WINDOWS)
def test_window_in_a_servers_hello_is_by_the_rule(ring, window):
    """docs/wire.md, window: the table."""
    _, peer = meet_server(read_ring=ring)
    assert peer.heard.window == window


def test_sizes_are_the_servers_mirrored(monkeypatch):
    """docs/wire.md, hello: the server's read ring is the client's write ring."""
    monkeypatch.setenv("VCHAN_VSOCK_CLIENT_RING", "65536")
    client, _ = meet_client(read_ring=16384, write_ring=8192)
    assert client.buffer_space == 8192
    client.set_blocking(False)
    assert client.recv(16384) == b""
    assert vchan.error_of(client.recv, 16385) == "EMSGSIZE"


def test_sizes_that_a_client_says_are_ignored(address):
    """docs/wire.md, hello: a server ignores a client's sizes."""
    server = address.open_server(4096, 8192)
    peer = be_client_of(address, server, read_ring=12345, write_ring=1)
    assert server.buffer_space == 8192
    assert still_works(server, peer)


def test_newer_version_and_unknown_features_are_accepted(role):
    """docs/wire.md, versions: the lower one is spoken, unknown bits are ignored."""
    ours, peer = meet(role, version=2, features=0xFFFFFFFF, reserved=0xFFFF)
    assert (peer.heard.version, peer.heard.features) == (1, 0)
    assert still_works(ours, peer)


def test_hello_in_single_bytes(role, address):
    """docs/wire.md, hello: it may come in any number of pieces."""
    if role == "server":
        ours, peer = address.open_server(), FramedPeer.connect(address)
        say_in_single_bytes(peer, Hello())
        peer.hear_hello()
        until(lambda: ours.is_open == CONNECTED)
    else:
        connecting = Task(address.open_client)
        with FramedPeer.listen(address) as listener:
            peer = FramedPeer.accept(listener)
        say_in_single_bytes(peer, Hello(read_ring=PAGE, write_ring=PAGE))
        ours = connecting.result()
        peer.hear_hello()
    assert still_works(ours, peer)


def say_in_single_bytes(peer, hello):
    for octet in HELLO.pack(*hello):
        peer.raw(bytes([octet]))


def test_frames_right_behind_a_servers_hello_are_delivered(address):
    """docs/wire.md, hello: the server may send frames right behind it."""
    connecting = Task(address.open_client)
    with FramedPeer.listen(address) as listener:
        peer = FramedPeer.accept(listener)
    hello = Hello(read_ring=PAGE, write_ring=PAGE)
    peer.raw(HELLO.pack(*hello) + header(5) + b"hello" + header(5) + b"again")
    assert connecting.result().recv(10) == b"helloagain"


# --- the documented bytes ----------------------------------------------------

def test_server_sends_the_documented_bytes():
    """docs/wire.md, the bytes: from the server to the client."""
    from_client, from_server = documented_bytes()
    address = Address.fresh()
    server, peer = address.open_server(4096, 8192), FramedPeer.connect(address)
    peer.raw(from_client[:32 + 8 + 5])
    assert server.recv(5) == b"hello"
    server.write(b"world!")
    assert vchan.recv_exactly(peer.sock, len(from_server)) == from_server
    peer.raw(from_client[32 + 8 + 5:])
    assert vchan.error_of(server.read, 1) == "ECONNRESET"
    server.close()
    assert vchan.recv_all(peer.sock) == b""


def test_client_sends_the_documented_bytes(address):
    """docs/wire.md, the bytes: from the client to the server."""
    from_client, from_server = documented_bytes()
    connecting = Task(address.open_client)
    with FramedPeer.listen(address) as listener:
        peer = FramedPeer.accept(listener)
    heard = vchan.recv_exactly(peer.sock, 32)
    peer.raw(from_server[:32])
    client = connecting.result()
    client.write(b"hello")
    heard += vchan.recv_exactly(peer.sock, 8 + 5)
    peer.raw(from_server[32:])
    assert client.recv(6) == b"world!"
    client.close()
    assert heard + vchan.recv_all(peer.sock) == from_client


# --- frames ------------------------------------------------------------------

@pytest.mark.parametrize("size", [1, 4096, 300_000])
@pytest.mark.parametrize("ring", [4096, LARGE])
def test_data_goes_both_ways(role, ring, size):
    """docs/wire.md, frames: the payload is the program's bytes."""
    ours, peer = meet(role, ring, ring)
    writing = Task(ours.write, pattern(size))
    assert peer.receive_payload(size, acknowledge=True) == pattern(size)
    assert writing.result() == size
    for at in range(0, size, 4096):
        piece = pattern(min(4096, size - at), at)
        peer.send(piece)
        assert ours.recv(len(piece)) == piece


@pytest.mark.parametrize("size", [1, 7, 65536])
def test_frames_cut_anywhere_are_put_together(role, size):
    """docs/wire.md, frames: a frame may come in any number of pieces."""
    ours, peer = meet(role, LARGE, LARGE)
    ours.set_blocking(False)
    stream = header(5) + b"hello" + header() + header(7) + b" world!"
    for cut in range(1, len(stream)):
        got = b""
        for piece, arrived in ((stream[:cut], payload_before(cut)), (stream[cut:], 12)):
            peer.raw(piece)
            while len(got) < arrived:
                got += ours.read(size)
        assert got == b"hello world!"
        assert ours.read(size) == b""


def payload_before(cut):
    """Of header, 5 bytes, header, header, 7 bytes."""
    return min(max(cut - 8, 0), 5) + max(cut - 29, 0)


def test_frames_in_single_bytes(role):
    """docs/wire.md, frames: ... of one byte each; no header is taken for data."""
    ours, peer = meet(role, LARGE, LARGE)
    stream = header(5) + b"hello" + header() + header(7) + b" world!"
    for at in range(len(stream)):
        peer.raw(stream[at:at + 1])
        until(lambda: ours.data_ready == payload_before(at + 1))
    assert ours.recv(12) == b"hello world!"


def test_many_frames_in_one_piece(role):
    """docs/wire.md, frames: they have no meaning to programs."""
    ours, peer = meet(role, LARGE, LARGE)
    peer.raw(b"".join(header(100) + pattern(100, at) for at in range(0, 50_000, 100)))
    assert ours.recv(50_000) == pattern(50_000)


# --- acknowledgements --------------------------------------------------------

@pytest.mark.parametrize("ring", [4096, 128 << 10])
def test_replies_carry_the_acknowledgements_of_requests(role, ring):
    """docs/wire.md, acknowledgements: nothing alone while we reply."""
    ours, peer = meet(role, ring, ring)
    for count in range(1, 1001):
        peer.send(bytes(64))
        ours.write(ours.recv(64))
        frame = peer.receive()
        assert (len(frame.payload), frame.handed) == (64, 64 * count)
        peer.program_reads()
    assert (peer.alone, peer.frames) == (0, 1000)
    assert silent(peer)


@pytest.mark.parametrize("ring", [4096, 128 << 10])
def test_requests_carry_the_acknowledgements_of_replies(role, ring):
    """docs/wire.md, acknowledgements: nothing alone while we ask."""
    ours, peer = meet(role, ring, ring)
    for count in range(1000):
        ours.write(bytes(64))
        frame = peer.receive()
        assert (len(frame.payload), frame.handed) == (64, 64 * count)
        peer.program_reads()
        peer.send(bytes(64))
        assert ours.recv(64) == bytes(64)
    assert (peer.alone, peer.frames) == (0, 1000)
    assert silent(peer)


@pytest.mark.parametrize("ring", [LARGE, MIB])
def test_few_headers_alone_in_bulk(role, ring):
    """docs/wire.md, acknowledgements: one alone at most for 512 KiB of long frames."""
    ours, peer = meet(role, ring, ring)
    total = 8 * MIB
    reading = Task(vchan.read_exactly, ours, total)
    pour(peer, total, window=MIB)
    assert reading.result() == pattern(total)
    ours.close()
    _, last = receive_end(peer)
    assert last.handed == total
    assert peer.alone - 1 <= total // (512 << 10)


def pour(peer, total, window, piece=64 << 10):
    """Send so much within the window, which headers alone open again."""
    acknowledged = 0
    for at in range(0, total, piece):
        while at + piece - acknowledged > window:
            acknowledged = peer.receive().handed
        peer.send(pattern(piece, at))


def test_half_of_the_window_is_acknowledged_at_once(role):
    """docs/wire.md, acknowledgements: not before, not after."""
    ours, peer = meet(role, 4096, 4096)
    peer.send(bytes(4096))
    ours.recv(2047)
    assert silent(peer)
    ours.recv(1)
    assert peer.receive() == (b"", False, False, 2048)


def test_one_call_takes_a_ring_at_most(role):
    """1.3: recv over the ring: EMSGSIZE, read: a ring's worth; also when more is here."""
    ours, peer = meet(role, LARGE, LARGE)
    peer.send(pattern(3 * LARGE))
    until(lambda: ours.data_ready == LARGE)
    for _ in range(20):  # takes in the rest, by portions, and does not say so
        assert ours.data_ready == LARGE
    assert vchan.error_of(ours.recv, LARGE + 1) == "EMSGSIZE"
    got = ours.read(2 * LARGE)
    assert 0 < len(got) <= LARGE
    assert got + vchan.read_exactly(ours, 3 * LARGE - len(got)) == pattern(3 * LARGE)


def test_what_has_only_arrived_is_not_acknowledged(role):
    """docs/wire.md, acknowledgements: what was not read does not count."""
    ours, peer = meet(role, LARGE, LARGE)
    peer.send(bytes(MIB))
    until(lambda: ours.data_ready == LARGE)
    assert silent(peer)
    ours.write(b"x")
    assert peer.receive() == (b"x", False, False, 0)


def test_count_of_what_is_taken_in_is_told_at_once(role):
    """docs/wire.md, packets: it is no matter whether the program has read it."""
    ours, peer = meet(role)
    # In one piece: the question is here when the bytes are.
    peer.raw(header(5) + b"12345" + header(0, 0, COUNT | ASK))
    until(lambda: ours.data_ready == 5)
    ours.write(b"x")
    assert peer.receive().payload == b"x"
    assert peer.counted == 5


def test_count_does_not_tell_of_what_is_still_to_come(role):
    """docs/wire.md, packets: of a frame that is not all here nothing is told."""
    ours, peer = meet(role)
    peer.raw(header(5) + b"12345" + header(0, 0, COUNT | ASK) + header(100) + b"678")
    until(lambda: ours.data_ready == 8)
    ours.write(b"x")
    assert peer.receive().payload == b"x"
    assert peer.counted == 5


def test_count_is_never_behind_what_the_program_has_had(role):
    """docs/wire.md, packets: or it would contradict what a header has told."""
    ours, peer = meet(role)
    peer.raw(header(5) + b"12345" + header(100) + b"678")
    assert vchan.read_exactly(ours, 8) == b"12345678"
    peer.raw(bytes(97) + header(0, 0, COUNT | ASK) + header(100) + b"9")
    assert vchan.read_exactly(ours, 98) == bytes(97) + b"9"
    ours.write(b"x")
    assert peer.receive().payload == b"x"
    assert peer.counted in (105, 106)


# --- ASK ---------------------------------------------------------------------

@pytest.mark.parametrize("ring", [4096, LARGE])
def test_ask_is_answered_once_the_program_reads(role, ring):
    """docs/wire.md, acknowledgements: news, however little, and only then."""
    ours, peer = meet(role, ring, ring)
    peer.send(bytes(10), ASK)
    until(lambda: ours.data_ready == 10)
    assert silent(peer)
    ours.recv(3)
    assert peer.receive() == (b"", False, False, 3)
    ours.recv(3)
    if vchan.SIMPLE and ring < LARGE:
        # It cannot count on being there when it is asked again.
        assert peer.receive() == (b"", False, False, 6)
    assert silent(peer), "it was asked once"


@pytest.mark.parametrize("ring", [4096, LARGE])
def test_ask_is_answered_by_what_we_send(role, ring):
    """docs/wire.md, acknowledgements: the answer is the next header with news."""
    ours, peer = meet(role, ring, ring)
    peer.send(bytes(10))
    ours.recv(10)
    ours.write(b"x")
    assert peer.receive() == (b"x", False, False, 10)
    peer.ask()
    assert silent(peer)


@pytest.mark.parametrize("ring", [4096, LARGE])
def test_ask_that_comes_after_reading_needs_no_call(role, ring):
    """docs/wire.md, acknowledgements: the program has had it; it need do no more."""
    ours, peer = meet(role, ring, ring)
    peer.send(bytes(10))
    ours.recv(10)
    peer.ask()
    assert vchan.readable(peer.sock, 5), "no answer without a call"
    assert peer.receive() == (b"", False, False, 10)


def test_ask_is_sent_once_per_acknowledgement(role):
    """docs/wire.md, acknowledgements: whoever cannot go on asks once."""
    ours, peer = meet(role, 4096, 4096)
    writing = Task(ours.write, bytes(3 * 4096))
    peer.receive_payload(4096)
    receive_ask(peer)
    assert silent(peer)
    peer.ack(100)
    peer.receive_payload(100)
    peer.receive_payload(3 * 4096 - 4196, acknowledge=True)
    writing.result()
    assert peer.asks <= 1 + peer.frames


# --- the window --------------------------------------------------------------

@pytest.mark.parametrize("ring, window", WINDOWS)
def test_exactly_the_window_arrives(role, ring, window):
    """docs/wire.md, window: a peer that acknowledges nothing gets that, no more."""
    ours, peer = meet(role, PAGE, ring)
    total = window + ring + 5000
    writing = Task(ours.write, pattern(total))
    data = peer.receive_payload(window)
    receive_ask(peer)
    assert silent(peer)
    assert len(data) == peer.arrived == window
    peer.ack()
    data += peer.receive_payload(total - window, acknowledge=True)
    assert data == pattern(total)
    assert writing.result() == total


@pytest.mark.parametrize("said, window", [(0, 4096), (1, 1), (1000, 1000), (4096, 4096),
                                          (4097, 4096), (0xFFFFFFFF, 4096)])
def test_smaller_window_of_a_hello_is_respected_a_larger_one_is_not(role, said, window):
    """docs/wire.md, hello: 0 and more than the rule's count as the rule's."""
    ours, peer = meet(role, PAGE, 4096, window=said)
    assert ours.buffer_space == window
    ours.set_blocking(False)
    assert ours.write(pattern(5000)) == window
    assert peer.receive_payload(window) == pattern(window)
    peer.ack()
    until(lambda: ours.buffer_space == window)
    assert ours.write(bytes(5000)) == window


@pytest.mark.parametrize("ring, window", WINDOWS)
def test_buffer_space_counts_what_the_peers_program_has_had(role, ring, window):
    """docs/wire.md, window: to the byte, down with writes, up with `handed`."""
    ours, peer = meet(role, PAGE, ring)
    assert ours.buffer_space == ring
    write_and_receive(ours, peer, window - 1000)
    assert_space(ours, min(ring, 1000))
    write_and_receive(ours, peer, 999)
    assert_space(ours, 1)
    write_and_receive(ours, peer, 1)
    assert_space(ours, 0)
    ours.set_blocking(False)
    assert (ours.write(b"x"), ours.send(b"x")) == (0, 0)
    had = 0
    for size in (1, 10, 1000, window // 2, window - window // 2 - 1011):
        peer.ack(size)
        had += size
        assert_space(ours, min(ring, had))
    assert had == window


def write_and_receive(ours, peer, size):
    writing = Task(ours.write, pattern(size))
    peer.receive_payload(size)
    assert writing.result() == size


def assert_space(ours, space):
    """It becomes that and stays that."""
    until(lambda: ours.buffer_space == space, 5)
    assert vchan.quiet(ours.fd, 0) or ours.wait() == 0
    assert ours.buffer_space == space


def test_room_raises_an_event(role):
    """docs/wire.md, window: who saw too little is told of `handed`."""
    ours, peer = meet(role, PAGE, 4096)
    ours.set_blocking(False)
    assert ours.write(bytes(5000)) == 4096
    peer.receive_payload(4096)
    vchan.settle(ours)
    assert ours.buffer_space == 0
    peer.ack(7)
    until(lambda: vchan.readable(ours.fd) and ours.wait() == 0 and ours.buffer_space == 7)


def test_all_that_was_acknowledged_may_be_sent_again(role):
    """docs/wire.md, window: it is checked against what was acknowledged last."""
    ours, peer = meet(role, 4096, 4096)
    peer.send(bytes(4096))
    for count in range(1, 50):
        ours.recv(37)
        peer.ask()
        until(lambda: ours.data_ready == 4096 - 37)
        assert peer.receive().handed == 37 * count
        peer.send(bytes(37))
    assert vchan.read_exactly(ours, 4096) == bytes(4096)


@pytest.mark.parametrize("ring, window", [(4096, 4096), (LARGE, MIB)])
def test_two_directions_never_block_each_other(role, ring, window):
    """docs/wire.md, window: we write on, whatever we leave unread."""
    ours, peer = meet(role, ring, ring)
    peer.send(pattern(window))
    writing = Task(ours.write, pattern(5 * window))
    assert peer.receive_payload(5 * window, acknowledge=True) == pattern(5 * window)
    assert writing.result() == 5 * window
    assert vchan.read_exactly(ours, window) == pattern(window)


@pytest.mark.deadline(120)
def test_a_full_kernel_stops_no_writer(role):
    """docs/wire.md, window: a small kernel buffer makes it slower, and no more."""
    ours, peer = meet(role, PAGE, LARGE)
    peer.set_buffer(256 << 10)
    for _ in range(30):
        writing = Task(ours.write, pattern(MIB))
        assert vchan.poll(peer.sock, 5000), "the writer sleeps"
        assert receive_while_it_comes(peer, MIB) == pattern(MIB)
        assert writing.result() == MIB
        peer.ack()


def receive_while_it_comes(peer, size):
    data = b""
    while len(data) < size and vchan.poll(peer.sock, 5000):
        data += peer.receive().payload
    return data


def test_a_writer_goes_on_once_the_peers_program_has_read():
    """On Xen what was read is room at once, whatever the reader does next."""
    server, client = vchan.connected_pair()
    server.write(bytes(PAGE))
    client.recv(1000)
    assert Task(server.write, bytes(1000)).result(5) == 1000


@pytest.mark.parametrize("ring, window", [(4096, 4096), (LARGE, MIB)])
def test_room_is_seen_behind_a_full_window_of_input(role, ring, window):
    """docs/wire.md, window: the acknowledgement comes behind data nobody reads."""
    ours, peer = meet(role, ring, ring)
    write_and_receive(ours, peer, window)
    assert_space(ours, 0)
    peer.send(pattern(window))
    peer.ack(100)
    assert_space(ours, 100)
    assert vchan.read_exactly(ours, window) == pattern(window)


# --- packets -----------------------------------------------------------------

def write_single_bytes(ours, peer, count):
    """Each arrives before the next is written."""
    for _ in range(count):
        ours.write(b"x")
        assert peer.receive().payload == b"x"


@pytest.mark.parametrize("own, theirs, bound", [
    (65536, BUFFER, 56), (65536, 0, 56), (BUFFER, 65536, 56), (BUFFER, 1, 8)])
def test_packets_are_bounded(role, monkeypatch, own, theirs, bound):
    """docs/wire.md, packets: half of the smallest buffer / 576; the rest gathers."""
    monkeypatch.setenv("VCHAN_VSOCK_BUFFER_SIZE", str(own))
    ours, peer = meet(role, PAGE, PAGE, buffer=theirs)
    peer.answers = False
    write_single_bytes(ours, peer, bound - 1)  # and the question
    for _ in range(100):
        ours.write(b"y")
    assert silent(peer)
    assert peer.frames == bound - 1
    peer.count()
    assert peer.receive().payload == b"y" * 100


def test_stream_that_gathers_ends_with_the_peer(role, monkeypatch):
    """1.3 DISCONNECTED: EPIPE, although the ring has room."""
    monkeypatch.setenv("VCHAN_VSOCK_BUFFER_SIZE", "65536")
    ours, peer = meet(role, PAGE, PAGE)
    peer.answers = False
    write_single_bytes(ours, peer, 55)
    for _ in range(100):
        ours.write(b"y")
    peer.sock.close()
    until(lambda: ours.is_open == DISCONNECTED)
    with pytest.raises(BrokenPipeError):
        ours.write(b"y")


def test_packets_of_the_default_buffers(role):
    """docs/wire.md, packets: 3640 of them with 4 MiB."""
    ours, peer = meet(role, PAGE, PAGE)
    peer.answers = False
    write_single_bytes(ours, peer, 3639)  # and the question
    ours.write(b"y")
    assert silent(peer)
    peer.ack()
    assert peer.receive().payload == b"y"


def test_small_pieces_fill_a_ring_before_anybody_reads(monkeypatch):
    """On Xen a ring holds its bytes, however many writes they came in."""
    monkeypatch.setenv("VCHAN_VSOCK_BUFFER_SIZE", "65536")
    server, client = vchan.connected_pair()
    for count in range(1, 101):
        server.write(b"x")
        until(lambda: client.data_ready == count, 5)
    assert client.recv(100) == b"x" * 100


# --- the end -----------------------------------------------------------------

def test_close_says_end(role):
    """docs/wire.md, the end: behind everything, and nothing after it."""
    ours, peer = meet(role)
    peer.send(b"hello")
    ours.recv(5)
    ours.write(b"last words")
    ours.close()
    data, last = receive_end(peer)
    assert (data, last) == (b"last words", (b"", False, True, 5))
    assert peer.receive() is None


def test_close_says_end_behind_what_waits_for_room(role, monkeypatch):
    """docs/wire.md, the end: after everything that its program wrote."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")
    ours, peer = meet(role, 4096, 4096)
    ours.set_blocking(False)
    assert ours.send(pattern(60_000)) == 60_000
    closing = Task(ours.close)
    data = peer.receive_payload(60_000 - 4096, acknowledge=True)
    data += receive_end(peer)[0]
    assert data == pattern(60_000)
    closing.result()


def puppet_and_peer(role, address):
    """A program of its own, and the peer of its channel."""
    if role == "server":
        puppet = Puppet.serving(address)
        peer = FramedPeer.connect(address)
        peer.hello()
        peer.hear_hello()
        return puppet, peer
    puppet = Puppet.start(VCHAN_DOMAIN=address.client)
    with FramedPeer.listen(address) as listener:
        puppet.begin("client", address.server, address.port)
        peer = FramedPeer.accept(listener)
    peer.hear_hello()
    peer.hello(read_ring=PAGE, write_ring=PAGE)
    puppet.answer()
    return puppet, peer


def test_exit_says_end(role, address):
    """docs/wire.md, the end: a program that exits without close has ended, too."""
    puppet, peer = puppet_and_peer(role, address)
    puppet.write(b"last words")
    puppet.begin("exit", 0)
    assert receive_end(peer)[0] == b"last words"
    assert puppet.ended() == 0
    assert peer.receive() is None


def test_killed_program_says_no_end(role, address):
    """docs/wire.md, the end: that is a death."""
    puppet, peer = puppet_and_peer(role, address)
    puppet.write(b"last words")
    assert peer.receive().payload == b"last words"
    puppet.kill()
    assert peer.receive() is None


def errors_of(ours):
    """What the calls that move bytes fail with: (reading, writing)."""
    reading = {vchan.error_of(call, 1) for call in (ours.read, ours.recv, ours.read)}
    writing = {vchan.error_of(call, b"x") for call in (ours.write, ours.send, ours.write)}
    return reading, writing


@pytest.mark.parametrize("rest", [b"", header(100) + bytes(60), header(100), header(1)[:5]],
                         ids=["boundary", "payload", "after header", "header"])
def test_end_of_stream_delivers_what_arrived(role, rest):
    """docs/wire.md, the end: also a part of a frame, then ECONNRESET."""
    ours, peer = meet(role)
    peer.send(b"hello")
    peer.raw(rest)
    peer.sock.close()
    assert vchan.read_until_end(ours) == b"hello" + rest[8:]
    assert errors_of(ours) == ({"ECONNRESET"}, {"EPIPE"})


def test_end_delivers_what_came_before(role, capfd):
    """docs/wire.md, the end: then ECONNRESET, and not a word."""
    ours, peer = meet(role)
    peer.send(b"hello")
    peer.end()
    assert vchan.read_until_end(ours) == b"hello"
    until(lambda: ours.is_open == DISCONNECTED)
    assert errors_of(ours) == ({"ECONNRESET"}, {"EPIPE"})
    assert (ours.data_ready, ours.buffer_space) == (0, 0)
    assert capfd.readouterr().err == ""


def test_end_is_seen_by_a_program_that_sleeps(role):
    """docs/wire.md, the end: it is an event, though the socket stays open."""
    ours, peer = meet(role)
    vchan.settle(ours)
    peer.end()
    until(lambda: vchan.readable(ours.fd) and ours.wait() == 0
          and ours.is_open == DISCONNECTED)


def test_end_is_seen_by_is_open_alone(role):
    """libvchan.h: is_open becomes 0; no other call is needed."""
    ours, peer = meet(role)
    peer.end()
    peer.sock.close()
    until(lambda: ours.is_open == DISCONNECTED, 5)


def test_end_ends_a_write_that_waits(role):
    """docs/wire.md, the end: nobody would acknowledge any more."""
    ours, peer = meet(role)
    writing = Task(ours.write, bytes(3 * PAGE))
    peer.receive_payload(PAGE)
    peer.end()
    assert vchan.error_of(writing.result) == "EPIPE"


def test_end_is_not_answered(role):
    """docs/wire.md, the end: nothing comes from who has got it."""
    ours, peer = meet(role)
    peer.end()
    assert vchan.error_of(ours.read, 1) == "ECONNRESET"
    ours.close()
    assert peer.receive() is None


@pytest.mark.parametrize("last", [header(16376) + pattern(16376) + header(0, 0, END),
                                  b"\xff" * 40_000], ids=["a full portion", "garbage"])
def test_fd_is_quiet_after_the_end(role, last):
    """1.3: at end of stream, too, however much came with it: programs spin on it."""
    ours, peer = meet(role, LARGE, LARGE)
    vchan.settle(ours)
    peer.raw(last)
    wakings = 0
    while not vchan.quiet(ours.fd):
        ours.wait()
        wakings += 1
        assert ours.data_ready in (0, 16376)
        assert wakings < 20
    until(lambda: ours.is_open == DISCONNECTED)


def test_wait_after_a_poll_returns_though_a_header_was_all(role):
    """1.3: a wait after a poll that said readable returns at once."""
    ours, peer = meet(role)
    ours.write(b"abc")
    peer.receive_payload(3)
    vchan.settle(ours)
    peer.ack()
    assert vchan.readable(ours.fd)
    assert ours.data_ready == 0
    assert Task(ours.wait).result() == 0


# --- violations --------------------------------------------------------------

# After 3 bytes of ours were acknowledged, 6 of the peer's are unread, and the
# window is 4096.
VIOLATIONS = {"more acknowledged than sent": header(0, 4),
              "less acknowledged than before": header(0, 2),
              "one byte over the window": header(4091, 3),
              "absurd length": header(LENGTH, 3),
              "count with payload": header(1, 3, COUNT),
              "count of what was not sent": header(0, 1 << 30, COUNT),
              "end with payload": header(1, 3, END),
              "end with count": header(0, 3, END | COUNT),
              "bit 29": header(0, 3, 1 << 29),
              "second hello": HELLO.pack(*Hello())}


@pytest.fixture(params=list(VIOLATIONS))
def violation(request):
    return VIOLATIONS[request.param]


def meet_before_the_violation(role):
    ours, peer = meet(role, 4096, 4096)
    ours.write(b"abc")
    peer.receive_payload(3)
    peer.ack()
    return ours, peer


def assert_cut_off(ours, peer, capfd):
    """EPROTO, for good; one line; the socket is shut."""
    assert errors_of(ours) == ({"EPROTO"}, {"EPROTO"})
    assert (ours.is_open, ours.data_ready, ours.buffer_space) == (DISCONNECTED, 0, 0)
    assert vchan.shut_out(peer.sock)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "Protocol error" in lines[0], lines


def test_violation_is_eproto_after_the_rest(role, violation, capfd):
    """docs/wire.md, violations: what came before is read, then EPROTO."""
    ours, peer = meet_before_the_violation(role)
    peer.raw(header(6, 3) + b"before" + violation + b"behind")
    assert ours.read(3) == b"bef"
    assert ours.read(100) == b"ore"
    assert_cut_off(ours, peer, capfd)


def test_violation_right_behind_is_eproto_too(role, violation, capfd):
    """docs/wire.md, violations: the same when nothing is left to read."""
    ours, peer = meet_before_the_violation(role)
    peer.send(b"before")
    until(lambda: ours.data_ready == 6)
    peer.raw(violation)
    until(lambda: vchan.readable(ours.fd) and ours.wait() == 0
          and ours.is_open == DISCONNECTED)
    assert vchan.error_of(ours.write, b"x") == "EPROTO"
    assert ours.read(100) == b"before"
    assert_cut_off(ours, peer, capfd)


def test_violation_ends_a_read_that_waits(role, violation, capfd):
    """docs/wire.md, violations: a blocked reader gets EPROTO."""
    ours, peer = meet_before_the_violation(role)
    peer.send(b"before")
    assert ours.recv(6) == b"before"
    reading = Task(ours.read, 100)
    assert reading.asleep()
    # All was read, so that only 4 of these exceed the window.
    peer.raw(header(4097, 3) if violation == header(4091, 3) else violation)
    assert vchan.error_of(reading.result) == "EPROTO"
    assert_cut_off(ours, peer, capfd)


def test_violation_ends_a_write_that_waits(role, violation, capfd):
    """docs/wire.md, violations: a blocked writer gets EPROTO."""
    ours, peer = meet_before_the_violation(role)
    writing = Task(ours.write, bytes(3 * 4096))
    peer.receive_payload(4096)
    if violation == header(0, 4):
        violation = header(0, 4100)
    peer.raw(header(6, 3) + b"before" + violation)
    assert vchan.error_of(writing.result) == "EPROTO"
    assert ours.read(100) == b"before"
    until(lambda: ours.data_ready == 0)
    assert errors_of(ours) == ({"EPROTO"}, {"EPROTO"})
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_window_over_several_frames_is_eproto(role, capfd):
    """docs/wire.md, violations: the sum counts, not the length alone."""
    ours, peer = meet(role, 4096, 4096)
    peer.send(bytes(4000))
    peer.send(bytes(96))
    peer.send(b"x")
    assert read_to_error(ours) == (bytes(4096), "EPROTO")
    assert_cut_off(ours, peer, capfd)


def read_to_error(ours):
    data = b""
    while True:
        try:
            data += ours.read(PAGE)
        except OSError:
            return data, vchan.error_of(ours.read, 1)


def test_the_whole_window_is_no_violation(role, capfd):
    """docs/wire.md, violations: to the byte."""
    ours, peer = meet(role, 4096, 4096)
    peer.send(pattern(4096))
    assert ours.recv(4096) == pattern(4096)
    peer.send(pattern(4096))
    assert ours.recv(4096) == pattern(4096)
    assert capfd.readouterr().err == ""


# --- set-up ------------------------------------------------------------------

def test_silent_candidate_does_not_keep_others_out(address):
    """docs/wire.md, set-up: the first hello wins, the others are closed."""
    server = address.open_server()
    mute = FramedPeer.connect(address)
    mute.raw(HELLO.pack(*Hello())[:31])
    peer = be_client_of(address, server)
    assert vchan.shut_out(mute.sock)
    assert still_works(server, peer)
    assert vchan.refused(address.vsock_port)


@pytest.mark.parametrize("said", [0, 31])
@pytest.mark.deadline(90)
def test_silent_candidate_is_dropped_after_5_s(address, said):
    """docs/wire.md, set-up: ... and the server goes on waiting."""
    server = address.open_server()
    start = time.monotonic()
    mute = FramedPeer.connect(address)
    mute.raw(HELLO.pack(*Hello())[:said])
    assert vchan.shut_out(mute.sock)
    assert HELLO_WAIT <= time.monotonic() - start < HELLO_WAIT + vchan.A_SECOND
    assert server.is_open == WAITING
    assert still_works(server, be_client_of(address, server))


def test_place_of_a_candidate_that_leaves_is_given_to_the_next(address):
    """docs/wire.md, set-up: a server hears four at once; the others queue."""
    assert any(is_heard_before_their_time_is_over(address) for _ in range(3))


def is_heard_before_their_time_is_over(address):
    """False: it had to wait for the silent ones; or there was no processor for so long."""
    with address.open_server() as server:
        start = time.monotonic()
        mute = [FramedPeer.connect(address) for _ in range(4)]
        peer = FramedPeer.connect(address)
        peer.hello()
        if not silent(peer):
            assert time.monotonic() - start >= HELLO_WAIT, "there was no place for it"
            return False
        mute[0].sock.close()
        peer.hear_hello()
        took = time.monotonic() - start
        assert still_works(server, peer)
        return took < HELLO_WAIT


@pytest.mark.parametrize("bad", list(BAD_HELLOS))
def test_malformed_hello_is_dropped(address, bad):
    """docs/wire.md, set-up: at once, and the server goes on waiting."""
    server = address.open_server()
    for _ in range(3):
        rude = FramedPeer.connect(address)
        rude.raw(BAD_HELLOS[bad])
        assert vchan.recv_all(rude.sock) == b"", "it gets no answer"
        assert server.is_open == WAITING
    assert still_works(server, be_client_of(address, server))


@pytest.mark.parametrize("said", [0, 1, 31])
def test_candidate_that_leaves_is_dropped(address, said):
    """docs/wire.md, set-up: before its hello is complete."""
    server = address.open_server()
    for _ in range(6):
        peer = FramedPeer.connect(address)
        peer.raw(HELLO.pack(*Hello())[:said])
        peer.sock.close()
    until(lambda: not vchan.refused(address.vsock_port + (1 << 31)))
    assert server.is_open == WAITING
    assert still_works(server, be_client_of(address, server))


SERVERS_BAD_HELLOS = {
    **BAD_HELLOS,
    "cut": HELLO.pack(*Hello(read_ring=PAGE, write_ring=PAGE))[:31],
    **{f"rings {read} {write}": HELLO.pack(*Hello(read_ring=read, write_ring=write))
       for read, write in ((0, 0), (4097, 4096), (4096, 5000), (2048, 4096),
                           (4096, 1 << 31), (0xFFFFFFFF, 0xFFFFFFFF))}}


@pytest.mark.parametrize("bad", list(SERVERS_BAD_HELLOS))
def test_client_tries_again_after_a_malformed_hello(address, bad):
    """docs/wire.md, set-up: until there is a server that speaks well."""
    with FramedPeer.listen(address) as listener:
        connecting = Task(address.open_client)
        for _ in range(3):
            rude = FramedPeer.accept(listener)
            rude.hear_hello()
            rude.raw(SERVERS_BAD_HELLOS[bad])
            if bad == "cut":
                rude.sock.close()
            else:
                assert vchan.shut_out(rude.sock)
        client, peer = be_server_of(connecting, listener)
    assert still_works(client, peer)


@pytest.mark.deadline(90)
def test_client_tries_again_after_5_s_of_silence(address):
    """docs/wire.md, set-up: a server that says no hello is left."""
    with FramedPeer.listen(address) as listener:
        connecting = Task(address.open_client)
        mute = FramedPeer.accept(listener)
        start = time.monotonic()
        mute.hear_hello()
        assert vchan.shut_out(mute.sock)
        assert time.monotonic() - start < HELLO_WAIT + vchan.A_SECOND
        client, peer = be_server_of(connecting, listener)
    assert still_works(client, peer)


def test_client_takes_the_plain_port_meanwhile(address):
    """docs/wire.md, set-up: when there is no good hello, plain will do."""
    with FramedPeer.listen(address) as framed, address.listen_raw() as plain:
        connecting = Task(address.open_client)
        for _ in range(2):
            rude = FramedPeer.accept(framed)
            rude.hear_hello()
            rude.raw(bytes(HELLO.size))
        client, peer = connecting.result(), vchan.accept_raw(plain)
    client.write(b"hello")
    assert vchan.recv_exactly(peer, 5) == b"hello"


def test_framed_port_is_closed_once_there_is_a_connection(address):
    """docs/wire.md, set-up: both listeners close, a second client is refused."""
    server = address.open_server()
    be_client_of(address, server)
    assert vchan.refused(address.vsock_port)
    assert vchan.refused(address.vsock_port + (1 << 31))
