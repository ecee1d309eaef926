# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock proxy, on the fake vsock: what goes in at one end comes out at the other.

The tests speak Unix and TCP sockets; where the proxy under test has a vsock or a vchan,
a second proxy stands before it or behind it.
"""
import contextlib
import hashlib
import itertools
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import stat
import tempfile
import threading

import pytest

from vchan import quickest

LATE = 40
MIB = 1 << 20
KINDS = ("unix", "tcp", "vsock", "vchan")
numbers = itertools.count(random.randint(1000, 4000))


# --- places -------------------------------------------------------------------

@pytest.fixture
def place():
    """A directory whose path is short enough for a Unix socket's."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="proxy-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def proxy(start_tool, reader):
    """proxy(options..., LISTEN, CONNECT, domain=...): it listens; .at says where."""
    started = []

    def start(*arguments, domain=7, **options):
        process = start_tool("proxy", "--verbose", *arguments, domain=domain,
                             stdin=None, stdout=None, **options)
        process.said = reader(process.stderr)
        started.append(process)
        process.at = process.said.until(rb"listening at (.*)\n").group(1).decode()
        return process

    yield start
    for process in started:
        process.kill()
        process.said.join(LATE)


class Served:
    """A listening socket in this process."""

    def __init__(self, kind, place):
        if kind == "unix":
            path = f"{place}/served-{next(numbers)}"
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(path)
            self.name = f"unix:{path}"
        else:
            self.socket = socket.socket()
            self.socket.bind(("127.0.0.1", 0))
            self.name = f"tcp:127.0.0.1:{self.socket.getsockname()[1]}"
        self.socket.listen(200)
        self.socket.settimeout(LATE)

    def accept(self):
        accepted = self.socket.accept()[0]
        accepted.settimeout(LATE)
        return accepted


@pytest.fixture
def serve(place):
    made = []

    def start(kind="unix"):
        made.append(Served(kind, place))
        return made[-1]

    yield start
    for served in made:
        served.socket.close()


def connect(name):
    """To an address as the command line has it."""
    kind, _, rest = name.partition(":")
    if kind == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(LATE)
        made.connect("\0" + rest[1:] if rest.startswith("@") else rest)
        return made
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=LATE)


def read_all(peer):
    pieces = []
    while piece := peer.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(peer, size):
    pieces = []
    while size:
        piece = peer.recv(min(size, 1 << 16))
        assert piece, f"the end, with {size} bytes to come"
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def swap(one, other, size):
    """`size` bytes each way, at once; both then know whether they are right."""
    sent = [random.randbytes(size) for _ in range(2)]
    writers = [threading.Thread(target=peer.sendall, args=(data,), daemon=True)
               for peer, data in zip((one, other), sent)]
    got = [None, None]

    def read(which, peer):
        got[which] = read_exactly(peer, size)

    readers = [threading.Thread(target=read, args=(which, peer), daemon=True)
               for which, peer in enumerate((other, one))]
    for thread in writers + readers:
        thread.start()
    for thread in writers + readers:
        thread.join(LATE)
    assert [data and digest(data) for data in got] == [digest(data) for data in sent]


@pytest.fixture
def through(proxy, serve, place):
    """through(listening kind, connecting kind): entrance, served, the proxy between."""
    def build(kind_in, kind_out, *options):
        served = serve("tcp" if kind_out == "tcp" else "unix")
        number = next(numbers)
        out = served.name
        if kind_out == "vsock":
            out = f"vsock:local:{1000000 + number}"
            proxy(out, served.name)
        elif kind_out == "vchan":
            out = f"vchan:9:{number}"
            proxy(f"vchan:7:{number}", served.name, domain=9)
        into = {"unix": f"unix:{place}/in-{number}", "tcp": "tcp:127.0.0.1:0",
                "vsock": f"vsock:local:{2000000 + number}",
                "vchan": f"vchan:8:{number}"}[kind_in]
        tested = proxy(*options, into, out)
        entrance = tested.at
        if kind_in in ("vsock", "vchan"):
            first = proxy(f"unix:{place}/first-{number}",
                          f"vchan:7:{number}" if kind_in == "vchan" else into, domain=8)
            entrance = first.at
        return entrance, served, tested
    return build


