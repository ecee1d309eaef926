# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compilers, make and pkg-config for the build tests.

Everything is built outside the tree, so that a test never disturbs a build
that is in use.  No test in here opens a vsock.
"""
import functools
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What would change a build behind a test's back.
STRAY = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDLIBS", "MAKEFLAGS", "MAKELEVEL",
         "MFLAGS", "DESTDIR", "PREFIX", "LIBDIR", "INCLUDEDIR", "BUILD", "WERROR",
         "SANITIZE", "VCHAN_DEFAULT", "LD_PRELOAD", "LD_LIBRARY_PATH")


def clean_environment(extra):
    kept = {name: value for name, value in os.environ.items()
            if name not in STRAY and not name.startswith("PKG_CONFIG")}
    return {**kept, "LC_ALL": "C", **(extra or {})}


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def run():
    """Run a program to its end; a failure shows what it printed."""
    def run(*argv, cwd=ROOT, env=None, check=True, timeout=300):
        argv = [str(word) for word in argv]
        done = subprocess.run(argv, cwd=cwd, env=clean_environment(env), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              errors="replace", timeout=timeout)
        if check and done.returncode:
            pytest.fail(f"{' '.join(argv)}: exit status {done.returncode}\n"
                        f"{done.stdout}{done.stderr}", pytrace=False)
        return done
    return run


@pytest.fixture(scope="session")
def make(run):
    """make WORDS..., in the tree."""
    def make(*words, **how):
        return run("make", "-j2", *words, **how)
    return make


@pytest.fixture(scope="session")
def build(make, tmp_path_factory):
    """build(CC): (the directory of a whole build, what make said); one for each."""
    @functools.cache
    def build(cc):
        directory = tmp_path_factory.mktemp("built")
        return directory, make(f"CC={cc}", f"BUILD={directory}")
    return build


@pytest.fixture(scope="session")
def built(build):
    """The directory of a whole build."""
    return build("gcc")[0]


@pytest.fixture(scope="session")
def install(make, built):
    """make install into DESTDIR, from the whole build."""
    def install(destdir, *words, **how):
        return make("install", "CC=gcc", f"BUILD={built}", f"DESTDIR={destdir}", *words, **how)
    return install


@pytest.fixture(scope="session")
def stage(install, tmp_path_factory):
    """A DESTDIR with the library in it, under the default PREFIX."""
    destdir = tmp_path_factory.mktemp("stage")
    install(destdir)
    return destdir


def need(program):
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    return program


@pytest.fixture(params=["gcc", "clang"])
def cc(request):
    """Each C compiler in turn."""
    return need(request.param)


@pytest.fixture(params=["g++", "clang++"])
def cxx(request):
    """Each C++ compiler in turn."""
    return need(request.param)
