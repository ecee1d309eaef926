# SPDX-License-Identifier: LGPL-2.1-or-later
"""./run-tests adds up right: nothing that went wrong can look like success."""
import ast
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

import sessions

SUITES = {
    "good": "def test_one(): pass\ndef test_two(): pass\n",
    "bad": "def test_three(): assert 1 == 2, 'three is wrong'\n",
    "skipped": "import pytest\ndef test_four(): pytest.skip('no moon tonight')\n",
    "teardown": """
import pytest
@pytest.fixture
def late():
    yield
    raise RuntimeError('too late')
def test_five(late): pass
""",
    "broken": "import nothing_of_that_name\n",
    "crash": "import os\ndef test_six(): os._exit(0)\n",
    "hang": "import threading\ndef test_seven(): threading.Event().wait()\n",
}


@pytest.fixture
def run_tests(tmp_path, monkeypatch, capfd):
    """main() over made-up suites, one session each: (status, output, last line)."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    for name, text in SUITES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(text)
    monkeypatch.setattr(sessions, "TESTS", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sessions, "build", lambda session, total: True)

    def run_tests(*suites, words=(), **fields):
        fields = {"minutes": 1, **fields}
        monkeypatch.setattr(sessions, "SESSIONS", tuple(
            sessions.Session(suite, (suite,), **fields) for suite in suites))
        status = sessions.main(list(words))
        output = capfd.readouterr().out
        return status, output, output.splitlines()[-1]
    return run_tests


def fake_lab(tmp_path, monkeypatch, script):
    lab = tmp_path / "lab"
    lab.write_text("#!/bin/sh\n" + script)
    lab.chmod(0o755)
    monkeypatch.setattr(sessions, "LAB", lab)


def lab_lost_once(tmp_path, monkeypatch, script):
    """A lab that does this the first time, and runs what it is given after that."""
    monkeypatch.setattr(sessions, "ROOT", tmp_path)
    fake_lab(tmp_path, monkeypatch, f"""
while [ "$1" != -- ]; do shift; done
shift
[ -e {tmp_path}/lost ] && exec "$@"
touch {tmp_path}/lost
{script}
""")


def test_success_is_status_0_and_one_last_line(run_tests):
    status, _, last = run_tests("good")
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")


def test_sessions_are_added_up_and_failures_and_skips_explained(run_tests):
    status, output, last = run_tests("good", "bad", "skipped")
    assert (status, last) == (1, "2 passed, 1 failed, 1 skipped")
    told = output[output.index("\nFailures:"):]
    assert "test_three" in told and "three is wrong" in told
    assert "1 in skipped: no moon tonight" in told


@pytest.mark.parametrize("suite", ["teardown", "broken", "crash"])
def test_what_ends_badly_is_a_failure(suite, run_tests):
    status, _, last = run_tests("good", suite)
    assert status == 1
    assert re.fullmatch(r"2 passed, [12] failed, 0 skipped", last)


def test_session_that_hangs_is_ended_and_a_failure(run_tests, monkeypatch):
    whole = sessions.run
    monkeypatch.setattr(sessions, "run", lambda argv, seconds, **how: whole(
        argv, 3 if "hang" in str(argv[-1]) else seconds, **how))
    status, output, last = run_tests("hang", "good")
    assert (status, last) == (1, "2 passed, 1 failed, 0 skipped")
    assert "time was over" in output


def test_options_reach_every_session(run_tests):
    status, _, last = run_tests("good", "bad", words=["-k", "one or three"])
    assert (status, last) == (1, "1 passed, 1 failed, 0 skipped")


def test_session_without_a_selected_test_is_fine(run_tests):
    assert run_tests("good", "bad", words=["-k", "two"])[::2] == \
        (0, "1 passed, 0 failed, 0 skipped")


def test_no_test_in_any_session_is_an_error(run_tests):
    status, _, last = run_tests("good", "bad", words=["-k", "nothing_like_that"])
    assert (status, last) == (1, "0 passed, 1 failed, 0 skipped")


def test_paths_select_their_sessions(run_tests, tmp_path):
    for path in ("good/test_good.py::test_one", "good/test_good.py::test_two"):
        assert run_tests("good", "bad", words=[str(tmp_path / path)])[::2] == \
            (0, "1 passed, 0 failed, 0 skipped")
    assert run_tests("good", "bad", words=[str(tmp_path)])[2] == \
        "2 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("status, why", sorted(sessions.LAB_STATUS.items()))
def test_trouble_in_the_lab_is_a_failure_that_says_so(status, why, run_tests, tmp_path,
                                                      monkeypatch):
    fake_lab(tmp_path, monkeypatch, f"exit {status}\n")
    result, output, last = run_tests("good", lab=True)
    assert (result, last) == (1, "0 passed, 1 failed, 0 skipped")
    assert why in output


def test_trouble_after_a_whole_report_is_a_failure(run_tests, tmp_path, monkeypatch):
    """The kernel's log is read when the tests are over."""
    fake_lab(tmp_path, monkeypatch,
             'while [ "$1" != -- ]; do shift; done; shift; "$@"; exit 70\n')
    result, _, last = run_tests("good", lab=True)
    assert (result, last) == (1, "2 passed, 1 failed, 0 skipped")


