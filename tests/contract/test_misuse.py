# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad arguments, and a machine that has run out of something.

Each time: NULL or -1, the documented errno, one clear line, no leak, and the
next call is fine (design 1.2, 1.3).
"""
import os
import tempfile

import pytest

import programs
import vchan
from puppet import Puppet
from vchan import CONNECTED, NULL, WAITING, Vchan, ffi, until


# --- NULL --------------------------------------------------------------------------

@pytest.mark.parametrize("call, arguments", [
    ("write", (b"x", 1)), ("send", (b"x", 1)), ("read", (ffi.new("char[1]"), 1)),
    ("recv", (ffi.new("char[1]"), 1)), ("wait", ()), ("fd_for_select", ()),
    ("client_init_async_finish", (True,))])
def test_null_handle_is_einval(call, arguments):
    """1.3: EINVAL for bad arguments; here: no handle."""
    assert vchan.error_of(NULL._call, call, *arguments) == "EINVAL"


def test_null_handle_is_not_open():
    """1.3: a handle that is NULL is not connected to anybody."""
    assert NULL.is_open == vchan.DISCONNECTED


def test_null_handle_has_nothing_ready_and_no_room():
    """1.3: data_ready and buffer_space are never negative, for NULL neither."""
    assert (NULL.data_ready, NULL.buffer_space) == (0, 0)


def test_set_blocking_of_null_does_nothing():
    """1.3: misuse does not crash."""
    NULL.set_blocking(True)


def test_async_without_a_place_for_the_fd_is_einval():
    """1.3: EINVAL for bad arguments; here: watch_fd is NULL."""
    ffi.errno = 0
    chan = vchan.library().libvchan_client_init_async(5, 512, ffi.NULL)
    assert (chan, vchan.failure("").errno) == (ffi.NULL, 22)


# --- running out ---------------------------------------------------------------------

class Victim:
    """A puppet whose stderr is kept and whose holdings can be compared."""

    def __init__(self, domain=9, wrapper=(), **variables):
        self.stderr = tempfile.TemporaryFile()
        self.puppet = Puppet.start(stderr=self.stderr, wrapper=wrapper,
                                   VCHAN_DOMAIN=domain, **variables)
        self.begin = self.holdings()

    def holdings(self):
        return [self.puppet(count) for count in
                ("count-fds", "count-threads", "count-rings")]

    def assert_one_clear_line(self, call, domain, port, number):
        lines = self.lines_written()
        assert len(lines) == 1, lines
        for word in (call, str(domain), str(port), os.strerror(number)):
            assert word in lines[0], lines

    def lines_written(self):
        """What was said on stderr since the last time."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode().splitlines()
        self.stderr.seek(0)
        self.stderr.truncate()
        return lines


def attempt(puppet, *words):
    """The errno of a call, 0 when it succeeded."""
    try:
        puppet(*words)
        return 0
    except OSError as error:
        return error.errno


EMFILE, EAGAIN, ENODEV, EAFNOSUPPORT, EACCES = 24, 11, 19, 97, 13
NAMES = {"server": "libvchan_server_init", "client": "libvchan_client_init",
         "async": "libvchan_client_init_async"}


def words_for(call, address):
    if call == "server":
        return ("server", address.client, address.port, 4096, 4096)
    return (call, address.server, address.port)


def domain_for(call, address):
    return address.client if call == "server" else address.server


@pytest.mark.parametrize("call", ["server", "client", "async"])
def test_no_fds_left(address, call):
    """1.3: every count of free fds, from none to enough: NULL and EMFILE."""
    local = address.server if call == "server" else address.client
    victim = Victim(local, VCHAN_VSOCK_CONNECT_TIMEOUT_MS=2000)
    listener = address.listen_raw(20) if call != "server" else None
    for spare in range(40):
        victim.puppet("spare-fds", spare)
        number = attempt(victim.puppet, *words_for(call, address))
        if not number and call == "async":
            number = outcome(victim.puppet)
            if number:
                victim.puppet("close")
        victim.puppet("all-fds")
        if not number:
            break
        assert number == EMFILE
        assert victim.holdings() == victim.begin, f"leak with {spare} fds"
        victim.assert_one_clear_line(NAMES[call], domain_for(call, address),
                                     address.port, EMFILE)
    assert spare > 0, "opened a channel without any fd"
    assert number == 0, "not enough with 39 fds"
    victim.puppet("close")
    until(lambda: victim.holdings() == victim.begin)  # an ended thread lingers
    assert victim.lines_written() == []
    if listener:
        listener.close()


