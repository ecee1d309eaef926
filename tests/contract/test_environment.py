# SPDX-License-Identifier: LGPL-2.1-or-later
"""The environment variables (design 1.5) and what is said on stderr."""
import os
import socket

import pytest

import vchan
from puppet import Puppet
from vchan import CONNECTED, Holdings, PAGE, Vchan, until

SO_VM_SOCKETS_BUFFER_SIZE = 0

NUMBERS = ["VCHAN_DOMAIN", "VCHAN_VSOCK_PORT_BASE", "VCHAN_VSOCK_CLIENT_RING",
           "VCHAN_VSOCK_BUFFER_SIZE", "VCHAN_VSOCK_LINGER_MS",
           "VCHAN_VSOCK_BOOT_WAIT_MS", "VCHAN_VSOCK_CONNECT_TIMEOUT_MS"]
RUBBISH = ["", "x", "12x", "-1", "+1", " 5", "5 ", "1e3", "0x10", "1.0",
           "99999999999999999999999"]
WORDS = {"VCHAN_VSOCK_LOOPBACK": ["", "x", "2", "-1", " 1", "yes"],
         "VCHAN_VSOCK_REQUIRE_PRIVILEGED": ["", "x", "2", "-1", " 1", "true", "01x"],
         "VCHAN_VSOCK_LOG": ["", "loud", "Error", " error", "errors", "1"]}
CASES = [(name, value) for name in NUMBERS for value in RUBBISH]
CASES += [(name, value) for name, values in WORDS.items() for value in values]


@pytest.mark.parametrize("name, value", CASES)
@pytest.mark.parametrize("call", ["server", "client", "client_async"])
def test_rubbish_is_einval_and_one_line(monkeypatch, capfd, call, name, value):
    """1.5: a value that does not parse is EINVAL and a line that names it."""
    monkeypatch.setenv("VCHAN_DOMAIN", "9")
    monkeypatch.setenv(name, value)
    before = Holdings.now()
    assert vchan.error_of(getattr(Vchan, call), 5, 512) == "EINVAL"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and name in lines[0] and value in lines[0], lines
    assert Holdings.back_to(before)


@pytest.mark.parametrize("name", NUMBERS + list(WORDS))
def test_next_call_after_rubbish_is_fine(monkeypatch, address, name):
    """1.5: read at init: the next init reads it again."""
    with monkeypatch.context() as patch:
        patch.setenv(name, "rubbish")
        assert vchan.error_of(Vchan.server, 5, 512) == "EINVAL"
    address.open_server()


def test_variables_are_read_at_init_only(raw_client):
    """1.5: read at init: an open channel does not look at them again."""
    server, peer = raw_client
    with vchan.environment(VCHAN_DOMAIN="x", VCHAN_VSOCK_LOG="x",
                           VCHAN_VSOCK_LINGER_MS="x"):
        server.write(b"hello")
        assert vchan.recv_exactly(peer, 5) == b"hello"
        server.close()


@pytest.mark.parametrize("value", ["0", "1"])
def test_leading_values_of_loopback(monkeypatch, value):
    """1.5: VCHAN_VSOCK_LOOPBACK is 0 or 1; 0 is as good as unset."""
    monkeypatch.setenv("VCHAN_VSOCK_LOOPBACK", value)
    monkeypatch.setenv("VCHAN_DOMAIN", "9")
    address = vchan.Address(9, 77, vchan.Address.fresh().port)
    Vchan.server(address.client, address.port)
    places = {"0": 77 * 65536 + address.port, "1": address.vsock_port}
    assert not vchan.refused(places[value])


# --- the kernel's buffer ---------------------------------------------------------

def kernel_buffers(before):
    """SO_VM_SOCKETS_BUFFER_SIZE of each vsock socket opened since `before`."""
    sizes = []
    for fd, name in vchan.fds().items():
        if name.startswith("socket:") and before.get(fd) != name:
            sock = socket.socket(fileno=os.dup(fd))
            with sock:
                if sock.family == socket.AF_VSOCK:
                    sizes.append(sock.getsockopt(socket.AF_VSOCK,
                                                 SO_VM_SOCKETS_BUFFER_SIZE))
    return sizes


