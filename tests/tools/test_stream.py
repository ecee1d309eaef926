# SPDX-License-Identifier: LGPL-2.1-or-later
"""listen and connect: everything is delivered, everything ends, and the status tells."""
import fcntl
import os
import pathlib
import pty
import random
import re
import select
import signal
import socket
import subprocess
import termios
import time

import pytest

import tooling

MIB = 1 << 20
DATA = random.Random(1).randbytes(3 * MIB + 17)
OTHER = random.Random(2).randbytes(MIB + 5)
NOBODY = subprocess.DEVNULL
HELLO = b"Hello\n"


@pytest.fixture
def listen(start_tool, address):
    """listen(option, ..., popen=option): a server of the test's address."""
    def start(*options, **popen):
        return start_tool("listen", *options, address.client, address.port,
                          domain=address.server, **popen)
    return start


@pytest.fixture
def connect(start_tool, address):
    def start(*options, **popen):
        return start_tool("connect", *options, address.server, address.port,
                          domain=address.client, **popen)
    return start


def feed(process, data):
    """All of its input, which it need not take."""
    try:
        process.stdin.write(data)
        process.stdin.close()
    except BrokenPipeError:
        pass
    process.stdin = None
    return process


def ended(process, status=0):
    """It has, with this status and one line at most; returns (stdout, stderr)."""
    out, err = process.communicate(timeout=tooling.LATE)
    assert process.returncode == status, err
    assert err.count(b"\n") <= 1
    return out, err.decode()


def until(condition):
    late = time.monotonic() + tooling.LATE
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.005)


def catches(process, signo=signal.SIGTERM):
    """It has come so far that it ends by itself when told to."""
    text = pathlib.Path("/proc", str(process.pid), "status").read_text()
    return int(re.search(r"SigCgt:\s*(\w+)", text)[1], 16) >> (signo - 1) & 1


def in_file(tmp_path, data, name="input"):
    path = tmp_path / name
    path.write_bytes(data)
    return path.open("rb")


# --- everything is delivered, and both end ---

@pytest.mark.parametrize("size", [0, 1, 5, len(DATA)])
@pytest.mark.parametrize("options", [("--send-only",), ("--linger", "0")])
def test_file_to_the_server(listen, connect, tmp_path, size, options):
    server = listen(stdin=NOBODY)
    client = connect(*options, stdin=in_file(tmp_path, DATA[:size]))
    assert ended(server) == (DATA[:size], "")
    assert ended(client) == (b"", "")


def test_file_to_the_client(listen, connect, tmp_path):
    server = listen("--send-only", stdin=in_file(tmp_path, DATA))
    client = connect(stdin=NOBODY)
    assert ended(client) == (DATA, "")
    assert ended(server) == (b"", "")


def test_without_any_option_both_end_by_themselves(listen, connect):
    """The receiver's input is open, as at a terminal."""
    server = listen(stdin=subprocess.PIPE)
    client = feed(connect(), HELLO)
    assert client.wait(tooling.LATE) == 0
    assert server.wait(tooling.LATE) == 0
    assert (server.stdout.read(), server.stderr.read()) == (HELLO, b"")


def test_both_ways_at_once(listen, connect, tmp_path):
    server = listen("--linger", "1", stdin=in_file(tmp_path, DATA, "data"))
    client = connect("--linger", "1", stdin=in_file(tmp_path, OTHER, "other"))
    outputs = {}
    reads = [tooling.Reader(process.stdout) for process in (server, client)]
    for name, process, read in zip("sc", (server, client), reads):
        assert process.wait(tooling.LATE) == 0, process.stderr.read()
        read.join(tooling.LATE)
        outputs[name] = bytes(read.data)
    assert outputs == {"s": OTHER, "c": DATA}


def test_question_and_answer(listen, connect):
    """The client stays for the answer, as long as it takes, and ends with the server."""
    server = listen("--exec", "read question; echo the answer to $question")
    client = feed(connect("--linger", "forever"), b"why\n")
    assert ended(client) == (b"the answer to why\n", "")
    assert ended(server) == (b"", "")


