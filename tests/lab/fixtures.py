# SPDX-License-Identifier: LGPL-2.1-or-later
"""pytest's way to the lab's guests: load it with pytest_plugins.

Tests that ask for a guest are skipped, with the reason, where this machine
cannot have any.  What the kernels said meanwhile, this machine's and the
guests', is looked at in the end, and trouble fails the session.  A test that
failed because the emulator lost a guest of it is run again when all the others
are over.
"""
import os
import pathlib
import subprocess
import sys

import pytest
from _pytest.runner import runtestprotocol

HERE = pathlib.Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import labkit                           # noqa: E402

KERNEL_TROUBLE = 70
# At a test that loses its guests, before that is its failure.
ATTEMPTS = 5
# A property of such a test in the report: the names of the guests, for each time.
LOST = "lost"


def answers(machine):
    """Is there one, and does it run programs?"""
    if not machine or not machine.alive():
        return False
    try:
        return machine.run(["true"], timeout=20).returncode == 0
    except (labkit.LabError, subprocess.TimeoutExpired):
        return False


class Shared:
    """A guest that tests share, made when first asked for, and anew if need be."""

    def __init__(self):
        self.machine = None

    def get(self):
        """A guest that answers; made anew when a test killed the last one."""
        if not answers(self.machine):
            self.stop()
            self.machine = labkit.Guest()
        return self.machine

    def stop(self):
        if self.machine:
            self.machine.kill()


class State:
    """What a session keeps: its consoles, and this machine's kernel log."""

    def __init__(self, config):
        # Elsewhere we did nothing to this kernel that it could complain of.
        self.log = labkit.OwnLog() if labkit.have_loopback() else None
        self.machines = []
        self.shared = Shared()
        self.problems = []
        self.kept = []
        self.unlucky = []               # tests to run again
        self.config = config

    def adopt(self, machine):
        if machine not in self.machines:
            self.machines.append(machine)
        return machine

    def finish(self):
        for machine in self.machines:
            machine.kill()
        sources = [("this machine", self.log.text())] if self.log else []
        sources += [(m.name, m.console()) for m in self.machines]
        for where, text in sources:
            self.problems += [f"{where}: {line}"
                              for line in labkit.problems(text)]


def pytest_configure(config):
    config.lab = State(config)


# --- guests that the emulator loses ------------------------------------------

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if not labkit.is_emulated():
        return None
    attempt(item, nextitem)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtestloop(session):
    outcome = yield
    while not outcome.excinfo and session.config.lab.unlucky:
        items, session.config.lab.unlucky = session.config.lab.unlucky, []
        for item, nextitem in zip(items, [*items[1:], None]):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            if session.shouldfail or session.shouldstop:
                return


def attempt(item, nextitem):
    """Run a test, and say how it went unless it is to be run again."""
    said = dict(nodeid=item.nodeid, location=item.location)
    item.ihook.pytest_runtest_logstart(**said)
    item.lab_machines = []
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    lost = [machine.name for machine in item.lab_machines if machine.lost()]
    before = [value for name, value in item.user_properties if name == LOST]
    if lost and any(report.failed for report in reports) and len(before) + 1 < ATTEMPTS:
        item.user_properties.append((LOST, " ".join(lost)))
        item.config.lab.unlucky.append(item)
        item.config.pluginmanager.get_plugin("terminalreporter").write_line(
            f"lab: {' '.join(lost)} lost: {item.nodeid} will be run again")
    else:
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(**said)


def pytest_sessionfinish(session):
    session.config.lab.finish()
    if session.config.lab.problems and session.exitstatus in (0, 5):
        session.exitstatus = KERNEL_TROUBLE


def pytest_terminal_summary(terminalreporter, config):
    lab = config.lab
    if lab.problems:
        terminalreporter.section("kernel log", red=True)
        for line in lab.problems:
            terminalreporter.line(line)
    if lab.log and lab.log.reason:
        terminalreporter.line(f"lab: {lab.log.reason}")
    for path in lab.kept:
        terminalreporter.line(f"lab: console kept: {path}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not report.failed:
        return
    for machine in getattr(item, "lab_machines", []):
        report.sections.append((machine.name, machine.report()))
        item.config.lab.kept.append(keep_console(machine, item))


def keep_console(machine, item):
    """Write it where it outlives the session, or at least the test."""
    directory = os.environ.get("LAB_OUT")
    if not directory:
        factory = getattr(item.config, "_tmp_path_factory", None)
        directory = factory.getbasetemp() if factory else "."
    name = "".join(c if c.isalnum() else "-" for c in item.name)
    path = pathlib.Path(directory) / f"{name}-{machine.name}-console.txt"
    path.write_text(machine.console())
    return path


def require_guests():
    able = labkit.have_guests()
    if not able:
        pytest.skip(f"no guests here: {able.reason}")


def use(request, machine):
    """MACHINE is this test's: its console belongs into the report if the test fails, which
    is run again if MACHINE was lost."""
    node = request.node
    node.lab_machines = getattr(node, "lab_machines", []) + [machine]
    return request.config.lab.adopt(machine)


def running(machine):
    """It, booted if it does not run: after use(), so that a boot that is lost is known."""
    return machine if machine.alive() else machine.start()


@pytest.fixture
def guest(request):
    """A running guest that the session's tests share.

    A test may kill it (the next one gets another), but must leave it unpaused.
    """
    require_guests()
    return running(use(request, request.config.lab.shared.get()))


@pytest.fixture
def fresh_guest(request):
    """Makes guests for one test: fresh_guest(cid=None, memory="320M", ...).

    They are booted unless start=False is said.
    """
    require_guests()
    made = []

    def make(start=True, **kwargs):
        machine = labkit.Guest(**kwargs)
        made.append(machine)
        use(request, machine)
        return machine.start() if start else machine

    yield make
    for machine in made:
        machine.kill()
