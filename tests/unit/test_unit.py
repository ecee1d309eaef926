# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each test of each C program in this directory, as a test of pytest.

The programs are built with gcc's and clang's sanitizers; the leak checker is
on.  Every test runs in a process of its own.
"""
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
# gcc's go where ./run-tests has them, so that they are compiled once.
FLAVOURS = {
    "gcc": ("CC=gcc", "build-address-undefined", *ADDRESS),
    "clang": ("CC=clang", "build-clang-address-undefined", *ADDRESS),
    "tsan": ("CC=gcc", "build-thread", "SANITIZE=thread"),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "history_size=4",
}


def names_in(program):
    """The names in its table: C knows no better way to be asked."""
    names = LISTED.findall((HERE / f"{program}.c").read_text())
    assert len(names) == len(set(names)) > 0, program
    return names


PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.c"))
CASES = [(program, name) for program in PROGRAMS for name in names_in(program)]


def run(argv, seconds, env=None):
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace", env=env)
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="session", params=FLAVOURS)
def programs(request):
    """The directory of the programs, built by one compiler."""
    compiler, build, *words = FLAVOURS[request.param]
    if not shutil.which(compiler.partition("=")[2]):
        pytest.skip(f"{compiler.partition('=')[2]} is not installed")
    env = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    run(["make", f"-j{os.cpu_count() or 1}", "unit", compiler, f"BUILD={build}", *words],
        300, env)
    return ROOT / build / "unit"


@pytest.mark.parametrize("program, name", CASES, ids=["-".join(case) for case in CASES])
def test_unit(program, name, programs):
    output = run([programs / program, name], 50, {**os.environ, **OPTIONS})
    # A filter that matches nothing would succeed, too.
    assert f"[       OK ] {name}\n" in output
