# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vchan-vsock bench`: what it measures, and what it takes from the other side.

How fast anything is decides nothing here.
"""
import dataclasses
import json
import os
import pathlib
import pty
import re
import signal
import statistics

import pytest

import vchan

SIZES = ["16", "64", "256", "1K", "4K", "64K", "1M"]
CASES = (["trip-1", "trip-64", "trip-4K"] +
         [f"stream-{size}-{way}" for size in SIZES for way in ("out", "in")] +
         ["qrexec-out", "qrexec-in", "setup"])
QUICK = ["--seconds", 0, "--case", "trip-64"]
LONG = ["--seconds", 600, "--case", "trip-64"]
SOON = 40  # seconds; a run that is LONG takes more

READY, DONE = 1, 2
BYE, TRIP = 0, 1


# --- what goes over the control channel (tools/bench_wire.h) ---------------------

def numbers(*values, size):
    return b"".join(value.to_bytes(4, "little") for value in values).ljust(size, b"\0")


def hello(magic=b"vchbench", version=1, rest=b"\0" * 6, tool=b"1.2", kernel=b"6.1.0"):
    return (magic + version.to_bytes(2, "little") + rest + tool.ljust(32, b"\0") +
            kernel.ljust(80, b"\0"))


def order(what=TRIP, way=0, inward=0, size=1, count=1, rest=()):
    return numbers(what, way, inward, size, count, *rest, size=32)


def answer(what, failed=0, port=0, rest=0):
    return numbers(what, failed, port, rest, size=16)


# A plain peer: says what it is told to, then takes whatever comes.
SERVE = """
import socket, sys
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((1, int(sys.argv[1])))
listener.listen()
print("ready", flush=True)
peer = listener.accept()[0]
peer.sendall(bytes.fromhex(sys.argv[2]))
while peer.recv(65536):
    pass
"""
CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
peer.connect((1, int(sys.argv[1])))
peer.sendall(bytes.fromhex(sys.argv[2]))
while peer.recv(65536):
    pass
"""


# A server of vchans, with the plain wire, and of plain sockets, which it closes as soon
# as somebody has come.  Knows round trips only.
BAD_SOCKETS = """
import socket, sys
def listen(port):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((1, port))
    listener.listen()
    return listener
def answer(*numbers):
    return b"".join(number.to_bytes(4, "little") for number in numbers)
port = int(sys.argv[1])
control, vchans, plain = (listen(port + more) for more in (0, 1, 3))
print("ready", flush=True)
driver = control.accept()[0]
driver.sendall(bytes.fromhex(sys.argv[2]))
driver.recv(128, socket.MSG_WAITALL)
while True:
    order = driver.recv(32, socket.MSG_WAITALL)
    what, way, _, size, count = (int.from_bytes(order[i:i + 4], "little")
                                 for i in range(0, 20, 4))
    if what == 0:
        break
    driver.sendall(answer(1, 0, way * (port + 3), 0))
    peer = (plain if way else vchans).accept()[0]
    peer.sendall(peer.recv(1))
    for _ in range(0 if way else count):
        peer.sendall(peer.recv(size, socket.MSG_WAITALL))
    if not way:
        peer.recv(1)
    peer.close()
    driver.sendall(answer(2, way, 0, 0))
"""


@pytest.fixture
def place(address):
    """An address with room for the ports above it."""
    return dataclasses.replace(address, port=min(address.port, 16383 - 4))


@pytest.fixture
def server(place, start_tool, reader):
    """server(*options): one that waits for a driver; .said is what it says."""
    def start(*options):
        process = start_tool("bench", "--serve", *options, place.client, place.port,
                             domain=place.server)
        process.said = reader(process.stderr)
        process.said.until(rb"serves domain")
        return process
    return start


@pytest.fixture
def drive(place, tool):
    """drive(*options): a run, done."""
    def run(*options, **how):
        return tool("bench", *options, place.server, place.port, domain=place.client,
                    text=True, **how)
    return run


@pytest.fixture
def start_driver(place, start_tool, reader):
    def start(*options, **how):
        process = start_tool("bench", *options, place.server, place.port,
                             domain=place.client, **how)
        process.said = reader(process.stderr) if process.stderr else None
        return process
    return start


