# SPDX-License-Identifier: LGPL-2.1-or-later
"""The examples, built as their Makefile builds them against an installed library.

Each is compiled by gcc and clang under strict warnings, and run with both flavours of the
library, on the vsock that tests/fake makes; what arrives is compared with what was sent.
"""
import itertools
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

import pytest

import tooling

EXAMPLES = tooling.ROOT / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.c"))
FLAVOURS = ("vchan-vsock", "vchan-vsock-simple")
STRICT = ("-O2 -Wall -Wextra -Werror -Wshadow -Wconversion -Wstrict-prototypes "
          "-Wmissing-prototypes -Wcast-qual -Wformat=2 -pedantic")
DATA = random.Random(8).randbytes(300_000)
PORTS = itertools.count(600)


@pytest.fixture(scope="session")
def compiled(prefix, run, tmp_path_factory):
    """compiled(flavour, compiler): the directory of the programs."""
    ready = {}

    def compiled(flavour, cc="gcc"):
        if (flavour, cc) not in ready:
            copy = tmp_path_factory.mktemp("examples") / "examples"
            shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns(*PROGRAMS))
            run("make", f"CC={cc}", f"CFLAGS={STRICT}", f"VCHAN={flavour}", cwd=copy,
                PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig")
            ready[flavour, cc] = copy
        return ready[flavour, cc]
    return compiled


@pytest.fixture(params=FLAVOURS)
def start(request, compiled, prefix, clean):
    """start(domain, program, words...): a Popen with pipes, ended with the test."""
    programs, port = compiled(request.param), next(PORTS)
    started = []

    def start(domain, program, *words):
        words = [str(port if word == "PORT" else word) for word in words]
        how = [sys.executable, "-B"] if program.endswith(".py") else []
        env = clean(LD_LIBRARY_PATH=f"{prefix}/lib", LD_PRELOAD=str(tooling.FAKE),
                    FAKE_VSOCK=f"examples-{os.getpid()}", VCHAN_VSOCK_LOOPBACK="1",
                    VCHAN_DOMAIN=str(domain))
        process = subprocess.Popen([*how, str(programs / program), *words], env=env,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        started.append(process)
        return process

    start.vsock_port = (7 << 23) + (8 << 14) + port  # of server 7 and client 8
    yield start
    for process in started:
        tooling.end(process)


def ended(process, data=None, status=0):
    """What it prints on its two ways out, once it has ended, with this status."""
    out, err = process.communicate(data, timeout=tooling.LATE)
    assert process.returncode == status, err.decode()
    return out, err.decode()


# --- compiled ----------------------------------------------------------------

def test_makefile_builds_every_program():
    named = re.search(r"^PROGRAMS := (.*)$", (EXAMPLES / "Makefile").read_text(), re.M)
    assert sorted(named.group(1).split()) == PROGRAMS != []


@pytest.mark.deadline(200)
@pytest.mark.parametrize("cc", ["gcc", "clang"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_compiles_without_a_warning(flavour, cc, compiled):
    assert all(os.access(compiled(flavour, cc) / name, os.X_OK) for name in PROGRAMS)


def test_programs_use_the_library_and_nothing_else_of_the_tree():
    for path in EXAMPLES.glob("*.[ch]"):
        included = set(re.findall(r'#include "(.*)"', path.read_text()))
        assert included <= {"number.h"}, path


def test_readme_names_every_example():
    named = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text()))
    assert named == {path.name for path in EXAMPLES.iterdir()
                     if path.suffix in (".c", ".py")} != set()


def test_echo_is_about_twenty_lines():
    for name in ("echo_server.c", "echo_client.c"):
        lines = (EXAMPLES / name).read_text().partition("int main")[2].splitlines()
        assert len(lines) < 30, name


# --- run ---------------------------------------------------------------------

def test_echo(start):
    server = start(7, "echo_server", 8, "PORT")
    client = start(8, "echo_client", 7, "PORT")
    assert ended(client, DATA) == (DATA, "")
    assert ended(server) == (b"", "")


def test_echo_client_says_that_its_server_is_gone(start):
    server = start(7, "echo_server", 8, "PORT")
    client = start(8, "echo_client", 7, "PORT")
    client.stdin.write(b"one\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"one\n"
    server.kill()
    server.wait(tooling.LATE)
    out, err = ended(client, b"two\n", status=1)
    assert out == b"" and err.startswith("echo_client: ")


@pytest.mark.parametrize("program, words", [
    ("echo_server", ("8x", "PORT")), ("echo_client", ("-7", "PORT")),
    ("poll_loop", ("serve", "", "PORT")), ("async_connect", ("7", "9z", "1"))])
def test_what_is_no_number_is_refused(program, words, start):
    _, err = ended(start(8, program, *words), status=1)
    assert "must not be negative" in err


@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_number_of_arguments_is_status_2(program, start):
    ended(start(8, program), status=2)


def test_poll_loop_both_directions_at_once(start):
    """More than the rings hold, each way, while nobody reads yet."""
    server = start(7, "poll_loop", "serve", 8, "PORT")
    client = start(8, "poll_loop", "connect", 7, "PORT")
    readers = [tooling.Reader(end.stdout) for end in (server, client)]
    for end, data in ((server, DATA), (client, DATA[::-1])):
        end.stdin.write(data)
        end.stdin.flush()
    for reader, data in zip(readers, (DATA[::-1], DATA)):
        with reader.changed:
            assert reader.changed.wait_for(lambda: len(reader.data) >= len(data), tooling.LATE)
        assert bytes(reader.data) == data
    client.stdin.close()
    assert client.wait(tooling.LATE) == server.wait(tooling.LATE) == 0
    assert not server.stderr.read() + client.stderr.read()


def test_poll_loop_delivers_all_of_its_input_and_ends(start):
    """Also what was written before its client had come."""
    server = start(7, "poll_loop", "serve", 8, "PORT")
    server.stdin.write(DATA[:1000])
    server.stdin.flush()
    client = start(8, "poll_loop", "connect", 7, "PORT")
    reader = tooling.Reader(client.stdout)
    server.stdin.write(DATA[1000:])
    server.stdin.close()
    assert client.wait(tooling.LATE) == server.wait(tooling.LATE) == 0
    reader.join(tooling.LATE)
    assert bytes(reader.data) == DATA


def doings(process):
    """Its state, and how much it has done so far."""
    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return stat[0], stat[11:13], re.findall(r"ctxt_switches:\t(\d+)", status)


def test_poll_loop_sleeps_when_nobody_reads(start):
    """Rule 5: with its ring full, and more input waiting, it would spin."""
    server = start(7, "poll_loop", "serve", 8, "PORT")  # whose client never comes
    os.set_blocking(server.stdin.fileno(), False)
    late = time.monotonic() + tooling.LATE
    before = full = None
    while not (full and before[0] == "S" and before == doings(server)):
        assert time.monotonic() < late, f"never asleep: {doings(server)}"
        before = doings(server)
        try:
            full = not os.write(server.stdin.fileno(), bytes(4096))
        except BlockingIOError:
            full = True
        server.poll()
        time.sleep(0.1)
    assert server.returncode is None


def test_async_connect_to_a_server_that_is_there(start):
    server = start(7, "echo_server", 8, "PORT")
    client = start(8, "async_connect", 7, "PORT", 30)
    assert ended(client) == (b"Hello\n", "")
    assert ended(server) == (b"", "")


def test_async_connect_to_a_server_that_comes_later(start):
    client = start(8, "async_connect", 7, "PORT", 30)
    server = start(7, "echo_server", 8, "PORT")
    assert ended(client) == (b"Hello\n", "")
    assert ended(server) == (b"", "")


def test_async_connect_gives_up(start):
    out, err = ended(start(8, "async_connect", 7, "PORT", 0), status=1)
    assert out == b"" and "timed out" in err


def test_python_peer_of_our_server(start):
    server = start(7, "echo_server", 8, "PORT")
    peer = start(8, "python_peer.py", "connect", 1, start.vsock_port)
    lines = b"".join(b"line %d\n" % number for number in range(500))
    assert ended(peer, lines) == (lines, "")
    assert ended(server) == (b"", "")


def test_python_peer_of_our_client(start):
    peer = start(7, "python_peer.py", "listen", start.vsock_port)
    client = start(8, "echo_client", 7, "PORT")
    assert ended(client, DATA) == (DATA, "")
    assert ended(peer) == (b"", "serving CID 1\n")


def test_python_peer_notices_that_our_server_is_gone(start):
    server = start(7, "poll_loop", "serve", 8, "PORT")
    peer = start(8, "python_peer.py", "connect", 1, start.vsock_port)
    peer.stdin.write(b"question\n")
    peer.stdin.flush()
    assert server.stdout.readline() == b"question\n"
    server.stdin.close()
    _, err = ended(peer, status=1)
    assert "left too early" in err