def test_who_has_no_input_does_not_close_first(listen, connect):
    server = listen("--linger", "0")
    client = connect("--linger", "0", stdin=NOBODY)
    read = tooling.Reader(client.stdout)
    for n in range(3):
        server.stdin.write(b"%d\n" % n)
        server.stdin.flush()
        read.until(b"%d\n" % n)
    assert client.poll() is None
    server.stdin.close()
    assert client.wait(tooling.LATE) == 0
    assert bytes(read.data) == b"0\n1\n2\n"


def test_recv_only_leaves_the_input_alone(listen, connect, tmp_path):
    file = in_file(tmp_path, DATA)
    server = listen("--recv-only", stdin=file)
    client = feed(connect("--send-only"), HELLO)
    assert ended(server) == (HELLO, "")
    assert file.tell() == 0
    assert ended(client) == (b"", "")


def test_send_only_throws_away_what_comes(listen, connect):
    server = listen()
    client = connect("--send-only")
    feed(server, DATA)
    read = tooling.Reader(server.stdout)
    client.stdin.write(HELLO)
    client.stdin.flush()
    read.until(HELLO)
    feed(client, b"")
    assert ended(client) == (b"", "")


def test_closed_standard_input_is_none(surroundings, connect, address):
    server = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&-', "sh", str(tooling.TOOL), "listen", str(address.client),
         str(address.port)], env=surroundings(address.server), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    client = feed(connect("--send-only"), HELLO)
    assert ended(server) == (HELLO, "")
    assert ended(client) == (b"", "")


@pytest.mark.parametrize("ring", ["1", "4096", "64K", "1M"])
def test_rings_of_any_size(listen, connect, tmp_path, ring):
    server = listen("--read-ring", ring, "--write-ring", ring, stdin=NOBODY)
    client = connect("--send-only", stdin=in_file(tmp_path, OTHER))
    assert ended(server) == (OTHER, "")
    assert ended(client) == (b"", "")


@pytest.mark.parametrize("wire", ["plain", "framed"])
def test_either_wire(listen, connect, tmp_path, wire):
    server = listen(stdin=NOBODY, env={"VCHAN_VSOCK_WIRE": wire})
    client = connect("--send-only", stdin=in_file(tmp_path, DATA), env={"VCHAN_VSOCK_WIRE": wire})
    assert ended(server) == (DATA, "")
    assert ended(client) == (b"", "")


def test_sockets_instead_of_pipes(listen, connect):
    ours, theirs = socket.socketpair()
    server = listen("--linger", "0", stdin=theirs, stdout=theirs)
    theirs.close()
    client = feed(connect("--linger", "forever"), HELLO)
    assert ours.recv(100) == HELLO
    ours.sendall(OTHER)
    ours.shutdown(socket.SHUT_WR)
    assert ended(client) == (OTHER, "")
    assert ended(server) == (None, "")
    ours.close()


# --- who is slow holds up nobody else ---

def fill(pipe):
    """Writes until nothing has gone for a while; the amount."""
    amount, poll = 0, select.poll()
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_NONBLOCK)
    poll.register(pipe, select.POLLOUT)
    while poll.poll(500):
        amount += os.write(pipe.fileno(), bytes(1 << 16))
        assert amount < 64 * MIB
    return amount


def test_reader_that_stops_holds_up_the_writer_and_nothing_is_lost(listen, connect):
    server = listen(stdin=NOBODY)
    client = connect("--send-only")
    amount = fill(client.stdin)
    feed(client, b"")
    assert len(ended(server)[0]) == amount
    assert ended(client) == (b"", "")


def test_what_the_channel_has_taken_is_delivered_however_long_it_takes(listen, connect):
    """Closing it would wait for the reader for a millisecond, and lose the rest."""
    small = {"VCHAN_VSOCK_LINGER_MS": 1, "VCHAN_VSOCK_BUFFER_SIZE": 4096}
    server = listen(stdin=NOBODY, env=small)
    client = connect("--send-only", env=small)
    read = tooling.Reader(server.stdout)
    client.stdin.write(HELLO)
    client.stdin.flush()
    read.until(HELLO)
    server.send_signal(signal.SIGSTOP)
    feed(client, OTHER[:100000])
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(0.3)
    server.send_signal(signal.SIGCONT)
    assert client.wait(tooling.LATE) == server.wait(tooling.LATE) == 0
    read.join(tooling.LATE)
    assert bytes(read.data) == HELLO + OTHER[:100000]