@pytest.fixture
def false_server(place, start_python):
    """false_server(bytes): a peer that is no bench, in the server's place."""
    def start(data, script=SERVE):
        process = start_python(script, place.vsock_port, data.hex())
        assert process.stdout.readline() == b"ready\n"
        return process
    return start


@pytest.fixture
def false_driver(place, start_python):
    return lambda data: start_python(CONNECT, place.vsock_port, data.hex())


def ended(process, status):
    """It has, with this status, and .said has its last word."""
    assert process.wait(SOON) == status, bytes(process.said.data)
    process.said.join(SOON)


def one_line(done, *words):
    """Status 1, nothing on stdout, and a line that has the words."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("vchan-vsock bench: ")
    for word in words:
        assert word in done.stderr


# --- measuring ---------------------------------------------------------------------

def check_way(way, rounds):
    good = [figure for figure in way["rounds"] if figure is not None]
    assert len(way["rounds"]) == rounds and way["count"] >= 1
    assert way["died"] == rounds - len(good)
    assert all(figure > 0 for figure in good)
    assert way["median"] == pytest.approx(statistics.median(good))
    assert (way["min"], way["max"]) == (min(good), max(good))


def test_all_cases_are_measured_over_both(server, drive, place):
    serving = server("--once")
    done = drive("--seconds", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["format"] == 1 and found["port"] == place.port
    assert found["wire"] == "framed" and found["rounds"] >= 3 and found["seconds"] > 0
    assert found["driver"]["cid"] == place.client and found["server"]["cid"] == place.server
    version = (vchan.ROOT / "VERSION").read_text().strip()
    for end in ("driver", "server"):
        assert found[end]["version"] == version and found[end]["kernel"]
    assert [case["name"] for case in found["cases"]] == CASES
    for case in found["cases"]:
        check_way(case["vchan"], found["rounds"])
        check_way(case["plain"], found["rounds"])
        assert case["unit"] in ("us", "messages/s", "MiB/s")
        assert case["better"] == ("less" if case["unit"] == "us" else "more")
        assert case["ratio"] == pytest.approx(case["vchan"]["median"] / case["plain"]["median"],
                                              abs=1e-5)
    ended(serving, 0)


def test_table_shows_figures_and_their_ratio(server, drive):
    server("--once")
    done = drive("--seconds", 0, "--case", "stream-4K", "--case", "setup")
    assert (done.returncode, done.stderr) == (0, "")
    rows = re.findall(r"^(\S+) +(\S+) +([\d.]+) \(([\d.]+) to ([\d.]+)\)"
                      r" +([\d.]+) \(([\d.]+) to ([\d.]+)\) +([\d.]+)$", done.stdout, re.M)
    assert [row[0] for row in rows] == ["stream-4K-out", "stream-4K-in", "setup"]
    for row in rows:
        ours, least, most, theirs, their_least, their_most, ratio = map(float, row[2:])
        assert least <= ours <= most and their_least <= theirs <= their_most
        # Of what was rounded to one decimal.
        assert ratio == pytest.approx(ours / theirs, abs=0.02, rel=0.02)


def test_without_plain_sockets_there_is_no_ratio(server, drive):
    server()
    done = drive(*QUICK, "--no-plain", "--json")
    (case,) = json.loads(done.stdout)["cases"]
    assert done.returncode == 0 and case["name"] == "trip-64"
    assert "plain" not in case and "ratio" not in case
    table = drive(*QUICK, "--no-plain").stdout
    assert "trip-64" in table and "ratio" not in table


def test_plain_wire_is_measured_and_named(server, drive):
    server("--once")
    done = drive(*QUICK, "--json", env={"VCHAN_VSOCK_WIRE": "plain"})
    assert (done.returncode, json.loads(done.stdout)["wire"]) == (0, "plain")


def test_server_serves_run_after_run(server, drive):
    serving = server()
    for _ in range(3):
        assert drive(*QUICK).returncode == 0
    assert len(serving.said.until(rb"(has measured[^+]*){3}").group()) > 0
    assert serving.poll() is None


def test_plain_sockets_that_die_are_told_of(false_server, drive):
    """The channel's own figures stand, and the status says that not all was measured."""
    false_server(hello(), BAD_SOCKETS)
    done = drive(*QUICK, "--json")
    (case,) = json.loads(done.stdout)["cases"]
    assert case["vchan"]["died"] == 0 and case["vchan"]["median"] > 0
    assert case["plain"]["rounds"] == [None] * 3 and case["plain"]["died"] == 3
    assert case["plain"]["median"] is None and case["ratio"] is None
    assert done.returncode == 1 and "not all could be measured" in done.stderr


