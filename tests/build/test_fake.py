# SPDX-License-Identifier: LGPL-2.1-or-later
"""tests/fake/vsock.c: enough of AF_VSOCK, and nothing of the real one."""
import os
import subprocess
import sys

import pytest

import sessions

AF_VSOCK = 40


@pytest.fixture(scope="module")
def fake():
    subprocess.run(["make", "-s", sessions.FAKE], cwd=sessions.ROOT, check=True, timeout=60)
    return sessions.ROOT / sessions.FAKE


def run(program, fake):
    """What a python program says that has it preloaded."""
    return subprocess.run([sys.executable, "-c", program], text=True, check=True, timeout=30,
                          stdout=subprocess.PIPE,
                          env={**os.environ, "LD_PRELOAD": str(fake),
                               "FAKE_VSOCK": f"test-{os.getpid()}"}).stdout


def test_the_real_one_cannot_be_reached(fake):
    """Not by who calls the kernel himself, nor by what a program starts."""
    number = {"x86_64": 41}.get(os.uname().machine)
    if number is None:
        pytest.skip(f"no number of socket(2) for {os.uname().machine} here")
    program = ("import ctypes, os, subprocess, sys\n"
               f"call = 'import ctypes; c = ctypes.CDLL(None, use_errno=True);'"
               f" 'print(c.syscall({number}, {AF_VSOCK}, 1, 0), ctypes.get_errno())'\n"
               "exec(call)\n"
               "sys.stdout.flush()\n"
               "env = {n: v for n, v in os.environ.items() if n != 'LD_PRELOAD'}\n"
               "subprocess.run([sys.executable, '-c', call], env=env, check=True)\n")
    assert run(program, fake).split("\n")[:2] == ["-1 97"] * 2


def test_two_ends_meet_and_are_told_who_they_are(fake):
    program = """
import errno, socket
def new():
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener = new()
listener.bind((1, 70000))
listener.listen()
client = new()
client.bind((0xffffffff, 4711))
client.connect((1, 70000))
server, peer = listener.accept()
print(peer, client.getpeername(), server.getsockname()[1])
client.sendall(b'hello')
client.close()
print(server.recv(9), server.recv(9))
for cid, port in ((1, 70001), (77, 70000)):
    try:
        new().connect((cid, port))
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert run(program, fake).splitlines() == [
        "(1, 4711) (1, 70000) 70000", "b'hello' b''", "ECONNRESET", "ENODEV"]
