# SPDX-License-Identifier: LGPL-2.1-or-later
"""fork() at any time, whatever is going on, and whatever the child does then (1.3)."""
import contextlib
import os
import signal

import pytest

import vchan
from puppet import Puppet
from vchan import A_SECOND, CONNECTED, DISCONNECTED, Task, pattern, until

CHILDREN = 100
SMALL = 16
KERNEL_BUFFER = 1 << 16


def sleeps_in(puppet, *call):
    """A thread of it makes this call; wait until all have slept for a while, perhaps with
    breaks."""
    puppet("beside", *call)
    pid, samples = puppet.process.pid, 0

    def slept():
        nonlocal samples
        states = {vchan.thread_state(pid, int(thread))
                  for thread in os.listdir(f"/proc/{pid}/task")}
        samples += states == {"S"}
        return samples >= 50

    until(slept)


# --- what the parent is doing: it begins, and later shows that all is well ----------

@contextlib.contextmanager
def waiting(address):
    """A server without a client."""
    puppet = Puppet.serving(address)
    yield puppet
    talk(puppet, address.open_client())


@contextlib.contextmanager
def connecting(address):
    """An asynchronous connect to nobody."""
    puppet = Puppet.start(VCHAN_DOMAIN=address.client)
    puppet("async", address.server, address.port)
    yield puppet
    server = address.open_server()
    until(lambda: puppet("poll-watch", 30_000) == 1 and puppet("finish", 1) == 0)
    talk(puppet, server)


@contextlib.contextmanager
def connected(address):
    puppet, peer = joined(address)
    yield puppet
    talk(puppet, peer)


@contextlib.contextmanager
def reading(address):
    """Another thread of it blocks in read."""
    puppet, peer = joined(address)
    sleeps_in(puppet, "read", 10)
    yield puppet
    peer.write(b"hello")
    puppet.begin("join")
    assert puppet.answer() == (5, b"hello")
    talk(puppet, peer)


@contextlib.contextmanager
def in_wait(address):
    """Another thread of it blocks in wait."""
    puppet, peer = joined(address)
    while puppet("poll", 200):
        puppet("wait")
    sleeps_in(puppet, "wait")
    yield puppet
    peer.write(b"hello")
    assert puppet("join") == 0
    assert puppet.recv(5) == b"hello"
    talk(puppet, peer)


@contextlib.contextmanager
def writing(address):
    """Another thread of it blocks in write."""
    with vchan.environment(VCHAN_VSOCK_BUFFER_SIZE=KERNEL_BUFFER):
        puppet, peer = joined(address)
    sleeps_in(puppet, "flood", 5000)
    yield puppet
    got = bytearray()
    while len(got) < 10 * KERNEL_BUFFER:  # more than can have been under way
        got += peer.read(KERNEL_BUFFER)
    assert got == pattern(len(got))
    peer.close()
    assert vchan.error_of(puppet, "join") == "EPIPE"


@contextlib.contextmanager
def streaming(address):
    """Another thread of it sends small messages, one after the other."""
    puppet, peer = joined(address)
    puppet("beside", "flood", SMALL)
    received = Task(vchan.read_until_end, peer)
    yield puppet
    puppet.kill()
    data = received.result()
    assert data == pattern(len(data))


def joined(address):
    """A server in a puppet, and its client here."""
    puppet = Puppet.serving(address)
    peer = address.open_client()
    until(lambda: puppet("open") == CONNECTED)
    return puppet, peer


def talk(puppet, peer):
    peer.write(b"to you")
    assert puppet.recv(6) == b"to you"
    puppet.write(b"to me")
    assert peer.recv(5) == b"to me"


# --- what the child does --------------------------------------------------------------

def calls(parent, child):
    """Every function, on its dead copy."""
    assert child("open") == DISCONNECTED
    assert (child("ready"), child("space"), child("wait")) == (0, 0, 0)
    child("blocking", 1)
    assert vchan.error_of(child, "fd") == "EPIPE"
    assert {vchan.error_of(child, call, 1) for call in ("read", "recv")} == {"ECONNRESET"}
    assert {vchan.error_of(child, call, "00") for call in ("write", "send")} == {"EPIPE"}
    assert vchan.error_of(child, "finish", 1) in ("EPIPE", "EINVAL")
    assert child("close") == 0
    assert child("count-rings") == 0
    child.begin("exit", 0)
    assert parent("reap", child.pid) == 0


def forks(parent, child):
    """And its child calls every function."""
    grandchild = child.fork()
    calls(child, grandchild)
    calls(parent, child)


def returns(parent, child):
    """From main: all that runs at exit runs."""
    child.put_away()
    assert parent("reap", child.pid) == 0


def execs(parent, child):
    """Another program, which holds nothing of it."""
    child.begin("exec", "/bin/sleep", "1000")
    try:
        until(lambda: os.readlink(f"/proc/{child.pid}/exe") != child.before)
        # While it starts it has its own libraries open.
        until(lambda: set(os.listdir(f"/proc/{child.pid}/fd")) == {"0", "1", "2"})
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert parent("reap", child.pid) == 256 + signal.SIGKILL


STATES = [waiting, connecting, connected, reading, in_wait, writing, streaming]


@pytest.mark.parametrize("does", [calls, forks, returns, execs])
@pytest.mark.parametrize("state", STATES)
def test_a_child_is_dead_and_its_parent_goes_on(address, state, does):
    """1.3: the child's copies are dead, and the parent's channel notices nothing."""
    with state(address) as parent:
        child = parent.fork()
        child.before = os.readlink(f"/proc/{child.pid}/exe")
        does(parent, child)


def test_a_hundred_forks_in_the_middle_of_a_stream(address):
    """1.3: the same, wherever in the library the other thread is at that moment."""
    with streaming(address) as parent:
        for number in range(CHILDREN):
            child = parent.fork()
            if number % 10 == 0:
                assert child("open") == DISCONNECTED
                assert vchan.error_of(child, "write", "00") == "EPIPE"
            child.begin("exit", 0)
            assert parent("reap", child.pid) == 0
            child.put_away()


def test_a_hundred_children_do_not_hide_their_parents_death(address):
    """1.3: a forked service does not keep a dead parent's channel open."""
    parent, peer = joined(address)
    children = [parent.fork() for _ in range(CHILDREN)]
    vchan.settle(peer)
    parent.kill()
    assert vchan.readable(peer.fd, A_SECOND)
    until(lambda: peer.is_open == DISCONNECTED, A_SECOND)
    assert [child("open") for child in children] == [DISCONNECTED] * CHILDREN