# --- bytes --------------------------------------------------------------------

@pytest.mark.parametrize("kind_out", KINDS)
@pytest.mark.parametrize("kind_in", KINDS)
def test_bytes_go_both_ways_at_once(through, kind_in, kind_out):
    entrance, served, _ = through(kind_in, kind_out)
    with connect(entrance) as client, served.accept() as server:
        swap(client, server, 2 * MIB)
        # TCP does not tell at once that its client has closed.
        one, other = (server, client) if kind_in == "tcp" else (client, server)
        one.close()
        assert other.recv(1) == b""


def test_ipv6_and_abstract_names(proxy, serve):
    served = serve()
    name = f"unix:@proxy-{os.getpid()}-{next(numbers)}"
    behind = proxy(name, served.name)
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        into = "tcp:[::1]:0"
    except OSError:
        into = "tcp:localhost:0"
    before = proxy(into, behind.at)
    with connect(before.at) as client, served.accept() as server:
        swap(client, server, 1000)


def test_a_hundred_connections_at_once_through_vchans(proxy, serve, place):
    """Many channels of one domain and port, none mixed up with another."""
    served = serve()
    number = next(numbers)
    proxy(f"vchan:8:{number}", served.name)
    first = proxy("--timeout", 60, f"unix:{place}/in", f"vchan:7:{number}", domain=8)
    data = [random.randbytes(20000) for _ in range(100)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(first.at)) for _ in data]
        for client, piece in zip(clients, data):
            client.sendall(piece)
        servers = [stack.enter_context(served.accept()) for _ in data]
        for server in servers:
            server.sendall(read_exactly(server, 20000)[::-1])
        for client, piece in zip(clients, data):
            assert read_exactly(client, 20000) == piece[::-1]


# --- ends ---------------------------------------------------------------------

@pytest.mark.parametrize("kind_in, kind_out", [("unix", "tcp"), ("tcp", "unix"),
                                               ("vsock", "unix"), ("unix", "vsock")])
def test_a_half_close_is_passed_on_between_sockets(through, kind_in, kind_out):
    entrance, served, _ = through(kind_in, kind_out)
    with connect(entrance) as client, served.accept() as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"request"
        server.sendall(b"r" * MIB)
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"r" * MIB


@pytest.mark.parametrize("kind_in, kind_out", [("unix", "vchan"), ("vchan", "unix")])
def test_who_half_closes_towards_a_vchan_gets_his_reply(through, kind_in, kind_out):
    entrance, served, _ = through(kind_in, kind_out)
    with connect(entrance) as client, served.accept() as server:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert read_exactly(server, 7) == b"request"
        server.sendall(b"r" * MIB)
        server.close()
        assert read_all(client) == b"r" * MIB


def test_without_half_close_the_end_of_a_request_is_the_end(through):
    entrance, served, _ = through("unix", "vchan", "--no-half-close")
    with connect(entrance) as client, served.accept() as server:
        client.sendall(b"r" * MIB)
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"r" * MIB
        server.close()
        assert client.recv(1) == b""


@pytest.mark.parametrize("kind_in, kind_out", [("unix", "vchan"), ("vchan", "tcp"),
                                               ("tcp", "unix"), ("vsock", "tcp")])
def test_what_came_before_an_end_is_delivered(through, kind_in, kind_out):
    """Of either side; whoever reads later, and has sent what the other never read."""
    entrance, served, _ = through(kind_in, kind_out)
    data = random.randbytes(MIB)
    for leaver in ("client", "server"):
        client = connect(entrance)
        server = served.accept()
        leaves, stays = (client, server) if leaver == "client" else (server, client)
        if leaves.family == socket.AF_UNIX:  # TCP itself would lose what is on the way
            stays.sendall(b"never read")
        writer = threading.Thread(target=lambda: (leaves.sendall(data), leaves.close()))
        writer.start()
        assert read_exactly(stays, MIB) == data
        with contextlib.suppress(ConnectionResetError):
            assert stays.recv(1) == b""
        writer.join(LATE)
        stays.close()


