# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sessions of pytest that make up ./run-tests, and their sum.

Suites are split by directory, each for the one kind of machine where it can
run: what is pure runs here, what opens a vsock runs in the lab, and the
contract runs here, too, under sanitizers, with a vsock that is made of Unix
sockets (tests/fake).  So a skipped test is one that cannot run at all, and not
one that has run elsewhere.

A session that ends without a report, whatever ended it, is a failure.
"""
import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
LAB = TESTS / "lab" / "lab"
FAKE = "build/fake/vsock.so"

EMULATION_FAILED = 72  # the lab's
NO_TESTS = 5  # pytest's exit status when it selected none
LAB_STATUS = {70: "the kernel of the lab's machine complained (see above)",
              71: "no machine came up in the lab",
              EMULATION_FAILED: "the emulator broke the kernel of the lab's machine",
              124: "time was over",
              125: "the lab failed"}
# pytest's own: all passed, some failed.  After any other there is no trusting
# the report.
COMPLETE = (0, 1)

USAGE = """\
usage: ./run-tests [pytest options] [paths]

Runs every suite, or what the options and paths select:
    ./run-tests -k linger              tests with "linger" in the name
    ./run-tests tests/contract -x      one suite, up to the first failure
    ./run-tests tests/unit/test_unit.py::test_name
    ./run-tests --kernels              the lab's suites on each kernel, too
    ./run-tests --long                 everything at its full size: hours

Sessions, in this order: {sessions}.
Environment: PYTHON, an interpreter that has pytest and cffi;
VCHAN_TEST_SCALE, how much of the long tests to do (default 1, which is a tenth of
what a release should have seen: 10);
VCHAN_TEST_WIRES=default, never the contract once more over the plain wire."""


def build_directory(sanitize):
    """Make's, for these sanitizers."""
    return "-".join(filter(None, ["build", *sanitize.split(",")]))


@dataclasses.dataclass
class Session:
    """One run of pytest."""
    name: str
    suites: tuple
    minutes: int
    lab: bool = False
    sanitize: str = ""
    # The part of the long tests that is enough: under a slow sanitizer, or each time.
    scale: float = 1
    # Tests that this session cannot do, though another one does.
    without: tuple = ()
    # Tests that others have for this flavour or for the kernel: it has them with
    # --long or --kernels.
    spared: tuple = ()
    # The kernel of its machine, if not the system's own.
    kernel: str = ""
    # The library's flavour: "simple", or the one with a thread.
    flavour: str = ""
    # AF_VSOCK is tests/fake/vsock.c.
    fake: bool = False
    # The sanitizers of the command, where pytest itself has none.
    tool: str = ""
    # The contract once more with two ends of ours on the plain wire, which otherwise has
    # its plain peers, tests/unit, tests/hostile and the fuzzer: with --long.
    both_wires: bool = False
    # A 1 kHz rain of signals on every thread (tests/programs/rain.c).
    rain: bool = False
    # Runs at the same time as others of which this is said: as many as there are
    # places(), and besides those that mostly sleep.
    beside: bool = False
    sleeps: bool = False

    @property
    def build(self):
        return build_directory(self.sanitize)

    @property
    def library(self):
        return f"lib{'-'.join(filter(None, ['vchan-vsock', self.flavour]))}.so.1"


# They count threads, where ThreadSanitizer adds its own, or take /proc away,
# without which it does not start.
BARE = tuple("contract/test_misuse.py::" + name for name in (
    "test_no_fds_left[", "test_no_dev_vsock", "test_no_permission_for_dev_vsock")) + (
        # A fork takes it half a second.
        "contract/test_fork_busy.py::test_a_hundred_forks_in_the_middle_of_a_stream[",)

# What the fake vsock does not have, or a sanitizer's own memory disturbs.
NOT_FAKED = ("contract/test_misuse.py::test_no_vsock_in_the_kernel[",
             "contract/test_leaks.py",
             "simple/test_simple.py::test_strace_of_an_echo_session_is_as_documented")

ADDRESS, THREAD = "address,undefined", "thread"


def faked(name, sanitize, flavour="", without=(), spared=()):
    """The contract natively: much of it is waiting, so all of these at once."""
    suites = ("contract", "siblings")
    return Session(name, ("simple", *suites) if flavour else suites, minutes=25,
                   sanitize=sanitize, flavour=flavour, scale=0.05, fake=True,
                   without=NOT_FAKED + without, spared=spared, beside=True, sleeps=True)


