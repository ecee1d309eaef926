# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock relay, natively: its vsock is made of Unix sockets (relay_guests.py).

What relies on the kernel's vsock is proven with real guests, in tests/relay.
"""
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import threading
import time

import pytest

import relay_guests
import tooling
from relay_guests import (BUSY, DENIED, FRAMED, NO_MACHINE, OK, OURS, REFUSED, World, accept,
                          answer_of, channel, is_over, receive, request, until)

pytestmark = pytest.mark.usefixtures("tool_built")


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.opened.close()
    if world.process and world.process.poll() is None:
        assert world.stop() == 0, world.log
    world.put_away()
    assert "ERROR: " not in world.log and "runtime error" not in world.log, world.log


@pytest.fixture
def relay(world):
    """It runs, and everything is allowed."""
    world.start()
    return world


@pytest.fixture
def ends(relay):
    """The two ends of a channel."""
    return channel(relay, relay.guest(42), relay.guest(43), 512)


def fds(world):
    return len(os.listdir(f"/proc/{world.process.pid}/fd"))


def memory(world):
    """Bytes that are its own."""
    text = pathlib.Path(f"/proc/{world.process.pid}/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines()
                      if line.startswith(("Private_Dirty", "Swap:")))


def processor_time(world):
    fields = pathlib.Path(f"/proc/{world.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- who may reach whom ---------------------------------------------------------

def test_bytes_pass_both_ways(ends):
    near, far = ends
    near.sendall(b"to the target")
    assert receive(far, 13) == b"to the target"
    far.sendall(b"to the source")
    assert receive(near, 13) == b"to the source"


@pytest.mark.parametrize("flags", [0, FRAMED, OURS, FRAMED | OURS])
def test_the_vsock_port_is_the_sources_own(relay, flags):
    """The target's port names the guest that the kernel says, and the wire."""
    source, target = relay.guest(300), relay.guest(43)
    listener = target.listen(300, 700, bool(flags & FRAMED))
    _, status = source.ask(43, 700, flags)
    assert status == OK
    sock, port = accept(listener)
    assert 256 <= port < 1024 and port != 768
    # A server of ours takes these for plain connections of our own clients.
    assert (512 <= port <= 767) == (flags == OURS)
    sock.close()


def test_a_privileged_source_comes_from_a_port_that_says_so(relay):
    source, target = relay.guest(42), relay.guest(43)
    listener = target.listen(42, 700)
    _, status = source.ask(43, 700, source_port=1023)
    assert status == OK
    sock, port = accept(listener)
    assert 1 <= port <= 255
    sock.close()


def test_what_no_rule_allows_is_denied(world):
    world.policy.write_text("allow 42 -> 43 512-513\nallow 50-59 -> 43,44 *\n")
    world.start()
    guests = {cid: world.guest(cid) for cid in (42, 43, 44, 50)}
    listeners = [guests[target].listen(source, port)
                 for target, source, port in ((43, 42, 512), (44, 42, 512), (43, 50, 9),
                                              (42, 43, 512))]
    assert guests[42].ask(43, 512)[1] == OK
    assert guests[50].ask(43, 9)[1] == OK
    for source, target, port in ((42, 43, 514), (42, 44, 512), (43, 42, 512), (50, 42, 512),
                                 (50, 99, 1)):
        assert guests[source].ask(target, port)[1] == DENIED
    assert len(world.lines("event=refused .*why=policy")) == 5
    for listener in listeners[1::2]:
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("target", [0, 1, 2, 0x80000000, 0xFFFFFFFF])
def test_nobody_reaches_the_host_through_it(relay, target):
    """Not even where the policy allows everything."""
    assert relay.guest(42).ask(target, 512)[1] == DENIED


def test_a_request_cannot_name_another_source(world):
    world.policy.write_text("allow 42 -> 43 512\n")
    world.start()
    world.guest(43).listen(42, 512)
    evil = world.guest(66)
    assert evil.ask(43, 512)[1] == DENIED
    # In the one field that is left there may be nothing.
    sock = evil.connect()
    sock.sendall(request(43, 512, reserved=42))
    assert sock.recv(16) == b""


