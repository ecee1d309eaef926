# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the program ends without libvchan_close (design 1.3)."""
import os
import signal

import pytest

import programs
import vchan
from framed_peer import FramedPeer
from puppet import Puppet
from vchan import PAGE, pattern, until

PATIENT = 50_000


@pytest.fixture
def client(address):
    """A puppet that is the client of a plain socket; the socket."""
    return client_of_socket(address)


def client_of_socket(address, linger=PATIENT):
    puppet = Puppet.start(VCHAN_DOMAIN=address.client,
                          VCHAN_VSOCK_LINGER_MS=linger)
    with address.listen_raw() as listener:
        puppet("client", address.server, address.port)
        peer = vchan.accept_raw(listener)
    return puppet, peer


def test_exit_delivers_what_was_written(client):
    """1.3: exit() without close loses nothing that the peer goes on to read."""
    puppet, peer = client
    puppet("pour", 300_000, 1000)
    puppet.begin("exit", 3)
    assert vchan.recv_all(peer) == pattern(300_000)
    assert puppet.ended() == 3


def test_exit_delivers_to_a_peer_that_starts_reading_late(address):
    """1.3: ... goes on to read: it may begin after exit() was called."""
    puppet, peer = client_of_socket(address)
    puppet("blocking", 0)
    total = vchan.write_until_full(lambda data: puppet("write", data.hex()))
    puppet.begin("exit", 0)
    # Kernel and ring are full, so it cannot end before somebody reads; it looks every
    # millisecond whether they still are.
    assert puppet.asleep(in_a_row=False)
    assert vchan.recv_all(peer) == pattern(total)
    assert puppet.ended() == 0


def test_exit_delivers_small_messages_still_gathering(client):
    """1.3: exit() hands over what the library held back."""
    puppet, peer = client
    puppet("pour", 1400, 7)
    puppet.begin("exit", 0)
    assert vchan.recv_all(peer) == pattern(1400)


def test_exit_of_a_server_delivers(address):
    """1.3: the same for a server."""
    puppet = Puppet.serving(address, VCHAN_VSOCK_LINGER_MS=PATIENT)
    peer = address.connect_raw()
    puppet("pour", 100_000, 100)
    puppet.begin("exit", 0)
    assert vchan.recv_all(peer) == pattern(100_000)


if not vchan.SIMPLE:  # there nobody connects behind the program's back
    def server_with_a_late_thread(address, **variables):
        """A puppet, in exit(), whose client has our hello; the client."""
        late = ":".join(filter(None, [os.environ.get("LD_PRELOAD"),
                                      str(programs.program("late.so"))]))
        puppet = Puppet.serving(address, LD_PRELOAD=late, **variables)
        puppet.write(b"greeting")
        peer = FramedPeer.connect(address)
        peer.hello()
        peer.hear_hello()
        puppet.begin("exit", 0)
        return puppet, peer

    @pytest.mark.own_wires
    def test_exit_between_hello_and_connected_delivers(address):
        """1.3: the client is connected from our hello on, before the server knows it is."""
        puppet, peer = server_with_a_late_thread(address, VCHAN_VSOCK_LINGER_MS=PATIENT)
        assert peer.receive_payload(8) == b"greeting"
        assert peer.receive().end
        assert puppet.ended() == 0

    @pytest.mark.own_wires
    def test_exit_while_the_connection_is_chosen():
        """1.3: exit() looks at what the thread is changing (for ThreadSanitizer)."""
        for _ in range(3):
            puppet, _peer = server_with_a_late_thread(
                vchan.Address.fresh(), LATE_MS=0, VCHAN_VSOCK_LINGER_MS=0)
            assert puppet.ended() == 0


def test_exit_is_bounded_by_the_linger(address):
    """1.3: bounded the same way: a peer that never reads cannot hang exit()."""
    puppet, peer = client_of_socket(address, linger=300)
    puppet("blocking", 0)
    while puppet("write", pattern(PAGE).hex()):
        pass
    puppet.begin("exit", 0)
    assert puppet.ended(0.3 + vchan.A_SECOND) == 0


def test_exit_while_waiting_does_not_linger(address):
    """1.3: nobody is there to deliver a greeting to."""
    puppet = Puppet.serving(address, VCHAN_VSOCK_LINGER_MS=PATIENT)
    puppet.write(b"hello")
    puppet.begin("exit", 0)
    assert puppet.ended(vchan.A_SECOND) == 0


def test_exit_that_closes_from_atexit(client):
    """1.3: the GUI daemon closes from atexit."""
    puppet, peer = client
    puppet("close-at-exit")
    puppet("pour", 100_000, 100)
    puppet.begin("exit", 0)
    assert vchan.recv_all(peer) == pattern(100_000)
    assert puppet.ended() == 0


# --- exit from a signal handler --------------------------------------------------

def end_while_flooding(puppet, chunk, read_first, read_rest):
    """The puppet, which exits on SIGTERM, is stopped while it writes: nothing of what
    its writes had taken is missing."""
    puppet("exit-on", int(signal.SIGTERM))
    puppet.begin("flood", chunk)
    got = read_first()
    puppet.signal(signal.SIGTERM)
    got += read_rest()
    written = puppet.answer()[0]
    assert len(got) >= written, "lost what write had taken"
    assert got == pattern(len(got))
    assert puppet.ended() == 0
    puppet.put_away()


