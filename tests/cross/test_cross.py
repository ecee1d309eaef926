# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library on other machines: 32 bits (i386), and the other byte order (s390x).

Debian's cross compilers build it as it is shipped, and the programs of tests/unit, which
then run here: what is i386 by itself where the kernel lets it, else with qemu-user, which
does not have all that a kernel has (MISSING).  In the place of cmocka, of which there is
no package for a foreign machine that could be installed beside one's own, is cmocka.h.
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

# What compiles for it, what runs it, and what readelf says of it.
MACHINES = {
    "i386": ("i686-linux-gnu-", "qemu-i386", ("ELF32", "little endian", "Intel 80386")),
    "s390x": ("s390x-linux-gnu-", "qemu-s390x", ("ELF64", "big endian", "IBM S/390")),
}
PROGRAMS = sorted(path.stem for path in UNIT.glob("test_*.c"))
# As in tests/unit: the other flavour where it differs.
CASES = [("thread", name) for name in PROGRAMS] + [("caller", "test_engine")]


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
    prefix, _, _ = MACHINES[machine]
    if not shutil.which(f"{prefix}gcc"):
        pytest.skip(f"no {prefix}gcc here: tests/setup tests")
    build = f"build-cross-{machine}"
    run("make", f"-j{os.cpu_count() or 1}", "lib", "unit", f"BUILD={build}",
        f"CC={prefix}gcc", f"AR={prefix}ar", f"OBJCOPY={prefix}objcopy",
        f"CMOCKA=-I{HERE} -static", seconds=500)
    return ROOT / build


def start_of(machine, program):
    """The words that run it here."""
    if machine == "i386":
        try:
            subprocess.run([program, "none"], stdout=subprocess.DEVNULL, timeout=60, check=True)
            return [program]
        except OSError:
            pass  # a kernel without 32-bit programs
    return [MACHINES[machine][1], program]


@pytest.mark.deadline(550)
@pytest.mark.parametrize("machine", MACHINES)
def test_library_is_built_for_the_machine(machine):
    for name in ("libvchan-vsock.so.1", "libvchan-vsock-simple.so.1"):
        told = run("readelf", "-hW", built(machine) / name).stdout
        assert all(word in told for word in MACHINES[machine][2]), told


@pytest.mark.deadline(550)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("driver, program", CASES, ids=["-".join(case) for case in CASES])
def test_unit(machine, driver, program):
    names = LISTED.findall((UNIT / f"{program}.c").read_text())
    path = built(machine) / "unit" / driver / program
    done = run(*start_of(machine, path), seconds=240, check=False)
    passed = set(re.findall(r"^\[       OK \] (\w+)$", done.stdout, re.M))
    assert passed == set(names) and done.returncode == 0, done.stdout
