# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the command share, besides the fixtures in tools/conftest.py.

$VCHAN_TOOL names another build's command, for example build-address-undefined's.  With
VCHAN_TOOL_VSOCK=real, which is for the lab, its vsock is the kernel's and not the fake.
"""
import atexit
import functools
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAKE = ROOT / "build" / "fake" / "vsock.so"
TOOL = pathlib.Path(os.environ.get("VCHAN_TOOL") or ROOT / "build" / "vchan-vsock").resolve()
REAL = (os.environ.get("VCHAN_TOOL_VSOCK") == "real" and
        pathlib.Path("/sys/module/vsock_loopback").exists())
COMMANDS = ("listen", "connect", "proxy", "relay", "addr", "list", "doctor", "bench")

# How long a command may take that has nothing to wait for, on a busy machine.
LATE = 40


def make(target, *options):
    subprocess.run(["make", "-s", *options, str(target.relative_to(ROOT))], cwd=ROOT,
                   check=True, timeout=300)


def flavour():
    """What a build directory's name says about it: build-address-undefined."""
    return TOOL.parent.name.split("-")[1:] if TOOL.parent.parent == ROOT else []


def build():
    """The command and the fake, both up to date."""
    if REAL:
        return  # they are as they were outside
    make(FAKE)
    if flavour():
        make(TOOL, "CC=gcc", "SANITIZE=" + ",".join(flavour()))
    elif TOOL.parent == ROOT / "build":
        make(TOOL)


@functools.cache
def public_directory():
    directory = tempfile.mkdtemp(prefix="vchan-tests-", dir="/tmp")
    os.chmod(directory, 0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@functools.cache
def for_others(path):
    """The file, or a copy of it where another user may not reach it, as below /root."""
    if all(directory.stat().st_mode & stat.S_IXOTH for directory in path.parents):
        return path
    return pathlib.Path(shutil.copy(path, public_directory()))


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
