# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all suites share: the guard, the deadline, a clean environment.

The guard.  Suites that open AF_VSOCK run only where this machine can talk to
itself (CID 1): in the lab, or on any machine with the module vsock_loopback,
or where tests/fake/vsock.c stands before the real one.  Elsewhere every such
test is skipped before any of its code runs: /dev/vsock may lead to somebody
else's hypervisor.

The deadline.  A test runs in a thread of its own.  When it is late it fails,
with all stacks, and the next one runs: a signal could not interrupt it, since
the library retries EINTR.
"""
import os
import pathlib
import platform
import signal
import socket
import threading

import pytest

import puppet
import vchan

VSOCK_SUITES = ("contract", "kernel", "guest", "stall", "bench", "simple", "hostile", "kill", "soak",
                "command", "relay", "siblings")
HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_DEADLINE = int(os.environ.get("VCHAN_TEST_DEADLINE", "60"))

pytest_plugins = []
if (HERE / "lab" / "fixtures.py").exists():
    pytest_plugins.append("lab.fixtures")


# --- the guard ---------------------------------------------------------------

def has_loopback_module():
    """Is vsock_loopback there?  Asked without touching a socket."""
    if pathlib.Path("/sys/module/vsock_loopback").exists():
        return True
    builtin = pathlib.Path("/lib/modules", platform.release(), "modules.builtin")
    return builtin.exists() and "/vsock_loopback.ko" in builtin.read_text()


def why_no_vsock():
    """Why the suites that need AF_VSOCK cannot run here; '' if they can."""
    if not vchan.FAKE and not has_loopback_module():
        return "no vsock loopback here (modprobe vsock_loopback, or run in the lab)"
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((vchan.CID_LOCAL, vchan.CID_ANY))
    except OSError as error:
        return f"CID 1 cannot be bound here: {error}"
    return ""


def pytest_configure(config):
    # So that a test can interrupt a thread's system call (signal.pthread_kill).
    signal.signal(signal.SIGUSR1, lambda *_: None)
    # A shell's job in the background ignores the one, nohup the other, and so would all
    # that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def leave_out_the_long(config, items):
    """What a run with --long is for; it is not missing from any other."""
    if os.environ.get("VCHAN_TEST_LONG") == "1":
        return
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_collection_modifyitems(config, items):
    leave_out_the_long(config, items)
    reason = None
    for item in items:
        suite = item.path.relative_to(HERE).parts[0]
        late = deadline_of(item)
        # Besides, a fixture may boot a guest, twice.
        item.add_marker(pytest.mark.timeout(late * 1.5 + 300))
        if suite in VSOCK_SUITES:
            reason = why_no_vsock() if reason is None else reason
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


# --- the deadline ------------------------------------------------------------

def deadline_of(item):
    marker = item.get_closest_marker("deadline")
    return marker.args[0] if marker else DEFAULT_DEADLINE


def stacks_of_tasks():
    """What the threads that a test started, and the test, are busy with."""
    return "\n".join(f"{thread.name}:\n{thread.stack()}"
                     for thread in threading.enumerate()
                     if isinstance(thread, vchan.Task))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    late = deadline_of(pyfuncitem)
    task = vchan.Task(lambda: pyfuncitem.obj(**arguments))
    task.join(late)
    if task.is_alive():
        pytest.fail(f"not done after {late} s\n{stacks_of_tasks()}", pytrace=False)
    task.result()
    return True


# --- the environment ---------------------------------------------------------

@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Loopback, and no other variable of the library's.

    The linger is short, for the sake of what tests leave unread; tests of the
    linger set their own.
    """
    for name in [name for name in os.environ if name.startswith("VCHAN_")
                 and name not in ("VCHAN_LIB", "VCHAN_TEST_SCALE", "VCHAN_TEST_WIRES", "VCHAN_TEST_LONG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VCHAN_VSOCK_LOOPBACK", "1")
    monkeypatch.setenv("VCHAN_VSOCK_LINGER_MS", "1000")


@pytest.fixture(autouse=True)
def leave_nothing_open():
    """Close what the test opened: sockets first, so that no close lingers.

    Nobody may close a handle while a thread is in one of its calls: a test ends
    its threads.  After one that failed to, all handles are left open.
    """
    yield
    puppet.put_all_away()
    while vchan.raw_opened:
        vchan.raw_opened.pop().close()
    left_open = list(vchan.Vchan.opened)
    vchan.Vchan.opened.clear()
    assert vchan.Task.all_ended(), "the test left a thread in one of our calls"
    for task in [vchan.Task(chan.close) for chan in left_open]:
        task.result()


@pytest.fixture
def address():
    """An address of two pretended domains that nobody has used."""
    return vchan.Address.fresh()


@pytest.fixture
def pair():
    """A connected server and client with rings of a page and 128 KiB."""
    return vchan.connected_pair()


@pytest.fixture
def raw_client():
    """A server of ours, connected to a plain socket."""
    return vchan.with_raw_client()


@pytest.fixture
def raw_server():
    """A client of ours, connected to a plain socket."""
    return vchan.with_raw_server()