def test_full_output_does_not_hold_up_the_input(listen, connect):
    server = listen()
    client = connect()
    fill(server.stdin)  # the client's output is not read
    read = tooling.Reader(server.stdout)
    client.stdin.write(OTHER + HELLO)
    client.stdin.flush()
    read.until(HELLO)
    assert bytes(read.data) == OTHER + HELLO


# --- what goes wrong is told ---

def test_peer_that_leaves_early(listen, connect):
    server = listen("--exec", "head -c 5")
    client = feed(connect(stdout=NOBODY), DATA)
    _, said = ended(client, 1)
    assert said.endswith("connect: the peer left before all of the input was delivered\n")
    ended(server)


def test_peer_that_leaves_when_it_has_had_all(listen, connect, tmp_path):
    """It is in time, however small the ring is in which it was."""
    server = listen("--read-ring", "1", "--exec", "head -c 5 >/dev/null")
    client = connect("--linger", "forever", stdin=in_file(tmp_path, b"12345"))
    assert ended(client) == (b"", "")
    ended(server)


def test_plain_peer_that_leaves_with_all_of_it_unread(listen, start_python, address):
    """With its part of a pipe in our hands."""
    server = listen()
    peer = start_python(PLAIN_CLIENT + "print(peer.recv(1).decode(), flush=True)\ninput()\n",
                        address.vsock_port)
    server.stdin.write(b"x")
    server.stdin.flush()
    assert peer.stdout.readline() == b"x\n"
    fill(server.stdin)
    peer.communicate(b"\n", timeout=tooling.LATE)
    assert "left before all" in ended(server, 1)[1]


@pytest.mark.parametrize("keep", [(), ("--keep",)])
def test_full_disk(listen, connect, keep):
    with open("/dev/full", "wb") as full:
        server = listen(*keep, stdin=NOBODY, stdout=full)
    client = feed(connect("--send-only"), HELLO)
    assert ended(server, 1)[1] == ("vchan-vsock listen: cannot write to standard output: "
                                   "No space left on device\n")
    client.wait(tooling.LATE)


def test_output_that_nobody_reads(listen, connect):
    server = listen(stdin=NOBODY)
    server.stdout.close()
    client = feed(connect("--send-only"), HELLO)
    assert server.wait(tooling.LATE) == 1
    assert server.stderr.read() == (b"vchan-vsock listen: cannot write to standard output: "
                                    b"Broken pipe\n")
    client.wait(tooling.LATE)


def test_closed_output_is_a_failure_when_something_comes(surroundings, connect, address):
    server = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&-', "sh", str(tooling.TOOL), "listen", str(address.client),
         str(address.port)], env=surroundings(address.server), stdin=NOBODY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client = feed(connect("--send-only"), HELLO)
    assert "cannot write to standard output: Bad file descriptor" in ended(server, 1)[1]
    client.wait(tooling.LATE)


def test_input_that_cannot_be_read(listen, connect, tmp_path):
    server = listen(stdin=NOBODY)
    directory = os.open(tmp_path, os.O_RDONLY)
    client = connect(stdin=directory)
    os.close(directory)
    assert "cannot read the input: Is a directory" in ended(client, 1)[1]
    ended(server)


