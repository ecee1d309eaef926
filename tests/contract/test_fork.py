# SPDX-License-Identifier: LGPL-2.1-or-later
"""After fork the child's copies are dead, and the parent notices nothing (1.3)."""
import pytest

import vchan
from puppet import Puppet
from vchan import A_SECOND, CONNECTED, DISCONNECTED, WAITING, pattern, until


@pytest.fixture
def parent(address):
    """A server in a puppet; the plain socket that is its client."""
    puppet = Puppet.serving(address)
    peer = address.connect_raw()
    until(lambda: puppet("open") == CONNECTED)
    return puppet, peer


@pytest.fixture
def child(parent):
    """A forked child of that server."""
    return parent[0].fork()


def test_is_open_in_the_child_is_disconnected(child):
    """1.3: in the child every call on them says disconnected: is_open 0."""
    assert child("open") == DISCONNECTED


@pytest.mark.parametrize("call", ["read", "recv"])
def test_reading_in_the_child_is_econnreset(child, call):
    """1.3: in the child every call says disconnected: ECONNRESET."""
    assert vchan.error_of(child, call, 1) == "ECONNRESET"


@pytest.mark.parametrize("call", ["write", "send"])
def test_writing_in_the_child_is_epipe(child, call):
    """1.3: in the child every call says disconnected: EPIPE."""
    assert vchan.error_of(child, call, "00") == "EPIPE"


def test_wait_in_the_child_returns_zero(child):
    """1.3: in the child every call says disconnected: wait returns at once."""
    assert child("wait") == 0


def test_nothing_is_ready_in_the_child(child):
    """1.3: in the child every call says disconnected: 0 and 0."""
    assert (child("ready"), child("space")) == (0, 0)


def test_fd_in_the_child_is_epipe(child):
    """1.3: in the child there is nothing to select on."""
    assert vchan.error_of(child, "fd") == "EPIPE"


def test_unread_data_is_not_the_childs(parent):
    """1.3: the child's copies are closed, what they had read included."""
    puppet, peer = parent
    peer.sendall(b"hello")
    until(lambda: puppet("ready") == 5)
    child = puppet.fork()
    assert vchan.error_of(child, "read", 5) == "ECONNRESET"
    assert puppet.recv(5) == b"hello"


def test_close_in_the_child_frees_the_copy(child):
    """1.3: close frees them: the rings are gone from the child."""
    assert child("count-rings") > 0
    assert child("close") == 0
    assert child("count-rings") == 0


def test_the_parents_channel_goes_on_while_the_child_lives(parent, child):
    """1.3: the parent's channel notices nothing."""
    puppet, peer = parent
    peer.sendall(b"to you")
    assert puppet.recv(6) == b"to you"
    puppet.write(b"to me")
    assert vchan.recv_exactly(peer, 5) == b"to me"


def test_the_parents_channel_survives_every_call_in_the_child(parent, child):
    """1.3: the parent's channel notices nothing, whatever the child tries."""
    puppet, peer = parent
    for words in [("read", 1), ("write", "00"), ("wait",), ("fd",),
                  ("ready",), ("space",), ("close",)]:
        vchan.error_of(child, *words)
    puppet.write(b"fine")
    assert vchan.recv_exactly(peer, 4) == b"fine"


@pytest.mark.parametrize("end", [("exit", 0), ("exit-now", 0), ("kill", 9)])
def test_the_parents_channel_survives_the_childs_end(parent, child, end):
    """1.3: the parent's channel notices nothing of its children's exits."""
    puppet, peer = parent
    child.begin(*end)
    puppet("reap", child.pid)
    puppet.write(b"fine")
    assert vchan.recv_exactly(peer, 4) == b"fine"
    assert puppet("open") == CONNECTED


def test_a_child_does_not_send_the_parents_unsent_bytes_again(address):
    """1.3: the child's exit() delivers nothing of its parent's."""
    puppet = Puppet.serving(address)
    peer = address.connect_raw()
    until(lambda: puppet("open") == CONNECTED)
    puppet("blocking", 0)
    total = 0
    while count := puppet("write", pattern(4000, total).hex()):
        total += count
    child = puppet.fork()
    child.begin("exit", 0)
    assert puppet("reap", child.pid) == 0
    assert vchan.recv_exactly(peer, total) == pattern(total)
    assert vchan.quiet(peer.fileno())


def test_the_child_does_not_keep_a_closed_channel_open(parent, child):
    """1.3: a forked service does not keep a dead parent's channel open."""
    puppet, peer = parent
    puppet.write(b"bye")
    puppet("close")
    peer.settimeout(A_SECOND)
    assert vchan.recv_all(peer) == b"bye"
    assert child("pid") == child.pid


def test_the_child_does_not_keep_the_address(address):
    """1.3: nor does the child of a waiting server keep its address taken."""
    puppet = Puppet.serving(address)
    child = puppet.fork()
    puppet("close")
    assert address.open_server().is_open == WAITING
    assert child("open") == DISCONNECTED


def test_the_client_reaches_the_parent_not_the_child(address):
    """1.3: a fork while waiting: the parent is the server, and only it."""
    puppet = Puppet.serving(address)
    child = puppet.fork()
    peer = address.connect_raw()
    peer.sendall(b"hello")
    assert puppet.recv(5) == b"hello"
    assert child("open") == DISCONNECTED


def test_fork_during_an_unfinished_connect(address):
    """1.3: the copies of every handle are dead, this one too."""
    puppet = Puppet.start(VCHAN_DOMAIN=address.client)
    puppet("async", address.server, address.port)
    child = puppet.fork()
    assert child("open") == DISCONNECTED
    assert child("close") == 0
    listener = address.listen_raw()
    until(lambda: puppet("poll-watch", 30_000) == 1 and puppet("finish", 1) == 0)
    listener.close()


def test_the_child_can_open_channels_of_its_own(child):
    """1.3: qrexec-daemon's children open channels of their own."""
    other = vchan.Address.fresh()
    child("env", "VCHAN_DOMAIN", other.server)
    child("use", 1)
    child("server", other.client, other.port, 4096, 4096)
    other.connect_raw().sendall(b"hello")
    assert child.recv(5) == b"hello"


def test_a_grandchilds_copies_are_dead_and_its_own_channel_lives(child):
    """1.3: after every fork: the child's new channel is dead in its child."""
    other = vchan.Address.fresh()
    child("env", "VCHAN_DOMAIN", other.server)
    child("use", 1)
    child("server", other.client, other.port, 4096, 4096)
    grandchild = child.fork()
    assert grandchild("open") == DISCONNECTED
    other.connect_raw().sendall(b"hello")
    assert child.recv(5) == b"hello"


def test_fork_while_the_channel_is_busy(address):
    """1.3: the parent's channel notices nothing, in the middle of a stream."""
    puppet = Puppet.serving(address)
    peer = address.connect_raw()
    puppet("pour", 100, 100)
    for _ in range(5):
        child = puppet.fork()
        puppet("pour", 20_000, 100)
        child.begin("exit", 0)
        puppet("reap", child.pid)
    assert vchan.recv_exactly(peer, 100_100) == pattern(100_100)


def test_the_childs_copies_hold_no_fds(parent):
    """1.3: closed by the library: the child has the fds it would have without."""
    bare = Puppet.start()
    without = bare.fork()("count-fds")
    assert parent[0].fork()("count-fds") == without
