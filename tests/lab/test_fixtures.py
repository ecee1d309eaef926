# SPDX-License-Identifier: LGPL-2.1-or-later
"""A test whose guest the emulator has lost is run again, and no other one."""
import pathlib
import subprocess
import sys

import pytest

import sessions

TESTS = pathlib.Path(__file__).resolve().parents[1]
SESSION = sessions.Session("lab", (), 1)
CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
pytest_plugins = ["lab.fixtures"]
from lab import fixtures
fixtures.labkit.is_emulated = lambda: True
"""
# The guest is lost in the first LOST attempts at the test, which fails in the first FAILED.
SUITE = """
import pytest
from lab.fixtures import use

class Machine:
    name = "lab-guest-7"
    def __init__(self, is_lost):
        self.is_lost = is_lost
    def lost(self):
        return self.is_lost
    def report(self):
        return ""
    console = report
    def kill(self):
        pass

attempts = []

@pytest.fixture(scope="module")
def once():
    print("made")
    yield
    print("put away")

@pytest.fixture
def guest(request, once):
    attempts.append(None)
    yield use(request, Machine(len(attempts) <= LOST))
    print("ended")

def test_unlucky(guest):
    assert len(attempts) > FAILED

def test_other(once):
    pass
"""


@pytest.fixture
def run(tmp_path):
    """run(LOST, FAILED): pytest's exit status and words, and what sessions.py makes of it."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")

    def run(lost, failed):
        (tmp_path / "test_it.py").write_text(
            SUITE.replace("LOST", str(lost)).replace("FAILED", str(failed)))
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", "-c", tmp_path / "pytest.ini", "-vs",
             f"--junit-xml={tmp_path}/report.xml", tmp_path], text=True, timeout=50,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=tmp_path, check=False)
        return done.returncode, done.stdout, sessions.guests_lost_in(SESSION, tmp_path)
    return run


def test_passes_with_another_guest(run):
    status, said, lost = run(2, 2)
    assert status == 0 and "2 passed" in said and said.count("will be run again") == 2
    assert [guest for _, guest in lost] == ["lab-guest-7"] * 2
    assert all(name.endswith("test_it::test_unlucky") for name, _ in lost)
    # What its module shares is made anew for it, and nothing is left behind.
    assert said.count("ended") == 3
    assert said.count("made") == said.count("put away") == 3


def test_guests_that_are_always_lost_are_a_failure(run):
    status, said, lost = run(99, 99)
    assert status == 1 and "1 failed, 1 passed" in said
    assert len(lost) == 4 and said.count("ended") == 5


@pytest.mark.parametrize("lost, failed", [(0, 1), (1, 0)])
def test_is_run_once_when_it_passes_or_its_guest_is_there(lost, failed, run):
    status, said, reported = run(lost, failed)
    assert status == failed and said.count("ended") == 1 and not reported


def test_is_told_of_in_the_sum(run, tmp_path, capsys):
    assert run(1, 1)[0] == 0
    total = sessions.Sum()
    sessions.read_report(SESSION, tmp_path / "report.xml", 0, total)
    total.show()
    said = capsys.readouterr().out
    assert "LOST MACHINES" in said and "test_unlucky\n      lab-guest-7\n" in said
    assert said.endswith("2 passed, 0 failed, 0 skipped\n")
