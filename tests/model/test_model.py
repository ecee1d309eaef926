# SPDX-License-Identifier: LGPL-2.1-or-later
"""The protocols between the threads and the two ends, as models, by spin.

Each model says in its first comment what it stands for, and with which flags it is to be
run: `good` ones must have no error, in all of their states; with each `bad` one, which takes
away one step that the code calls essential, spin must find an error.
"""
import pathlib
import re
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
MODELS = sorted(path for path in HERE.glob("*.pml") if path.name != "common.pml")
DEPTH = 3_000_000
MEMORY = 1024  # MiB


def runs(kind):
    """(model, flags) of each such line of each model's first comment."""
    return [pytest.param(path, flags.split(), id=" ".join([path.stem, *flags.split()]))
            for path in MODELS
            for flags in re.findall(rf"^ \* {kind}:(.*)$", path.read_text(), re.M)]


@pytest.fixture
def verify(tmp_path):
    """verify(model, flags): the verifier's output."""
    if not shutil.which("spin"):
        pytest.skip("no spin here (Debian's package spin)")

    def run(*argv, status=(0,)):
        done = subprocess.run(argv, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50)
        assert done.returncode in status, done.stdout
        return done.stdout

    def verify(model, flags, optimize):
        for path in HERE.glob("*.pml"):
            shutil.copy(path, tmp_path)
        run("spin", *flags, "-a", model.name)
        run("gcc", optimize, "-w", "-DSAFETY", f"-DMEMLIM={MEMORY}", "-o", "pan", "pan.c")
        return run("./pan", f"-m{DEPTH}")
    return verify


def errors(output):
    return int(re.search(r"errors: (\d+)", output)[1])


def was_complete(output):
    return "Search not completed" not in output and "max search depth too small" not in output


def never_reached(output):
    """Steps of the model that no run came to, but for ends of what has no end."""
    return re.findall(r'^\t(?!.*"-end-").*state \d+, .*$', output, re.M)


@pytest.mark.parametrize(("model", "flags"), runs("good"))
def test_protocol_loses_nothing(verify, model, flags):
    output = verify(model, flags, "-O2")
    assert errors(output) == 0 and was_complete(output), output
    assert not never_reached(output), output


@pytest.mark.parametrize(("model", "flags"), runs("bad"))
def test_step_is_essential(verify, model, flags):
    output = verify(model, flags, "-O0")
    assert errors(output) == 1, output
    assert "assertion violated" in output or "invalid end state" in output, output


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_each_break_is_tried(model):
    text = model.read_text()
    in_code = set(re.findall(r"^#ifn?def (BREAK_\w+)", text, re.M))
    tried = set(re.findall(r"^ \* bad:.*-D(BREAK_\w+)", text, re.M))
    assert in_code == tried != set()
