# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock list: from the kernel's sockets to channels, and a kernel that errs.

Netlink is played by the test (tests/programs/kernel.c); the processes are real, and so is
the way to them: the test's own sockets are what the "kernel" says is a vsock.
tests/command/test_state.py asks a real one.
"""
import contextlib
import errno
import itertools
import json
import os
import pathlib
import random
import socket
import struct
import subprocess
import threading

import pytest

import programs
import tooling

ANY = 0xFFFFFFFF
ESTABLISHED, CONNECTING, CLOSED, LISTENING, CLOSING = 1, 2, 7, 10, 11
FRAMED = 1 << 31
ERROR, DONE, OVERRUN, BY_FAMILY = 2, 3, 4, 20
MULTI, INTERRUPTED = 2, 0x10


# --- netlink -----------------------------------------------------------------------

def message(kind, payload=b"", sequence=1, flags=MULTI):
    data = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload
    return data + bytes(-len(data) % 4)


def vsock(local, peer=(ANY, ANY), state=ESTABLISHED, inode=0, kind=socket.SOCK_STREAM):
    """What the kernel says of one socket."""
    return struct.pack("=BBBBIIIIIII", socket.AF_VSOCK, kind, state, 0, *local, *peer, inode, 0, 0)


def dump(*sockets, sequence=1):
    """A whole answer, in one datagram."""
    return b"".join(message(BY_FAMILY, each, sequence) for each in sockets) + \
        message(DONE, struct.pack("=i", 0), sequence)


class Kernel(threading.Thread):
    """Answers each request with the next of `answers`, datagrams each."""

    def __init__(self, path, answers):
        super().__init__(daemon=True)
        self.answers, self.requests = answers, []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.start()

    def run(self):
        peer, _ = self.listener.accept()
        with peer, self.listener, contextlib.suppress(ConnectionError):
            for datagrams in self.answers:
                request = peer.recv(4096)
                if not request:
                    return
                self.requests.append(request)
                for datagram in datagrams:
                    peer.send(datagram)
            peer.recv(1)


@pytest.fixture
def listed(tool, tmp_path):
    """listed([datagram, ...], ..., options=()): what the command makes of such answers."""
    numbers = itertools.count()

    def run(*answers, options=("--json",), domain=5, env=()):
        path = tmp_path / f"netlink{next(numbers)}"
        run.kernel = Kernel(path, answers)
        preload = f"{tooling.FAKE}:{programs.program('kernel.so')}"
        return tool("list", *options, text=True, domain=domain, env={
            "LD_PRELOAD": preload, "FAKE_NETLINK": path, "VCHAN_VSOCK_LOOPBACK": None,
            **dict(env)})
    return run


@pytest.fixture
def inode():
    """Makes sockets of this process: their inodes."""
    with contextlib.ExitStack() as stack:
        def make():
            ends = socket.socketpair()
            for end in ends:
                stack.enter_context(end)
            make.ends[os.fstat(ends[0].fileno()).st_ino] = ends
            return os.fstat(ends[0].fileno()).st_ino
        make.ends = {}
        yield make


def channels(done):
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def brief(row):
    return [row[key] for key in ("role", "state", "server", "client", "port", "wire")]


# --- what is a channel ----------------------------------------------------------------

def test_request_is_a_dump_of_all_vsock_sockets(listed):
    assert channels(listed([dump()])) == []
    request = listed.kernel.requests[0]
    size, kind, flags, sequence, _ = struct.unpack_from("=IHHII", request)
    assert (size, kind, flags, sequence) == (len(request), BY_FAMILY, 0x301, 1)
    assert struct.unpack_from("=BBHII", request, 16) == (socket.AF_VSOCK, 0, 0, ANY, 0)


def test_server_that_waits_at_both_ports_is_one(listed, inode):
    port = 42 * 65536 + 512
    rows = channels(listed([dump(vsock((ANY, port), state=LISTENING, inode=inode()),
                                 vsock((ANY, port | FRAMED), state=LISTENING, inode=inode()))],
                           domain=0))
    assert [brief(row) for row in rows] == [["server", "waiting", 0, 42, 512, "auto"]]


@pytest.mark.parametrize("bit, wire", [(0, "plain"), (FRAMED, "framed")])
def test_server_that_waits_at_one_port_has_that_wire(listed, inode, bit, wire):
    rows = channels(listed([dump(vsock((ANY, (42 * 65536 + 512) | bit), state=LISTENING,
                                       inode=inode()))]))
    assert [brief(row) for row in rows] == [["server", "waiting", 5, 42, 512, wire]]


@pytest.mark.parametrize("local, peer, expected", [
    # The host serves guest 42, and its client in guest 42's server.
    ((2, 42 * 65536 + 7 | FRAMED), (42, 99999), ["server", 0, 42, 7, "framed", False]),
    ((2, 42 * 65536 + 7), (42, 99999), ["server", 0, 42, 7, "plain", False]),
    ((ANY, 99999), (42, 2 * 65536 + 7), ["client", 42, 0, 7, "plain", False]),
    # This guest, 5: its server for the host, its client there.
    ((5, 2 * 65536 + 7 | FRAMED), (2, 99999), ["server", 5, 0, 7, "framed", False]),
    ((ANY, 99999), (2, 5 * 65536 + 7 | FRAMED), ["client", 0, 5, 7, "framed", False]),
    # A relay's connection from guest 9 to guest 42, on the host and in guest 5.
    ((ANY, 300), (42, 9 * 65536 + 7 | FRAMED), ["client", 42, 9, 7, "framed", True]),
    ((5, 9 * 65536 + 7 | FRAMED), (2, 300), ["server", 5, 9, 7, "framed", True]),
    # And what a guest and its relay have with each other.
    ((ANY, 99999), (2, 768), ["client", None, 5, None, None, True]),
    ((2, 768), (9, 99999), ["server", None, 9, None, None, True]),
    # Within a machine.
    ((ANY, 99999), (1, 5 * 65536 + 7), ["client", 5, 5, 7, "plain", False]),
    ((1, 5 * 65536 + 7), (1, 99999), ["server", 5, 5, 7, "plain", False]),
])
def test_connection_is_mapped_back(listed, inode, local, peer, expected):
    row, = channels(listed([dump(vsock(local, peer, inode=inode()))]))
    assert [row[key] for key in ("role", "server", "client", "port", "wire", "relayed")] == expected
    assert row["state"] == "connected"


@pytest.mark.parametrize("local, peer, state", [
    ((ANY, 22), (ANY, ANY), LISTENING),                      # no client's
    ((ANY, 9999), (ANY, ANY), LISTENING),
    ((1, 42 * 65536 + 512), (ANY, ANY), LISTENING),          # loopback's
    ((2, 42 * 65536 + 7), (43, 99999), ESTABLISHED),         # not from its client
    ((ANY, 99999), (2, 42 * 65536 + 7), ESTABLISHED),        # nor from here
    ((2, 42 * 65536 + 7), (2, 1024), ESTABLISHED),           # nor from a relay
    ((ANY, 1024), (42, 9 * 65536 + 7), ESTABLISHED),
    ((ANY, ANY), (ANY, ANY), CLOSED),
])
def test_what_is_no_channel_is_shown_with_all_only(listed, inode, local, peer, state):
    answer = [dump(vsock(local, peer, state, inode()))]
    hidden = listed(answer)
    assert json.loads(hidden.stdout) == []
    assert "1 other vsock sockets: --all" in hidden.stderr
    row, = channels(listed(answer, options=("--all", "--json")))
    assert (row["role"], row["server"], row["port"]) == ("other", None, None)
    assert row["local"]["port"] == (None if local[1] == ANY else local[1])


def test_what_no_process_has_is_no_channel(listed):
    """It lies in a listener's queue, or waits for its peer to say goodbye."""
    assert json.loads(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9)))]).stdout) == []