@pytest.mark.deadline(180)
@pytest.mark.parametrize("chunk", [16, 5000, 100_000])
def test_exit_in_a_signal_handler_that_closes_too(chunk):
    """1.3: atexit's close must not wait for the frame that exit() has stopped."""
    for number in range(20):
        address = vchan.Address.fresh()
        server = address.open_server(vchan.PAGE, 1 << 16)
        puppet = Puppet.start(VCHAN_DOMAIN=address.client, VCHAN_VSOCK_LINGER_MS=PATIENT)
        puppet("client", address.server, address.port)
        puppet("close-at-exit")
        end_while_flooding(puppet, chunk,
                           lambda: vchan.read_exactly(server, 1 + number * 700),
                           lambda: vchan.read_until_end(server))
        server.close()


@pytest.mark.parametrize("chunk", [1, 16, 100, 5000])
@pytest.mark.deadline(180)
def test_exit_in_a_signal_handler_in_the_middle_of_writing(chunk):
    """1.3: programs call exit from handlers in the middle of our calls."""
    for number in range(10):
        puppet, peer = client_of_socket(vchan.Address.fresh())
        end_while_flooding(puppet, chunk,
                           lambda: vchan.recv_exactly(peer, 1 + number * 700),
                           lambda: vchan.recv_all(peer))


@pytest.mark.parametrize("call", [("read", 10), ("recv", 10), ("wait",),
                                  ("until-gone", 60000)])
def test_exit_in_a_signal_handler_while_blocked(client, call):
    """1.3: what runs then must never wait for a lock; here: blocked in a call."""
    puppet, peer = client
    puppet("exit-on", int(signal.SIGTERM))
    puppet("poll", 1000)
    puppet("wait")
    puppet.begin(*call)
    assert puppet.asleep()
    puppet.signal(signal.SIGTERM)
    assert puppet.ended() == 0
    assert vchan.recv_all(peer) == b""


def test_exit_in_a_signal_handler_while_blocked_in_write(address):
    """1.3: ... and nothing of what write had taken is lost."""
    puppet, peer = client_of_socket(address)
    puppet("exit-on", int(signal.SIGTERM))
    puppet.begin("flood", PAGE)
    assert puppet.asleep()
    puppet.signal(signal.SIGTERM)
    got = vchan.recv_all(peer)
    assert len(got) >= puppet.answer()[0]
    assert got == pattern(len(got))


def test_exit_in_a_signal_handler_while_connecting(address):
    """1.3: programs give up in a handler while client_init blocks."""
    puppet = Puppet.start(VCHAN_DOMAIN=address.client)
    puppet("exit-on", int(signal.SIGTERM))
    puppet.begin("client", address.server, address.port)
    assert puppet.asleep()
    puppet.signal(signal.SIGTERM)
    assert puppet.ended() == 0


def test_exit_in_a_signal_handler_while_closing(address):
    """1.3: ... or while close waits for a peer that does not read."""
    puppet, peer = client_of_socket(address, linger=3000)
    puppet("blocking", 0)
    while puppet("write", pattern(PAGE).hex()):
        pass
    puppet("exit-on", int(signal.SIGTERM))
    puppet.begin("close")
    assert puppet.asleep()
    puppet.signal(signal.SIGTERM)
    assert puppet.ended() == 0


# --- _exit and death ----------------------------------------------------------------

@pytest.mark.parametrize("death", [("exit-now", 0), ("kill", 9)])
def test_death_loses_nothing_of_a_reply(client, death):
    """1.3: in request-reply traffic everything is handed over before write returns."""
    puppet, peer = client
    for number in range(10):
        peer.sendall(b"request!")
        puppet("recv", 8)
        puppet.begin("write", pattern(2000).hex())
        if number == 9:
            puppet.begin(*death)
        assert vchan.recv_exactly(peer, 2000) == pattern(2000)
        puppet.answer()
    assert vchan.recv_all(peer) == b""


@pytest.mark.parametrize("death", [("exit-now", 0), ("kill", 9)])
def test_death_loses_nothing_that_the_kernel_accepted(client, death):
    """1.3: nor does _exit or SIGKILL lose what the kernel has accepted."""
    puppet, peer = client
    puppet.begin("write", pattern(50_000).hex())
    puppet.begin(*death)
    assert vchan.recv_all(peer) == pattern(50_000)


def test_first_small_messages_survive_sudden_death(address):
    """1.3: a reply of two small writes is with the kernel when they return."""
    for _ in range(10):
        puppet, peer = client_of_socket(vchan.Address.fresh())
        puppet.begin("write", b"head".hex())
        puppet.begin("write", b"body".hex())
        puppet.begin("kill", 9)
        assert vchan.recv_all(peer) == b"headbody"
        puppet.put_away()


def test_writing_to_a_dead_peer_raises_no_sigpipe(client):
    """1.3: SIGPIPE is never raised: the puppet has it at its default."""
    puppet, peer = client
    peer.close()
    until(lambda: vchan.error_of(puppet.write, b"x") == "EPIPE")
    assert vchan.error_of(puppet.send, b"x") == "EPIPE"
    assert puppet("open") == vchan.DISCONNECTED


def test_close_with_unsent_data_to_a_dead_peer_raises_no_sigpipe(client):
    """1.3: SIGPIPE is never raised, at close neither."""
    puppet, peer = client
    puppet("blocking", 0)
    while puppet("write", pattern(PAGE).hex()):
        pass
    peer.close()
    assert puppet("close") == 0
    assert puppet("pid") > 0
