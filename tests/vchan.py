# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library as Python sees it, and what the tests share.

`Vchan` is one handle; a -1 becomes an OSError with the library's errno.  The
C declarations are read from libvchan.h itself, so the tests cannot drift away
from the header.  The library under test is $VCHAN_LIB or the build's own.

Blocking calls run in a `Task`, a thread that a test can ask whether it is
still asleep.  Addresses are random (`Address.fresh`): pretended domains on
this machine, joined by VCHAN_VSOCK_LOOPBACK.
"""
import contextlib
import ctypes
import dataclasses
import errno
import os
import pathlib
import random
import re
import select
import socket
import sys
import threading
import time
import traceback

import cffi

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = ROOT / "libvchan.h"
LIBRARY = pathlib.Path(os.environ.get("VCHAN_LIB")
                       or ROOT / "build" / "libvchan-vsock.so.1").resolve()
# The flavour without a thread, where only calls make progress.
SIMPLE = "simple" in LIBRARY.name
# Is AF_VSOCK the one that tests/fake/vsock.c makes of Unix sockets?
FAKE = hasattr(ctypes.CDLL(None), "fake_vsock_is_here")

DISCONNECTED, CONNECTED, WAITING = 0, 1, 2
PAGE = os.sysconf("SC_PAGE_SIZE")
CLIENT_RING = 128 * 1024
CID_LOCAL, CID_HOST, CID_ANY = 1, 2, 0xFFFFFFFF
# docs/wire.md, set-up: where a client's plain connection comes from that will try
# the framed port, too.
OUR_PORTS = range(1 << 31, (1 << 31) + (1 << 16))

# How long something may take that should take no time at all, on an emulated
# machine that is busy with something else.
SOON = 30.0
# "Within a second", times five, for the same machine.
A_SECOND = 5.0
# How long silence is listened to.
A_WHILE_MS = 200

ANY_EVENT = (select.POLLIN | select.POLLPRI | select.POLLERR | select.POLLHUP |
             select.POLLRDHUP)


def scaled(amount):
    """`amount`, times $VCHAN_TEST_SCALE (default 1)."""
    return max(1, int(amount * float(os.environ.get("VCHAN_TEST_SCALE", "1"))))


# --- the library -------------------------------------------------------------

def declarations(header):
    """What cffi may see of a C header: no comments, no preprocessor, no C++."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    return re.sub(r"^\s*#.*$", "", text, flags=re.M)


ffi = cffi.FFI()
ffi.cdef(declarations(HEADER.read_text()))
_library = None


def library():
    """The library under test, loaded when the first test needs it."""
    global _library
    if _library is None:
        _library = ffi.dlopen(str(LIBRARY))
    return _library


def failure(what):
    """The OSError for the errno that the last call left behind."""
    number = ffi.errno
    return OSError(number, f"{what}: {os.strerror(number)}")