# What is least the kernel's: each flavour has it natively, under ASan if not TSan, too.
LEAST = tuple(f"contract/test_{what}.py" for what in (
    "addresses", "environment", "framed_peer", "rings"))
# And what is the library's alone, and takes an emulated machine long: both have it natively.
OWN = LEAST + ("contract/test_fork_busy.py", "contract/test_threads.py",
               "contract/test_events.py::test_hundred_thousand_one_byte_writes")
# Besides: what the flavour with a thread has in the lab, and the simple one natively.
LESS = OWN + tuple(f"contract/test_{what}.py" for what in (
    "disconnected", "fork", "leaks", "misuse", "privileged", "races", "setup_races",
    "volume"))

# Of the simple flavour, which has no thread, what TSan has the least to say about.
CALM = LEAST + tuple(f"contract/test_{what}.py" for what in (
    "clients", "disconnected", "half_open", "misuse", "privileged", "read_recv",
    "setup_races", "write_send"))
# Of the simple flavour: machines that come and go, and peers that mean harm.  Native suites
# have harm for both flavours, and the flavour with a thread has all of it in the lab.
HARM = ("guest/test_machines.py", "guest/test_machines_under_load.py", "kill/test_kill.py",
        *(f"hostile/test_{what}.py" for what in ("flood", "peers", "port", "stalled")))

# Guests boot slowly beside too much: so they come when others are over.
SESSIONS = (
    # All long tests at their full size are too much for one run: --long.
    Session("lab", ("kernel", "contract"), minutes=60, lab=True, scale=0.05, beside=True,
            spared=OWN),
    Session("lab, simple", ("simple", "kernel", "contract"), minutes=60, lab=True,
            flavour="simple", scale=0.02, beside=True, spared=LESS),
    Session("native", ("build", "unit", "model", "fuzz", "lint"), minutes=40, beside=True),
    Session("lab, guests", ("guest", "hostile", "kill", "soak", "bench"), minutes=60,
            lab=True, scale=0.1, beside=True),
    Session("lab, command", ("command", "relay"), minutes=60, lab=True, scale=0.1,
            beside=True),
    Session("release", ("package", "lab", "cross", "examples", "manual"), minutes=40,
            beside=True),
    Session("lab, guests, simple", ("guest", "hostile", "kill"), minutes=60, lab=True,
            flavour="simple", scale=0.05, beside=True, spared=HARM),
    # Some of its versions count packets, and reset a connection of too many.
    Session("lab, Linux 6.12", ("stall", "kernel"), minutes=20, lab=True, kernel="6.12",
            beside=True, sleeps=True),
    # Siblings come with each sanitizer below; what users run is in "lab, command".
    Session("tools, ASan and UBSan", ("tools",), minutes=20, fake=True, tool=ADDRESS,
            beside=True, sleeps=True),
    Session("faults", ("fault",), minutes=20, scale=0.1, beside=True, sleeps=True),
    faked("ASan and UBSan", ADDRESS),
    faked("TSan", THREAD, without=BARE),
    faked("ASan and UBSan, simple", ADDRESS, "simple"),
    faked("TSan, simple", THREAD, "simple", without=BARE, spared=CALM),
)

# With --long: what the default leaves out, and everything at ten times the size of "1".
LONG = (
    Session("lab, signals", ("contract",), minutes=60, lab=True, rain=True, scale=0.02),
    Session("lab, signals, simple", ("contract",), minutes=60, lab=True, rain=True,
            flavour="simple", scale=0.02),
)
LONG_SCALE, LONG_MINUTES = 10, 12
# With --kernels: what each of them is to see.
KERNELS = ("6.12",)


def arranged(options):
    """The sessions that are wanted."""
    chosen = list(SESSIONS)
    if "--kernels" in options:
        chosen += [dataclasses.replace(
            session, name=f"{session.name}, on Linux {kernel}", kernel=kernel, spared=())
            for kernel in KERNELS for session in SESSIONS if session.lab and not session.kernel]
    if "--long" in options:
        chosen = [dataclasses.replace(session, minutes=session.minutes * LONG_MINUTES,
                                      scale=session.scale * LONG_SCALE, both_wires=True,
                                      spared=())
                  for session in chosen] + list(LONG)
        os.environ["VCHAN_TEST_LONG"] = "1"
    return chosen


