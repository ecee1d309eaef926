# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command on a host and in its guest: domains are as in tests/guest."""
import os
import subprocess
import sys
import threading

import pytest

from guest.conftest import in_guest, port, real_domains  # noqa: F401 (fixtures)

# A guest inside of an emulated machine is slow to start programs.
LATE = 120


def clean_environment():
    """Real domains; this machine is the host, whatever else it may be."""
    return {**{name: value for name, value in os.environ.items()
               if not name.startswith("VCHAN_")}, "VCHAN_DOMAIN": "0"}


class Lines(threading.Thread):
    """What a program of this machine says, as the lab has it for a guest's."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream = stream
        self.lines = []
        self.changed = threading.Condition()
        self.start()

    def run(self):
        for line in self.stream:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def readline(self, timeout=LATE):
        with self.changed:
            assert self.changed.wait_for(lambda: self.lines, timeout), "it says nothing"
            return self.lines.pop(0)


@pytest.fixture
def on_host():
    """on_host(argv): a program here; .said.readline() is what it says, of both streams."""
    started = []

    def start(argv, **options):
        process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env=clean_environment(),
                                   **options)
        started.append(process)
        process.said = Lines(process.stdout)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LATE)
        process.said.join(LATE)
        process.stdout.close()


@pytest.fixture
def in_machine():
    """in_machine(guest, argv): the same in a guest."""
    started = []

    def start(guest, argv, env=()):
        process = guest.popen(list(map(str, argv)), env=dict(env))
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LATE)


@pytest.fixture
def there(guest, in_machine):
    """there(argv): in the guest that tests share."""
    return lambda argv, env=(): in_machine(guest, argv, env)


def python(source, *arguments):
    return [sys.executable, "-B", "-c", source, *arguments]


def loopback_in(guest):
    """127.0.0.1 wants an interface."""
    guest.run(["ip", "link", "set", "lo", "up"], timeout=LATE)
