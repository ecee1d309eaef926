# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drives programs/puppet.c: a program of its own with vchan handles of its own.

    puppet = Puppet.start(VCHAN_DOMAIN=5)
    puppet("server", 7, 512, 4096, 4096)     # -1 becomes an OSError
    puppet.recv(5)                           # bytes

A call that will block is begun with `begin` and collected with `answer`.
"""
import contextlib
import os
import socket
import subprocess
import tempfile

import programs
import vchan

living = []  # conftest puts them away
# tests/coverage: who is killed writes no counts.
GENTLY = "PUT_AWAY_GENTLY" in os.environ


class Puppet:
    """One puppet: where its commands go, and its process if that is ours."""

    def __init__(self, control, process=None):
        control.settimeout(vchan.SOON)
        self.control = control
        self.lines = control.makefile("r", encoding="ascii", newline="\n")
        self.process = process
        living.append(self)

    @classmethod
    def start(cls, stderr=None, wrapper=(), program=None, **variables):
        """A new process.  `wrapper` is a command to start it with, `program` another
        puppet than that of the library under test."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*wrapper, program or programs.program("puppet")], stdin=theirs,
                stdout=theirs, stderr=stderr,
                env=programs.surroundings(**variables))
        return cls(ours, process)

    @classmethod
    def serving(cls, address, read_min=vchan.PAGE, write_min=vchan.PAGE, **more):
        puppet = cls.start(VCHAN_DOMAIN=address.server, **more)
        puppet("server", address.client, address.port, read_min, write_min)
        return puppet

    @classmethod
    def client_of(cls, address, **more):
        puppet = cls.start(VCHAN_DOMAIN=address.client, **more)
        puppet("client", address.server, address.port)
        return puppet

    def begin(self, *words):
        self.control.sendall((" ".join(map(str, words)) + "\n").encode())

    def answer(self, seconds=vchan.SOON):
        """The value and the bytes of the next answer; an OSError if -1."""
        self.control.settimeout(seconds)
        return self.parsed(self.lines.readline())

    @staticmethod
    def parsed(line):
        if not line:
            raise EOFError("the puppet is gone")
        value, number, data = (line.rstrip("\n") + "  ").split(" ")[:3]
        if int(value) == -1:
            raise OSError(int(number), os.strerror(int(number)))
        return int(value), bytes.fromhex(data)

    def __call__(self, *words, seconds=vchan.SOON):
        self.begin(*words)
        return self.answer(seconds)[0]

    def read(self, size):
        self.begin("read", size)
        return self.answer()[1]

    def recv(self, size):
        self.begin("recv", size)
        return self.answer()[1]

    def write(self, data):
        return self("write", data.hex())

    def send(self, data):
        return self("send", data.hex())

    def raw_recv(self, size):
        self.begin("raw-recv", size)
        return self.answer()[1]

    def asleep(self, in_a_row=True):
        """Wait until its main thread has slept for a while, perhaps with breaks."""
        pid = self.process.pid
        samples = 0

        def slept():
            nonlocal samples
            sleeping = vchan.thread_state(pid, pid) == "S"
            samples = samples + 1 if sleeping else samples * (not in_a_row)
            return samples >= 50  # of `until`, one each millisecond

        vchan.until(slept)
        return True

    def fork(self):
        """A child of the puppet, with copies of its handles."""
        with tempfile.TemporaryDirectory() as directory:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"{directory}/control")
                listener.listen()
                listener.settimeout(vchan.SOON)
                pid = self("fork", f"{directory}/control")
                child = Puppet(listener.accept()[0])
        child.pid = pid
        return child

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL; returns when the process is gone."""
        self.process.kill()
        self.process.wait(vchan.SOON)

    def ended(self, seconds=vchan.SOON):
        """Wait for the end of the process; its exit status."""
        return self.process.wait(seconds)

    def put_away(self):
        if self.process:
            if GENTLY:
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(vchan.SOON)
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.lines.close()
        self.control.close()


def put_all_away():
    while living:
        living.pop().put_away()
