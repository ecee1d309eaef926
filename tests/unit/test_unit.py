# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each test of each C program in this directory, as a test of pytest.

The programs are built as the library is shipped, and with gcc's and clang's
sanitizers; the leak checker is on.  Every test runs in a process of its own.
"""
import functools
import os
import pathlib
import re
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LISTED = re.compile(r"^\t(?:cmocka_unit_test\w*|[A-Z]+_TEST)\((\w+)[,)]", re.M)

ADDRESS = ("SANITIZE=address,undefined",)
# Where ./run-tests has them already, so that they are compiled once.
FLAVOURS = {
    "plain": ("CC=cc", "build"),
    "gcc": ("CC=gcc", "build-address-undefined", *ADDRESS),
    "clang": ("CC=clang", "build-clang-address-undefined", *ADDRESS),
    "tsan": ("CC=gcc", "build-thread", "SANITIZE=thread"),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "history_size=4:die_after_fork=0",
}


def names_in(program):
    """The names in its table: C knows no better way to be asked."""
    names = LISTED.findall((HERE / f"{program}.c").read_text())
    assert len(names) == len(set(names)) > 0, program
    return names


# ThreadSanitizer knows no threads in the child of a fork that had some.
NOT_WITH_TSAN = {"forked_child_can_open_channels_of_its_own"}

PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.c"))
# Who drives the connection, in the two flavours of the library; most programs test
# what lies below that.
DRIVERS = ("thread", "caller")
DRIVEN = ("test_engine", "test_framed", "test_memory", "test_crowd")
CASES = [(flavour, driver, program, name)
         for flavour in FLAVOURS for driver in DRIVERS for program in PROGRAMS
         if driver == DRIVERS[0] or program in DRIVEN
         for name in names_in(program)
         if not (flavour == "tsan" and name in NOT_WITH_TSAN)]


def run(argv, seconds, env=None):
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace", env=env)
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


@functools.cache
def built(flavour):
    """The directory of the programs, built by one compiler."""
    compiler, build, *words = FLAVOURS[flavour]
    if not shutil.which(compiler.partition("=")[2]):
        pytest.skip(f"{compiler.partition('=')[2]} is not installed")
    env = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    run(["make", f"-j{os.cpu_count() or 1}", "unit", compiler, f"BUILD={build}", *words],
        250, env)
    return ROOT / build / "unit"


# The first of each flavour compiles it.
@pytest.mark.deadline(300)
@pytest.mark.parametrize("flavour, driver, program, name", CASES,
                         ids=["-".join(case) for case in CASES])
def test_unit(flavour, driver, program, name):
    output = run([built(flavour) / driver / program, name], 50, {**os.environ, **OPTIONS})
    # A filter that matches nothing would succeed, too.
    assert f"[       OK ] {name}\n" in output
