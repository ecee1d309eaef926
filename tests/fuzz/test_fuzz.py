# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fuzzers, each for a little while, always in the same way: what they have found
before, and a few random steps more.  `make fuzz` is for longer.

Nothing here opens a vsock.  VCHAN_TEST_SCALE times as much is done.
"""
import functools
import os
import pathlib
import runpy
import shutil
import subprocess

import pytest

import vchan

HERE = pathlib.Path(__file__).resolve().parent
corpus = runpy.run_path(str(HERE / "corpus.py"))
ROOT = HERE.parents[1]
BUILD = "build-fuzz"
FLAVOURS = ("caller", "thread")  # who drives the connection
WIRES = ("plain", "framed", "peer")

# Only one of them has to do with who drives.
TARGETS = {"hello": ("caller",), "environment": ("caller",), "relay": ("caller",),
           "policy": ("caller",), "frames": FLAVOURS}
RUNS = {"hello": 100_000, "environment": 10_000, "relay": 100_000, "policy": 30_000,
        "frames": 3_000}
STEPS = {"caller": 200_000, "thread": 100_000}
SEED = 6

# Sessions of the engine that failed once, by wire (the model is as it was then).
FOUND = [line.split() for line in (HERE / "sessions").read_text().splitlines()
         if line and not line.startswith("#")]

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def run(argv, seconds, env=None):
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace",
                          env={**os.environ, **(env or {})})
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout[-20000:]}", pytrace=False)
    return done.stdout


@functools.cache
def built():
    """The directory of the programs."""
    if not shutil.which("clang"):
        pytest.skip("clang is not installed, and libFuzzer is clang's")
    words = {"MAKEFLAGS": ""}
    run(["make", f"-j{os.cpu_count() or 1}", "fuzz-programs", f"FUZZ_BUILD={BUILD}"], 280, words)
    return ROOT / BUILD / "fuzz"


def fuzz(flavour, target, *words):
    return run([built() / flavour / f"fuzz_{target}", *words], 280 * vchan.scaled(1), OPTIONS)


CASES = [(target, flavour) for target, flavours in TARGETS.items() for flavour in flavours]


@pytest.mark.deadline(300)
@pytest.mark.parametrize("target, flavour", CASES)
def test_inputs_that_are_known(target, flavour, tmp_path):
    inputs = sorted(corpus["write"](target, tmp_path).iterdir())
    assert inputs
    output = fuzz(flavour, target, *inputs)
    assert output.count("Executed ") == len(inputs)


@pytest.mark.deadline(300 * vchan.scaled(1))
@pytest.mark.parametrize("target, flavour", CASES)
def test_random_inputs(target, flavour, tmp_path):
    runs = vchan.scaled(RUNS[target])
    output = fuzz(flavour, target, f"-runs={runs}", f"-seed={SEED}", "-max_len=600",
                  f"-artifact_prefix={tmp_path}/found-",
                  corpus["write"](target, tmp_path / "corpus"))
    assert f"Done {runs} runs" in output


@pytest.mark.deadline(300 * vchan.scaled(1))
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engine_keeps_to_the_model(flavour, wire):
    steps = vchan.scaled(STEPS[flavour])
    output = run([built() / flavour / "engine", "--wire", wire, "--seed", SEED,
                  "--steps", steps], 280 * vchan.scaled(1), OPTIONS)
    assert " steps in " in output


@pytest.mark.deadline(300)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_sessions_of_the_engine_that_failed_once(flavour):
    assert FOUND
    for wire, session in FOUND:
        run([built() / flavour / "engine", "--wire", wire, "--session", session], 100, OPTIONS)


def test_engine_refuses_what_it_does_not_know():
    done = subprocess.run([built() / "caller" / "engine", "--wire", "thread"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 2