def buffers_of_a_pair():
    before = vchan.fds()
    server, client = vchan.connected_pair()
    until(lambda: len(kernel_buffers(before)) == 2)
    return kernel_buffers(before)


def test_buffer_size_sets_the_kernels_buffer_on_both_ends(monkeypatch):
    """1.5: VCHAN_VSOCK_BUFFER_SIZE (the kernel's, per direction)."""
    monkeypatch.setenv("VCHAN_VSOCK_BUFFER_SIZE", str(3 << 20))
    assert buffers_of_a_pair() == [3 << 20] * 2


def test_kernels_buffer_is_raised_by_default():
    """Part 2: raise the kernel's buffer on both ends (1 MiB or more)."""
    assert min(buffers_of_a_pair()) >= 1 << 20


# --- the log ------------------------------------------------------------------------

def conversation():
    """A channel that opens, says something and closes; nothing is wrong."""
    server, peer = vchan.with_raw_client()
    server.write(b"hello")
    vchan.recv_exactly(peer, 5)
    peer.close()
    until(lambda: server.is_open != CONNECTED)
    server.close()


def said(capfd, level, monkeypatch, call=conversation):
    if level is not None:
        monkeypatch.setenv("VCHAN_VSOCK_LOG", level)
    capfd.readouterr()
    call()
    return capfd.readouterr().err.splitlines()


@pytest.mark.parametrize("level", [None, "error", "none"])
def test_nothing_is_said_when_nothing_is_wrong(capfd, monkeypatch, level):
    """1.5: error, the default; none: silent unless something is wrong."""
    assert said(capfd, level, monkeypatch) == []


def test_info_tells_of_a_connection(capfd, monkeypatch):
    """1.5: VCHAN_VSOCK_LOG=info: to stderr."""
    assert said(capfd, "info", monkeypatch)


def late_server():
    """A client that tries in vain until its server is there."""
    address = vchan.Address.fresh()
    connecting = vchan.Task(address.open_client)
    assert connecting.asleep()
    server = address.open_server()
    connecting.result()
    until(lambda: server.is_open == CONNECTED)


def test_debug_tells_more_than_info(capfd, monkeypatch):
    """1.5: VCHAN_VSOCK_LOG=debug: each attempt to connect, too."""
    info = said(capfd, "info", monkeypatch, late_server)
    assert len(said(capfd, "debug", monkeypatch, late_server)) > len(info)


def provoke():
    """An error of the caller's: a negative domain."""
    assert vchan.error_of(Vchan.server, -1, 512) == "EINVAL"


@pytest.mark.parametrize("level", [None, "error", "info", "debug"])
def test_errors_are_said(capfd, monkeypatch, level):
    """1.5: error, the default: an error is one line."""
    assert len(said(capfd, level, monkeypatch, provoke)) >= 1


def test_none_silences_errors(capfd, monkeypatch):
    """1.5: VCHAN_VSOCK_LOG=none."""
    assert said(capfd, "none", monkeypatch, provoke) == []


def test_the_log_keeps_errno(monkeypatch, address, capfd):
    """1.5: errno kept, whatever is logged."""
    monkeypatch.setenv("VCHAN_VSOCK_LOG", "debug")
    server = address.open_server()
    assert vchan.error_of(address.open_server) == "EADDRINUSE"
    assert vchan.error_of(server.send, bytes(PAGE + 1)) == "EMSGSIZE"


def test_the_log_keeps_errno_when_it_cannot_be_written(address):
    """1.5: errno kept, though stderr takes nothing (ENOSPC)."""
    with open("/dev/full", "w") as full:
        puppet = Puppet.start(stderr=full, VCHAN_DOMAIN=address.server,
                              VCHAN_VSOCK_LOG="debug")
    with address.open_server():
        assert vchan.error_of(puppet, "server", address.client, address.port,
                              PAGE, PAGE) == "EADDRINUSE"