def test_other_types_of_sockets_are_no_channels(listed, inode):
    sock = vsock((2, 42 * 65536 + 7), (42, 9), inode=inode(), kind=socket.SOCK_SEQPACKET)
    assert json.loads(listed([dump(sock)]).stdout) == []


def test_loopback_channel_is_its_two_ends(listed, inode):
    port = 7 * 2**23 + 8 * 2**14 + 512 | FRAMED
    loopback = {"VCHAN_VSOCK_LOOPBACK": "1"}
    rows = channels(listed([dump(vsock((ANY, 5000), (1, port), inode=inode()),
                                 vsock((1, port), (1, 5000), inode=inode()),
                                 vsock((ANY, 42 * 65536 + 512), state=LISTENING, inode=inode()),
                                 vsock((1, port + 1), state=LISTENING, inode=inode()))],
                           env=loopback))
    assert [brief(row) for row in rows] == [
        ["server", "connected", 7, 8, 512, "framed"], ["client", "connected", 7, 8, 512, "framed"],
        ["server", "waiting", 7, 8, 513, "framed"]]


def test_port_base_is_taken_off(listed, inode):
    rows = channels(listed([dump(vsock((ANY, 1000 + 42 * 65536 + 512), state=LISTENING,
                                       inode=inode()))],
                           env={"VCHAN_VSOCK_PORT_BASE": "1000"}))
    assert (rows[0]["client"], rows[0]["port"]) == (42, 512)