# Programs that the tests run kill themselves with these on purpose.
DEADLY_SIGNALS = "handle_segv=0:handle_sigbus=0:handle_abort=0:handle_sigill=0:handle_sigfpe=0"

SANITIZERS = {
    # The interpreter keeps pointers where the leak checker does not look, so
    # it would report live handles.  tests/unit looks for leaks, in C.
    "address": ("libasan.so", "ASAN_OPTIONS",
                "detect_leaks=0:allocator_may_return_null=1:" + DEADLY_SIGNALS),
    # pytest and the library have threads when a test forks; programs call exit()
    # in signal handlers, with a channel open: both are promised to work.
    "thread": ("libtsan.so", "TSAN_OPTIONS",
               "die_after_fork=0:report_signal_unsafe=0:report_thread_leaks=0"
               ":history_size=4:second_deadlock_stack=1"
               f":suppressions={TESTS / 'tsan.supp'}:" + DEADLY_SIGNALS),
}


@dataclasses.dataclass
class Sum:
    passed: int = 0
    failures: list = dataclasses.field(default_factory=list)
    unsteady: list = dataclasses.field(default_factory=list)
    lost: list = dataclasses.field(default_factory=list)
    skips: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    times: list = dataclasses.field(default_factory=list)
    sessions: int = 0  # that selected any test

    def fail(self, where, why):
        self.failures.append((where, why))

    @contextlib.contextmanager
    def stage(self, name):
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        try:
            yield
        finally:
            self.times.append((name, time.monotonic() - start))

    def show(self):
        if self.failures:
            print("\nFailures:")
            for where, why in self.failures:
                print(f"  {where}\n      {why}")
        if self.unsteady:
            print("\nFAILED ONCE and passed when run again, alone: each is a race, in a test or\n"
                  "in the library, that somebody has to find:")
            for where, why in self.unsteady:
                print(f"  {where}\n      {why}")
        if self.lost:
            print("\nLOST MACHINES, and what ran there was run again, in another one:")
            for where, why in self.lost:
                print(f"  {where}\n      {why}")
        if self.skips:
            print("\nSkipped, and why:")
            for (session, why), count in self.skips.items():
                print(f"  {count} in {session}: {why}")
        print("\nTimes:")
        for name, seconds in self.times:
            print(f"  {seconds:6.0f} s  {name}")
        print()
        print(f"{self.passed} passed, {len(self.failures)} failed, "
              f"{self.skips.total()} skipped", flush=True)


# --- what was asked for ------------------------------------------------------

# Options of pytest whose value is a word of its own, which is no path.
WITH_VALUE = {"-k", "-m", "-p", "-o", "-W", "-n", "--maxfail", "--durations",
              "--tb", "--color", "--deselect", "--capture", "--lfnf", "--verbosity"}


def split_words(words):
    """(options, paths): which of the words name tests."""
    options, paths = [], []
    previous = ""
    for word in words:
        name = word.split("::")[0]
        there = [top / name for top in (pathlib.Path.cwd(), ROOT) if (top / name).exists()]
        if previous in WITH_VALUE or word.startswith("-") or not there:
            options.append(word)
        else:
            paths.append(str(there[0].resolve()) + word[len(name):])
        previous = word
    return options, paths


def chosen(session, paths):
    """The paths to give to the session's pytest; none: nothing to run."""
    suites = [TESTS / suite for suite in session.suites
              if any((TESTS / suite).glob("**/test_*.py"))]
    if not paths:
        return [str(suite) for suite in suites]
    found = []
    for path in paths:
        file = pathlib.Path(path.split("::")[0])
        if any(suite == file or suite in file.parents for suite in suites):
            found.append(path)
        else:
            found += [str(suite) for suite in suites if file in suite.parents]
    return found


# --- running -----------------------------------------------------------------

def begin(argv, **how):
    return subprocess.Popen([str(word) for word in argv], cwd=ROOT, stdin=subprocess.DEVNULL,
                            start_new_session=True, **how)