def test_report_of_a_sanitizer_is_a_failure(run_tests, tmp_path, monkeypatch):
    fake_lab(tmp_path, monkeypatch, """
while [ "$1" != -- ]; do
    [ "$1" = --out ] && echo 'WARNING: data race' > "$2/sanitizer.42"
    shift
done
shift
exec "$@"
""")
    status, output, last = run_tests("good", lab=True)
    assert (status, last) == (1, "2 passed, 1 failed, 0 skipped")
    assert "data race" in output


def test_sessions_side_by_side_are_told_and_added_up_one_by_one(run_tests):
    status, output, last = run_tests("good", "bad", "crash", beside=True)
    assert (status, last) == (1, "2 passed, 2 failed, 0 skipped")
    told = [output.index(f"what was said: {name}") for name in ("good", "bad", "crash")]
    assert told == sorted(told) and "three is wrong" in output


def test_lab_that_is_lost_is_run_once_more_and_loudly(run_tests, tmp_path, monkeypatch):
    """It has no report the first time; the second one counts."""
    lab_lost_once(tmp_path, monkeypatch, "exit 70")
    status, output, last = run_tests("good", lab=True, beside=True)
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")
    told = output[output.index("\nFAILED ONCE"):]
    assert "after 0 tests that passed: the kernel of the lab's machine complained" in told


def test_lab_that_is_lost_midway_goes_on_with_the_rest(run_tests, tmp_path, monkeypatch):
    lab_lost_once(tmp_path, monkeypatch, """
echo 'good/test_good.py::test_one PASSED   [ 50%]'
echo 'good/test_good.py::test_two '
exit 71
""")
    status, output, last = run_tests("good", lab=True, beside=True)
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")
    assert "after 1 tests that passed: no machine came up in the lab" in output
    assert "1 passed, 1 deselected" in output


def test_what_failed_in_its_teardown_is_run_again_in_another_machine(run_tests, tmp_path,
                                                                     monkeypatch):
    lab_lost_once(tmp_path, monkeypatch, """
echo 'good/test_good.py::test_one PASSED   [ 50%]'
echo 'good/test_good.py::test_one ERROR    [ 50%]'
exit 71
""")
    status, output, last = run_tests("good", lab=True, beside=True)
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")
    assert "after 0 tests that passed" in output and "deselected" not in output


def test_lab_that_the_emulator_broke_goes_on_with_what_has_not_passed(run_tests, tmp_path,
                                                                      monkeypatch):
    """There is a report, of which nothing is worth anything but what has passed."""
    (tmp_path / "bad" / "test_bad.py").write_text(f"""
import pathlib
def test_three():
    assert pathlib.Path({str(tmp_path)!r}, "before").exists()
def test_four(): pass
""")
    lab_lost_once(tmp_path, monkeypatch, f"""
"$@"
touch {tmp_path}/before
exit 72
""")
    status, output, last = run_tests("bad", lab=True, beside=True)
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")
    told = output[output.index("\nLOST MACHINES"):]
    assert "after 1 tests that passed: the emulator broke" in told
    assert "1 passed, 1 deselected" in output


def test_lab_that_says_nothing_more_is_given_up(run_tests, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "PATIENCE", 5)
    lab_lost_once(tmp_path, monkeypatch, "exec sleep 1000")
    status, output, last = run_tests("good", lab=True, beside=True)
    assert (status, last) == (0, "2 passed, 0 failed, 0 skipped")
    assert "after 0 tests that passed: no report" in output


