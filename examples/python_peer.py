#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A peer without the library: on its plain wire there are the program's bytes alone.

    python_peer.py connect CID PORT     be the client of a server
    python_peer.py listen PORT          be the server of a client, and echo what it sends

PORT is a vsock port, which `vchan-vsock addr SERVER CLIENT PORT` names: between machines
it is the client's CID * 65536 + the vchan port, so that the host, CID 2, is reached by
its guest 42 on vchan port 512 with

    echo Hello | python_peer.py connect 2 2753024
"""
import socket
import sys
import time


def connect(cid, port):
    """As the library's own client: it waits for a server as long as it takes."""
    while True:
        peer = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            peer.connect((cid, port))
            return peer
        except (ConnectionResetError, TimeoutError):  # nobody listens; the machine boots
            peer.close()  # a vsock socket whose connect has failed is of no more use
            time.sleep(0.1)


def ask(peer, question):
    """Sends it, and writes out as many bytes of answer."""
    peer.sendall(question)
    missing = len(question)
    while missing:
        piece = peer.recv(65536)
        if not piece:
            sys.exit("python_peer.py: the other end left too early")
        sys.stdout.buffer.write(piece)
        missing -= len(piece)


def listen(port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(1)
        peer, (cid, _) = listener.accept()
    # Closed now: a second client is refused, and waits for the next server.  A server
    # that is choosy about its clients looks at the CID, which the kernel vouches for.
    print(f"serving CID {cid}", file=sys.stderr, flush=True)
    while piece := peer.recv(65536):
        peer.sendall(piece)
    peer.close()


def main(words):
    if len(words) == 3 and words[0] == "connect":
        with connect(int(words[1]), int(words[2])) as peer:
            for line in sys.stdin.buffer:
                ask(peer, line)
                sys.stdout.flush()
    elif len(words) == 2 and words[0] == "listen":
        listen(int(words[1]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
