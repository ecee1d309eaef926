# SPDX-License-Identifier: LGPL-2.1-or-later
"""A peer of the framed wire, written from docs/wire.md and nothing else.

It keeps the rules only where its user does: it sends what it is told to, and
`program_reads` and `ack` say what its program has had.
"""
import collections
import contextlib
import re
import socket
import struct

import vchan

FRAMED = 1 << 31  # added to the plain port
MAGIC = b"vch1wire"
HELLO = struct.Struct("<8sHHIIIII")
HEADER = struct.Struct("<II")
COUNT, ASK, END, LENGTH = 1 << 28, 1 << 30, 1 << 31, (1 << 28) - 1
SO_VM_SOCKETS_BUFFER_SIZE, SO_VM_SOCKETS_BUFFER_MAX_SIZE = 0, 2
BUFFER = 4 << 20
HELLO_WAIT = 5  # seconds that a server gives a candidate

Hello = collections.namedtuple(
    "Hello", "magic version reserved features read_ring write_ring window buffer",
    defaults=(MAGIC, 1, 0, 0, 0, 0, 0, BUFFER))
Frame = collections.namedtuple("Frame", "payload ask end handed")


def header(length=0, handed=0, flags=0):
    return HEADER.pack(length | flags, handed % 2**32)


class FramedPeer:
    def __init__(self, sock):
        self.sock = sock
        self.arrived = self.handed = 0  # payload: here; had by the program
        self.alone = self.frames = self.asks = 0  # headers alone, others; with ASK
        self.counted = None  # what the other end says it has taken in
        self.answers = True  # the question how much is taken in here
        self.set_buffer(BUFFER)

    def set_buffer(self, size):
        for option in (SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE):
            self.sock.setsockopt(socket.AF_VSOCK, option, size)

    @classmethod
    def connect(cls, address):
        """Once there is a place in the server's queue."""
        def attempt():
            with contextlib.suppress(ConnectionResetError):
                return vchan.raw_connect(address.vsock_port + FRAMED)
        return cls(vchan.until(attempt))

    @classmethod
    def listen(cls, address):
        return vchan.raw_listen(address.vsock_port + FRAMED)

    @classmethod
    def accept(cls, listener):
        return cls(vchan.accept_raw(listener))

    def raw(self, data):
        self.sock.sendall(data)

    def hello(self, **fields):
        self.raw(HELLO.pack(*Hello(**fields)))

    def hear_hello(self):
        return Hello(*HELLO.unpack(vchan.recv_exactly(self.sock, HELLO.size)))

    def send(self, payload, flags=0):
        self.raw(header(len(payload), self.handed, flags) + payload)

    def program_reads(self, size=None):
        """It is told with the next header."""
        self.handed = self.arrived if size is None else self.handed + size

    def ack(self, size=None):
        self.program_reads(size)
        self.send(b"")

    def ask(self):
        self.send(b"", ASK)

    def end(self):
        self.send(b"", END)

    def receive(self):
        """The next frame; None: the stream ended at a frame's boundary."""
        data = vchan.recv_exactly(self.sock, HEADER.size)
        if not data:
            return None
        word, handed = HEADER.unpack(data)
        if word & COUNT:
            self.take_count(word, handed)
            return self.receive()
        payload = vchan.recv_exactly(self.sock, word & LENGTH)
        self.arrived += len(payload)
        self.frames += bool(payload)
        self.alone += not payload
        self.asks += bool(word & ASK)
        return Frame(payload, bool(word & ASK), bool(word & END), handed)

    def take_count(self, word, taken):
        if not word & ASK:
            self.counted = taken
        elif self.answers:
            self.count()

    def count(self, flags=0):
        """How much is taken in here; with ASK: and there?"""
        self.raw(header(0, self.arrived, COUNT | flags))

    def receive_payload(self, size, acknowledge=False):
        """Frames until `size` bytes of payload are here."""
        data = bytearray()
        while len(data) < size:
            data += self.receive().payload
            if acknowledge:
                self.ack()
        return bytes(data)


# --- one of ours and its peer --------------------------------------------------

def meet_server(read_ring=vchan.PAGE, write_ring=vchan.PAGE, **fields):
    """A server of ours with these rings, and a peer that has heard its hello."""
    address = vchan.Address.fresh()
    server = address.open_server(read_ring, write_ring)
    return server, be_client_of(address, server, **fields)


def be_client_of(address, server, **fields):
    """A peer that is the connection of a server that waits."""
    peer = FramedPeer.connect(address)
    peer.hello(**fields)
    peer.heard = peer.hear_hello()
    vchan.until(lambda: server.is_open == vchan.CONNECTED)
    return peer


def be_server_of(connecting, listener, read_ring=vchan.PAGE, write_ring=vchan.PAGE, **fields):
    """The client of ours that is connecting, and its peer.  The rings are ours."""
    peer = FramedPeer.accept(listener)
    peer.heard = peer.hear_hello()
    peer.hello(read_ring=write_ring, write_ring=read_ring, **fields)
    return connecting.result(), peer


def meet_client(read_ring=vchan.PAGE, write_ring=vchan.PAGE, **fields):
    """A client of ours, which gets these rings, and the peer that serves it."""
    address = vchan.Address.fresh()
    with FramedPeer.listen(address) as listener:
        return be_server_of(vchan.Task(address.open_client), listener, read_ring, write_ring,
                            **fields)


def meet(role, read_ring=vchan.PAGE, write_ring=vchan.PAGE, **fields):
    """One of ours with these rings, and its peer."""
    meeting = meet_server if role == "server" else meet_client
    return meeting(read_ring, write_ring, **fields)


# --- the document ---------------------------------------------------------------

def documented_bytes():
    """The hex dumps of docs/wire.md: (client to server, server to client)."""
    text = (vchan.ROOT / "docs" / "wire.md").read_text()
    return tuple(parse_dump(dump) for dump in re.findall(r"```hex\n(.*?)```", text, re.S))


def parse_dump(dump):
    data = b""
    for line in dump.splitlines():
        offset, octets = re.match(r"([0-9a-f]{4}): ((?:[0-9a-f]{2} )+) +\S", line).groups()
        assert int(offset, 16) == len(data), line
        data += bytes.fromhex(octets)
    return data