def test_lab_that_is_lost_again_and_again_is_a_failure(run_tests, tmp_path, monkeypatch):
    fake_lab(tmp_path, monkeypatch, f"echo >>{tmp_path}/machines; exit 70\n")
    status, _, last = run_tests("good", lab=True, beside=True)
    assert (status, last) == (1, "0 passed, 1 failed, 0 skipped")
    assert len((tmp_path / "machines").read_text()) == sessions.MACHINES


def test_test_that_passes_the_second_time_is_told_loudly(run_tests, tmp_path):
    (tmp_path / "bad" / "test_bad.py").write_text(f"""
import pathlib
def test_three():
    before = pathlib.Path({str(tmp_path)!r}, "before")
    there = before.exists()
    before.touch()
    assert there, "three is wrong"
""")
    status, output, last = run_tests("bad")
    assert (status, last) == (0, "1 passed, 0 failed, 0 skipped")
    told = output[output.index("\nFAILED ONCE"):]
    assert "test_three" in told and "three is wrong" in told


def test_second_time_in_a_machine_that_is_lost_does_not_count(run_tests, tmp_path, monkeypatch):
    (tmp_path / "bad" / "test_bad.py").write_text(f"""
import pathlib
def test_three():
    assert len(pathlib.Path({str(tmp_path)!r}, "machines").read_text()) > 2
""")
    fake_lab(tmp_path, monkeypatch, f"""
while [ "$1" != -- ]; do shift; done
shift
echo >>{tmp_path}/machines
[ $(wc -l <{tmp_path}/machines) = 2 ] && exit 72
exec "$@"
""")
    status, output, last = run_tests("bad", lab=True)
    assert (status, last) == (0, "1 passed, 0 failed, 0 skipped")
    assert "the emulator broke" in output[output.index("\nLOST MACHINES"):]
    assert len((tmp_path / "machines").read_text()) == 3


def test_help_needs_nothing_installed(root, tmp_path):
    (tmp_path / "tests").mkdir()
    setup = tmp_path / "tests" / "setup"
    setup.write_text("#!/bin/sh\nexit 1\n")
    setup.chmod(0o755)
    for name in ("run-tests", "tests/sessions.py"):
        shutil.copy(root / name, tmp_path / name)
    done = subprocess.run([tmp_path / "run-tests", "--help"], text=True, timeout=60,
                          stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0, "usage: ./run-tests [pytest options] [paths]")


def test_sanitizer_runs_against_its_own_build():
    session = sessions.Session("x", ("contract",), 1, sanitize="address,undefined")
    assert session.build == "build-address-undefined"
    assert sessions.Session("x", (), 1).build == "build"


def test_tests_that_are_left_out_exist():
    for session in sessions.SESSIONS:
        for name in session.without + session.spared:
            path, _, test = name.partition("::")
            text = (sessions.TESTS / path).read_text()
            assert f"def {test.partition('[')[0]}" in text, name


def test_every_suite_is_in_exactly_one_ordinary_session():
    planned = [suite for session in sessions.SESSIONS
               if not session.sanitize and not session.flavour and not session.kernel
               for suite in session.suites]
    planned += ["simple", "stall", "siblings"]  # with a flavour, a kernel, a sanitizer
    there = {path.parent.name for path in sessions.TESTS.glob("*/test_*.py")}
    assert len(planned) == len(set(planned))
    assert there <= set(planned)


def test_what_every_user_relies_on_is_tested_with_both_flavours():
    flavours = {suite: {session.flavour for session in sessions.SESSIONS
                        if suite in session.suites and not session.sanitize}
                for suite in ("contract", "guest", "kernel")}
    assert all(found == {"", "simple"} for found in flavours.values()), flavours


def test_long_does_ten_times_as_much_and_adds_the_rain_of_signals(monkeypatch):
    monkeypatch.delenv("VCHAN_TEST_LONG", raising=False)
    long = {session.name: session for session in sessions.arranged(["--long"])}
    for session in sessions.SESSIONS:
        assert long[session.name].scale == session.scale * 10
        assert long[session.name].minutes > session.minutes
    assert any(session.rain for session in long.values())
    assert os.environ.pop("VCHAN_TEST_LONG") == "1"