def test_no_server_in_time(tool, address):
    told = tool("connect", "--timeout", 1, address.server, address.port, domain=address.client,
                text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1
    assert re.match(r"vchan-vsock connect: cannot connect to port \d+ of domain \d+: .*nobody "
                    "served this port in time", told.stderr)


def test_port_that_is_taken(listen, connect):
    first = listen()
    until(lambda: catches(first))
    taken = listen()
    # Whichever was first: the other one says why it is not.
    until(lambda: first.poll() is not None or taken.poll() is not None)
    loser, winner = (first, taken) if first.poll() is not None else (taken, first)
    assert "another process serves this port" in ended(loser, 1)[1]
    winner.kill()


@pytest.mark.parametrize("name, value, domain, port, why", [
    ("VCHAN_DOMAIN", "x", 7, 512, "VCHAN_DOMAIN='x'"),
    ("VCHAN_VSOCK_WIRE", "both", 7, 512, "VCHAN_VSOCK_WIRE='both'"),
    ("VCHAN_DOMAIN", "3", 7, 16384, "the port must be below 16384"),
    ("VCHAN_DOMAIN", "3", 600, 5, "domain must be below"),
])
@pytest.mark.parametrize("command", ["listen", "connect"])
def test_what_can_be_no_address_is_named(tool, command, name, value, domain, port, why):
    told = tool(command, domain, port, env={name: value}, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1 and why in told.stderr


# --- plain peers ---

PLAIN_CLIENT = """
import socket, sys, time
while True:
    peer = socket.socket(socket.AF_VSOCK)
    try:
        peer.connect((1, int(sys.argv[1])))
        break
    except ConnectionResetError:
        time.sleep(0.005)
"""


def test_plain_peer_that_speaks_and_listens(listen, start_python, address):
    server = listen("--linger", "0")
    peer = start_python(PLAIN_CLIENT + """
peer.sendall(b"question")
while piece := peer.recv(65536):
    sys.stdout.buffer.write(piece)
""", address.vsock_port)
    assert server.stdout.read(8) == b"question"
    told = tooling.Reader(peer.stdout)  # what is on its way does not hold all of it
    feed(server, DATA)
    assert peer.wait(tooling.LATE) == 0
    told.join(tooling.LATE)
    assert told.data == DATA
    assert ended(server) == (b"", "")


def test_framed_peer_that_breaks_the_rules(listen, start_python, address):
    """What came before is written out."""
    server = listen()
    peer = start_python(PLAIN_CLIENT + """
peer.sendall(b"vch1wire" + bytes([1]) + bytes(23))
assert peer.recv(32, socket.MSG_WAITALL).startswith(b"vch1wire")
peer.sendall(bytes([5, 0, 0, 0, 0, 0, 0, 0]) + b"first" + b"\\xff" * 8)
peer.recv(1)
""", address.vsock_port + (1 << 31))
    out, said = ended(server, 1)
    assert out == b"first"
    assert "the peer broke the rules of the wire" in said
    assert peer.wait(tooling.LATE) == 0, peer.stderr.read()


@pytest.mark.parametrize("wire, size", [("framed", 5), ("plain", 100000)])
def test_peer_that_dies_with_some_of_it_unread(listen, connect, wire, size):
    """All of it has left our hands; but its program has not had it, or, over the plain
    wire, which does not tell of that, its kernel."""
    env = {"VCHAN_VSOCK_WIRE": wire, "VCHAN_VSOCK_BUFFER_SIZE": 4096}
    server, client = listen(stdin=NOBODY, env=env), connect(env=env)
    read = tooling.Reader(server.stdout)
    client.stdin.write(HELLO)
    client.stdin.flush()
    read.until(HELLO)
    server.send_signal(signal.SIGSTOP)
    client.stdin.write(bytes(size))
    client.stdin.flush()
    until(lambda: unread(client.stdin) == 0)
    server.kill()
    assert "left before all" in ended(client, 1)[1]


def unread(pipe):
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little")


def test_peer_that_is_killed(listen, connect):
    """What its kernel had is written out; what it owed shows in its own status only."""
    server, client = listen(stdin=NOBODY), connect()
    read = tooling.Reader(server.stdout)
    client.stdin.write(HELLO)
    client.stdin.flush()
    read.until(HELLO)
    client.kill()
    assert server.wait(tooling.LATE) == 0
    assert (bytes(read.data), server.stderr.read()) == (HELLO, b"")


# --- commands ---

def test_commands_at_both_ends(listen, connect):
    server = listen("--exec", "read a; echo $a there; read a; test $a = thanks", stdin=NOBODY)
    client = connect("--exec", "echo hello; read a; echo thanks; echo $a >&2")
    assert ended(client) == (b"", "hello there\n")
    assert ended(server) == (b"", "")


@pytest.mark.parametrize("command, status", [("exit 7", 7), ("kill -9 $$", 128 + 9),
                                             ("true", 0), ("/nowhere/such 2>/dev/null", 127)])
def test_status_is_the_commands(listen, connect, command, status):
    server = listen("--exec", command)
    client = connect(stdin=NOBODY)
    ended(server, status)
    assert ended(client) == (b"", "")


def test_command_that_reads_on_when_it_has_closed_its_output(listen, connect, tmp_path):
    server = listen("--exec", f"exec cat > {tmp_path}/copy")
    client = connect("--send-only", stdin=in_file(tmp_path, DATA))
    ended(client)
    ended(server)
    assert (tmp_path / "copy").read_bytes() == DATA


def test_command_writes_much_and_reads_nothing(listen, connect):
    server = listen("--exec", f"head -c {len(DATA)} /dev/zero; cat >/dev/null")
    client = connect("--linger", "1")
    read = tooling.Reader(client.stdout)
    feed(client, OTHER)
    assert client.wait(tooling.LATE) == 0
    read.join(tooling.LATE)
    assert read.data == bytes(len(DATA))
    ended(server)


def test_command_that_reads_nothing_more_can_still_speak(listen, connect):
    """And what it did not read was not delivered."""
    server = listen("--exec", "exec <&-; sleep 0.3; echo done")
    out, said = ended(feed(connect(), DATA), 1)
    assert out == b"done\n" and "left before all" in said
    ended(server)


def test_command_that_reads_nothing_notices_that_the_peer_has_gone(listen, connect):
    server = listen("--exec", "exec <&-; echo begun; while echo; do sleep 0.05; done 2>/dev/null")
    client = connect()
    assert client.stdout.readline() == b"begun\n"
    client.stdin.write(DATA[:1000])
    client.stdin.flush()
    client.kill()
    # Of SIGPIPE, or of an echo that has failed.
    assert server.wait(tooling.LATE) in (128 + signal.SIGPIPE, 0)


def test_command_has_signals_and_variables_as_they_were(listen, connect):
    server = listen("--exec", "grep -E 'Sig(Blk|Ign)' /proc/self/status; env | grep VCHAN_")
    told = ended(connect(stdin=NOBODY))[0].decode()
    assert re.search(r"SigBlk:\s*0+$", told, re.M)
    ignored = int(re.search(r"SigIgn:\s*(\w+)", told)[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1
    assert "VCHAN_VSOCK_LOG" not in told and "CONNECT_TIMEOUT" not in told
    ended(server)


# --- one after the other ---

def test_keep_has_a_command_for_each(listen, connect):
    server = listen("--keep", "--exec", "read name; echo hello $name $$; exit 3")
    answers = [ended(feed(connect("--linger", "forever"), b"%d\n" % n))[0] for n in range(3)]
    assert [answer.split()[:2] for answer in answers] == [
        [b"hello", b"%d" % n] for n in range(3)]
    assert len({answer.split()[2] for answer in answers}) == 3
    server.send_signal(signal.SIGTERM)
    assert ended(server, -signal.SIGTERM) == (b"", "")


def test_keep_sends_a_file_to_each(listen, connect, tmp_path):
    file = in_file(tmp_path, b"left out" + OTHER)
    file.seek(8)
    server = listen("--keep", "--send-only", stdin=file)
    for _ in range(3):
        assert ended(connect(stdin=NOBODY)) == (OTHER, "")
    server.send_signal(signal.SIGTERM)
    ended(server, -signal.SIGTERM)


def test_keep_gathers_from_all(listen, connect):
    server = listen("--keep", stdin=NOBODY)
    read = tooling.Reader(server.stdout)
    for n in range(3):
        ended(feed(connect("--send-only"), b"%d\n" % n))
        read.until(b"%d\n" % n)
    server.send_signal(signal.SIGINT)
    assert server.wait(tooling.LATE) == -signal.SIGINT
    assert bytes(read.data) == b"0\n1\n2\n"


def test_keep_goes_on_receiving_when_its_input_has_ended(listen, connect):
    server = feed(listen("--keep", "--linger", "0"), HELLO)
    assert ended(connect(stdin=NOBODY))[0] == HELLO
    read = tooling.Reader(server.stdout)
    for n in range(2):
        client = connect("--send-only")
        client.stdin.write(b"%d\n" % n)
        client.stdin.flush()
        read.until(b"%d\n" % n)
        assert client.poll() is None
        assert ended(feed(client, b"")) == (b"", "")
    server.send_signal(signal.SIGTERM)
    assert server.wait(tooling.LATE) == -signal.SIGTERM


def test_keep_tells_of_a_peer_that_left_early_and_serves_the_next(listen, connect, tmp_path):
    server = listen("--keep", "--send-only", stdin=in_file(tmp_path, DATA))
    ended(connect("--exec", "head -c 1 >/dev/null"))
    assert ended(connect(stdin=NOBODY)) == (DATA, "")
    server.send_signal(signal.SIGTERM)
    assert "left before all" in ended(server, -signal.SIGTERM)[1]


# --- signals ---

@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("who", ["listen", "connect"])
def test_signal_ends_the_wait_for_a_peer(request, who, signo):
    process = request.getfixturevalue(who)()
    until(lambda: catches(process, signo))
    process.send_signal(signo)
    assert ended(process, -signo) == (b"", "")


def test_signal_in_the_middle_ends_both(listen, connect):
    server, client = listen(), connect()
    read = tooling.Reader(server.stdout)
    client.stdin.write(HELLO)
    client.stdin.flush()
    read.until(HELLO)
    client.send_signal(signal.SIGTERM)
    assert client.wait(tooling.LATE) == -signal.SIGTERM
    assert server.wait(tooling.LATE) == 0


def test_ignored_signal_stays_ignored(surroundings, connect, address):
    """As nohup does it."""
    server = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", str(tooling.TOOL), "listen",
         str(address.client), str(address.port)], env=surroundings(address.server),
        stdin=NOBODY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: catches(server, signal.SIGTERM))
    server.send_signal(signal.SIGHUP)
    ended(feed(connect("--send-only"), HELLO))
    assert ended(server) == (HELLO, "")


@pytest.mark.parametrize("command", ["exec sleep 1000", "trap '' TERM; echo; sleep 1000; sleep 1000"])
def test_signal_takes_the_command_along(listen, connect, tmp_path, command):
    server = listen("--exec", f"echo $$; {command}")
    client = connect(stdin=NOBODY)
    child = int(client.stdout.readline())
    server.send_signal(signal.SIGTERM)
    assert server.wait(tooling.LATE) == -signal.SIGTERM
    assert not pathlib.Path("/proc", str(child)).exists()
    client.wait(tooling.LATE)


# --- progress ---

def test_progress_is_for_terminals(listen, connect):
    server = listen(stdin=NOBODY)
    client = feed(connect("--send-only", "--progress"), OTHER)
    assert ended(client) == (b"", "")
    ended(server)


def test_progress_with_share(listen, connect):
    server = listen(stdin=NOBODY)
    client = feed(connect("--send-only", "--progress=always", "--size", "2M"), bytes(MIB))
    _, told = ended(client)
    assert told.startswith("\r") and told.endswith("\n")
    assert re.search(r"1\.0 MiB sent, 0 B received, [\d.]+ [KMG]iB/s, 0:\d\d, 50 %", told)
    ended(server)


def test_progress_leaves_the_terminals_line(listen, connect):
    ours, terminal = pty.openpty()
    server = listen(stdin=NOBODY)
    client = connect("--progress", stderr=terminal)
    os.close(terminal)
    shown = b""
    client.stdin.write(HELLO)
    client.stdin.flush()
    while b"6 B sent" not in shown:
        shown += os.read(ours, 1000)
    client.send_signal(signal.SIGINT)
    assert client.wait(tooling.LATE) == -signal.SIGINT
    while select.select([ours], [], [], 0)[0]:
        try:
            shown += os.read(ours, 1000)
        except OSError:
            break
    os.close(ours)
    assert shown.endswith(b"\n")
    ended(server)