@pytest.mark.parametrize("state, name", [(CONNECTING, "connecting"), (CLOSING, "closing"),
                                         (CLOSED, "closed"), (77, "?")])
def test_states_have_names(listed, inode, state, name):
    row, = channels(listed([dump(vsock((ANY, 9), (2, 5 * 65536 + 7), state, inode()))]))
    assert row["state"] == name


def test_rows_are_sorted(listed, inode):
    ports = [(42, 512), (7, 9), (42, 3), (7, 1)]
    rows = channels(listed([dump(*[vsock((ANY, client * 65536 + port), state=LISTENING,
                                         inode=inode()) for client, port in ports])]))
    assert [(row["client"], row["port"]) for row in rows] == sorted(ports)


# --- whose it is --------------------------------------------------------------------

def test_process_and_command_are_those_of_the_socket(listed, inode):
    row, = channels(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=inode()))]))
    comm = pathlib.Path("/proc/self/comm").read_text().strip()
    assert (row["pid"], row["command"], row["processes"]) == (os.getpid(), comm, 1)


def test_processes_are_counted_once_each(listed, inode):
    """A child that forked has the socket, too; two fds of one process are one."""
    number = inode()
    end = inode.ends[number][0]
    with end.dup(), subprocess.Popen(["sleep", "60"], pass_fds=[end.fileno()]) as child:
        row, = channels(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=number))]))
        child.kill()
    # The first in order of number, and numbers begin anew.
    assert (row["pid"], row["processes"]) == (min(os.getpid(), child.pid), 2)


def test_socket_of_nobody_that_can_be_seen_is_not_known(listed):
    row, = channels(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=4294967295))]))
    assert (row["pid"], row["command"], row["processes"]) == (None, None, 0)


def test_queues_are_asked_of_the_socket_itself(listed, inode):
    number = inode()
    inode.ends[number][1].send(b"12345")
    row, = channels(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=number))],
                           options=("--queues", "--json")))
    assert (row["unread"], row["unsent"]) == (5, 0)


def test_queues_are_not_asked_for_unless_wanted(listed, inode):
    row, = channels(listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=inode()))]))
    assert (row["unread"], row["unsent"]) == (None, None)


# --- the table --------------------------------------------------------------------------

def test_table_has_a_header_and_a_line_for_each(listed, inode):
    done = listed([dump(vsock((2, 42 * 65536 + 7), (42, 9), inode=inode()),
                        vsock((2, 9 * 65536 + 7), (9, 9), inode=99))], options=())
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["SERVER", "CLIENT", "PORT", "ROLE", "STATE", "WIRE", "PID", "COMMAND"]
    assert lines[1] == ["host", "9", "7", "server", "connected", "plain", "?", "?"]
    assert lines[2][:7] == ["host", "42", "7", "server", "connected", "plain", str(os.getpid())]


def test_table_with_all_and_queues_has_their_columns(listed):
    done = listed([dump(vsock((2, 22), (42, 1000), inode=99))], options=("-aq",))
    header, line = [line.split() for line in done.stdout.splitlines()]
    assert header[6:10] == ["UNREAD", "UNSENT", "LOCAL", "PEER"]
    assert line == "- - - other connected - ? ? 2:22 42:1000 ? ?".split()


# --- a kernel that errs, or is rude -----------------------------------------------------

SOCK = vsock((2, 42 * 65536 + 7), (42, 9), inode=77)


def test_answer_in_many_datagrams_is_one_list(listed):
    answer = [message(BY_FAMILY, vsock((2, n * 65536 + 7), (n, 9), inode=n)) for n in range(3, 303)]
    rows = channels(listed([*answer, message(DONE, struct.pack("=i", 0))]))
    assert [row["client"] for row in rows] == list(range(3, 303))