def test_no_two_sessions_have_the_same_name(monkeypatch):
    monkeypatch.setenv("VCHAN_TEST_LONG", "1")
    names = [session.name for session in sessions.arranged(["--kernels", "--long"])]
    assert len(names) == len(set(names))


def test_kernels_does_the_suites_of_the_lab_on_each():
    ordinary = {session.name for session in sessions.SESSIONS}
    more = [session for session in sessions.arranged(["--kernels"])
            if session.name not in ordinary]
    assert {session.kernel for session in more} == set(sessions.KERNELS)
    assert {suite for session in more for suite in session.suites} >= {"contract", "guest"}


def test_fake_vsock_is_preloaded_behind_the_sanitizer(tmp_path):
    session = sessions.Session("x y", ("contract",), 1, sanitize="address,undefined", fake=True)
    variables = sessions.preloads(session, tmp_path)
    runtime, fake = variables["LD_PRELOAD"].split(":")
    assert "libasan" in runtime and fake.endswith(sessions.FAKE)
    assert variables["FAKE_VSOCK"]
    assert "LD_PRELOAD" not in sessions.preloads(sessions.Session("x", (), 1), tmp_path)


def test_session_of_a_flavour_tests_that_library():
    session = sessions.Session("x", ("contract",), 1, flavour="simple")
    assert session.library == "libvchan-vsock-simple.so.1"


@pytest.mark.parametrize("cpus", [1, 2])
def test_no_more_sessions_at_a_time_than_places(cpus, monkeypatch):
    monkeypatch.setattr(sessions.os, "cpu_count", lambda: cpus)
    jobs = [(sessions.Session(str(number), (), 1, beside=True), [], None)
            for number in range(7)]
    jobs.append((sessions.Session("asleep", (), 1, beside=True, sleeps=True), [], None))
    log = []
    monkeypatch.setattr(sessions.Running, "begin", classmethod(
        lambda cls, session, words, out: log.append(session) or FakeRunning(session, log)))
    monkeypatch.setattr(sessions, "end", lambda process: None)
    statuses = sessions.run_all(jobs, sessions.Sum())
    assert statuses == {job[0].name: (0, None) for job in jobs}
    assert max(FakeRunning.most) == cpus + 1


class FakeRunning:
    """Over when it is looked at; counts those of its kind."""
    living, most, out = 0, [], None

    def __init__(self, session, log):
        self.session, self.process = session, FakeProcess()
        FakeRunning.living += not session.sleeps
        FakeRunning.most = (FakeRunning.most if len(log) > 1 else []) + [FakeRunning.living]

    @staticmethod
    def seconds():
        return 0.0

    def is_over(self):
        FakeRunning.living -= not self.session.sleeps
        return True


class FakeProcess:
    """One that has succeeded."""
    @staticmethod
    def poll():
        return 0


def test_every_suite_that_opens_a_vsock_is_guarded():
    """Elsewhere /dev/vsock may lead to somebody else's hypervisor."""
    guard = re.search(r"^VSOCK_SUITES = (\(.+?\))", (sessions.TESTS / "conftest.py").read_text(),
                      re.M | re.S)
    needing = {suite for session in sessions.SESSIONS if session.lab or session.fake
               for suite in session.suites}
    # What is in tests/tools starts programs only, with the fake's preload.
    assert set(ast.literal_eval(guard.group(1))) == needing - {"tools"}


def test_benchmark_opens_no_vsock_without_loopback():
    """The same, of the program that bench/run starts."""
    if pathlib.Path("/sys/module/vsock_loopback").exists():
        pytest.skip("this machine has vsock loopback")
    subprocess.run(["make", "-s", "bench-program"], cwd=sessions.ROOT, check=True, timeout=60)
    for words in (["parts"], ["partner", "3"]):
        done = subprocess.run([sessions.ROOT / "build/bench/vchan-bench", *words], text=True,
                              stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=20,
                              env={"LD_LIBRARY_PATH": str(sessions.ROOT / "build")})
        assert (done.returncode, done.stdout) == (1, "")
        assert "no vsock loopback here" in done.stderr


def test_usage_is_shown_without_running_anything(run_tests):
    status, output, _ = run_tests("good", words=["--help"])
    assert status == 0 and output.startswith("usage:")
    assert "=== tests" not in output
