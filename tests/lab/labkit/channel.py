# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our end of the agent's channel: programs that run in a machine.

agent.py describes the protocol.  A thread reads all that comes, at once and
without a limit, so that a test that does not look cannot block another.
"""
import base64
import itertools
import json
import os
import select
import signal
import subprocess
import threading
import time

from .errors import LabError, MachineGone

CHUNK = 32 * 1024
# The agent takes what we send unless its machine is paused or dead.
SEND_TIMEOUT = 60
DEFAULT_TIMEOUT = 60


class Stream:
    """The output of a program in a machine, readable as it comes."""

    def __init__(self, process, name):
        self._process = process
        self._name = name
        self._data = bytearray()
        self._eof = False

    def readline(self, timeout=DEFAULT_TIMEOUT):
        """The next line as bytes, b"" at the end of the output."""
        def ready():
            return b"\n" in self._data or self._eof
        self._await(ready, timeout, "a line")
        return self._take(self._data.find(b"\n") + 1 or len(self._data))

    def read(self, size=-1, timeout=DEFAULT_TIMEOUT):
        """Exactly SIZE bytes, fewer only at the end; all of it without SIZE."""
        def ready():
            return self._eof or 0 <= size <= len(self._data)
        self._await(ready, timeout, f"{size} bytes")
        return self._take(size if size >= 0 else len(self._data))

    def read_available(self):
        """What has come so far, without waiting."""
        return self._take(len(self._data))

    def read_some(self):
        """What is there, once something is; b"" at the end.  No limit."""
        self._await(lambda: self._data or self._eof, None, "something")
        return self.read_available()

    def _take(self, size):
        with self._process.channel.changed:
            data = bytes(self._data[:size])
            del self._data[:size]
        return data

    def _await(self, ready, timeout, what):
        self._process.await_(ready, timeout, f"{what} of its {self._name}")


class Stdin:
    def __init__(self, process):
        self._process = process

    def write(self, data):
        for start in range(0, len(data), CHUNK):
            piece = data[start:start + CHUNK]
            self._process.send("stdin", data=base64.b64encode(piece).decode())

    def close(self):
        self._process.send("close")


class Process:
    """A program in a machine; much like subprocess.Popen, in bytes.

    Every wait has a limit: subprocess.TimeoutExpired says what did not come,
    MachineGone that the machine died.
    """

    def __init__(self, channel, ident, argv):
        self.channel = channel
        self.args = argv
        self.pid = None
        self.returncode = None
        self.failure = None
        self._id = ident
        self.stdin = Stdin(self)
        self.stdout = Stream(self, "stdout")
        self.stderr = Stream(self, "stderr")

    def send(self, op, **fields):
        self.channel.send(op=op, id=self._id, **fields)

    def await_(self, ready, timeout, what):
        if not self.channel.wait(ready, timeout):
            raise subprocess.TimeoutExpired(
                [*self.args, f"(waiting for {what})"], timeout)

    def poll(self):
        return self.returncode

    def wait(self, timeout=DEFAULT_TIMEOUT):
        """Its exit status, -N when signal N killed it."""
        self.await_(lambda: self.returncode is not None, timeout, "its end")
        return self.returncode

    def kill(self, sig=signal.SIGKILL):
        self.send("kill", sig=int(sig))

    def kill_all(self):
        """Kill it and whatever it started that stayed in its session."""
        self.send("kill", sig=int(signal.SIGKILL), group=True)

    def end_output(self):
        """Wait for no more output: its children may go on for ever."""
        with self.channel.changed:
            self.stdout._eof = self.stderr._eof = True
            self.channel.changed.notify_all()

    def resize(self, rows, cols):
        self.send("resize", rows=rows, cols=cols)

    # Called by the channel's thread, with its lock held.
    def _stream(self, fd):
        return self.stdout if fd == 1 else self.stderr

    def on_started(self, event):
        self.pid = event["pid"]

    def on_failed(self, event):
        self.failure = OSError(event["errno"], event["error"])

    def on_out(self, event):
        self._stream(event["fd"])._data += base64.b64decode(event["data"])

    def on_eof(self, event):
        self._stream(event["fd"])._eof = True

    def on_exit(self, event):
        self.returncode = event["code"]


class Channel:
    def __init__(self, sock, name):
        self.name = name
        self.changed = threading.Condition()
        self.gone = False
        self.ready = False
        self._synced = 0
        self._sock = sock
        self._sock.setblocking(False)
        self._sending = threading.Lock()
        self._processes = {}
        self._ids = itertools.count(1)
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def wait(self, ready, timeout):
        """Wait until READY(); False when time is over first.

        TIMEOUT None is for ever.
        """
        with self.changed:
            reached = self.changed.wait_for(
                lambda: ready() or self.gone, timeout)
            if reached and not ready():
                raise MachineGone(f"{self.name} is gone")
        return bool(reached)

    def start(self, argv, env, cwd, tty=None):
        """Start a program; OSError when it cannot be."""
        argv = [os.fspath(arg) for arg in argv]
        process = Process(self, next(self._ids), argv)
        self._processes[process._id] = process
        process.send("spawn", argv=argv, env=env, cwd=cwd, tty=tty)
        process.await_(lambda: process.pid or process.failure,
                       DEFAULT_TIMEOUT, "its start")
        if process.failure:
            raise process.failure
        return process

    def sync(self, timeout=DEFAULT_TIMEOUT):
        """Wait until the machine has written everything to its disks."""
        before = self._synced
        self.send(op="sync")
        self.wait(lambda: self._synced > before, timeout)

    def send(self, **message):
        data = memoryview(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + SEND_TIMEOUT
        with self._sending:
            while data:
                try:
                    data = data[self._sock.send(data):]
                except BlockingIOError:
                    self._wait_writable(deadline)
                except OSError:
                    raise MachineGone(f"{self.name} is gone") from None

    def _wait_writable(self, deadline):
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise LabError(f"{self.name} takes no input: is it paused?")

    def _receive(self):
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        rest = b""
        while True:
            poll.poll()
            try:
                data = self._sock.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            with self.changed:
                for line in lines:
                    self._handle(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def _handle(self, event):
        kind = event["ev"]
        if kind == "ready":
            self.ready = True
        elif kind == "synced":
            self._synced += 1
        else:
            process = self._processes.get(event["id"])
            getattr(process, "on_" + kind)(event)