class Attendant(threading.Thread):
    """Does with the simple flavour what a program does that sleeps on its fds.

    Most tests have both ends of a channel, and one thread.  While that is in a call
    on one end, somebody has to work for the other: a thread here that sleeps on all
    handles' fds and calls libvchan_is_open when one is readable, and only then.  So
    what the fds do not tell of does not happen.  Edge-triggered: the fds stay readable
    until a test's own libvchan_wait.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.lock = threading.Lock()
        self.handles = {}
        self.epoll = select.epoll()
        self.start()

    def run(self):
        while True:
            for fd, _ in self.epoll.poll():
                self.look(fd)

    def look(self, fd):
        with self.lock:
            if fd in self.handles:
                library().libvchan_is_open(self.handles[fd])

    def begin(self, fd, handle):
        with self.lock:
            self.handles[fd] = handle
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def end(self, handle):
        """Before it is closed: nobody may be in a call then."""
        with self.lock:
            self.handles = {fd: h for fd, h in self.handles.items() if h != handle}


# From the beginning: tests count threads and fds.
_attendant = Attendant() if SIMPLE else None


def attend(fd, handle):
    if _attendant and fd >= 0:
        _attendant.begin(fd, handle)


@contextlib.contextmanager
def unattended(chan):
    """For a while nobody works for this handle but the test."""
    if _attendant:
        _attendant.end(chan.handle)
    try:
        yield
    finally:
        attend(chan.fd, chan.handle)


class Vchan:
    """One libvchan handle."""

    opened = []  # what a test opened; conftest closes it

    def __init__(self, handle, what):
        if handle == ffi.NULL:
            raise failure(what)
        self.handle = handle
        self.watch_fd = None
        Vchan.opened.append(self)
        if SIMPLE and "async" not in what:
            attend(library().libvchan_fd_for_select(handle), handle)

    @classmethod
    def server(cls, domain, port, read_min=PAGE, write_min=PAGE):
        ffi.errno = 0
        return cls(library().libvchan_server_init(
            domain, port, read_min, write_min), "libvchan_server_init")

    @classmethod
    def client(cls, domain, port):
        ffi.errno = 0
        return cls(library().libvchan_client_init(domain, port),
                   "libvchan_client_init")

    @classmethod
    def client_async(cls, domain, port):
        ffi.errno = 0
        watch_fd = ffi.new("EVTCHN *", -1)
        chan = cls(library().libvchan_client_init_async(
            domain, port, watch_fd), "libvchan_client_init_async")
        chan.watch_fd = watch_fd[0]
        attend(chan.watch_fd, chan.handle)
        return chan

    def _call(self, name, *arguments):
        ffi.errno = 0
        value = getattr(library(), "libvchan_" + name)(self.handle, *arguments)
        if value == -1:
            raise failure("libvchan_" + name)
        return value

    def _fetch(self, name, size):
        data = ffi.new("char[]", max(size, 1))
        return bytes(ffi.buffer(data, self._call(name, data, size)))

    def finish(self, blocking=True):
        return self._call("client_init_async_finish", blocking)

    def write(self, data):
        return self._call("write", ffi.from_buffer(data), len(data))

    def send(self, data):
        return self._call("send", ffi.from_buffer(data), len(data))

    def read(self, size):
        return self._fetch("read", size)

    def recv(self, size):
        return self._fetch("recv", size)

    def wait(self):
        return self._call("wait")

    @property
    def fd(self):
        return self._call("fd_for_select")

    @property
    def is_open(self):
        return self._call("is_open")

    @property
    def data_ready(self):
        return self._call("data_ready")

    @property
    def buffer_space(self):
        return self._call("buffer_space")

    def set_blocking(self, blocking):
        library().libvchan_set_blocking(self.handle, blocking)

    def close(self):
        handle, self.handle = self.handle, ffi.NULL
        if self in Vchan.opened:
            Vchan.opened.remove(self)
        if _attendant:
            _attendant.end(handle)
        library().libvchan_close(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


NULL = Vchan.__new__(Vchan)
NULL.handle = ffi.NULL


# --- addresses ---------------------------------------------------------------

@contextlib.contextmanager
def environment(**variables):
    """Set (or, with None, unset) environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        put_environment(variables)
        yield
    finally:
        put_environment(before)


