# SPDX-License-Identifier: LGPL-2.1-or-later
"""Somebody on the same machine has our port, or is after it."""
import contextlib
import re
import subprocess
import sys
import time

import pytest

import vchan
from framed_peer import FRAMED
from vchan import A_SECOND, CONNECTED, Task, until

SECONDS = min(60, vchan.scaled(3))

pytestmark = pytest.mark.deadline(120 + 2 * SECONDS)

PORTS = {"plain": 0, "framed": FRAMED}


@pytest.fixture(params=list(PORTS))
def vsock_port(request, address):
    """One of the two ports of the address."""
    return address.vsock_port + PORTS[request.param]


def test_port_that_is_taken_is_eaddrinuse_soon_and_named(address, vsock_port, capfd):
    """1.2: EADDRINUSE, tried for a moment, and a line that names the port."""
    squatter = vchan.raw_listen(vsock_port)
    start = time.monotonic()
    assert vchan.error_of(address.open_server) == "EADDRINUSE"
    assert time.monotonic() - start < A_SECOND
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(rf"\b{vsock_port}\b", lines[0]), lines
    squatter.close()
    address.open_server()


def test_port_that_is_bound_by_a_connection_is_eaddrinuse_too(address, vsock_port):
    """1.2: nobody needs to listen there to have it."""
    listener = vchan.raw_listen(vchan.Address.fresh().vsock_port)
    vchan.raw_connect(listener.getsockname()[1], source=vsock_port)
    assert vchan.error_of(address.open_server) == "EADDRINUSE"


def test_port_that_is_let_go_within_a_moment_is_ours(address, vsock_port):
    """1.3 close: the address can be served again: who still holds it for the moment
    between a fork and an exec is waited for."""
    served = 0
    while served < 5:
        squatter = vchan.raw_listen(vsock_port)
        begun = time.monotonic()
        serving = Task(address.open_server)
        time.sleep(0.02)
        squatter.close()
        let_go_after = time.monotonic() - begun
        refused = vchan.error_of(lambda: serving.result().close())
        # It does not wait that long; we had no processor.
        assert not refused or (refused == "EADDRINUSE" and let_go_after > 0.1)
        served += not refused


# Takes the port when it finds it free, for less or more than a server waits for it.
GRABBER = """
import os, random, socket, sys, time
port, parent = int(sys.argv[1]), os.getppid()
print("begun", flush=True)
while os.getppid() == parent:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((socket.VMADDR_CID_ANY, port))
            sock.listen(5)
            time.sleep(random.choice([0, 0.03, 0.3]))
        except OSError:
            continue
    time.sleep(random.choice([0, 0.02]))
"""


@contextlib.contextmanager
def grabbing(vsock_port):
    process = subprocess.Popen([sys.executable, "-c", GRABBER, str(vsock_port)],
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        yield
    finally:
        process.kill()
        process.communicate()


def test_port_that_another_is_after_is_ours_or_eaddrinuse(address, vsock_port, capfd):
    """1.3 close: at the very moment of our close; never a silent hang."""
    served = refused = longest = 0
    with grabbing(vsock_port):
        over = time.monotonic() + SECONDS
        while time.monotonic() < over:
            start = time.monotonic()
            try:
                server = address.open_server()
            except OSError as error:
                assert error.errno == 98
                refused += 1
            else:
                with server, address.open_client() as client:
                    until(lambda: server.is_open == CONNECTED)
                    client.write(b"hello")
                    assert server.recv(5) == b"hello"
                served += 1
            longest = max(longest, time.monotonic() - start)
    lines = capfd.readouterr().err.splitlines()
    with capfd.disabled():
        print(f"served {served} times, EADDRINUSE {refused} times, "
              f"the longest took {longest:.2f} s")
    assert longest < A_SECOND
    assert served + refused > 0
    assert len(lines) == refused and all(str(vsock_port) in line for line in lines)
