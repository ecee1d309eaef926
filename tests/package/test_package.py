# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is released: the source archive, the packages, and their life on a machine.

All of it is made once, in a copy of the tree; nothing is installed here, but in a machine
of the lab.  No test in here opens a vsock.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

# A whole build, on a slow machine, comes before the first test of each kind.
pytestmark = pytest.mark.deadline(900)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAB = ROOT / "tests" / "lab" / "lab"
VERSION = (ROOT / "VERSION").read_text().strip()
NEXT = VERSION + "+next"
ARCHIVE = f"vchan-vsock-{VERSION}.tar.gz"

LIBRARIES = ("libvchan-vsock", "libvchan-vsock-simple")
SHARED = {f"{library}.so.1{end}" for library in LIBRARIES for end in ("", f".{VERSION}")}
DEVELOPMENT = {"pkgconfig/vchan-vsock.pc", "pkgconfig/vchan-vsock-simple.pc",
               *(f"{library}.{end}" for library in LIBRARIES for end in ("a", "so"))}
HEADER = "/usr/include/vchan-vsock/libvchan.h"
TOOLS = {"/usr/bin/vchan-vsock", "/etc/vchan-vsock/relay.policy",
         "/usr/share/bash-completion/completions/vchan-vsock"}

# Only what programs need to be found and to speak to us in English: no git configuration
# and none of make's, of dpkg's or of a sanitizer's variables.
ENVIRONMENT = {**{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
               "LC_ALL": "C.UTF-8", "HOME": "/nowhere",
               "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
COMMIT = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
    ("NAME", "test"), ("EMAIL", "test@localhost"), ("DATE", "2026-01-02T03:04:05Z"))}


def run(*argv, cwd=ROOT, timeout=880, **variables):
    """Run a program to its end: what it has said."""
    argv = [str(word) for word in argv]
    done = subprocess.run(argv, cwd=cwd, env={**ENVIRONMENT, **variables}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, errors="replace",
                          timeout=timeout)
    if done.returncode:
        pytest.fail(f"{' '.join(argv)}: exit status {done.returncode}\n"
                    f"{done.stdout[-20000:]}{done.stderr[-20000:]}", pytrace=False)
    return done.stdout


def not_ours(directory, names):
    built = {name for name in names if re.match(r"build(-|$)|\.git$", name)}
    return built if pathlib.Path(directory) == ROOT else set()


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A git repository of the project's files, as they are now."""
    copy = tmp_path_factory.mktemp("release") / "tree"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=not_ours)
    run("git", "init", "-q", cwd=copy)
    run("git", "add", "-A", cwd=copy)
    run("git", "commit", "-qm", "all", cwd=copy, **COMMIT)
    return copy


# --- the archive -------------------------------------------------------------

def test_archive_is_the_same_from_another_directory_and_with_another_umask(tree, tmp_path):
    run("make", "dist", cwd=tree)
    other = tmp_path / "elsewhere"
    run("sh", "-c", 'umask 077; git clone -q "$0" "$1"; cd "$1"; echo >stray; exec make dist',
        tree, other)
    assert (other / "VERSION").stat().st_mode & 0o777 == 0o600
    assert (tree / "build" / ARCHIVE).read_bytes() == (other / "build" / ARCHIVE).read_bytes()


def test_archive_has_gits_files_under_one_name(tree):
    run("make", "dist", cwd=tree)
    names = run("tar", "-tzf", tree / "build" / ARCHIVE).split()
    assert names == [f"vchan-vsock-{VERSION}/{name}"
                     for name in run("git", "ls-files", cwd=tree).split()]


def test_archive_is_as_old_as_it_is_told(tree, tmp_path):
    run("make", "dist", f"BUILD={tmp_path}", cwd=tree, SOURCE_DATE_EPOCH="1000000000")
    listing = run("tar", "--utc", "-tvzf", tmp_path / ARCHIVE)
    assert {line.split()[3] for line in listing.splitlines()} == {"2001-09-09"}


# --- Debian ------------------------------------------------------------------

@pytest.fixture(scope="session")
def debian(tree):
    """The directory with what `make deb` has made."""
    run("make", "deb", cwd=tree)
    return tree / "build" / "deb"


def test_nothing_is_compiled_in_the_tree(debian, tree):
    assert run("git", "status", "--porcelain", cwd=tree) == ""
    assert {path.name for path in (tree / "build").iterdir()} <= {
        "deb", "rpm", "rpmdb", "dist.files", ARCHIVE}


def deb(debian, name):
    return next(debian.glob(f"{name}_{VERSION}_*.deb"))


def contents(path):
    """The files, besides manual pages and what every package has for its documentation."""
    lines = run("dpkg-deb", "--contents", path).splitlines()
    names = {line.split()[5][1:] for line in lines if not line.startswith("d")}
    return {name for name in names if not re.match("/usr/share/(doc|man|lintian)/", name)}


def test_deb_of_the_libraries(debian):
    triplet = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
    assert contents(deb(debian, "libvchan-vsock1")) == {
        f"/usr/lib/{triplet}/{name}" for name in SHARED}