def test_nobody_serves(relay):
    relay.guest(43)
    assert relay.guest(42).ask(43, 512)[1] == REFUSED


def test_no_such_guest(relay):
    assert relay.guest(42).ask(77, 512)[1] == NO_MACHINE


def test_after_a_refusal_it_is_closed(relay):
    sock, _ = relay.guest(42).ask(77, 512)
    assert is_over(sock)


def test_strangers_that_are_no_guests(relay):
    """The host's own programs need no relay."""
    sock = relay.opened.enter_context(socket.socket(socket.AF_UNIX))
    sock.settimeout(20)
    sock.connect(f"\0fake-vsock/{relay.word}/2/768")
    assert sock.recv(1) == b""
    relay.await_line("event=refused source=1 .*why=not-a-guest")


def test_a_source_that_can_be_nobodys_client(relay):
    sock = relay.guest(32768).connect()
    assert sock.recv(1) == b""


# --- requests ---------------------------------------------------------------------

MALFORMED = {
    "no magic": request(43, 512, magic=b"VCH1RELY"),
    "another version": request(43, 512, version=2),
    "unknown flags": request(43, 512, flags=4),
    "a field that is not zero": request(43, 512, reserved=1),
    "a port beyond 65535": request(43, 65536),
}


@pytest.mark.parametrize("why", MALFORMED)
def test_malformed(relay, why):
    """It is closed without a word, the target hears nothing, and there is one line."""
    listener = relay.guest(43).listen(42, 512)
    sock = relay.guest(42).connect()
    sock.sendall(MALFORMED[why])
    assert sock.recv(16) == b""
    relay.await_line(f'event=malformed .*source=42 .*why="{why}"')
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert relay.guest(7).ask(99, 1)[1] == NO_MACHINE


def test_a_request_in_pieces(relay):
    source, target = relay.guest(42), relay.guest(43)
    listener = target.listen(42, 512)
    sock = source.connect()
    for byte in request(43, 512):
        sock.sendall(bytes([byte]))
        time.sleep(0.001)
    assert answer_of(receive(sock, 16)) == OK
    listener.close()


def test_who_leaves_before_the_request_is_complete(relay):
    sock = relay.guest(42).connect()
    sock.sendall(request(43, 512)[:23])
    sock.close()
    relay.await_line("event=malformed .*it left before its request")


def test_who_says_nothing_is_closed(relay):
    started = time.monotonic()
    sock = relay.guest(42).connect()
    assert sock.recv(1) == b""
    assert 4.9 < time.monotonic() - started < 10
    relay.await_line('event=malformed .*why="no request came"')


def test_a_request_in_two_pieces_and_what_follows(relay):
    """Not a byte too many is taken for the request."""
    listener = relay.guest(43).listen(42, 512)
    sock = relay.guest(42).connect()
    data = os.urandom(5000)
    whole = request(43, 512) + data
    sock.sendall(whole[:10])
    time.sleep(0.05)
    sock.sendall(whole[10:])
    assert answer_of(receive(sock, 16)) == OK
    far, _ = accept(listener)
    assert receive(far, len(data)) == data
    far.close()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_request_while_memory_is_short(world):
    """It is read once there is some."""
    world.start(wrapper=("strace", "-D", "-o", os.devnull, "-e",
                         "inject=recvfrom:error=ENOMEM:when=1..40"),
                ASAN_OPTIONS="verify_asan_link_order=0:detect_leaks=0")
    assert world.guest(42).ask(77, 512)[1] == NO_MACHINE


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_follows_the_request_at_once_is_delivered(relay, size):
    source, target = relay.guest(42), relay.guest(43)
    listener = target.listen(42, 512)
    data = os.urandom(size)
    _, status = source.ask(43, 512, more=data)
    assert status == OK
    sock, _ = accept(listener)
    assert receive(sock, size) == data
    sock.close()


