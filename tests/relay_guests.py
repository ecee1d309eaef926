# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests, as the relay on their host sees them, without any machine.

The relay runs with tests/fake/vsock.so preloaded.  A guest here is a Python object
that makes Unix sockets of the names that the fake knows: nobody else is needed to be
a machine, and one test has as many as it likes.
"""
import contextlib
import itertools
import os
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import time

import tooling
import vchan

# $VCHAN_TOOL: as in tooling.py.
TOOL = pathlib.Path(os.environ.get("VCHAN_TOOL")
                    or vchan.LIBRARY.parent / "vchan-vsock").resolve()
FAKE = tooling.FAKE
# As it is installed, for what a sanitizer would change.
PLAIN = vchan.ROOT / "build" / "vchan-vsock"
SOON = 20
HOST, PORT = 2, 768

FRAMED, OURS = 1, 2
OK, REFUSED, NO_MACHINE, DENIED, BUSY, SILENT = range(6)
FRAMED_PORT = 1 << 31

_words = itertools.count()


def request(target, port, flags=0, magic=b"vch1rely", version=1, reserved=0):
    return struct.pack("<8sHHIII", magic, version, flags, target, port, reserved)


def answer_of(data):
    magic, version, status, reserved = struct.unpack("<8sHHI", data)
    assert (magic, version, reserved) == (b"vch1rely", 1, 0)
    return status


def receive(sock, size):
    """That many bytes, or fewer at the end."""
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return bytes(data)


def until(condition, seconds=SOON):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return value


def is_over(sock):
    """Nothing comes any more, and nothing can be sent: closed wholly."""
    try:
        if sock.recv(1):
            return False
    except ConnectionResetError:
        pass
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(SOON * 1000))  # POLLHUP needs no asking


class World:
    """One host, with its relay."""

    def __init__(self, directory, policy="allow * -> * *\n"):
        self.word = f"relay-{os.getpid()}-{next(_words)}"
        self.policy = pathlib.Path(directory) / "relay.policy"
        self.policy.write_text(policy)
        self.errors = pathlib.Path(directory) / "stderr"
        self.process = None
        self.opened = contextlib.ExitStack()

    def start(self, *options, wrapper=(), wait=True, preload=FAKE, tool=TOOL, **variables):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith("VCHAN_")}
        env.update({"FAKE_VSOCK": self.word, "ASAN_OPTIONS": "verify_asan_link_order=0",
                    **variables})
        tool = tooling.for_others(tool) if wrapper else tool
        if preload:
            env["LD_PRELOAD"] = str(tooling.for_others(preload) if wrapper else preload)
        listening = "event=listening|\"event\":\"listening\""
        before = len(self.lines(listening)) if wait and self.errors.exists() else 0
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*wrapper, tool, "relay", "--policy", self.policy, *map(str, options)],
                env=env, stdin=subprocess.DEVNULL, stderr=errors)
        if wait:
            self.await_line(listening, before + 1)
        return self.process

    @property
    def log(self):
        return self.errors.read_text()

    def lines(self, pattern):
        return [line for line in self.log.splitlines() if re.search(pattern, line)]

    def await_line(self, pattern, count=1):
        def there():
            found = self.lines(pattern)
            assert len(found) >= count or self.process.poll() is None, self.log
            return found if len(found) >= count else None
        try:
            return until(there)
        except AssertionError:
            raise AssertionError(f"no {pattern}:\n{self.log}") from None

    def guest(self, cid):
        return Guest(self, cid)

    def stop(self, seconds=SOON):
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def put_away(self):
        self.opened.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Guest:
    _ports = itertools.count(5000)

    def __init__(self, world, cid):
        self.world, self.cid = world, cid
        self.machine = world.opened.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.machine.bind(self.name(0xFFFFFFFF))

    def name(self, what):
        return f"\0fake-vsock/{self.world.word}/{self.cid}/{what}"

    def socket(self):
        sock = self.world.opened.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(SOON)
        return sock

    def connect(self, port=None, to=PORT):
        """To its host."""
        sock = self.socket()
        sock.bind(self.name(next(Guest._ports) if port is None else port))
        sock.connect(f"\0fake-vsock/{self.world.word}/{HOST}/{to}")
        return sock

    def ask(self, target, port, flags=0, more=b"", source_port=None):
        """A connection, and the status that was answered."""
        sock = self.connect(source_port)
        # Who comes too often may have his answer before.
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(request(target, port, flags) + more)
        return sock, answer_of(receive(sock, 16))

    def listen(self, client, port, framed=False, queue=100):
        """Serves the guest `client` on that vchan port."""
        sock = self.socket()
        number = client * 65536 + port + (FRAMED_PORT if framed else 0)
        sock.bind(self.name(number))
        sock.listen(queue)
        return sock


def accept(listener):
    """A connection, and the relay's port that it comes from."""
    sock, name = listener.accept()
    sock.settimeout(SOON)
    # This process may have the fake, too, and see the address of a vsock.
    return sock, name[1] if isinstance(name, tuple) else int(name.decode().rsplit("/", 1)[1])


def channel(world, source, target, port, flags=0):
    """(source's end, target's end), open."""
    listener = target.listen(source.cid, port, bool(flags & FRAMED))
    near, status = source.ask(target.cid, port, flags)
    assert status == OK, world.log
    far, _ = accept(listener)
    world.opened.enter_context(far)
    listener.close()
    return near, far
