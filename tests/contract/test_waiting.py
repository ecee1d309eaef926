# SPDX-License-Identifier: LGPL-2.1-or-later
"""A server before its client has come (design 1.3, WAITING)."""
import pytest

import vchan
from vchan import PAGE, CONNECTED, WAITING, Task, pattern


@pytest.fixture
def server(address):
    server = address.open_server()
    server.address = address
    return server


def come(server):
    """A plain socket becomes the server's client."""
    return server.address.connect_raw()


def test_server_init_returns_at_once_in_waiting(address):
    """1.3: WAITING (server before its client): is_open is 2."""
    assert Task(address.open_server).result().is_open == WAITING


def test_buffer_space_is_the_whole_ring(server):
    """1.3 WAITING: buffer_space is the whole ring."""
    assert server.buffer_space == PAGE


def test_buffer_space_shrinks_by_what_is_written(server):
    """1.3 WAITING: write fills the ring."""
    server.write(bytes(96))
    assert server.buffer_space == PAGE - 96


def test_data_ready_is_zero(server):
    """1.3 WAITING: nothing can have arrived."""
    assert server.data_ready == 0


def test_greeting_written_before_the_client_came_arrives(server):
    """1.3 WAITING: programs do send their greeting here."""
    server.send(b"hello")
    assert vchan.recv_exactly(come(server), 5) == b"hello"


def test_a_ring_full_of_greeting_arrives_in_order(server):
    """1.3 WAITING: write/send work and fill the ring."""
    server.write(pattern(1000))
    server.send(pattern(PAGE - 1000, 1000))
    assert vchan.recv_exactly(come(server), PAGE) == pattern(PAGE)


def test_greeting_precedes_what_is_written_after_connecting(server):
    """1.3 WAITING: the greeting comes first."""
    server.write(b"first ")
    peer = come(server)
    vchan.until(lambda: server.is_open == CONNECTED)
    server.write(b"second")
    assert vchan.recv_exactly(peer, 12) == b"first second"


def test_nonblocking_write_takes_a_ring_and_no_more(server):
    """1.3 WAITING: write fills the ring; non-blocking: what fits."""
    server.set_blocking(False)
    assert server.write(bytes(PAGE + 10)) == PAGE
    assert (server.write(b"x"), server.buffer_space) == (0, 0)


def test_nonblocking_send_is_zero_when_the_ring_is_full(server):
    """1.3 WAITING: non-blocking send: 0 when it does not fit now."""
    server.set_blocking(False)
    server.write(bytes(PAGE - 10))
    assert (server.send(bytes(11)), server.send(bytes(10))) == (0, 10)


def test_full_write_blocks_across_the_connection(server):
    """1.3 WAITING: a write of more than the ring waits for the client."""
    writing = Task(server.write, pattern(3 * PAGE))
    assert writing.asleep()
    assert vchan.recv_exactly(come(server), 3 * PAGE) == pattern(3 * PAGE)
    assert writing.result() == 3 * PAGE


def test_full_send_blocks_across_the_connection(server):
    """1.3 WAITING: a send that does not fit waits for the client."""
    server.send(pattern(PAGE))
    sending = Task(server.send, pattern(10, PAGE))
    assert sending.asleep()
    assert vchan.recv_exactly(come(server), PAGE + 10) == pattern(PAGE + 10)
    assert sending.result() == 10


def test_read_blocks_across_the_connection(server):
    """1.3 WAITING: read blocks across the connection."""
    reading = Task(server.read, 10)
    assert reading.asleep()
    peer = come(server)
    assert reading.asleep()
    peer.sendall(b"x")
    assert reading.result() == b"x"


def test_recv_blocks_across_the_connection(server):
    """1.3 WAITING: recv blocks across the connection."""
    receiving = Task(server.recv, 5)
    assert receiving.asleep()
    come(server).sendall(b"hello")
    assert receiving.result() == b"hello"


def test_wait_blocks_until_the_client_comes(server):
    """1.3 WAITING: wait blocks until the connection, and returns 0 then."""
    waiting = Task(server.wait)
    assert waiting.asleep()
    come(server)
    assert waiting.result() == 0
    assert server.is_open == CONNECTED


def test_wait_blocks_although_there_was_a_greeting(server):
    """1.3 WAITING: writing is not an event of the writer's own."""
    server.write(b"hello")
    waiting = Task(server.wait)
    assert waiting.asleep()
    come(server)
    waiting.result()


def test_nonblocking_read_and_recv_return_zero(server):
    """1.3: non-blocking: what is there; nothing is."""
    server.set_blocking(False)
    assert (server.read(10), server.recv(10)) == (b"", b"")


def test_loop_of_wait_while_waiting_ends_connected(server):
    """1.3 WAITING: `while (is_open == WAITING) wait`, as the GUI agent does."""
    def loop():
        while server.is_open == WAITING:
            server.wait()
        return server.is_open
    looping = Task(loop)
    assert looping.asleep()
    come(server)
    assert looping.result() == CONNECTED


def test_client_that_comes_and_goes_leaves_its_words(server):
    """1.3 WAITING: a client gone before anyone looked still was the client."""
    with come(server) as peer:
        peer.sendall(b"message")
    assert vchan.read_until_end(server) == b"message"
    assert server.is_open == vchan.DISCONNECTED
