# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the lab itself.  They open no vsock here, only in its machines."""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import labkit
import sessions
from labkit import processes

HERE = pathlib.Path(__file__).resolve().parent
LAB = HERE / "lab"
BYTES = 3_000_000

# A machine boots beside others, and twice if the first time it does not.
pytestmark = pytest.mark.deadline(320)


def lab(*words, cwd=None, seconds=300, **env):
    """Run lab, with its temporary files where a test can look for them."""
    return subprocess.run(
        [sys.executable, "-B", LAB, *words], cwd=cwd, timeout=seconds,
        stdin=subprocess.DEVNULL, capture_output=True,
        env={**os.environ, "LAB_MODE": "machine", **env})


def descendants(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(child)]
    return found


def alive(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


class Running:
    """A lab run in the background."""

    def __init__(self, tmp_path, *words, mode="machine", children=2):
        self.process = subprocess.Popen(
            [sys.executable, "-B", LAB, "run", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LAB_MODE": mode, "TMPDIR": str(tmp_path)})
        wait_until(lambda: len(descendants(self.process.pid)) >= children)
        self.started = descendants(self.process.pid)

    def expect_nothing_left(self, tmp_path):
        self.process.communicate(timeout=60)
        wait_until(lambda: not any(map(alive, self.started)))
        assert [p.name for p in tmp_path.iterdir()
                if "-console-" not in p.name] == []


# -- one run that shows much ----------------------------------------------

SCRIPT = f"""
echo "$VCHAN_SEEN $UNSEEN" >&2
echo changed >"$1"
echo result >"$LAB_OUT/result"
cat /proc/sys/kernel/hostname "$1" >"$LAB_OUT/inside"
ls /dev/vsock /dev/vhost-vsock /dev/kvm /sys/class/net/lo >/dev/null || exit 1
readlink /proc/[0-9]*/fd/* >"$LAB_OUT/open"
head -c {BYTES} /dev/urandom | tee "$LAB_OUT/bytes"
exit 43
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab")
    out = path / "out"
    (path / "file").write_text("as it was\n")
    done = lab("run", "--out", out, "--", "sh", "-c", SCRIPT, "sh", "file",
               cwd=path, VCHAN_SEEN="seen", UNSEEN="unseen")
    return done, path, out


def test_exit_status_is_carried_out(shown):
    assert shown[0].returncode == 43, shown[0].stderr


def test_output_is_intact(shown):
    done, _, out = shown
    expected = (out / "bytes").read_bytes()
    assert len(expected) == BYTES
    assert hashlib.sha256(done.stdout).digest() == \
        hashlib.sha256(expected).digest()


def test_a_guest_that_never_runs_is_kept(shown):
    """agent.py, hold_kvm: processor 0 of it."""
    assert "anon_inode:kvm-vcpu:0\n" in (shown[2] / "open").read_text()


def test_library_variables_go_in_and_others_do_not(shown):
    assert shown[0].stderr.splitlines()[0] == b"seen "


def test_results_come_out(shown):
    assert (shown[2] / "result").read_text() == "result\n"


def test_nothing_else_is_changed_outside(shown):
    assert (shown[2] / "inside").read_text() == "lab-host\nchanged\n"
    assert (shown[1] / "file").read_text() == "as it was\n"


# -- what goes wrong ------------------------------------------------------

def test_kernel_trouble_fails_a_command_that_passes(tmp_path):
    done = lab("run", "--out", tmp_path, "--", "sh", "-c",
               "echo 'BUG: a fake one' >/dev/kmsg")
    assert done.returncode == 70
    assert b"BUG: a fake one" in done.stderr
    console = next(tmp_path.glob("*console*.txt"))
    assert "BUG: a fake one" in console.read_text()


@pytest.mark.parametrize("who, count", [("qemu-system-x86:28552", 1), ("CPU 0/KVM:99", 1),
                                        ("python3:1", 3), ("vhost-77:78", 3)])
def test_processor_that_a_guest_holds_is_no_trouble_of_ours(who, count):
    """Emulation does that now and then; what comes after it counts again."""
    log = (f"[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 66s! [{who}]\n"
           "[ 1.1] Call Trace:\n[ 1.2]  <TASK>\n[ 2.0] Call Trace:\n")
    assert len(labkit.problems(log)) == count


@pytest.mark.parametrize("program, is_it", [("qemu-system-x86", True), ("vchan-bench", False)])
def test_what_an_emulated_processor_breaks_is_told_from_a_kernels_trouble(program, is_it):
    log = f"""[  444.876419] BUG: TASK stack guard page was hit at 000000002f27041e
[  444.879171] stack guard page: 0000 [#1] PREEMPT SMP NOPTI
[  444.889839] CPU: 0 PID: 615 Comm: {program} Not tainted 6.1.0
"""
    assert labkit.is_broken_by_emulation(log) == is_it
    assert labkit.problems(log)


def test_machine_that_dies_without_a_word_is_the_emulators_fault(tmp_path):
    done = lab("run", "--out", tmp_path, "--", "sh", "-c", "echo b >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == (70 if labkit.nested_kvm() else 72), done.stderr
    assert b"the machine died" in done.stderr


def test_machine_that_cannot_boot_fails_twice_and_says_so(tmp_path):
    # Too little memory for the kernel.
    done = lab("run", "--memory", "40M", "--out", tmp_path, "--", "true")
    assert done.returncode == 71, done.stderr
    assert list(tmp_path.glob("*console*.txt"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_lab(number, tmp_path):
    running = Running(tmp_path, "--", "sleep", "1000")
    running.process.send_signal(number)
    running.expect_nothing_left(tmp_path)
    assert running.process.returncode == (
        -number if number == signal.SIGKILL else 128 + number)


def test_time_limit_ends_everything(tmp_path):
    running = Running(tmp_path, "--timeout", "12", "--", "sleep", "1000")
    running.expect_nothing_left(tmp_path)
    assert running.process.returncode == 124


# -- without a machine ----------------------------------------------------

@pytest.mark.parametrize("script, status", [("exit 5", 5), ("kill -9 $$", 137)])
def test_direct_run_carries_the_status_out(script, status):
    done = lab("run", "--", "sh", "-c", script, LAB_MODE="direct")
    assert done.returncode == status


def test_direct_run_of_a_missing_program():
    assert lab("run", "--", "/no/such", LAB_MODE="direct").returncode == 127


def test_direct_time_limit_ends_what_hides_in_its_own_session(tmp_path):
    running = Running(tmp_path, "--timeout", "2", "--", "sh", "-c",
                      "setsid sleep 1000 & sleep 1000", mode="direct",
                      children=3)
    running.expect_nothing_left(tmp_path)
    assert running.process.returncode == 124


def test_wrong_mode_is_refused():
    done = lab("run", "--", "true", LAB_MODE="sideways")
    assert (done.returncode, b"sideways" in done.stderr) == (125, True)


def test_missing_kernel_is_said_so():
    done = lab("run", "--kernel", "1.2", "--", "true")
    assert done.returncode == 125
    assert b"1.2" in done.stderr and b"install" in done.stderr


def test_check_knows_where_it_is():
    done = lab("check", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert facts["mode"] in ("direct", "machine") and facts["kernels"]


# -- guests ---------------------------------------------------------------

@pytest.mark.long  # other suites' tests live on guests
@pytest.mark.deadline(1500)
def test_guests(tmp_path):
    """guest_checks.py, in a machine that can have guests."""
    for _ in range(3):
        done = lab("run", "--timeout", "480", "--out", tmp_path, "--",
                   sys.executable, "-B", "-m", "pytest",
                   "-c", HERE.parent / "pytest.ini", HERE / "guest_checks.py",
                   seconds=495, LAB_MODE="auto")
        if done.returncode != sessions.EMULATION_FAILED:
            break
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_what_cannot_be_killed_is_left_to_its_machine():
    """A guest's QEMU whose emulated processor never comes back from it."""
    class Stuck:
        waits = 0

        @staticmethod
        def poll():
            return None

        @staticmethod
        def kill():
            pass

        def wait(self, timeout):
            self.waits += 1
            raise subprocess.TimeoutExpired("qemu", timeout)

    stuck = Stuck()
    processes.end(stuck)
    processes.end(stuck)
    assert stuck.waits == 1