def test_who_says_all_and_leaves_at_once(relay):
    """Even then the target has every byte."""
    source, target = relay.guest(42), relay.guest(43)
    listener = target.listen(42, 512)
    sock = source.connect()
    sock.sendall(request(43, 512) + b"x" * 5000)
    sock.close()
    far, _ = accept(listener)
    assert receive(far, 9999) == b"x" * 5000
    far.close()


# --- bytes, and their end -----------------------------------------------------------

def shovel(sock, data):
    with contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def test_megabytes_both_ways_at_once(ends):
    contents = [random.randbytes(8 << 20) for _ in ends]
    threads = [threading.Thread(target=shovel, args=(end, data))
               for end, data in zip(ends, contents)]
    got = [bytearray(), bytearray()]
    readers = [threading.Thread(target=lambda i=i: got[i].extend(receive(ends[i], 9 << 20)))
               for i in range(2)]
    for thread in threads + readers:
        thread.start()
    for thread in threads + readers:
        thread.join(50)
    assert got[1] == contents[0] and got[0] == contents[1]


@pytest.mark.parametrize("first", [0, 1])
def test_half_close(ends, relay, first):
    one, other = ends[first], ends[1 - first]
    one.sendall(b"last words")
    one.shutdown(socket.SHUT_WR)
    assert receive(other, 99) == b"last words"
    other.sendall(b"an answer, " * 1000)
    assert receive(one, 11000) == b"an answer, " * 1000
    other.shutdown(socket.SHUT_WR)
    assert receive(one, 1) == b""
    relay.await_line("event=closed .*by=both")


@pytest.mark.parametrize("who", [0, 1])
def test_death_ends_the_other_side_at_once(ends, relay, who):
    one, other = ends[who], ends[1 - who]
    one.sendall(b"x" * 100_000)
    one.close()
    assert receive(other, 200_000) == b"x" * 100_000
    assert is_over(other)
    relay.await_line(f"event=closed .*by={'target' if who else 'source'}")


@pytest.mark.parametrize("who", [0, 1])
def test_death_after_a_half_close(ends, who):
    one, other = ends[who], ends[1 - who]
    one.shutdown(socket.SHUT_WR)
    assert receive(other, 1) == b""
    one.close()
    assert is_over(other)


def test_death_while_the_other_side_writes(ends):
    """A writer is told, and is not left waiting for room."""
    near, far = ends
    writer = threading.Thread(target=shovel, args=(near, b"x" * (32 << 20)))
    writer.start()
    receive(far, 1 << 20)
    far.close()
    writer.join(20)
    assert not writer.is_alive()
    assert is_over(near)


def fill(sock):
    """As much as goes in."""
    sock.setblocking(False)
    count = 0
    quiet = 0
    while quiet < 20:
        try:
            count += sock.send(b"f" * 65536)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    sock.settimeout(20)
    return count


def test_death_of_a_writer_whose_reader_lags(ends):
    near, far = ends
    count = fill(near)
    near.close()
    assert len(receive(far, count + 1)) == count
    assert is_over(far)


def seconds_of_pings(near, far, count=200):
    started = time.monotonic()
    for _ in range(count):
        near.sendall(b"ping")
        far.sendall(receive(far, 4))
        assert receive(near, 4) == b"ping"
    return time.monotonic() - started


def test_a_stalled_channel_slows_nobody(relay):
    guests = [relay.guest(cid) for cid in (42, 43, 44)]
    near, far = channel(relay, guests[0], guests[2], 2)
    before = seconds_of_pings(near, far)
    stalled, unread = channel(relay, guests[0], guests[1], 1)
    count = fill(stalled)
    assert seconds_of_pings(near, far) < 5 + 5 * before
    # The other direction of the stalled one goes on, too.
    unread.sendall(b"hello")
    assert receive(stalled, 5) == b"hello"
    assert receive(unread, count) == b"f" * count


def test_a_stalled_channel_costs_no_time(relay, ends):
    fill(ends[0])
    before = processor_time(relay)
    time.sleep(1)
    assert processor_time(relay) - before <= 0.1


