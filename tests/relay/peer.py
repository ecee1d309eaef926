# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest: what takes more than a puppet's plain socket.

    peer.py serve VSOCK_PORT             tells who has come, and the 16 bytes it says
    peer.py ask TARGET PORT FROM_PORT    from that port; tells the relay's status
    peer.py stall VSOCK_PORT             reads only when told to; tells how much it was
    peer.py fill TARGET PORT             tells when nothing goes in any more, then how much
    peer.py pretend CID                  tells why it cannot be of that CID
"""
import errno
import socket
import struct
import sys

RELAY = (socket.VMADDR_CID_HOST, 768)


def serve(port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
        print("listening", flush=True)
        sock, (cid, from_port) = listener.accept()
        with sock:
            print(cid, from_port, sock.recv(16, socket.MSG_WAITALL).decode(), flush=True)


def ask(target, port, from_port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.bind((socket.VMADDR_CID_ANY, from_port))
        sock.connect(RELAY)
        # What follows the request at once is for the target.
        sock.sendall(struct.pack("<8sHHIII", b"vch1rely", 1, 0, target, port, 0) + b"x" * 16)
        print(struct.unpack("<8sHHI", sock.recv(16, socket.MSG_WAITALL))[2], flush=True)
        sock.recv(1)


def stall(port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
        print("listening", flush=True)
        sock, _ = listener.accept()
        with sock:
            sys.stdin.readline()
            count = 0
            while data := sock.recv(1 << 20):
                count += len(data)
            print(count, flush=True)


def fill(target, port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.connect(RELAY)
        sock.sendall(struct.pack("<8sHHIII", b"vch1rely", 1, 0, target, port, 0))
        assert struct.unpack("<8sHHI", sock.recv(16, socket.MSG_WAITALL))[2] == 0
        sock.settimeout(2)
        count, data = 0, bytes(65536)
        try:
            while True:
                count += sock.send(data)
        except TimeoutError:
            print("full", flush=True)
        sock.settimeout(None)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        print(count + len(data), flush=True)
        sock.recv(1)


def pretend(cid):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((cid, 5000))
            print("it can", flush=True)
        except OSError as error:
            print(errno.errorcode[error.errno], flush=True)


{"serve": serve, "ask": ask, "pretend": pretend, "stall": stall, "fill": fill}[sys.argv[1]](*map(int, sys.argv[2:]))
