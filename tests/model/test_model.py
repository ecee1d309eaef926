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
DEPTH = 100_000
MEMORY = 1024   # MiB
DEADLINE = 100  # s, for each program


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

    def run(*argv):
        done = subprocess.run(argv, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DEADLINE)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def verify(model, flags):
        for path in HERE.glob("*.pml"):
            shutil.copy(path, tmp_path)
        run("spin", *flags, "-a", model.name)
        # Most are sooner run than optimized.
        run("gcc", "-O0", "-w", "-DSAFETY", f"-DMEMLIM={MEMORY}", "-o", "pan", "pan.c")
        return run("./pan", f"-m{DEPTH}", "-w20")
    return verify


def errors(output):
    return int(re.search(r"errors: (\d+)", output)[1])


def was_complete(output):
    return "Search not completed" not in output and "max search depth too small" not in output


def came_to_an_end(output):
    """Did any run come to where all sleep, and the monitor has its say?"""
    return re.search(r"^unreached in (proctype monitor|init)\n\t\(0 of ", output, re.M)


@pytest.mark.deadline(2 * DEADLINE)
@pytest.mark.parametrize(("model", "flags"), runs("good"))
def test_protocol_loses_nothing(verify, model, flags):
    output = verify(model, flags)
    assert errors(output) == 0 and was_complete(output), output
    assert came_to_an_end(output), output


@pytest.mark.deadline(2 * DEADLINE)
@pytest.mark.parametrize(("model", "flags"), runs("bad"))
def test_step_is_essential(verify, model, flags):
    output = verify(model, flags)
    assert errors(output) == 1, output
    assert "assertion violated" in output or "invalid end state" in output, output


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_each_break_is_tried(model):
    text = model.read_text()
    in_code = set(re.findall(r"BREAK_\w+", "".join(re.findall(r"^#.*\n", text, re.M))))
    tried = set(re.findall(r"^ \* bad:.*-D(BREAK_\w+)", text, re.M))
    assert in_code == tried != set()