def test_deb_for_development(debian):
    """vchan.pc is no file of a package: another library's may have one."""
    triplet = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
    assert contents(deb(debian, "libvchan-vsock-dev")) == {
        HEADER, *(f"/usr/lib/{triplet}/{name}" for name in DEVELOPMENT)}


def test_deb_of_the_tools(debian):
    path = deb(debian, "vchan-vsock-tools")
    assert contents(path) == {*TOOLS, "/lib/systemd/system/vchan-vsock-relay.service",
                              "/usr/lib/sysusers.d/vchan-vsock-tools.conf"}
    assert run("dpkg-deb", "--info", path, "conffiles") == "/etc/vchan-vsock/relay.policy\n"


@pytest.mark.parametrize("name, file", [
    ("libvchan-vsock1", "usr/lib/*/libvchan-vsock.so.1.*"),
    ("vchan-vsock-tools", "usr/bin/vchan-vsock")])
def test_what_is_installed_is_hardened_and_stripped(name, file, debian, tmp_path):
    run("dpkg-deb", "--extract", deb(debian, name), tmp_path)
    program = next(tmp_path.glob(file))
    assert " DYN " in run("readelf", "--file-header", program)
    assert "NOW" in run("readelf", "--dynamic", program)
    symbols = run("nm", "--dynamic", "--undefined-only", program)
    assert "__stack_chk_fail" in symbols and "__memcpy_chk" in symbols
    # They are in packages of their own.
    assert "debug_info" not in run("readelf", "--sections", program)


def test_lintian_has_nothing_to_say(debian):
    words = ["--suppress-tags", "no-manual-page"] if not (ROOT / "man").is_dir() else []
    words += ["--allow-root"] if os.geteuid() == 0 else []
    run("lintian", "--fail-on", "error,warning", *words, *debian.glob("*.changes"))


def another_version(path, directory):
    """The package once more, with the next version's number and another policy."""
    work = directory / "work"
    run("dpkg-deb", "--raw-extract", path, work)
    control = work / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {VERSION}\n", f"Version: {NEXT}\n")
                       .replace(f"(= {VERSION})", f"(= {NEXT})"))
    policy = work / "etc" / "vchan-vsock" / "relay.policy"
    if policy.exists():
        policy.write_text(policy.read_text() + "# The next version's.\n")
    run("dpkg-deb", "--root-owner-group", "--build", work, directory)
    shutil.rmtree(work)


def test_packages_are_installed_used_upgraded_removed_and_purged(debian, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    for name in ("libvchan-vsock1", "libvchan-vsock-dev", "vchan-vsock-tools"):
        shutil.copy(deb(debian, name), old)
        another_version(deb(debian, name), new)
    said = run(sys.executable, "-B", LAB, "run", "--timeout", "850", "--", "/usr/bin/python3", "-B",
               HERE / "life_cycle.py", ROOT, old, new, LAB_MODE="machine")
    assert said.endswith("all is well\n")


# --- RPM, and Qubes' builder -------------------------------------------------

@pytest.fixture(scope="session")
def rpms(tree):
    """The directory with what `make rpm` has made, without an optimiser: it is quicker.

    rpmbuild knows nothing of what is installed on Debian, nor how to make packages of
    debugging symbols here.
    """
    run("make", "rpm", "RPMFLAGS=--nodeps --define 'debug_package %{nil}' "
        f"--define '_dbpath {tree}/build/rpmdb'", "CFLAGS=-O0", cwd=tree)
    return tree / "build" / "rpm"


def rpm(rpms, name):
    return next((rpms / "RPMS").glob(f"*/{name}-{VERSION}-*.rpm"))


def listed(rpms, name, *query):
    path = rpm(rpms, name)
    names = set(run("rpm", "-qp", *(query or ["--list"]), path).split())
    return {name for name in names
            if not re.match(r"/usr/(share/(doc|licenses|man)/|lib/\.build-id)", name)}


def test_rpm_of_the_libraries(rpms):
    libdir = run("rpm", "--eval", "%{_libdir}").strip()
    assert listed(rpms, "libvchan-vsock") == {f"{libdir}/{name}" for name in SHARED}
    sonames = {word.partition("(")[0] for word in listed(rpms, "libvchan-vsock", "--provides")}
    assert {f"{library}.so.1" for library in LIBRARIES} <= sonames


def test_rpm_for_development(rpms):
    libdir = run("rpm", "--eval", "%{_libdir}").strip()
    assert listed(rpms, "libvchan-vsock-devel") == {
        HEADER, os.path.dirname(HEADER), *(f"{libdir}/{name}" for name in DEVELOPMENT)}


def test_rpm_of_the_tools(rpms):
    assert listed(rpms, "vchan-vsock-tools") == {
        *TOOLS, "/etc/vchan-vsock", "/usr/lib/systemd/system/vchan-vsock-relay.service",
        "/usr/lib/sysusers.d/vchan-vsock-relay.conf"}
    assert listed(rpms, "vchan-vsock-tools", "--configfiles") == {
        "/etc/vchan-vsock/relay.policy"}


def test_qubes_builder_is_told_of_both():
    words = re.findall(r"^    - (.*)$", (ROOT / ".qubesbuilder").read_text(), re.M)
    assert words == ["debian", "rpm/vchan-vsock.spec"] * 2
    assert all((ROOT / word).exists() for word in words)