def test_who_stays_is_told_of_an_end_while_he_says_nothing(through):
    entrance, served, _ = through("vchan", "vchan")
    with connect(entrance) as client:
        with served.accept():
            pass
        assert client.recv(1) == b""


# --- who does not read --------------------------------------------------------

def memory(process):
    """Bytes that are in use."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("it is gone")


def processor_time(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_idle(process):
    """What only waits costs nothing; else it would be a core at 100 %."""
    used = processor_time(process)
    threading.Event().wait(0.3)
    return processor_time(process) - used < 8  # hundredths of a second


def send_until_stuck(peer, data):
    sent = 0
    peer.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            sent += peer.send(data[sent % len(data):][:1 << 16])
    peer.settimeout(LATE)
    return sent


@pytest.mark.parametrize("kind", ["tcp", "vchan"])
def test_who_does_not_read_holds_up_his_own_peer_only(through, kind):
    entrance, served, tested = through("unix", kind)
    data = random.randbytes(MIB)
    before = memory(tested)
    with connect(entrance) as client, served.accept() as server:
        sent = send_until_stuck(client, data)
        assert sent < 64 * MIB
        assert memory(tested) < before + 4 * MIB
        for _ in range(3):
            with connect(entrance) as other, served.accept() as there:
                swap(other, there, 100000)
        assert is_idle(tested)
        got = read_exactly(server, sent)
        whole = data * (sent // MIB + 1)
        assert digest(got) == digest(whole[:sent])


@pytest.mark.parametrize("kind_in, kind_out", [("unix", "unix"), ("unix", "vchan"),
                                               ("vchan", "unix"), ("tcp", "tcp")])
def test_what_waits_for_a_reader_outlives_its_writer(through, kind_in, kind_out):
    entrance, served, tested = through(kind_in, kind_out)
    client = connect(entrance)
    with served.accept() as server:
        sent = send_until_stuck(client, random.randbytes(MIB))
        client.close()
        with connect(entrance) as other, served.accept() as there:
            swap(other, there, MIB)
        assert is_idle(tested)
        assert len(read_exactly(server, sent)) == sent
        if kind_in == "tcp":
            server.close()


def test_what_lies_in_a_ring_outlives_its_writer(proxy, serve, place):
    """The plain wire's, and a kernel that has less room than the ring."""
    plain = {"VCHAN_VSOCK_WIRE": "plain", "VCHAN_VSOCK_BUFFER_SIZE": 65536,
             "VCHAN_VSOCK_CLIENT_RING": MIB}
    served = serve()
    number = next(numbers)
    proxy(f"vchan:7:{number}", served.name, domain=9, env=plain)
    tested = proxy(f"unix:{place}/in", f"vchan:9:{number}", env=plain)
    client = connect(tested.at)
    with served.accept() as server:
        left = send_until_stuck(client, random.randbytes(MIB))
        client.close()
        while left:  # slowly, so that at last all that is left here lies in the ring
            left -= len(read_exactly(server, min(left, 1 << 15)))
            threading.Event().wait(0.01)
        assert server.recv(1) == b""


def test_a_reply_is_whole_though_the_request_was_never_read(through):
    """A TCP socket that is closed while something is unread loses what it has sent."""
    entrance, served, _ = through("tcp", "vchan")
    with connect(entrance) as client:
        server = served.accept()
        send_until_stuck(client, bytes(MIB))
        writer = threading.Thread(target=lambda: (server.sendall(b"r" * MIB), server.close()))
        writer.start()
        assert len(read_exactly(client, MIB)) == MIB
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        writer.join(LATE)


@pytest.mark.parametrize("kind_in, kind_out", [("unix", "unix"), ("unix", "vchan"),
                                               ("vchan", "unix")])
