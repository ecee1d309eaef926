# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every system call of the library fails, everywhere, with everything it can say.

lives.c does it, natively: AF_VSOCK is tests/fake/vsock.c.  A life sleeps more than it
works, so all of them run side by side, and each test waits for its own.  The last
test holds the places that have seen a fault against all that the program has.
"""
import concurrent.futures
import functools
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILDS = {
    "plain": ("build",),
    "asan": ("build-address-undefined", "SANITIZE=address,undefined", "CC=gcc"),
    "tsan": ("build-thread", "SANITIZE=thread", "CC=gcc"),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "history_size=4",
}
DRIVERS = ("thread", "caller")
HOWS = ("FRAMED", "PLAIN_ONLY", "ASYNC", "PLAIN_CLIENT", "PLAIN_SERVER")
AT_A_TIME = 12
# The whole sweep is one for sanitizers that look at memory; threads meet in the others.
PARTS = {"plain": ("each_call_fails",),
         "asan": ("each_call_fails", "short_counts_go_unnoticed", "interruptions_go_unnoticed"),
         "tsan": ("short_counts_go_unnoticed", "interruptions_go_unnoticed")}
CASES = [(build, driver, f"{part}_{how}") for build, parts in PARTS.items()
         for driver in DRIVERS for part in parts for how in HOWS]
MINUTES = 8

# Calls that no life is sure to make, or that cannot fail: why.
STOPPED = "only beside a frame that exit() has stopped (tests/contract/test_exit.py)"
RARE = "only when two threads meet in the right moment; what fails there is tried again"
VIOLATION = "only after a peer has broken the rules (tests/contract/test_framed_peer.py)"
ROOM = "only while the kernel or the peer is full, which comes late in a life"
UNREACHED = {
    ("at_exit", "nanosleep"): "at the end of the process",
    ("conn_raise", "nanosleep"): STOPPED,
    ("conn_ended", "nanosleep"): STOPPED,
    ("conn_established", "nanosleep"): STOPPED,
    ("lock_events", "nanosleep"): STOPPED,
    ("conn_take_in", "nanosleep"): "only of a close beside exit() (tests/unit/test_engine.c)",
    ("listen_on", "nanosleep"): "needs a port that is taken (tests/hostile)",
    ("end_connection", "shutdown"): RARE,
    ("driver_await_input", "nanosleep"): RARE,
    ("driver_wait", "nanosleep"): RARE,
    ("drive_or_pause", "nanosleep"): RARE,
    ("driver_forget", "epoll_ctl"): "takes out of an epoll set, which cannot fail",
    ("framed_recv_near", "shutdown"): VIOLATION,
    ("take_header", "shutdown"): VIOLATION,
    ("cut_off", "shutdown"): VIOLATION,
    ("wire_not_sent", "shutdown"): "only after a send has failed: two faults at a time",
    ("wake_changed", "syscall"): "wakes others, which cannot fail",
    ("wake_await_change", "syscall"): RARE,
    ("conn_await_room", "poll"): ROOM,
    ("conn_await_room", "nanosleep"): ROOM,
    ("framed_recv", "ppoll"): ROOM,
    ("events_rearm_socket", "epoll_ctl"): ROOM,
    ("vsock_has_ended", "recv"): "only where the kernel refuses to poll: two faults at a time",
    ("vsock_nudge", "setsockopt"): "only towards a guest (tests/guest); if it fails, so be it",
    ("vsock_connect_sibling", "connect"): "only between guests (tests/siblings)",
    ("events_add_driver", "epoll_ctl"): "of the flavour without a thread",
    ("conn_look", "poll"): "of the flavour without a thread",
}


def run(argv, seconds):
    return subprocess.run([str(word) for word in argv], cwd=ROOT, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace",
                          stderr=subprocess.STDOUT, env={**os.environ, **OPTIONS})


@functools.cache
def built(name):
    build, *words = BUILDS[name]
    done = run(["make", "-s", f"-j{os.cpu_count() or 1}", "fault-programs", *words], 300)
    assert done.returncode == 0, done.stdout
    return ROOT / build / "fault"


@functools.cache
def lives():
    """{case: its future result}."""
    pool = concurrent.futures.ThreadPoolExecutor(AT_A_TIME)
    programs = {build: built(build) for build in BUILDS}
    return {case: pool.submit(run, [programs[case[0]] / f"lives-{case[1]}", case[2]],
                              MINUTES * 60)
            for case in CASES}


@pytest.mark.deadline(MINUTES * 60 + 300)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_lives(case):
    done = lives()[case].result()
    assert done.returncode == 0 and f"[       OK ] {case[2]}\n" in done.stdout, done.stdout
    assert "Sanitizer" not in done.stdout


# --- the places ------------------------------------------------------------------

FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\w+)(?:\s+\S+ <([^>+]+)>)?")
WRAPPER = "__wrap_"
# Cannot fail, or nobody could do anything about it.
CERTAIN = {"getsockname", "getpeername", "write", "fcntl"}


def instructions(program):
    """(function, address, mnemonic, what it goes to) of each."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], text=True,
                             check=True, stdout=subprocess.PIPE, timeout=60).stdout
    function = ""
    for line in listing.splitlines():
        if match := FUNCTION.match(line):
            function = match[1]
        elif match := INSTRUCTION.match(line):
            yield function, int(match[1], 16), match[2], match[3] or ""


def places(program):
    """{where a wrapped call of the library returns to: (function, call)}.

    A function that ends in such a call jumps there; then it returns to its caller.
    """
    code = list(instructions(program))
    jumps = {function: to for function, _, what, to in code
             if what == "jmp" and to and not function.startswith(WRAPPER)
             and to.partition(".")[0] != function.partition(".")[0]}
    found = {}
    for (function, _, what, to), (_, after, _, _) in zip(code, code[1:]):
        call = to
        while call in jumps and not call.startswith(WRAPPER):
            call = jumps[call]
        if what == "call" and call.startswith(WRAPPER):
            found[after] = function.partition(".")[0], call[len(WRAPPER):]
    return found


@pytest.mark.deadline(MINUTES * 60 + 300)
@pytest.mark.parametrize("driver", DRIVERS)
def test_every_place_has_seen_a_fault(driver):
    seen = set()
    for case, future in lives().items():
        if case[:2] == ("plain", driver) and case[2].startswith("each_call_fails"):
            seen |= {int(line, 16) for line in re.findall(r"^site 0x(\w+)$",
                                                          future.result().stdout, re.M)}
    everywhere = places(built("plain") / f"lives-{driver}")
    assert len(everywhere) > 40
    assert seen <= set(everywhere), "faults struck where nobody calls"
    missed = {place for address, place in everywhere.items()
              if address not in seen and place[1] not in CERTAIN}
    print(f"{len(seen)} of {len(everywhere)} places; not: {sorted(missed)}")
    assert missed <= set(UNREACHED)