def put_environment(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


@dataclasses.dataclass(frozen=True)
class Address:
    """A server's domain, its client's, and the vchan port between them."""
    server: int
    client: int
    port: int

    used = set()

    @classmethod
    def fresh(cls):
        """An address that nobody in this run has used."""
        while True:
            address = cls(random.randint(3, 255), random.randint(3, 511),
                          random.randint(1, 16383))
            if address not in cls.used:
                cls.used.add(address)
                return address

    @property
    def vsock_port(self):
        """Where the server listens, in loopback mode (design 1.4)."""
        return self.server * 2**23 + self.client * 2**14 + self.port

    def open_server(self, read_min=PAGE, write_min=PAGE):
        with environment(VCHAN_DOMAIN=self.server):
            return Vchan.server(self.client, self.port, read_min, write_min)

    def open_client(self):
        with environment(VCHAN_DOMAIN=self.client):
            return Vchan.client(self.server, self.port)

    def open_async(self):
        with environment(VCHAN_DOMAIN=self.client):
            return Vchan.client_async(self.server, self.port)

    def connect_raw(self):
        """A plain vsock socket, connected to this address's server."""
        return raw_connect(self.vsock_port)

    def listen_raw(self, backlog=5):
        """A plain vsock socket that listens where the server would."""
        return raw_listen(self.vsock_port, backlog)


def connected_pair(read_min=PAGE, write_min=PAGE, address=None):
    """A server and its client, connected."""
    address = address or Address.fresh()
    server = address.open_server(read_min, write_min)
    client = address.open_client()
    until(lambda: server.is_open == CONNECTED)
    return server, client


def with_raw_client(read_min=PAGE, write_min=PAGE):
    """A server of ours and, as its client, a plain socket."""
    address = Address.fresh()
    server = address.open_server(read_min, write_min)
    peer = address.connect_raw()
    until(lambda: server.is_open == CONNECTED)
    return server, peer


def with_raw_server():
    """A client of ours and, as its server, a plain socket."""
    address = Address.fresh()
    with address.listen_raw() as listener:
        client = address.open_client()
        peer = accept_raw(listener)
    return client, peer


class OurPeer:
    """A channel that is used like a socket, so that it can take one's place."""

    def __init__(self, chan):
        self.chan = chan

    def sendall(self, data):
        assert self.chan.write(data) == len(data)

    def recv(self, size):
        return self.chan.read(min(size, 1 << 16))

    def close(self):
        self.chan.close()


def is_fake():
    """Is AF_VSOCK that of tests/fake?"""
    return hasattr(ctypes.CDLL(None), "fake_vsock_is_here")


# --- plain sockets -----------------------------------------------------------

raw_opened = []  # conftest closes them


def raw_socket(timeout=SOON):
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    raw_opened.append(sock)
    return sock


def raw_connect(port, cid=CID_LOCAL, source=None):
    """`source`: the port that the connection shall come from."""
    sock = raw_socket()
    try:
        if source is not None:
            sock.bind((CID_ANY, source))
        sock.connect((cid, port))
    except OSError:
        sock.close()
        raise
    return sock


def raw_listen(port, backlog=5, cid=CID_ANY):
    sock = raw_socket()
    sock.bind((cid, port))
    sock.listen(backlog)
    return sock


def accept_raw(listener):
    sock, _ = listener.accept()
    sock.settimeout(SOON)
    raw_opened.append(sock)
    return sock


def recv_exactly(sock, size):
    """`size` bytes from a plain socket, or fewer if it ends before."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            break
        data += piece
    return bytes(data)


def recv_all(sock):
    """Everything a plain socket still delivers before its end."""
    return recv_exactly(sock, 1 << 40)


def refused(port):
    """Does connecting to this vsock port fail?"""
    try:
        raw_connect(port).close()
    except OSError:
        return True
    return False


def shut_out(sock):
    """Wait for the other end to turn this socket away; True when it did."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


# --- bytes -------------------------------------------------------------------

_TABLE = bytes((p * 131 + (p >> 8) * 7) & 0xFF for p in range(1 << 16))


def pattern(size, start=0):
    """`size` bytes that tell their own position (puppet.c makes the same)."""
    begin = start % len(_TABLE)
    return (_TABLE * ((begin + size) // len(_TABLE) + 1))[begin:begin + size]


def read_until_end(chan):
    """Everything a blocking handle delivers until ECONNRESET."""
    data = bytearray()
    while True:
        try:
            data += chan.read(1 << 16)
        except ConnectionResetError:
            return bytes(data)


def read_exactly(chan, size):
    """`size` bytes with libvchan_read."""
    data = bytearray()
    while len(data) < size:
        data += chan.read(size - len(data))
    return bytes(data)


def write_until_full(write):
    """Write a pattern, without blocking, until nothing more fits; how much did.

    A zero is final only once the kernel takes no more either: the thread may just
    be about to hand some over.  So it takes three with a moment between them.
    """
    total = zeros = 0
    while zeros < 3:
        count = write(pattern(PAGE, total))
        total += count
        zeros = 0 if count else zeros + 1
        time.sleep(0 if count else 0.02)
    return total


def fill(chan):
    """write_until_full to a channel that blocks otherwise."""
    chan.set_blocking(False)
    total = write_until_full(chan.write)
    chan.set_blocking(True)
    return total


# --- events and time ---------------------------------------------------------

def poll(fd, milliseconds=0, events=ANY_EVENT):
    """What poll says about one fd: 0 or the events."""
    poller = select.poll()
    poller.register(fd, events)
    ready = poller.poll(milliseconds)
    return ready[0][1] if ready else 0


def readable(fd, seconds=SOON):
    """Wait until the fd reports something; True if that is POLLIN alone."""
    return poll(fd, int(seconds * 1000)) == select.POLLIN


def quiet(fd, milliseconds=A_WHILE_MS):
    """Does poll say nothing at all about this fd for a while?"""
    return poll(fd, milliseconds) == 0


def readable_for_good(fd):
    """Wait until the fd has something to tell to the program.

    Before a channel is connected the simple flavour's fd is readable for each step that
    a call shall take, too; but not for long, as the Attendant sees to it.  On a busy
    machine that may come too late, so each look here is followed by one of its own.
    """
    if not SIMPLE:
        return readable(fd)
    deadline = time.monotonic() + SOON
    in_a_row = 0
    while in_a_row < 10:
        in_a_row = in_a_row + 1 if poll(fd) == select.POLLIN else 0
        _attendant.look(fd)
        assert time.monotonic() < deadline, "not readable for good"
        time.sleep(0.003)
    return True


def nothing_to_tell(fd, milliseconds=A_WHILE_MS):
    """The same, for a while that it does not."""
    if not SIMPLE:
        return quiet(fd, milliseconds)
    deadline = time.monotonic() + milliseconds / 1000
    seen = []
    while time.monotonic() < deadline:
        seen.append(poll(fd))
        time.sleep(0.003)
    return not all(seen) and set(seen) <= {0, select.POLLIN}


def settle(chan):
    """Take in the events that already happened, until the fd is quiet."""
    deadline = time.monotonic() + SOON
    while not quiet(chan.fd, 50):
        chan.wait()
        assert time.monotonic() < deadline, "the fd does not become quiet"


def space_that_stays(chan, little=0):
    """buffer_space, but `little` or less only when the kernel is full as well."""
    deadline = time.monotonic() + A_WHILE_MS / 1000
    while (space := chan.buffer_space) <= little and time.monotonic() < deadline:
        time.sleep(0.001)
    return space


def leave_room(chan, room):
    """Fill the kernel, and the ring but for this: buffer_space stays at `room`.  The bytes
    that it took."""
    total = 0
    while (space := space_that_stays(chan, room)) > room:
        total += chan.write(bytes(space - room))
    return total


def until(condition, seconds=SOON):
    """Look again and again until the condition holds; what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.001)


class Task(threading.Thread):
    """A call in a thread of its own."""

    living = []  # those of the running test

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.function, self.arguments = function, arguments
        self.value = self.error = None
        self.start()
        Task.living.append(self)

    @classmethod
    def all_ended(cls, seconds=SOON):
        """Give the threads of a test a moment to end; did they all?"""
        tasks, cls.living = cls.living, []
        deadline = time.monotonic() + seconds
        for task in tasks:
            task.join(max(0, deadline - time.monotonic()))
        return not any(task.is_alive() for task in tasks)

    def run(self):
        try:
            self.value = self.function(*self.arguments)
        except BaseException as error:  # handed over by result()
            self.error = error

    def result(self, seconds=SOON):
        """What the call returned or raised, once it has."""
        self.join(seconds)
        if self.is_alive():
            raise AssertionError(f"still busy after {seconds} s:\n{self.stack()}")
        if self.error:
            raise self.error
        return self.value

    def stack(self):
        frame = sys._current_frames().get(self.ident)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def asleep(self):
        """Wait until the thread has slept for a while (True) or ended (False)."""
        samples = 0
        while samples < 8 and self.is_alive():
            samples = samples + 1 if self._state() == "S" else 0
            self.join(0.01)
        return self.is_alive()

    def _state(self):
        return thread_state(os.getpid(), self.native_id)


def thread_state(pid, tid):
    """The letter that the kernel has for a thread: S asleep, R running, ..."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "?"


# --- what a process holds ----------------------------------------------------

def fds():
    """The open file descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def threads():
    return set(os.listdir("/proc/self/task"))


def ring_mappings():
    """The mappings of the rings (vchan/ring.c): of shared memory, or of a file under valgrind."""
    with open("/proc/self/maps") as file:
        return [line for line in file if "/dev/zero" in line or "memfd:vchan-ring" in line]


def number_in(path, name):
    """The number behind a name in a file of /proc."""
    with open(path, encoding="ascii") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1])


@dataclasses.dataclass
class Holdings:
    """How many fds, threads and ring mappings this process has."""
    fds: int
    threads: int
    mappings: int

    @classmethod
    def now(cls):
        return cls(len(fds()), len(threads()), len(ring_mappings()))

    def exceeds(self, other):
        return (self.fds > other.fds or self.threads > other.threads or
                self.mappings > other.mappings)

    @classmethod
    def back_to(cls, before, seconds=A_SECOND):
        """Is there no more than before?

        An ended thread is listed until it is reaped, maybe in `before` too.
        """
        deadline = time.monotonic() + seconds
        while (now := cls.now()).exceeds(before) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not now.exceeds(before), f"{now} after {before}"
        return True


def quickest(call):
    """The seconds that it took, the least of three: the machine may be slow now and then."""
    def once():
        begun = time.monotonic()
        call()
        return time.monotonic() - begun
    return min(once() for _ in range(3))


def error_of(call, *arguments):
    """The name of the errno with which a call fails; '' when it succeeds."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""
