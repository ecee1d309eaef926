# SPDX-License-Identifier: LGPL-2.1-or-later
"""A relay of few lines, which does as it is told: what vchan/relay.h describes, for tests
of the library's side.  The test's process is the host."""
import collections
import contextlib
import errno
import socket
import struct
import threading

import vchan

REQUEST = struct.Struct("<8sHHIII")
ANSWER = struct.Struct("<8sHHI")
MAGIC = b"vch1rely"
FRAMED, OURS = 1, 2
OK, REFUSED, NO_MACHINE, DENIED, BUSY, SILENT = range(6)
PRIVILEGED = range(1, 256)      # whose source was, too
FOR_OURS = range(512, 768)
OTHERS = [*range(256, 512), *range(769, 1024)]

Request = collections.namedtuple("Request", "source source_port flags target port")


def answer(status, version=1, magic=MAGIC):
    return ANSWER.pack(magic, version, status, 0)


def target_port(request):
    """The vsock port of the server, in the target."""
    return request.source * 65536 + request.port + (request.flags & FRAMED) * 2**31


def connect_from_below_1024(request):
    """A connection to the server; OSError as the kernel has it."""
    ports = (PRIVILEGED if request.source_port < 1024 else
             FOR_OURS if request.flags & OURS else OTHERS)
    for source in ports:
        try:
            return vchan.raw_connect(target_port(request), request.target, source)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("no port is free")


def pump(source, target):
    """Everything from one to the other, and then its end."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        shut(source)
        shut(target)


def shut(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Relay:
    """Listens on `port` of the host; `behave(request, sock)` does the rest, each in a
    thread of its own.  Preset: join them."""

    def __init__(self, port, behave=None):
        self.requests = []
        self.threads, self.socks = [], []
        self.behave = behave or self.join
        self.listener = vchan.raw_listen(port)
        self.listener.settimeout(None)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                sock, (cid, port) = self.listener.accept()
            except OSError:
                return
            sock.settimeout(None)
            self.socks.append(sock)
            self.threads.append(
                threading.Thread(target=self.serve, args=(sock, cid, port), daemon=True))
            self.threads[-1].start()

    def serve(self, sock, cid, port):
        with sock:
            data = vchan.recv_exactly(sock, REQUEST.size)
            if len(data) < REQUEST.size:
                return
            magic, version, flags, target, vchan_port, zero = REQUEST.unpack(data)
            assert (magic, version, zero) == (MAGIC, 1, 0)
            request = Request(cid, port, flags, target, vchan_port)
            self.requests.append(request)
            self.behave(request, sock)

    def join(self, request, sock):
        try:
            target = connect_from_below_1024(request)
        except OSError as error:
            sock.sendall(answer(NO_MACHINE if error.errno == errno.ENODEV else REFUSED))
            return
        target.settimeout(None)
        self.socks.append(target)
        sock.sendall(answer(OK))
        with target:
            back = threading.Thread(target=pump, args=(target, sock), daemon=True)
            back.start()
            pump(sock, target)
            back.join()

    def close(self):
        shut(self.listener)
        self.listener.close()
        self.thread.join(vchan.SOON)
        self.leave()

    def leave(self):
        """Nobody may be in a call on a socket that is closed."""
        for thread in self.threads:
            for sock in list(self.socks):
                shut(sock)
            thread.join(vchan.SOON)