def test_who_writes_before_he_reads_gets_what_a_leaver_has_sent(through, kind_in, kind_out):
    entrance, served, _ = through(kind_in, kind_out)
    with connect(entrance) as client:
        server = served.accept()
        client.sendall(b"the last words")
    with server:
        with contextlib.suppress(BrokenPipeError):
            server.sendall(bytes(4 * MIB))
        assert read_exactly(server, 14) == b"the last words"


# --- what goes wrong ----------------------------------------------------------

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_refused_connect_closes_the_connection_and_no_more(proxy, place, start_tool, reader):
    nobody = f"unix:{place}/nobody"
    process = start_tool("proxy", f"unix:{place}/in", nobody, stdin=None, stdout=None)
    said = reader(process.stderr)
    while not (place / "in").exists():
        pass
    for _ in range(30):
        client = None
        while not client:
            with contextlib.suppress(ConnectionRefusedError):
                client = connect(f"unix:{place}/in")
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    process.send_signal(signal.SIGTERM)
    assert process.wait(LATE) == 0
    said.join(LATE)
    lines = bytes(said.data).decode().splitlines()
    assert len(lines) < 30
    assert lines[0].startswith("vchan-vsock proxy: connection 1 is closed, ")
    assert nobody in lines[0]


@pytest.mark.parametrize("kind", ["tcp", "vsock", "vchan"])
def test_each_kind_of_connect_that_fails_is_told(proxy, place, kind):
    out = {"tcp": f"tcp:127.0.0.1:{free_port()}", "vsock": "vsock:local:77777",
           "vchan": "vchan:9:77"}[kind]
    tested = proxy("--timeout", 1, f"unix:{place}/in", out)
    assert quickest(lambda: find_it_closed(tested)) < 8, "the default is 10 s"
    tested.said.until(rb"connection 1 is closed, " + out.encode() + b" cannot be reached: ")


def find_it_closed(tested):
    with connect(tested.at) as client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