def test_a_channel_with_room_again_goes_on_by_itself(ends):
    """No event is lost between a full socket and an empty one, many times."""
    near, far = ends
    data = random.randbytes(16 << 20)
    writer = threading.Thread(target=shovel, args=(near, data))
    writer.start()
    got = bytearray()
    while len(got) < len(data):
        got += receive(far, min(random.choice([1000, 300_000, 3_000_000]), len(data) - len(got)))
        time.sleep(random.choice([0, 0, 0.01]))
    assert got == data
    writer.join(20)


# --- how many, how much ------------------------------------------------------------

def test_channels_of_one_source(world):
    world.start("--max-channels", 3)
    guests = {cid: world.guest(cid) for cid in (42, 43, 44)}
    ends = [channel(world, guests[42], guests[43], port) for port in (1, 2, 3)]
    guests[43].listen(42, 4)
    guests[43].listen(44, 4)
    assert guests[42].ask(43, 4)[1] == BUSY
    world.await_line("event=refused .*why=channels")
    assert guests[44].ask(43, 4)[1] == OK
    ends[0][0].close()
    until(lambda: guests[42].ask(43, 4)[1] == OK)


def test_channels_in_all(world):
    world.start("--max-total", 2)
    guests = {cid: world.guest(cid) for cid in (42, 43, 44)}
    for port in (1, 2):
        channel(world, guests[42], guests[43], port)
    guests[43].listen(44, 4)
    assert guests[44].ask(43, 4)[1] == BUSY
    world.await_line("event=refused .*why=total")


def linger(world, channels):
    """Their sources have gone, and what they said is not taken."""
    for near, _ in channels:
        fill(near)
        near.close()


@pytest.mark.parametrize("limit", ["--max-channels", "--max-total"])
def test_a_target_that_takes_nothing_keeps_nobody_from_others(world, limit):
    """The channel that lingers longest gives way, and no other does."""
    world.start(limit, 3)
    guests = {cid: world.guest(cid) for cid in (42, 43, 44)}
    channels = [channel(world, guests[42], guests[43], port) for port in (1, 2, 3)]
    linger(world, channels[:1])
    guests[44].listen(42, 4)
    assert guests[42].ask(44, 4)[1] == BUSY  # it may be only slow
    linger(world, channels[1:2])
    near, far = channels[2]
    until(lambda: guests[42].ask(44, 4)[1] == OK, 10)
    assert len(world.lines("event=closed")) == 1
    assert world.lines("event=closed id=1 .*by=gave-way undelivered=")
    near.sendall(b"not this one")
    assert receive(far, 12) == b"not this one"


def test_privileged_channels_of_one_source(relay):
    """It leaves some of their ports to others, and has its other channels."""
    guests = {cid: relay.guest(cid) for cid in (42, 43, 44)}
    listeners = {cid: guests[43].listen(cid, 1) for cid in (42, 44)}
    far = []
    for port in range(1, 256):
        sock, status = guests[42].ask(43, 1, source_port=port)
        if status != OK:
            break
        far.append(accept(listeners[42])[0])
    assert status == BUSY and len(far) == 64
    relay.await_line("event=refused .*why=privileged")
    assert guests[44].ask(43, 1, source_port=1)[1] == OK
    assert guests[42].ask(43, 1)[1] == OK
    far[0].close()
    until(lambda: guests[42].ask(43, 1, source_port=port + 1)[1] == OK)


def test_a_pair_whose_ports_the_kernel_keeps(relay):
    """It has to wait, and ports are left for others.  The kernel is played by the test."""
    guests = {cid: relay.guest(cid) for cid in (42, 43, 44)}
    listener = guests[43].listen(42, 1)
    kept = []
    for _ in range(64):
        near, status = guests[42].ask(43, 1)
        assert status == OK
        far, port = accept(listener)
        near.close()
        assert is_over(far)
        far.close()
        kept.append(relay.opened.enter_context(socket.socket(socket.AF_UNIX)))
        until(lambda: attempt(kept[-1].bind, f"\0fake-vsock/{relay.word}/2/{port}") is None)
    assert guests[42].ask(43, 1)[1] == BUSY
    relay.await_line("event=refused .*why=held")
    guests[44].listen(42, 1)
    guests[43].listen(44, 1)
    assert guests[42].ask(44, 1)[1] == guests[44].ask(43, 1)[1] == OK
    kept[0].close()
    until(lambda: guests[42].ask(43, 1)[1] == OK)


