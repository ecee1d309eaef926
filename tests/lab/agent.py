# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside a lab machine and starts programs there for the other side.

Speaks JSON lines over a virtio-serial port (never vsock: tests break that on
purpose), with the programs' bytes in base64.

to us:   spawn id argv env cwd [tty=[rows, cols]] | stdin id data | close id
         kill id sig [group] | resize id rows cols | settime time | sync
         poweroff
from us: ready | started id pid | failed id errno error | out id fd data
         eof id fd | exit id code | synced

One thread, one loop.  What a program wrote before it ended is always sent
before its exit; what its children write later is still passed on.
"""
import base64
import errno
import fcntl
import json
import os
import selectors
import struct
import subprocess
import sys
import termios
import time

CHUNK = 32 * 1024
# Above this much unsent output no more is read from the programs.
HIGH_WATER = 256 * 1024
DRAIN_LIMIT = 1024 * 1024


def find_port(name):
    """The device of the virtio-serial port NAME (there is no udev here)."""
    base = "/sys/class/virtio-ports"
    for port in os.listdir(base):
        with open(f"{base}/{port}/name") as f:
            if f.read().strip() == name:
                return f"/dev/{port}"
    sys.exit(f"lab agent: no virtio port called {name}")


class Job:
    """One program: its pipes (or its terminal) and its exit status."""

    def __init__(self, request):
        self.id = request["id"]
        self.pending = bytearray()      # for its stdin
        self.closing = False
        self.stdin = None
        self.outputs = {}               # our fd -> its fd number
        if request.get("tty"):
            self._start_on_tty(request)
        else:
            self._start_on_pipes(request)
        self.pidfd = os.pidfd_open(self.proc.pid)
        for fd in (self.stdin, *self.outputs):
            os.set_blocking(fd, False)

    def _popen(self, request, **streams):
        # Its own session: one signal reaches all that it started.
        return subprocess.Popen(
            request["argv"], env=request["env"], cwd=request["cwd"],
            start_new_session=True, bufsize=0, **streams)

    def _start_on_pipes(self, request):
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
        try:
            self.proc = self._popen(request, stdin=theirs[0],
                                    stdout=theirs[1], stderr=theirs[2])
        except BaseException:
            close_all(ours)
            raise
        finally:
            close_all(theirs)
        self.stdin = ours[0]
        self.outputs = {ours[1]: 1, ours[2]: 2}

    def _start_on_tty(self, request):
        ours, theirs = os.openpty()
        try:
            resize(ours, *request["tty"])
            self.proc = self._popen(
                request, stdin=theirs, stdout=theirs, stderr=theirs,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.stdin = os.dup(ours)
        self.outputs = {ours: 1}


def close_all(fds):
    for fd in fds:
        os.close(fd)


def resize(tty, rows, cols):
    fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


class Agent:
    def __init__(self, port):
        self.port = port
        self.jobs = {}
        self.inbuf = bytearray()
        self.outbuf = bytearray()
        self.running = True
        self.main = selectors.EpollSelector()
        # All programs' outputs sit in an epoll set of their own, which is
        # watched only while there is room for what they write.
        self.outputs = selectors.EpollSelector()
        self.main.register(port, selectors.EVENT_READ, self.port_ready)
        self.main.register(self.outputs, selectors.EVENT_READ,
                           self.outputs_ready)

    # -- the port ---------------------------------------------------------

    def send(self, **message):
        self.outbuf += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self):
        try:
            while self.outbuf:
                done = os.write(self.port, self.outbuf[:CHUNK])
                del self.outbuf[:done]
        except BlockingIOError:
            pass
        events = selectors.EVENT_READ
        if self.outbuf:
            events |= selectors.EVENT_WRITE
        self.main.modify(self.port, events, self.port_ready)
        self.watch_outputs(len(self.outbuf) < HIGH_WATER)

    def watch_outputs(self, wanted):
        watched = self.outputs in self.main.get_map()
        if wanted and not watched:
            self.main.register(self.outputs, selectors.EVENT_READ,
                               self.outputs_ready)
        elif watched and not wanted:
            self.main.unregister(self.outputs)

    def port_ready(self, events):
        if events & selectors.EVENT_WRITE:
            self.flush()
        if not events & selectors.EVENT_READ:
            return
        try:
            data = os.read(self.port, CHUNK)
        except BlockingIOError:
            return
        if not data:                    # the other side is gone
            self.running = False
            return
        self.inbuf += data
        *lines, rest = self.inbuf.split(b"\n")
        self.inbuf = bytearray(rest)
        for line in lines:
            self.handle(json.loads(line))

    # -- requests ---------------------------------------------------------

    def handle(self, request):
        getattr(self, "do_" + request["op"])(request)

    def do_spawn(self, request):
        try:
            job = Job(request)
        except (OSError, ValueError) as e:
            self.send(ev="failed", id=request["id"],
                      errno=getattr(e, "errno", None) or errno.EINVAL,
                      error=getattr(e, "strerror", None) or str(e))
            return
        self.jobs[job.id] = job
        self.main.register(job.pidfd, selectors.EVENT_READ,
                           lambda events: self.exited(job))
        self.send(ev="started", id=job.id, pid=job.proc.pid)
        for fd in job.outputs:
            self.outputs.register(fd, selectors.EVENT_READ, job)

    def do_stdin(self, request):
        job = self.jobs.get(request["id"])
        if job and job.stdin is not None:
            job.pending += base64.b64decode(request["data"])
            self.feed(job)

    def do_close(self, request):
        job = self.jobs.get(request["id"])
        if job:
            job.closing = True
            self.feed(job)

    def do_kill(self, request):
        job = self.jobs.get(request["id"])
        if not job:
            return
        try:
            if request.get("group"):
                os.killpg(job.proc.pid, request["sig"])
            elif job.proc.returncode is None:
                os.kill(job.proc.pid, request["sig"])
        except ProcessLookupError:
            pass

    def do_resize(self, request):
        job = self.jobs.get(request["id"])
        if job and job.stdin is not None:
            resize(job.stdin, request["rows"], request["cols"])

    def do_settime(self, request):
        time.clock_settime(time.CLOCK_REALTIME, request["time"])

    def do_sync(self, request):
        os.sync()
        self.send(ev="synced")

    def do_poweroff(self, request):
        self.running = False

    # -- programs ---------------------------------------------------------

    def feed(self, job, events=None):
        """Give a program what it takes of its input now."""
        if job.stdin is None:
            return
        try:
            while job.pending:
                del job.pending[:os.write(job.stdin, job.pending[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:                 # it does not want any
            job.pending.clear()
            job.closing = True
        watched = job.stdin in self.main.get_map()
        if job.pending and not watched:
            self.main.register(job.stdin, selectors.EVENT_WRITE,
                               lambda events: self.feed(job))
        elif watched and not job.pending:
            self.main.unregister(job.stdin)
        if job.closing and not job.pending:
            os.close(job.stdin)
            job.stdin = None

    def outputs_ready(self, events):
        for key, _ in self.outputs.select(0):
            self.pass_on(key.data, key.fd)

    def pass_on(self, job, fd):
        """Send one piece of output; returns its size, 0 when none is there."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:                 # EIO: all of a terminal's users left
            data = b""
        if data:
            self.send(ev="out", id=job.id, fd=job.outputs[fd],
                      data=base64.b64encode(data).decode())
            return len(data)
        self.outputs.unregister(fd)
        self.send(ev="eof", id=job.id, fd=job.outputs.pop(fd))
        os.close(fd)
        self.forget(job)
        return 0

    def exited(self, job):
        code = job.proc.wait()
        self.main.unregister(job.pidfd)
        os.close(job.pidfd)
        job.pidfd = None
        for fd in list(job.outputs):
            left = DRAIN_LIMIT
            while left > 0:
                done = self.pass_on(job, fd)
                left = left - done if done else 0
        self.send(ev="exit", id=job.id, code=code)
        job.closing = True
        job.pending.clear()
        self.feed(job)
        self.forget(job)

    def forget(self, job):
        if job.pidfd is None and not job.outputs:
            self.jobs.pop(job.id, None)

    def run(self):
        self.send(ev="ready")
        while self.running:
            for key, events in self.main.select():
                key.data(events)


# linux/kvm.h
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xae01, 0xae41, 0xae60


def hold_kvm():
    """Where there can be guests: keep one that never runs, for ever.

    At the first guest and after the last one, and whenever the last APIC that is off is
    switched on, the kernel rewrites code that its other processors run just then.
    QEMU's emulation does not always survive that: a processor traps for ever.
    """
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        fcntl.ioctl(vm, KVM_CREATE_IRQCHIP)
        fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    except OSError:
        pass  # no guests, then


def main():
    hold_kvm()
    port = os.open(find_port(sys.argv[1]),
                   os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    Agent(port).run()


main()
