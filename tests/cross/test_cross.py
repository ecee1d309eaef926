# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library on other machines: 32 bits (i386), and the other byte order (s390x).

Debian's cross compilers build it, and the programs of tests/unit, which then run here:
those of i386 by themselves where the kernel lets them, others with qemu-user.  In the place
of cmocka, of which Debian has no package for a cross compiler, is the cmocka.h beside this.
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
UNIT = ROOT / "tests" / "unit"
LISTED = re.compile(r"^\t(?:cmocka_unit_test\w*|[A-Z]+_TEST)\((\w+)[,)]", re.M)

# What compiles for it, and what readelf says of it.
MACHINES = {
    "i386": ("i686-linux-gnu", ("ELF32", "little endian", "Intel 80386")),
    "s390x": ("s390x-linux-gnu", ("ELF64", "big endian", "IBM S/390")),
}
PROGRAMS = sorted(path.stem for path in UNIT.glob("test_*.c"))
# qemu-user 7.2 itself ends when a thread begins in the child of a process with threads.
NOT_WITH_QEMU = "forked_child_can_open_channels_of_its_own"


def run(*argv, seconds=120, check=True):
    env = {name: value for name, value in os.environ.items()
           if name not in ("MAKEFLAGS", "CFLAGS", "LDFLAGS", "CPPFLAGS", "LD_PRELOAD")}
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace",
                          stderr=subprocess.STDOUT, env=env)
    if check and done.returncode:
        pytest.fail(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n{done.stdout}",
                    pytrace=False)
    return done


@functools.cache
def built(machine):
    """The directory of one build: the library, and the unit tests, which need no other."""
    tools = MACHINES[machine][0]
    if not shutil.which(f"{tools}-gcc"):
        pytest.skip(f"no {tools}-gcc here: tests/setup tests")
    build = f"build-cross-{machine}"
    # gcc has a note for all that is older than its version 11 and has such an ABI.
    # Of the unit tests one flavour: what differs in the other is no machine's.
    programs = [f"{build}/unit/thread/{name}" for name in PROGRAMS]
    run("make", f"-j{os.cpu_count() or 1}", "lib", *programs, f"BUILD={build}",
        f"CC={tools}-gcc", f"AR={tools}-ar", f"OBJCOPY={tools}-objcopy", "CFLAGS=-Wno-psabi",
        f"CMOCKA=-I{HERE}", seconds=500)
    return ROOT / build


@functools.cache
def runner(machine):
    """The words that run its programs here, with its C library."""
    system = pathlib.Path("/usr", MACHINES[machine][0])
    if machine == "i386":
        loader = [system / "lib" / "ld-linux.so.2", "--library-path", system / "lib"]
        try:
            subprocess.run([loader[0], "--version"], stdout=subprocess.DEVNULL, timeout=60,
                           check=True)
            return loader
        except OSError:
            pass  # a kernel that has no 32-bit programs
    return [f"qemu-{machine}", "-L", system]


@pytest.mark.deadline(550)
@pytest.mark.parametrize("machine", MACHINES)
def test_library_is_built_for_the_machine(machine):
    for name in ("libvchan-vsock.so.1", "libvchan-vsock-simple.so.1"):
        told = run("readelf", "-hW", built(machine) / name).stdout
        assert all(word in told for word in MACHINES[machine][1]), told


@pytest.mark.deadline(550)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_unit(machine, program, monkeypatch):
    names = set(LISTED.findall((UNIT / f"{program}.c").read_text()))
    path = built(machine) / "unit" / "thread" / program
    if "qemu" in str(runner(machine)[0]):
        names.discard(NOT_WITH_QEMU)
        monkeypatch.setenv("CROSS_WITHOUT", NOT_WITH_QEMU)
    done = run(*runner(machine), path, seconds=240, check=False)
    passed = set(re.findall(r"^\[       OK \] (\w+)$", done.stdout, re.M))
    assert passed == names and done.returncode == 0, done.stdout