@pytest.mark.parametrize("arguments, message", [
    ([], "LISTEN and CONNECT"),
    (["unix:/a"], "LISTEN and CONNECT"),
    (["unix:/a", "unix:/b", "unix:/c"], "LISTEN and CONNECT"),
    (["udp:1:2", "unix:/b"], 'LISTEN: "udp:1:2"'),
    (["unix:/a", "/b"], 'CONNECT: "/b"'),
    (["unix:", "unix:/b"], 'LISTEN: "unix:"'),
    (["unix:@", "unix:/b"], 'LISTEN: "unix:@"'),
    (["unix:/" + "a" * 107, "unix:/b"], "at most 107 bytes"),
    (["tcp:localhost", "unix:/b"], 'LISTEN: "tcp:localhost"'),
    (["tcp::80", "unix:/b"], 'LISTEN: "tcp::80"'),
    (["tcp:::1:80", "unix:/b"], 'LISTEN: "tcp:::1:80"'),
    (["unix:/a", "tcp:localhost:0"], 'CONNECT: "tcp:localhost:0"'),
    (["unix:/a", "tcp:localhost:65536"], "65535"),
    (["unix:/a", "tcp:localhost:http"], "65535"),
    (["unix:/a", "vsock:any:1"], "no machine to connect to"),
    (["vsock:one:1", "unix:/b"], 'LISTEN: "vsock:one:1"'),
    (["vsock:1:4294967295", "unix:/b"], "4294967294"),
    (["vchan:x:1", "unix:/b"], 'LISTEN: "vchan:x:1"'),
    (["vchan:7", "unix:/b"], 'LISTEN: "vchan:7"'),
    (["vchan:7:65536", "unix:/b"], "65535"),
    (["vchan:-7:1", "unix:/b"], "vchan:-7:1"),
    (["--max", "0", "unix:/a", "unix:/b"], "--max"),
    (["--mode", "888", "unix:/a", "unix:/b"], "--mode"),
    (["--mode", "1777", "unix:/a", "unix:/b"], "--mode"),
    (["--mode", "600", "unix:@a", "unix:/b"], "--mode"),
    (["--drain", "soon", "unix:/a", "unix:/b"], "--drain"),
    (["--timeout", "0", "unix:/a", "unix:/b"], "--timeout"),
    (["--fast", "unix:/a", "unix:/b"], "--fast"),
])
def test_a_wrong_command_line_is_refused_by_name(tool, arguments, message):
    done = tool("proxy", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    first, second = done.stderr.decode().splitlines()
    assert message in first
    assert second == "Try: vchan-vsock proxy --help"


def test_an_environment_that_does_not_parse_is_named(tool, place):
    done = tool("proxy", f"unix:{place}/a", "unix:/b", env={"VCHAN_VSOCK_BUFFER_SIZE": "big"})
    assert done.returncode == 1
    assert b"VCHAN_VSOCK_BUFFER_SIZE" in done.stderr


@pytest.mark.parametrize("into", ["unix:/nowhere/at/all", "tcp:203.0.113.1:80", "vchan:600:1"])
def test_who_cannot_listen_says_so(tool, into):
    done = tool("proxy", into, "unix:/b", domain=7)
    assert done.returncode == 1
    assert len(done.stderr.decode().splitlines()) == 1
    assert f"cannot listen at {into}: ".encode() in done.stderr


# --- the Unix socket's file ---------------------------------------------------

def test_a_stale_socket_is_replaced(proxy, serve, place):
    path = place / "in"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    served = serve()
    tested = proxy(f"unix:{path}", served.name)
    with connect(tested.at) as client, served.accept() as server:
        swap(client, server, 100)


def test_a_socket_that_lives_is_left_alone(tool, serve):
    served = serve()
    done = tool("proxy", served.name, "unix:/b")
    assert done.returncode == 1
    assert b"somebody listens there already" in done.stderr
    with connect(served.name):
        served.accept().close()


def test_another_file_is_left_alone(tool, place):
    path = place / "file"
    path.write_text("precious")
    done = tool("proxy", f"unix:{path}", "unix:/b")
    assert done.returncode == 1
    assert b"another file is there" in done.stderr
    assert path.read_text() == "precious"


def test_the_socket_has_the_mode_and_goes_with_the_proxy(proxy, place):
    path = place / "in"
    tested = proxy("--mode", "624", f"unix:{path}", "unix:/b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o624
    tested.send_signal(signal.SIGINT)
    assert tested.wait(LATE) == 0
    assert not path.exists()


def test_a_socket_that_is_somebody_elses_by_now_stays(proxy, place):
    path = place / "in"
    tested = proxy(f"unix:{path}", "unix:/b")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        tested.send_signal(signal.SIGTERM)
        assert tested.wait(LATE) == 0
        assert path.exists()


# --- signals, limits ----------------------------------------------------------

@pytest.mark.parametrize("kind_in, kind_out", [("unix", "vchan"), ("vchan", "unix")])
def test_a_signal_lets_those_finish_who_are_there(through, kind_in, kind_out):
    entrance, served, tested = through(kind_in, kind_out, "--drain", 30)
    with connect(entrance) as client, served.accept() as server:
        swap(client, server, 1000)
        tested.send_signal(signal.SIGTERM)
        tested.said.until(rb"stopping; 1 connection may go on for 30 s")
        swap(client, server, MIB)
        server.close()
        assert client.recv(1) == b""
    assert tested.wait(LATE) == 0


@pytest.mark.parametrize("drain, signals", [(1, 1), (1000, 2)])
def test_those_who_do_not_finish_are_cut_off(through, drain, signals):
    entrance, served, tested = through("unix", "vchan", "--drain", drain)
    with connect(entrance) as client, served.accept() as server:
        swap(client, server, 1000)
        tested.send_signal(signal.SIGTERM)
        tested.said.until(rb"stopping; 1 connection may go on for %d s" % drain)
        if signals == 2:
            tested.send_signal(signal.SIGTERM)
        assert client.recv(1) == b""
        assert server.recv(1) == b""
    assert tested.wait(LATE) == 0
    tested.said.until(rb"1 connection cut off")


def fds(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def threads(process):
    return len(os.listdir(f"/proc/{process.pid}/task"))


def eventually(condition):
    done = threading.Event()
    for _ in range(LATE * 100):
        if condition():
            return
        done.wait(0.01)
    assert condition()


@pytest.mark.parametrize("kind_in, kind_out", [("vchan", "unix"), ("unix", "vchan")])
def test_nothing_is_left_of_hundreds_of_connections(through, kind_in, kind_out):
    entrance, served, tested = through(kind_in, kind_out)

    def once():
        with connect(entrance) as client, served.accept() as server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"

    once()
    eventually(lambda: tested.said.data.count(b" has ended") == 1)
    before = fds(tested)
    threads_before = threads(tested)
    for _ in range(200):
        once()
    eventually(lambda: tested.said.data.count(b" has ended") == 201)
    # Fewer where one that had ended was still listed before.
    eventually(lambda: fds(tested) == before and threads(tested) <= threads_before)


@pytest.mark.parametrize("kind_in, kind_out", [("unix", "unix"), ("unix", "vchan"),
                                               ("vchan", "unix")])
def test_more_than_max_wait(through, kind_in, kind_out):
    entrance, served, tested = through(kind_in, kind_out, "--max", 1)
    with connect(entrance) as second_in_line:
        first = served.accept()
        with connect(entrance) as client:
            client.sendall(b"two")
            first.sendall(b"one")
            assert read_exactly(second_in_line, 3) == b"one"
            tested.said.until(b"connection 1 has come to ")
            assert b"connection 2 has come to " not in tested.said.data
            assert is_idle(tested)
            second_in_line.close()
            first.close()
            with served.accept() as server:
                assert read_exactly(server, 3) == b"two"


def test_without_fds_it_waits_and_goes_on(through):
    entrance, served, tested = through("unix", "vchan")
    with connect(entrance) as client, served.accept() as server:
        old = resource.prlimit(tested.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(tested.pid, resource.RLIMIT_NOFILE, (fds(tested) + 2, old[1]))
        waiting = [connect(entrance) for _ in range(10)]
        for each in waiting:
            each.sendall(b"x")
        tested.said.until(rb"nobody is let in for the moment: ")
        assert is_idle(tested)
        swap(client, server, 10000)
        resource.prlimit(tested.pid, resource.RLIMIT_NOFILE, old)
        for each in waiting:
            with served.accept() as there:
                assert there.recv(1) == b"x"
            each.close()
        assert tested.said.data.count(b"nobody is let in") == 1


def test_with_few_fds_it_lets_in_few_and_serves_all(through):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    entrance, served, tested = through("unix", "vchan")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if hard > 64:
        assert b"allows" not in tested.said.data  # it takes what it may have
    with connect(entrance) as client, served.accept() as server:
        swap(client, server, 1000)


@pytest.mark.parametrize("kind_in", ["unix", "vchan"])
def test_once_is_one_connection(through, kind_in):
    entrance, served, tested = through(kind_in, "unix", "--once")
    with connect(entrance) as client, served.accept() as server:
        swap(client, server, 1000)
    assert tested.wait(LATE) == 0


def test_once_tells_that_it_could_not_connect(proxy, place):
    tested = proxy("--once", f"unix:{place}/in", f"unix:{place}/nobody")
    with connect(tested.at) as client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""
    assert tested.wait(LATE) == 1
    assert not (place / "in").exists()


def test_peers_that_start_anew_find_each_other(proxy, serve, place):
    """A vchan's other side dies, and comes back."""
    served = serve()
    number = next(numbers)
    proxy(f"vchan:8:{number}", served.name)
    for _ in range(3):
        first = proxy(f"unix:{place}/in", f"vchan:7:{number}", domain=8)
        with connect(first.at) as client, served.accept() as server:
            swap(client, server, 1000)
            first.kill()
            first.wait(LATE)
            assert server.recv(1) == b""