def status_of(process, seconds):
    """Its exit status; None when time was over."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def run(argv, seconds, **how):
    """Run a program with all that it starts: its status_of."""
    process = begin(argv, **how)
    try:
        return status_of(process, seconds)
    finally:
        end(process)


def end(process):
    """Whatever ended us, leave nothing behind that we started."""
    for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def build(session, total):
    """Build the library that the session tests."""
    words = ["make", f"-j{os.cpu_count() or 1}", "--no-print-directory"]
    # gcc's sanitizers: their run-time is a library that can be preloaded.
    words += ["lib", f"SANITIZE={session.sanitize}", "CC=gcc"] if session.sanitize else []
    with total.stage(" ".join(words)):
        good = run(words, 600) == 0
    if not good:
        total.fail(session.name, "the library does not build (see above)")
    return good


def compile_programs(total):
    """Compile what the tests run: it takes long in an emulated machine."""
    libraries = {session.library for session in SESSIONS if session.lab}
    with total.stage("test programs"):
        if (any(run(["env", f"VCHAN_LIB={ROOT / 'build' / name}", sys.executable, "-B",
                     TESTS / "programs.py"], 300) for name in sorted(libraries)) or
                run(["make", "-s", "bench-program", FAKE], 300) != 0):
            total.fail("test programs", "they do not compile (see above)")


def sanitizer_environment(session, out):
    """The variables that bring a sanitizer into an ordinary python, and its run-time."""
    if not session.sanitize:
        return {}, []
    runtime, name, options = SANITIZERS[session.sanitize.split(",")[0]]
    path = subprocess.run(["gcc", f"-print-file-name={runtime}"], text=True, check=True,
                          stdout=subprocess.PIPE, timeout=30).stdout.strip()
    options = f"{options}:log_path={out}/sanitizer"
    return {name: options, "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={out}/sanitizer"}, \
        [os.path.realpath(path)]


def preloads(session, out):
    """The variables for all that comes before the C library."""
    variables, libraries = sanitizer_environment(session, out)
    if session.rain:
        libraries.append(ROOT / "build" / "tests" / "rain.so")
        variables["VCHAN_TEST_DEADLINE"] = "120"
    if session.fake:
        libraries.append(ROOT / FAKE)
        variables["FAKE_VSOCK"] = f"{os.getpid()}-{session.name}"
    if libraries:
        variables["LD_PRELOAD"] = ":".join(map(str, libraries))
    return variables


def command(session, words, out):
    """The words that run the session's pytest where it belongs."""
    variables = {"PYTHONDONTWRITEBYTECODE": "1",
                 "VCHAN_LIB": ROOT / session.build / session.library,
                 **preloads(session, out)}
    if session.tool:
        variables["VCHAN_TOOL"] = ROOT / build_directory(session.tool) / "vchan-vsock"
        variables["ASAN_OPTIONS"] = variables["UBSAN_OPTIONS"] = f"log_path={out}/sanitizer"
    if not session.both_wires:
        variables["VCHAN_TEST_WIRES"] = "default"
    if session.scale != 1:
        scale = float(os.environ.get("VCHAN_TEST_SCALE", "1")) * session.scale
        variables["VCHAN_TEST_SCALE"] = scale
    argv = ["env", *(f"{name}={value}" for name, value in variables.items()),
            sys.executable, "-m", "pytest", "-c", TESTS / "pytest.ini",
            f"--junit-xml={out}/report.xml", "-o", "junit_logging=no", "-v", *words]
    if session.lab:
        kernel = ["--kernel", session.kernel] if session.kernel else []
        argv = [LAB, "run", *kernel, "--timeout", str(session.minutes * 60), "--out", out,
                "--", *argv]
    return argv


