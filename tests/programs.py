# SPDX-License-Identifier: LGPL-2.1-or-later
"""The C programs that the tests run, compiled when they are out of date.

`python3 tests/programs.py` compiles them all: compiling is slow in an emulated
machine, so do it outside.
"""
import os
import pathlib
import subprocess
import sys

import vchan

PROGRAMS = {
    "puppet": vchan.ROOT / "tests" / "programs" / "puppet.c",
    "no-vsock": vchan.ROOT / "tests" / "programs" / "no_vsock.c",
    "echo": vchan.ROOT / "tests" / "programs" / "echo.c",
    "stall": vchan.ROOT / "tests" / "programs" / "stall.c",
    "hops": vchan.ROOT / "tests" / "programs" / "hops.c",
    "flood": vchan.ROOT / "tests" / "programs" / "flood.c",
    "volume": vchan.ROOT / "tests" / "volume" / "volume.c",
    "mortal": vchan.ROOT / "tests" / "programs" / "mortal.c",
    "late.so": vchan.ROOT / "tests" / "programs" / "late.c",
    "kernel.so": vchan.ROOT / "tests" / "programs" / "kernel.c",
    "rain.so": vchan.ROOT / "tests" / "programs" / "rain.c",
}
HEADERS = list((vchan.ROOT / "tests" / "programs").glob("*.h"))
OUTPUT = vchan.ROOT / "build" / ("tests-simple" if vchan.SIMPLE else "tests")
COMPILER = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-g", "-Wall",
            "-Wextra", "-Werror", "-pthread", f"-I{vchan.ROOT}",
            *(["-DSIMPLE"] if vchan.SIMPLE else [])]


def fresh(binary, source):
    made_of = [source, *HEADERS]
    return (binary.exists() and
            binary.stat().st_mtime >= max(file.stat().st_mtime for file in made_of))


def program(name):
    """The path of a compiled program, linked with the library under test."""
    source, binary = PROGRAMS[name], OUTPUT / name
    if not fresh(binary, source):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        # Another process may be compiling it, too: rename when it is whole.
        partial = pathlib.Path(f"{binary}.{os.getpid()}")
        # What is preloaded into any program must not bring the library along.
        shared = name.endswith(".so")
        subprocess.run([*COMPILER, "-o", partial, source,
                        *(["-shared", "-fPIC"] if shared else [vchan.LIBRARY])],
                       env={name: value for name, value in os.environ.items()
                            if name != "LD_PRELOAD"}, check=True)
        partial.rename(binary)
    return binary


def surroundings(**variables):
    """An environment in which such a program finds the library under test."""
    return {**os.environ, "LD_LIBRARY_PATH": str(vchan.LIBRARY.parent),
            **{name: str(value) for name, value in variables.items()}}


if __name__ == "__main__":
    sys.exit(not all(program(name) for name in PROGRAMS))
