# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library as it is installed, and an environment that knows of no other."""
import os
import subprocess

import pytest

import tooling

STRAY = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDLIBS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS",
         "DESTDIR", "PREFIX", "LD_PRELOAD", "LD_LIBRARY_PATH")


@pytest.fixture(scope="session")
def clean():
    """clean(NAME=value...): an environment with these, and nothing else of ours."""
    def clean(**variables):
        kept = {name: value for name, value in os.environ.items()
                if name not in STRAY and not name.startswith(("VCHAN_", "PKG_CONFIG"))}
        return {**kept, "LC_ALL": "C", **variables}
    return clean


@pytest.fixture(scope="session")
def run(clean):
    """run(words..., NAME=value...): what it prints; a failure shows that, too."""
    def run(*argv, cwd=tooling.ROOT, **variables):
        argv = [str(word) for word in argv]
        done = subprocess.run(argv, cwd=cwd, env=clean(**variables), text=True, timeout=200,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, errors="replace")
        if done.returncode:
            pytest.fail(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}",
                        pytrace=False)
        return done.stdout
    return run


@pytest.fixture(scope="session")
def prefix(run, tmp_path_factory):
    """Where the library is installed."""
    prefix = tmp_path_factory.mktemp("prefix")
    run("make", "-s", "install", f"PREFIX={prefix}")
    run("make", "-s", "build/fake/vsock.so")
    return prefix