@pytest.mark.parametrize("first", [
    [message(BY_FAMILY, SOCK, flags=MULTI | INTERRUPTED), dump()],
    [message(BY_FAMILY, SOCK) + message(DONE, bytes(4), flags=MULTI | INTERRUPTED)],
    [message(OVERRUN)],
])
def test_interrupted_dump_is_asked_for_again(listed, first):
    rows = channels(listed(first, [dump(SOCK, sequence=2)]))
    assert len(rows) == 1
    assert len(listed.kernel.requests) == 2


def test_dump_that_is_always_interrupted_is_given_up(listed):
    answers = [[message(DONE, bytes(4), n, MULTI | INTERRUPTED)] for n in range(1, 100)]
    done = listed(*answers)
    assert done.returncode == 1 and "come and go faster" in done.stderr
    assert len(listed.kernel.requests) == 10


def test_messages_of_another_request_and_kind_are_passed_over(listed):
    rows = channels(listed([message(BY_FAMILY, SOCK, sequence=9) + message(17) + message(1) +
                            message(DONE, sequence=9) + message(BY_FAMILY, SOCK + b"more"),
                            message(BY_FAMILY, b"\2" + SOCK[1:]), dump()]))
    assert len(rows) == 1


@pytest.mark.parametrize("datagram", [
    b"\0" * 7,                                           # shorter than a header
    message(BY_FAMILY, SOCK)[:-4],                       # cut off
    struct.pack("=IHHII", 8, BY_FAMILY, 2, 1, 0),        # a length less than its header
    struct.pack("=IHHII", 0, BY_FAMILY, 2, 1, 0),
    struct.pack("=IHHII", 0xFFFFFFFF, BY_FAMILY, 2, 1, 0),
    message(BY_FAMILY, SOCK[:-8]),                       # a socket of too few bytes
    message(ERROR, b"\1\1"),                             # an error of none
], ids=range(7))
def test_malformed_answers_are_refused(listed, datagram):
    done = listed([datagram])
    assert (done.returncode, done.stdout) == (1, "")
    assert "malformed" in done.stderr and done.stderr.count("\n") == 1


def test_rubbish_does_no_harm(listed):
    """Bytes changed, cut and repeated; the seed is in a failure's text."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(40):
        data = bytearray(message(BY_FAMILY, SOCK) * 2 + message(BY_FAMILY, SOCK + bytes(8)))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 16, 255, chance.randrange(256)))
        done = listed([bytes(data[:chance.randrange(1, len(data) + 1)]), dump()])
        assert done.returncode in (0, 1) and done.stderr.count("\n") <= 1, (seed, data, done)


def test_end_of_netlink_is_no_list(listed):
    done = listed()
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("kind", [ERROR, DONE])
@pytest.mark.parametrize("number, words", [
    (errno.ENOENT, "modprobe vsock_diag"), (errno.EOPNOTSUPP, "modprobe vsock_diag"),
    (errno.EPERM, "as root"), (errno.EACCES, "as root"), (errno.EINVAL, "Invalid argument")])
def test_refusal_says_what_to_do(listed, kind, number, words):
    done = listed([message(kind, struct.pack("=i", -number) + bytes(16))])
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("number, words", [
    (errno.EPROTONOSUPPORT, "modprobe vsock_diag"), (errno.EACCES, "security policy"),
    (errno.EAFNOSUPPORT, "no netlink"), (errno.EMFILE, "Too many open files")])
def test_no_netlink_says_what_to_do(listed, number, words):
    done = listed(env={"FAKE_NETLINK": number})
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and done.stderr.count("\n") == 1


# --- the command line -------------------------------------------------------------------

@pytest.mark.parametrize("words", [["--queue=1"], ["-x"], ["surplus"]])
def test_wrong_command_lines_are_usage(tool, words):
    done = tool("list", *words, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr


@pytest.mark.parametrize("log", ["error", "none"])
def test_variable_that_does_not_parse_is_one_line(tool, log):
    done = tool("list", text=True, env={"VCHAN_VSOCK_PORT_BASE": "x", "VCHAN_VSOCK_LOG": log})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_help_ends_with_an_example(tool):
    done = tool("list", "--help", text=True)
    assert done.returncode == 0 and "Example:\n  vchan-vsock list" in done.stdout