def selects_nothing(words):
    """A cheap look before a machine is booted for no test at all."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-c", TESTS / "pytest.ini",
         "--collect-only", "-qq", *words], cwd=ROOT, timeout=120,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == NO_TESTS


# The lab keeps its own time, and is given a minute to clean up.
def seconds_of(session):
    return session.minutes * 60 + 60


def run_session(session, words, total, out):
    with total.stage(f"tests: {session.name}"):
        status = run(command(session, words, out), seconds_of(session))
    take_stock(session, status, total, out)


# Seconds of silence for each minute that a session may take.
PATIENCE = 12


@dataclasses.dataclass
class Running:
    """A session that runs beside others."""
    session: Session
    words: list
    out: pathlib.Path
    process: subprocess.Popen
    started: float

    @classmethod
    def begin(cls, session, words, out):
        print(f"{session.name}: begun", flush=True)
        with open(out / "log", "wb") as log:
            process = begin(command(session, words, out), stdout=log, stderr=subprocess.STDOUT)
        return cls(session, words, out, process, time.monotonic())

    def seconds(self):
        return time.monotonic() - self.started

    def is_over(self):
        return (self.process.poll() is not None or self.has_stopped() or
                self.seconds() > seconds_of(self.session))

    def has_stopped(self):
        """A machine whose processors do no more than turn: it has long said nothing."""
        silence = time.time() - (self.out / "log").stat().st_mtime
        return self.session.lab and silence > self.session.minutes * PATIENCE


def places():
    """One more than processors: much of a session is waiting for what does not come."""
    return (os.cpu_count() or 1) + 1


def places_taken(running):
    return sum(not one.session.sleeps for one in running)


def next_of(waiting, running, most):
    """The first that has a place."""
    return next((job for job in waiting if job[0].sleeps or places_taken(running) < most),
                None)


# Emulated machines are lost, now and then, with all that they had to tell; those with
# several guests, which QEMU 7.2 emulates least well, every ten minutes.
MACHINES = 6


def is_lost(one, status):
    """Without a report that can be trusted."""
    if not one.session.lab or status == NO_TESTS or one.seconds() > seconds_of(one.session):
        return False
    return status == EMULATION_FAILED or not (one.out / "report.xml").exists()


def rest_of(one, status, total):
    """The job that goes on where a machine was lost."""
    words = [*passed_before(one.session, status, total, one.out), *one.words]
    out = one.out / "rest"
    out.mkdir()
    return one.session, words, out


def run_all(jobs, total):
    """(session, words, out) each: {session's name: (status, out) of its last machine}."""
    waiting, running, ends = list(jobs), [], {}
    machines = collections.Counter()
    try:
        while waiting or running:
            while (job := next_of(waiting, running, places())) is not None:
                waiting.remove(job)
                running.append(Running.begin(*job))
                machines[job[0].name] += 1
            for one in [one for one in running if one.is_over()]:
                running.remove(one)
                name, status = one.session.name, one.process.poll()
                end(one.process)
                total.times.append((f"  of that: {name}", one.seconds()))
                print(f"{name}: over after {one.seconds():.0f} s", flush=True)
                if is_lost(one, status) and machines[name] < MACHINES:
                    waiting.insert(0, rest_of(one, status, total))
                else:
                    ends[name] = status, one.out
            time.sleep(0.1)
    finally:
        for one in running:
            end(one.process)
    return ends


def run_beside(jobs, total):
    """Sessions at the same time: much of it is waiting.  (session, words, out) each."""
    with total.stage("tests, at the same time: " + "; ".join(job[0].name for job in jobs)):
        ends = run_all(jobs, total)
    for session, _, out in jobs:
        print(f"\n=== what was said: {session.name}", flush=True)
        while (out / "log").exists():
            print((out / "log").read_text(errors="replace"), flush=True)
            out = out / "rest"
        status, last = ends[session.name]
        take_stock(session, status, total, last)


# A line of pytest -v.  What fails in its teardown has two.
OUTCOME = re.compile(r"^(\S+\.py::.*) (PASSED|ERROR) +\[ *\d+%\]$", re.M)


def passed_before(session, status, total, out):
    """What a session without a report is known to have passed: pytest's options for the rest."""
    outcomes = dict(OUTCOME.findall((out / "log").read_text(errors="replace")))
    passed = [name for name, last in outcomes.items() if last == "PASSED"]
    total.passed += len(passed)
    told = total.lost if status == EMULATION_FAILED else total.unsteady
    told.append((session.name, f"after {len(passed)} tests that passed: " + (
        LAB_STATUS.get(status) or f"no report, status {status}")))
    return [f"--deselect={(ROOT / name).relative_to(TESTS)}" for name in passed]


def take_stock(session, status, total, out):
    """What a session that is over has come to."""
    if status == NO_TESTS:
        return
    total.sessions += 1
    read_report(session, out / "report.xml", status, total)
    for log in sorted(out.glob("sanitizer*")):
        text = log.read_text(errors="replace").strip()
        print(text)
        total.fail(f"{session.name}: sanitizer", (text.splitlines() or ["?"])[:3][-1].strip())


def cases_in(path):
    """A report's test cases; none where it is missing or not whole."""
    with contextlib.suppress(OSError, ET.ParseError):
        return list(ET.parse(path).getroot().iter("testcase"))
    return []


def read_cases(path):
    """What a report says: {(class, name): its marks}; empty for a clean pass."""
    # A failure in a test's teardown makes a second case of the same name.
    tests = collections.defaultdict(list)
    for case in cases_in(path):
        key = case.get("classname"), case.get("name")
        tests[key] += [part for part in case if part.tag in ("failure", "error", "skipped")]
    return tests


def node_of(key):
    """pytest's name of a test, from its class's and its own in the report."""
    words = key[0].split(".")
    for count in range(len(words), 0, -1):
        file = TESTS.joinpath(*words[:count]).with_suffix(".py")
        if file.is_file():
            return "::".join([str(file), *words[count:], key[1]])
    return None


def has_failed(marks):
    return any(mark.tag != "skipped" for mark in marks)


def guests_lost_in(session, out):
    """Its tests that lost guests (lab/fixtures.py): (the test, the guests) each time."""
    return [(f"{session.name}: {case.get('classname')}::{case.get('name')}", lost.get("value"))
            for case in cases_in(out / "report.xml")
            for lost in case.iterfind("properties/property[@name='lost']")]


# More than that is no race but a defect, and running it all again takes long.
FEW = 12


def try_again(session, tests, total, out):
    """Run the few tests that failed once more, by themselves.

    What passes then is reported, loudly, and does not fail the run: a busy
    machine must not keep everything else from being known, nor must a machine of
    the lab that the emulator broke.
    """
    failed = [key for key, marks in tests.items() if has_failed(marks)]
    nodes = [node_of(key) for key in failed]
    if not failed or len(failed) > FEW or not all(nodes):
        return
    for number in range(MACHINES):
        again = out / f"again-{number}"
        again.mkdir()
        with total.stage(f"again: {session.name}"):
            status = run(command(session, nodes, again), seconds_of(session))
        total.lost += guests_lost_in(session, again)
        if not (session.lab and status == EMULATION_FAILED):
            break
        total.lost.append((session.name, LAB_STATUS[status]))
    second = read_cases(again / "report.xml")
    for key in failed:
        if key in second and not second[key]:
            total.unsteady.append((f"{session.name}: {key[0]}::{key[1]}",
                                   first_line(tests[key][0])))
            tests[key] = []


def read_report(session, path, status, total):
    """Add up pytest's report, and say so when it is not whole."""
    tests = read_cases(path)
    failed = any(map(has_failed, tests.values()))
    total.lost += guests_lost_in(session, path.parent)
    if status in COMPLETE:
        try_again(session, tests, total, path.parent)
    for (where, what), marks in tests.items():
        name = f"{where}::{what}"
        bad = [mark for mark in marks if mark.tag != "skipped"]
        if bad:
            total.fail(f"{session.name}: {name}", first_line(bad[0]))
        elif marks:
            total.skips[session.name, marks[0].get("message") or "?"] += 1
        else:
            total.passed += 1

    if status not in COMPLETE or (status == 1) != failed or not tests:
        why = "time was over" if status is None else \
            LAB_STATUS.get(status) if session.lab else None
        total.fail(session.name, why or f"pytest ended with status {status} and "
                   f"{len(tests)} tests in its report (see above)")


def first_line(mark):
    lines = (mark.get("message") or mark.text or "").strip().splitlines()
    return lines[0] if lines else "?"


def main(words):
    if "--help" in words or "-h" in words:
        print(USAGE.format(sessions="; ".join(session.name for session in SESSIONS)))
        return 0

    options, paths = split_words([word for word in words if word not in ("--long", "--kernels")])
    sessions = arranged(words)
    words = options + paths
    total = Sum()
    out = pathlib.Path(tempfile.mkdtemp(prefix="vchan-tests-"))
    plain_is_built = build(Session("build", (), 10), total)
    if plain_is_built and (TESTS / "programs.py").exists():
        compile_programs(total)
    beside = []
    for number, session in enumerate(sessions):
        suites = chosen(session, paths)
        if not plain_is_built or not suites:
            continue
        left_out = (f"--deselect={name}" for name in session.without + session.spared)
        selected = [*options, *left_out, *suites]
        if words and selects_nothing(selected):
            continue
        if session.sanitize and not build(session, total):
            continue
        directory = out / str(number)
        directory.mkdir()
        if session.beside:
            beside.append((session, selected, directory))
        else:
            run_session(session, selected, total, directory)
    if beside:
        run_beside(beside, total)

    if not total.sessions and not total.failures:
        total.fail("all sessions", "no test was selected")
    if not total.failures:
        shutil.rmtree(out)
    else:
        print(f"\nReports are kept in {out}")
    total.show()
    return 1 if total.failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