def test_table_tells_of_plain_sockets_that_die(false_server, drive):
    false_server(hello(), BAD_SOCKETS)
    done = drive(*QUICK)
    assert done.returncode == 1
    assert re.search(r"^trip-64 +us +[\d.]+ \(.*\) +died +-$", done.stdout, re.M)


def test_progress_is_for_a_terminal(server, start_driver):
    server("--once")
    ours, theirs = pty.openpty()
    driver = start_driver(*QUICK, "--json", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # a terminal that nobody has any more
        pass
    os.close(ours)
    assert json.loads(driver.stdout.read()) and driver.wait(SOON) == 0
    assert b"round 1, trip-64" in shown and shown.endswith(b"\r\x1b[K")


def test_help_names_every_case(tool):
    text = tool("bench", "--help", text=True).stdout
    for word in ["trip-1", "trip-64", "trip-4K", "stream-16", "-1M", "qrexec-out", "setup"]:
        assert word in text


# --- the command line ----------------------------------------------------------------

@pytest.mark.parametrize("words, named", [
    (["--case", "stream-65", 7, 5], "no such case: stream-65"),
    (["--case", "", 7, 5], "no such case: "),
    (["--seconds", 601, 7, 5], "--seconds"),
    (["--seconds", "1s", 7, 5], "--seconds"),
    (["--patience", 0, 7, 5], "--patience"),
    (["--serve", "--json", 7, 5], "--json is for the side that drives"),
    (["--once", 7, 5], "--once goes with --serve"),
    ([7], "DOMAIN and PORT"),
    ([7, 5, 5], "DOMAIN and PORT"),
    (["guest", 5], "DOMAIN"),
    ([7, 65532], "no room for the 4 ports"),
])
def test_wrong_words_are_refused_by_name(tool, words, named):
    done = tool("bench", *words, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr.splitlines()[0]


def test_a_server_that_is_not_there_is_waited_for_with_patience(drive, place):
    one_line(drive("--patience", 1), f"nobody serves port {place.port}", "bench --serve")


def test_port_that_is_taken_ends_the_server(server, place, tool):
    server()
    done = tool("bench", "--serve", place.client, place.port, domain=place.server, text=True)
    assert done.returncode == 1 and "in use" in done.stderr


# --- deaths ----------------------------------------------------------------------------

def test_server_that_is_killed_midway_ends_the_run(server, start_driver):
    serving = server("--once")
    driver = start_driver(*LONG)
    serving.said.until(rb"domain \d+ drives")
    serving.kill()
    ended(driver, 1)
    # If it was about to connect once more: a client waits for its server.
    assert b"gone" in driver.said.data or b"silent" in driver.said.data
    assert driver.stdout.read() == b""


def test_driver_that_is_killed_midway_does_not_end_the_server(server, start_driver, drive):
    serving = server()
    driver = start_driver(*LONG)
    serving.said.until(rb"domain \d+ drives")
    driver.kill()
    serving.said.until(rb"gone in the middle of a run")
    assert drive(*QUICK).returncode == 0
    assert serving.poll() is None


def test_run_that_broke_off_is_a_failure_of_once(server, start_driver):
    serving = server("--once")
    driver = start_driver(*LONG)
    serving.said.until(rb"domain \d+ drives")
    driver.kill()
    ended(serving, 1)


def test_server_that_stops_midway_ends_the_run(server, start_driver):
    serving = server("--once")
    driver = start_driver(*LONG, "--patience", 5)
    serving.said.until(rb"domain \d+ drives")
    serving.send_signal(signal.SIGSTOP)
    ended(driver, 1)
    assert b"has been silent for 5 s" in driver.said.data


def test_driver_that_stops_midway_makes_room_for_the_next(server, start_driver, drive):
    serving = server("--patience", 5)
    driver = start_driver(*LONG)
    serving.said.until(rb"domain \d+ drives")
    driver.send_signal(signal.SIGSTOP)
    serving.said.until(rb"has been silent for 5 s")
    assert drive(*QUICK).returncode == 0


def children_of(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"
    except OSError:
        return True


def test_run_ends_with_its_server(server):
    serving = server()
    (child,) = children_of(serving.pid)
    serving.terminate()
    ended(serving, -signal.SIGTERM)
    vchan.until(lambda: is_gone(child))


# --- the other side is another security domain -------------------------------------

VERSION_2 = hello(version=2)
NOT_HELLOS = {
    "another magic": (hello(magic=b"vchbunch"), "not the bench's"),
    "a web server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not the bench's"),
    "reserved bytes": (hello(rest=b"\0\0\0\0\0\1"), "malformed"),
    "no version": (hello(tool=b""), "malformed"),
    "an escape": (hello(kernel=b"\x1b[2J"), "malformed"),
    "a quote": (hello(kernel=b'6.1", "'), "malformed"),
    "more after the end": (hello(kernel=b"6.1\0x"), "malformed"),
}


def test_server_of_another_version_is_refused(false_server, drive):
    false_server(VERSION_2)
    one_line(drive(*QUICK), "version 2", "version 1", "the same vchan-vsock")


def test_driver_of_another_version_is_refused(server, false_driver):
    serving = server("--once")
    false_driver(VERSION_2)
    ended(serving, 1)
    assert b"speaks version 2" in serving.said.data


@pytest.mark.parametrize("case", NOT_HELLOS)
def test_server_that_is_none_is_refused(false_server, drive, case):
    data, why = NOT_HELLOS[case]
    false_server(data)
    one_line(drive(*QUICK), why)


@pytest.mark.parametrize("case", NOT_HELLOS)
def test_driver_that_is_none_is_refused(server, false_driver, case):
    serving = server("--once")
    data, why = NOT_HELLOS[case]
    false_driver(data)
    ended(serving, 1)
    assert why.encode() in serving.said.data


def test_server_that_says_nothing_is_not_waited_for_long(false_server, drive):
    false_server(b"")
    one_line(drive(*QUICK, "--patience", 1), "silent for 1 s")


@pytest.mark.parametrize("data", [
    order(what=5), order(way=2), order(inward=2), order(size=(1 << 20) + 1),
    order(count=(1 << 26) + 1), order(rest=[1]), order(size=0), order(count=0),
    b"\xff" * 32,
], ids=lambda data: data.hex()[:40])
def test_orders_that_there_are_not_are_refused(server, false_driver, data):
    serving = server("--once")
    false_driver(hello() + data)
    ended(serving, 1)
    assert b"it orders " in serving.said.data


@pytest.mark.parametrize("data, why", [
    (answer(DONE), "malformed"), (answer(7), "malformed"), (answer(READY, failed=2), "malformed"),
    (answer(READY, rest=1), "malformed"), (answer(READY, port=5), "on vsock port 5, not 0"),
    (answer(READY, failed=1), "cannot open a channel"), (b"\xff" * 16, "malformed"),
], ids=lambda value: value.hex()[:24] if isinstance(value, bytes) else "")
def test_answers_that_there_are_not_are_refused(false_server, drive, data, why):
    false_server(hello() + data)
    one_line(drive(*QUICK), why)


def test_next_driver_is_served_after_garbage(server, false_driver, drive):
    serving = server()
    false_driver(os.urandom(4096))
    serving.said.until(rb"not the bench's")
    assert drive(*QUICK).returncode == 0


def test_driver_that_orders_and_leaves_is_no_trouble(server, false_driver, drive):
    """The server waits for a connection that never comes, and for whom it serves."""
    serving = server()
    peer = false_driver(hello() + order(way=1))
    serving.said.until(rb"domain \d+ drives")
    peer.kill()
    serving.said.until(rb"gone in the middle of a run")
    assert drive(*QUICK).returncode == 0
