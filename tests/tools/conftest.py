# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command, run as a user runs it, on the vsock that tests/fake makes.

This process opens no vsock; its children do, and they have the fake before them.
$VCHAN_TOOL names another build's command, for example build-address-undefined's.
"""
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FAKE = ROOT / "build" / "fake" / "vsock.so"
TOOL = pathlib.Path(os.environ.get("VCHAN_TOOL") or ROOT / "build" / "vchan-vsock").resolve()

# How long a command may take that has nothing to wait for, on a busy machine.
LATE = 40


def make(target, *options):
    subprocess.run(["make", "-s", *options, str(target.relative_to(ROOT))], cwd=ROOT,
                   check=True, timeout=300)


def flavour():
    """What a build directory's name says about it: build-address-undefined."""
    return TOOL.parent.name.split("-")[1:] if TOOL.parent.parent == ROOT else []


@pytest.fixture(scope="session")
def tool_built():
    """The path of the command, and of the fake, both up to date."""
    make(FAKE)
    if flavour():
        make(TOOL, "CC=gcc", "SANITIZE=" + ",".join(flavour()))
    elif TOOL.parent == ROOT / "build":
        make(TOOL)
    return TOOL


@pytest.fixture
def surroundings(tool_built):
    """surroundings(domain, **variables): the environment of a child that has the fake."""
    def of(domain=None, **variables):
        env = dict(os.environ, LD_PRELOAD=str(FAKE), FAKE_VSOCK=f"tools-{os.getpid()}",
                   VCHAN_VSOCK_LOOPBACK="1",
                   # A sanitizer's library wants to be the first; it need not be.
                   ASAN_OPTIONS="verify_asan_link_order=0")
        if domain is not None:
            env["VCHAN_DOMAIN"] = str(domain)
        for name, value in variables.items():
            env.pop(name, None)
            if value is not None:
                env[name] = str(value)
        return env
    return of


@pytest.fixture
def tool(tool_built, surroundings):
    """tool("connect", 7, 512, domain=8, input=b"...", env={...}): a CompletedProcess.

    Bytes, if not text=True; other options are those of subprocess.run.
    """
    def run(*arguments, domain=None, env=(), timeout=LATE, **options):
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in options and "stderr" not in options:
            options.setdefault("capture_output", True)
        return subprocess.run([str(tool_built), *map(str, arguments)], timeout=timeout,
                              env=surroundings(domain, **dict(env)), **options)
    return run


@pytest.fixture
def start_tool(tool_built, surroundings):
    """The same as a Popen with pipes, killed at the end of the test if still there.

    stderr, when it is a pipe, has the lines of the command only; read it after its end.
    """
    started = []

    def start(*arguments, domain=None, env=(), **options):
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        process = subprocess.Popen([str(tool_built), *map(str, arguments)],
                                   env=surroundings(domain, **dict(env)), **options)
        started.append(process)
        return process

    yield start
    for process in started:
        end(process)


@pytest.fixture
def start_python(surroundings):
    """start_python(source, domain=...): a script with the fake, as a plain peer is one."""
    started = []

    def start(source, *arguments, domain=None, env=(), **options):
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        process = subprocess.Popen([sys.executable, "-B", "-c", source, *map(str, arguments)],
                                   env=surroundings(domain, **dict(env)), **options)
        started.append(process)
        return process

    yield start
    for process in started:
        end(process)


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait(LATE)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            try:
                stream.close()
            except OSError:  # what was not written yet has nobody to read it
                pass


class Reader(threading.Thread):
    """Reads a stream to its end, beside the test."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream = stream
        self.data = bytearray()
        self.changed = threading.Condition()
        self.start()

    def run(self):
        while piece := os.read(self.stream.fileno(), 1 << 16):
            with self.changed:
                self.data += piece
                self.changed.notify_all()

    def until(self, pattern, timeout=LATE):
        """The match, once the pattern has come."""
        with self.changed:
            assert self.changed.wait_for(lambda: re.search(pattern, self.data), timeout), \
                f"{pattern!r} has not come: {bytes(self.data[-2000:])!r}"
            return re.search(pattern, self.data)


@pytest.fixture
def reader():
    """reader(stream): a thread that reads it; .until(rb"pattern"), .data."""
    return Reader