def outcome(puppet):
    """The errno of an asynchronous connect, 0 when it succeeded."""
    puppet("poll-watch", 30_000)
    return attempt(puppet, "finish", 1)


def test_no_fds_left_when_the_client_comes(address):
    """1.3: the next call is fine: a server survives a moment without fds."""
    victim = Victim(address.server)
    victim.puppet(*words_for("server", address))
    victim.puppet("spare-fds", 0)
    peer = address.connect_raw()
    peer.sendall(b"hello")
    assert victim.puppet("open") in (WAITING, CONNECTED)
    victim.puppet("all-fds")
    assert victim.puppet.recv(5) == b"hello"


@pytest.mark.parametrize("call", ["server", "client", "async"])
def test_no_threads_left(address, call):
    """1.3: no thread: NULL and EAGAIN; one line, no leak, next call fine.

    The simple flavour does not notice.
    """
    local = address.server if call == "server" else address.client
    victim = Victim(local)
    listener = address.listen_raw() if call != "server" else None
    victim.puppet("setuid", 60000 + address.port % 5000)
    victim.puppet("limit-processes", 1)
    if not vchan.SIMPLE:
        assert attempt(victim.puppet, *words_for(call, address)) == EAGAIN
        assert victim.holdings() == victim.begin
        victim.assert_one_clear_line(NAMES[call], domain_for(call, address),
                                     address.port, EAGAIN)
        victim.puppet("all-processes")
    assert attempt(victim.puppet, *words_for(call, address)) == 0
    if listener:
        listener.close()


@pytest.mark.parametrize("call", ["server", "client", "async"])
@pytest.mark.parametrize("what, number", [("afnosupport", EAFNOSUPPORT),
                                          ("acces", EACCES)])
def test_no_vsock_in_the_kernel(address, call, what, number):
    """1.3: no vsock here: the kernel's errno, at once, and one line."""
    wrapper = (programs.program("no-vsock"), what)
    local = address.server if call == "server" else address.client
    victim = Victim(local, wrapper, VCHAN_VSOCK_CONNECT_TIMEOUT_MS=2000)
    got = attempt(victim.puppet, *words_for(call, address))
    if not got and call == "async":
        got = outcome(victim.puppet)
        victim.puppet("close")
    assert got == number
    assert victim.holdings() == victim.begin
    victim.assert_one_clear_line(NAMES[call], domain_for(call, address),
                                 address.port, number)


HIDE = ["unshare", "--mount", "sh", "-c",
        'mount -t tmpfs none /dev && exec "$@"', "sh"]
FORBID = ["unshare", "--mount", "sh", "-c",
          'mknod /tmp/vsock-$$ c 10 1 && chmod 0 /tmp/vsock-$$ &&'
          ' mount --bind /tmp/vsock-$$ /dev/vsock && rm -f /tmp/vsock-$$;'
          ' exec "$@"', "sh"]


@pytest.mark.parametrize("call", ["server", "client", "async"])
def test_no_dev_vsock(address, call):
    """1.3, 1.4: the kernel cannot be asked for the CID: ENODEV, one line."""
    victim = Victim(9, HIDE)
    victim.puppet("unenv", "VCHAN_DOMAIN")
    assert attempt(victim.puppet, *words_for(call, address)) == ENODEV
    assert victim.holdings() == victim.begin
    victim.assert_one_clear_line(NAMES[call], domain_for(call, address),
                                 address.port, ENODEV)


def test_no_dev_vsock_is_needed_when_the_domain_is_given(address):
    """1.4: the kernel is asked only when VCHAN_DOMAIN is unset."""
    victim = Victim(address.server, HIDE)
    assert attempt(victim.puppet, *words_for("server", address)) == 0


def test_no_permission_for_dev_vsock(address):
    """1.2: no permission for /dev/vsock: EACCES, one line."""
    victim = Victim(9, FORBID)
    victim.puppet("unenv", "VCHAN_DOMAIN")
    victim.puppet("setuid", 64321)
    assert attempt(victim.puppet, *words_for("server", address)) == EACCES
    victim.assert_one_clear_line(NAMES["server"], address.client,
                                 address.port, EACCES)


def test_next_call_after_every_failure_is_fine(address):
    """1.3: failures leave nothing behind that the next call trips over."""
    for domain, port in [(-1, 5), (5, -1), (5, 1 << 20), (1 << 20, 5)]:
        assert vchan.error_of(Vchan.server, domain, port)
    server, client = vchan.connected_pair(address=address)
    until(lambda: client.is_open == CONNECTED)
    client.write(b"fine")
    assert server.recv(4) == b"fine"