def test_channels_that_come_and_go(relay):
    """There may be any number of them."""
    source, target = relay.guest(42), relay.guest(43)
    listener = target.listen(42, 1)
    for _ in range(1000):
        near, status = source.ask(43, 1)
        assert status == OK
        far, _ = accept(listener)
        near.close()
        assert is_over(far)
        far.close()


def test_requests_per_second(world):
    world.start("--rate", 5)
    guests = {cid: world.guest(cid) for cid in (42, 44)}
    begun = time.monotonic()
    answers = [guests[42].ask(99, 1)[1] for _ in range(40)]
    at_most = 10 + 5 * (time.monotonic() - begun)
    assert answers[:10] == [NO_MACHINE] * 10 and answers.count(NO_MACHINE) <= at_most
    assert answers.count(NO_MACHINE) + answers.count(BUSY) == 40
    until(lambda: guests[42].ask(99, 1)[1] == BUSY)
    assert world.lines("event=refused source=42 .*why=rate")
    # Nobody else is concerned, and time mends it.
    assert guests[44].ask(99, 1)[1] == NO_MACHINE
    until(lambda: guests[42].ask(99, 1)[1] == NO_MACHINE)


def test_unfinished_requests_of_one_source(world):
    world.start("--rate", 10000)
    flood, other = world.guest(42), world.guest(43)
    for _ in range(64):
        flood.connect()
    sock = flood.connect()
    assert answer_of(receive(sock, 16)) == BUSY
    world.await_line("event=refused source=42 .*why=unfinished")
    assert other.ask(99, 1)[1] == NO_MACHINE


