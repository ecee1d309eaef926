# SPDX-License-Identifier: LGPL-2.1-or-later
"""Threads and signals (design 1.3)."""
import os
import pathlib
import signal
import subprocess
import time

import pytest

import vchan
from puppet import Puppet
from vchan import Address, PAGE, Task, pattern, until

# What cannot be blocked (KILL, STOP) and what the C library keeps to itself.
UNBLOCKABLE = {9, 19, 32, 33}


def blocked_signals(tid):
    """Of a thread that sleeps: one that begins, or works, may block some for a moment."""
    def status():
        lines = pathlib.Path(f"/proc/self/task/{tid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return values if values["State"].split()[0] == "S" else None

    mask = int(until(status)["SigBlk"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.parametrize("state", ["waiting", "connecting", "connected"])
def test_the_librarys_thread_has_all_signals_blocked(address, state):
    """1.3: the library's thread is created with all signals blocked (if there is one)."""
    before = vchan.threads()
    if state == "connecting":
        address.open_async()
    else:
        address.open_server()
    if state == "connected":
        address.connect_raw()
    ours = vchan.threads() - before
    assert bool(ours) == (not vchan.SIMPLE)
    for tid in ours:
        assert blocked_signals(tid) >= set(range(1, 65)) - UNBLOCKABLE


def test_the_callers_signal_mask_is_left_alone(address):
    """1.3: ... and the caller's thread is not left with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    address.open_server()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


# --- signals -------------------------------------------------------------------

def pester(task, milliseconds=1):
    """Interrupt the task's system calls until it is done."""
    while task.is_alive():
        signal.pthread_kill(task.ident, signal.SIGUSR1)
        task.join(milliseconds / 1000)
    return task.result()


def pester_a_while(task):
    """Interrupt the task's sleep two hundred times; it must go on sleeping."""
    for _ in range(200):
        assert task.is_alive(), f"a signal ended the call: {task.error}"
        signal.pthread_kill(task.ident, signal.SIGUSR1)
        time.sleep(0)
    assert task.asleep()


@pytest.mark.parametrize("call", ["read", "recv"])
def test_signals_do_not_end_a_blocked_reader(raw_client, call):
    """1.3: EINTR is retried inside: a signal makes no call fail."""
    server, peer = raw_client
    reading = Task(getattr(server, call), 5)
    pester_a_while(reading)
    peer.sendall(b"hello")
    assert reading.result() == b"hello"


@pytest.mark.parametrize("call", ["write", "send"])
def test_signals_do_not_end_a_blocked_writer(raw_client, call):
    """1.3: EINTR is retried inside, in write and send."""
    server, peer = raw_client
    total = vchan.fill(server)
    writing = Task(getattr(server, call), pattern(PAGE, total))
    pester_a_while(writing)
    assert vchan.recv_exactly(peer, total + PAGE) == pattern(total + PAGE)
    assert writing.result() == PAGE


def test_signals_do_not_end_a_wait(raw_client):
    """1.3: EINTR is retried inside wait; a negative one loses the exit code."""
    server, peer = raw_client
    vchan.settle(server)
    waiting = Task(server.wait)
    assert waiting.asleep()
    for _ in range(200):
        signal.pthread_kill(waiting.ident, signal.SIGUSR1)
    peer.sendall(b"x")
    assert waiting.result() == 0


def test_signals_do_not_end_client_init(address):
    """1.3: EINTR is retried inside client_init."""
    connecting = Task(address.open_client)
    pester_a_while(connecting)
    address.open_server()
    connecting.result()


def test_signals_do_not_cut_close_short(monkeypatch):
    """1.3: a signal does not end the wait for the peer's reading."""
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "50000")
    server, peer = vchan.with_raw_client()
    total = vchan.fill(server)
    closing = Task(server.close)
    pester_a_while(closing)
    assert vchan.recv_all(peer) == pattern(total)
    closing.result()


def test_a_megabyte_under_a_rain_of_signals(raw_client):
    """1.3: a signal makes no call fail and no byte go astray."""
    server, peer = raw_client
    size = 4 << 20
    writing = Task(server.write, pattern(size))
    reading = Task(vchan.recv_exactly, peer, size)
    assert pester(writing) == size
    assert reading.result() == pattern(size)


def test_a_signal_handler_runs_in_a_program_that_uses_us(address):
    """1.3: signals go to the program, with a timer that fires all the time."""
    puppet = Puppet.serving(address)
    peer = address.connect_raw()
    puppet("pester", 500)
    puppet.begin("drain", 200_000)
    peer.sendall(pattern(200_000))
    assert puppet.answer()[0] == 200_000


# --- threads -----------------------------------------------------------------------

def test_one_thread_reads_while_another_writes(pair):
    """1.3: one thread reading and one writing at a time."""
    server, client = pair
    size = 1 << 20
    writing = [Task(chan.write, pattern(size)) for chan in pair]
    reading = [Task(vchan.read_exactly, chan, size) for chan in pair]
    assert [task.result() for task in writing] == [size, size]
    assert [task.result() == pattern(size) for task in reading] == [True, True]


def test_a_blocked_reader_does_not_hold_up_the_writer(raw_client):
    """1.3: reading and writing do not wait for each other."""
    server, peer = raw_client
    reading = Task(server.read, 1)
    assert reading.asleep()
    assert Task(server.write, b"hello").result() == 5
    assert vchan.recv_exactly(peer, 5) == b"hello"
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_a_blocked_writer_does_not_hold_up_the_reader(raw_client):
    """1.3: reading and writing do not wait for each other."""
    server, peer = raw_client
    vchan.fill(server)
    writing = Task(server.write, bytes(PAGE))
    assert writing.asleep()
    peer.sendall(b"x")
    assert Task(server.recv, 1).result() == b"x"
    assert writing.is_alive()


def test_a_waiting_thread_does_not_hold_up_reader_or_writer(raw_client):
    """1.3: wait in one thread, the rest in others."""
    server, peer = raw_client
    vchan.settle(server)
    waiting = Task(server.wait)
    assert waiting.asleep()
    assert Task(server.write, b"hello").result() == 5
    peer.sendall(b"x")
    assert waiting.result() == 0
    assert server.recv(1) == b"x"


def test_different_handles_are_independent():
    """1.3: a handle that is stuck stops no other."""
    stuck, _ = vchan.with_raw_client()
    vchan.fill(stuck)
    blocked = Task(stuck.write, bytes(PAGE))
    assert blocked.asleep()
    free, peer = vchan.with_raw_client()
    assert free.write(b"hello") == 5
    assert vchan.recv_exactly(peer, 5) == b"hello"
    assert blocked.is_alive()


def test_many_channels_at_once():
    """1.3: nothing process-global that two handles could fight over."""
    pairs = [vchan.connected_pair() for _ in range(20)]
    for number, (server, client) in enumerate(pairs):
        server.write(b"%4d" % number)
        client.write(b"%4d" % -number)
    for number, (server, client) in enumerate(pairs):
        assert client.recv(4) == b"%4d" % number
        assert server.recv(4) == b"%4d" % -number


def test_threads_open_and_close_at_the_same_time():
    """1.3: handles in different threads come and go independently."""
    before = vchan.Holdings.now()
    # The environment belongs to the process, so the puppet is the client.
    addresses = [Address(7, 9, Address.fresh().port) for _ in range(8)]
    with vchan.environment(VCHAN_DOMAIN=7):
        working = [Task(come_and_go, address) for address in addresses]
        for task in working:
            task.result()
    # Fewer where one that had ended was still listed before.
    until(lambda: vchan.Holdings.now().threads <= before.threads)


def come_and_go(address):
    for _ in range(20):
        server = vchan.Vchan.server(address.client, address.port)
        with address.connect_raw() as peer:
            peer.sendall(b"hello")
            assert server.recv(5) == b"hello"
        server.close()


# --- close-on-exec -------------------------------------------------------------------

def new_fds(before):
    return {fd: name for fd, name in vchan.fds().items()
            if before.get(fd) != name}


@pytest.mark.parametrize("state", ["waiting", "connecting", "connected"])
def test_all_fds_are_close_on_exec(address, state):
    """1.3: all fds are close-on-exec (the GUI daemon execs itself)."""
    before = vchan.fds()
    if state == "connecting":
        address.open_async()
    else:
        server = address.open_server()
    if state == "connected":
        client = address.open_client()
        until(lambda: server.is_open == vchan.CONNECTED)
        client.write(b"x")
    ours = new_fds(before)
    assert ours
    assert not [fd for fd in ours if inheritable(fd)]


def inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:  # a client that connects has closed it meanwhile
        return False


@pytest.mark.deadline(120)
def test_fds_are_close_on_exec_from_birth():
    """1.3: from birth: a program started at any moment inherits none."""
    usual = inherited()
    stop = []
    opening = Task(open_and_close_until, stop)
    seen = [inherited() for _ in range(40)]
    stop.append(True)
    opening.result()
    assert seen == [usual] * 40


def open_and_close_until(stop):
    while not stop:
        # A program between fork and exec may still hold the last address.
        address = Address.fresh()
        server = address.open_server()
        client = address.open_client()
        client.close()
        server.close()


def inherited():
    """The sockets, memfds and event fds that a new program finds open."""
    listing = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False,
                             capture_output=True, text=True).stdout
    kinds = ("socket:", "memfd:", "eventfd", "eventpoll")
    return sorted(line.split("-> ")[1] for line in listing.splitlines()
                  if any(kind in line for kind in kinds))
