# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command, run as a user runs it, on the vsock that tests/fake makes.

This process opens no vsock; its children do, and they have the fake before them.
"""
import os
import subprocess
import sys

import pytest

import tooling


@pytest.fixture(scope="session")
def tool_built():
    """The path of the command, and of the fake, both up to date."""
    tooling.build()
    return tooling.TOOL


@pytest.fixture
def surroundings(tool_built):
    """surroundings(domain, **variables): the environment of a child that has the fake."""
    def of(domain=None, **variables):
        env = {name: value for name, value in os.environ.items()
               if name not in ("VCHAN_LIB", "VCHAN_TEST_SCALE", "VCHAN_TEST_WIRES",
                               "VCHAN_TEST_LONG", "VCHAN_TEST_DEADLINE")}
        # A sanitizer's library wants to be the first; it need not be.
        env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        env["VCHAN_VSOCK_LOOPBACK"] = "1"
        if not tooling.REAL:
            env.update(LD_PRELOAD=str(tooling.FAKE), FAKE_VSOCK=f"tools-{os.getpid()}")
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
    def run(*arguments, domain=None, env=(), timeout=tooling.LATE, **options):
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in options and "stderr" not in options:
            options.setdefault("capture_output", True)
        return subprocess.run([str(tool_built), *map(str, arguments)], timeout=timeout,
                              env=surroundings(domain, **dict(env)), **options)
    return run


@pytest.fixture
def started(surroundings):
    """started(words, domain=..., env=...): a Popen with pipes, killed at the end of the
    test if still there.

    stderr, when it is a pipe, has the lines of the command only; read it after its end.
    """
    processes = []

    def start(words, domain=None, env=(), **options):
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        process = subprocess.Popen([str(word) for word in words],
                                   env=surroundings(domain, **dict(env)), **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        tooling.end(process)


@pytest.fixture
def start_tool(tool_built, started):
    """tool(), begun."""
    return lambda *arguments, **how: started([tool_built, *arguments], **how)


@pytest.fixture
def start_python(started):
    """start_python(source, domain=...): a script with the fake, as a plain peer is one."""
    return lambda source, *arguments, **how: started(
        [sys.executable, "-B", "-c", source, *arguments], **how)


@pytest.fixture
def reader():
    """reader(stream): a thread that reads it; .until(rb"pattern"), .data."""
    return tooling.Reader