def attempt(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return error


def test_a_flood_leaves_others_their_place(world):
    world.start()
    flood, source, target = (world.guest(cid) for cid in (66, 42, 43))
    stop = threading.Event()

    def storm():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                flood.connect().close()

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        listener = target.listen(42, 1)
        # The queue may be full for a moment, as that of a vsock.
        answers = []
        until(lambda: not isinstance(answers.append(attempt(source.ask, 43, 1)) or answers[-1],
                                     OSError))
        (near, status), (far, _) = answers[-1], accept(listener)
        assert status == OK
        for _ in range(100):
            near.sendall(b"ping")
            assert receive(far, 4) == b"ping"
    finally:
        world.await_line("event=suppressed lines=")
        stop.set()
        thread.join(20)
    assert len(world.log.splitlines()) < 1000
    assert world.lines("event=opened id=.* source=42")


def test_as_many_channels_as_there_are_ports(world):
    """Then the next one is told to come later, and every one works."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    world.start("--max-channels", 1000, "--max-total", 1000, "--rate", 10000)
    source, target = world.guest(42), world.guest(43)
    listener = target.listen(42, 1)
    before = fds(world)
    ends = []
    while True:
        near, status = source.ask(43, 1)
        if status != OK:
            break
        ends.append((near, accept(listener)[0]))
    assert status == BUSY and len(ends) == 767
    world.await_line("event=refused .*why=ports")
    # One that lingers gives way.
    linger(world, ends[:1])
    near = until(lambda: [sock for sock, status in [source.ask(43, 1)] if status == OK], 10)[0]
    assert world.lines("event=closed id=1 .*by=gave-way")
    ends.pop(0)[1].close()
    ends.append((near, accept(listener)[0]))
    for number, (near, far) in enumerate(ends):
        near.sendall(b"%06d" % number)
        far.sendall(b"%06d" % -number)
    for number, (near, far) in enumerate(ends):
        assert receive(far, 6) == b"%06d" % number
        assert receive(near, 6) == b"%06d" % -number
    for near, far in ends:
        near.close()
    for near, far in ends:
        assert receive(far, 1) == b""
        far.close()
    until(lambda: fds(world) == before)
    channel(world, source, target, 2)


def test_memory_of_stalled_channels_is_bounded(world):
    """256 KiB a direction, and a little for itself."""
    tooling.make(relay_guests.PLAIN)
    world.start("--rate", 1000, tool=relay_guests.PLAIN, VCHAN_VSOCK_BUFFER_SIZE="65536")
    source, target = world.guest(42), world.guest(43)
    before = memory(world)
    ends = [channel(world, source, target, port) for port in range(20)]
    assert memory(world) - before < 2 << 20  # mostly the pieces' own buffer
    for near, far in ends:
        fill(near)
    used = memory(world) - before
    assert used < 20 * (256 << 10) + (2 << 20)
    for near, far in ends:
        near.close()
        far.close()
    until(lambda: len(world.lines("event=closed")) == 20)


def test_out_of_fds(world):
    """It says so, does not spin, and goes on when there are some again."""
    world.start(wrapper=("prlimit", "--nofile=24:24"))
    world.await_line("event=few-files wanted=3056")
    source, target = world.guest(42), world.guest(43)
    idle = [source.connect() for _ in range(30)]
    world.await_line("event=accept-failed why=\"Too many open files\"")
    before = processor_time(world)
    time.sleep(0.5)
    assert processor_time(world) - before < 0.2
    for sock in idle:
        sock.close()
    until(lambda: source.ask(99, 1)[1] == NO_MACHINE)
    channel(world, source, target, 1)


# --- the policy, again -------------------------------------------------------------

def test_sighup_reads_the_policy_and_leaves_channels_alone(world):
    world.policy.write_text("allow 42 -> 43 *\n")
    world.start()
    source, target = world.guest(42), world.guest(43)
    near, far = channel(world, source, target, 1)
    world.policy.write_text("allow 43 -> 42 *\n")
    world.process.send_signal(signal.SIGHUP)
    world.await_line("event=policy-read .*rules=1", 2)
    assert source.ask(43, 2)[1] == DENIED
    source.listen(43, 3)
    assert target.ask(42, 3)[1] == OK
    near.sendall(b"still here")
    assert receive(far, 10) == b"still here"


@pytest.mark.parametrize("text", ["allow 42 -> 43\n", None])
def test_a_bad_policy_is_refused_loudly_and_the_old_one_stays(world, text):
    world.policy.write_text("allow 42 -> 43 *\n")
    world.start()
    source, target = world.guest(42), world.guest(43)
    if text is None:
        world.policy.unlink()
    else:
        world.policy.write_text(text)
    world.process.send_signal(signal.SIGHUP)
    world.await_line("^<3>event=policy-kept")
    where = f"{world.policy}:1:15" if text else str(world.policy)
    assert world.lines(f'^<3>event=policy-fault at="{where}"')
    channel(world, source, target, 1)


def test_a_bad_policy_at_the_start(world):
    world.policy.write_text("allow everything\n")
    assert world.start(wait=False).wait(20) == 1
    assert world.lines('event=policy-fault at=".*relay.policy:1:7"')


# --- its life ------------------------------------------------------------------------

def test_sigterm_lets_channels_finish(world):
    world.start("--drain", 30)
    source, target = world.guest(42), world.guest(43)
    near, far = channel(world, source, target, 1)
    world.process.send_signal(signal.SIGTERM)
    world.await_line("event=stopping channels=1")
    with pytest.raises(ConnectionRefusedError):
        source.connect()
    near.sendall(b"goes on")
    assert receive(far, 7) == b"goes on"
    near.close()
    assert receive(far, 1) == b""
    assert world.process.wait(20) == 0


def test_sigterm_waits_no_longer_than_it_should(world):
    world.start("--drain", 1)
    near, far = channel(world, world.guest(42), world.guest(43), 1)
    started = time.monotonic()
    assert world.stop() == 0
    assert 0.9 < time.monotonic() - started < 5
    assert receive(near, 1) == receive(far, 1) == b""
    assert world.lines("event=closed .*by=stopped")


def test_a_second_signal_ends_it_at_once(world):
    world.start("--drain", 1000)
    channel(world, world.guest(42), world.guest(43), 1)
    world.process.send_signal(signal.SIGTERM)
    world.await_line("event=stopping")
    world.process.send_signal(signal.SIGINT)
    assert world.process.wait(20) == 0


def test_two_of_them(relay):
    other = World(relay.policy.parent / "..")
    other.word, other.policy = relay.word, relay.policy
    other.errors = relay.policy.parent / "other"
    assert other.start(wait=False).wait(20) == 1
    assert "vsock port 768 is in use: does another relay run?" in other.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_the_capability_it_says_which(world):
    world.policy.parent.chmod(0o755)
    # The fake looks at the user, not at capabilities.
    policy = world.policy.read_text()
    world.policy = pathlib.Path(f"/tmp/relay-policy-{os.getpid()}")
    world.policy.write_text(policy)
    try:
        process = world.start(wait=False, wrapper=("setpriv", "--reuid=65534", "--clear-groups"))
        assert process.wait(20) == 1
    finally:
        world.policy.unlink()
    assert "vsock port 768: Permission denied" in world.log
    assert "CAP_NET_BIND_SERVICE" in world.log


def test_the_service_manager_is_told(world, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(tmp_path / "notify"))
        world.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(99) == b"READY=1"
        world.process.send_signal(signal.SIGHUP)
        assert manager.recv(99).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(99) == b"READY=1"
        assert world.stop() == 0
        assert manager.recv(99) == b"STOPPING=1"


def test_an_abstract_name_of_the_service_manager(world):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(f"\0notify-{world.word}")
        world.start(NOTIFY_SOCKET=f"@notify-{world.word}")
        assert manager.recv(99) == b"READY=1"


# --- lines ------------------------------------------------------------------------

def test_a_channel_is_two_lines(relay):
    source, target = relay.guest(42), relay.guest(43)
    near, far = channel(relay, source, target, 512, FRAMED)
    near.sendall(b"12345")
    receive(far, 5)
    far.sendall(b"123")
    receive(near, 3)
    near.close()
    assert receive(far, 1) == b""
    opened = relay.await_line("^<6>event=opened")[0]
    closed = relay.await_line("^<6>event=closed")[0]
    same = r"id=1 source=42 source_port=\d+ target=43 port=512 wire=framed "
    assert relay.lines(f"^<6>event=opened {same}from=\\d+$") == [opened]
    assert relay.lines(f"^<6>event=closed {same}to_target=5 to_source=3 "
                       r"seconds=\d+\.\d{3} by=source$") == [closed]


def test_json(world):
    world.start("--json")
    near, far = channel(world, world.guest(42), world.guest(43), 512)
    near.sendall(b"12345")
    receive(far, 5)
    far.close()
    assert is_over(near)
    world.guest(44).ask(99, 1)
    world.await_line('"refused"')
    assert world.stop() == 0
    lines = [json.loads(line) for line in world.log.splitlines()]
    assert [line["event"] for line in lines] == [
        "policy-read", "listening", "opened", "closed", "refused", "stopping", "stopped"]
    assert lines[3]["to_target"] == 5 and lines[3]["by"] == "target"
    assert 0 <= lines[3]["seconds"] < 20
    assert lines[4]["why"] == "no-machine" and lines[4]["source"] == 44
    assert all(line["priority"] in (5, 6) for line in lines)


def test_a_log_that_nobody_reads_holds_nothing_up(world, tmp_path):
    """What does not fit is counted, and the channels work."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    world.errors = tmp_path / "fifo"
    world.start(wait=False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(reader, b"x" * 4096)
    source, target = world.guest(42), world.guest(43)
    until(lambda: not isinstance(attempt(source.ask, 99, 1), OSError))
    near, far = channel(Quiet(world), source, target, 1)
    near.sendall(b"ping")
    assert receive(far, 4) == b"ping"
    world.process.kill()
    world.process.wait()
    world.errors = tmp_path / "none"
    world.errors.touch()
    os.close(reader)


class Quiet:
    """A world whose lines cannot be looked at."""
    log = ""

    def __init__(self, world):
        self.opened = world.opened
