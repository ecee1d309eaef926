# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Makefile: every compiler and sanitizer, flags, what is made again."""
import os
import shutil

import pytest

# A whole build of each kind on a slow machine.
pytestmark = pytest.mark.deadline(660)

SANITIZERS = ("address,undefined", "thread")
# Where it does not matter what the compiler makes.
QUICK = "CFLAGS=-O0"


@pytest.fixture
def tree(root, tmp_path):
    """A copy of what a build needs, to change at will."""
    copy = tmp_path / "tree"
    shutil.copytree(root / "vchan", copy / "vchan")
    for name in ("Makefile", "VERSION", "libvchan.h", "vchan-vsock.pc.in", "vchan.pc.in"):
        shutil.copy(root / name, copy)
    return copy


def compiled(done):
    return [line.split()[1] for line in done.stdout.splitlines()
            if line.split()[:1] == ["CC"]]


def test_compiles_without_a_warning(cc, build):
    done = build(cc)[1]
    assert compiled(done)
    assert done.stderr == ""


def test_compiles_without_a_warning_when_not_optimised(cc, make, tmp_path):
    assert make("lib", f"CC={cc}", "CFLAGS=-O0", f"BUILD={tmp_path}").stderr == ""


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_compiles_with_a_sanitizer(cc, sanitize, make, run, tmp_path):
    done = make("lib", f"CC={cc}", f"SANITIZE={sanitize}", f"BUILD={tmp_path}")
    assert done.stderr == ""
    runtime = {"address,undefined": "__asan_", "thread": "__tsan_"}[sanitize]
    symbols = run("nm", "--dynamic", tmp_path / "libvchan-vsock.so").stdout
    assert runtime in symbols


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_each_sanitizer_has_a_directory_of_its_own(sanitize, make):
    plan = make("--dry-run", f"SANITIZE={sanitize}").stdout
    assert f"build-{sanitize.replace(',', '-')}/libvchan-vsock.a" in plan
    assert " build/" not in plan


def test_cc_from_the_environment_is_used(make, tmp_path):
    done = make("V=1", f"BUILD={tmp_path}", "--dry-run", env={"CC": "some-cc"})
    assert "some-cc -I." in done.stdout


@pytest.mark.parametrize("where", ["command line", "environment"])
def test_flags_of_the_user_are_added_to_ours(where, make, tmp_path):
    flags = {"CPPFLAGS": "-DBY_CPPFLAGS", "CFLAGS": "-DBY_CFLAGS", "LDFLAGS": "-Wl,-O1"}
    words = [f"{name}={value}" for name, value in flags.items()]
    if where == "command line":
        done = make("lib", "V=1", f"BUILD={tmp_path}", *words)
    else:
        done = make("lib", "V=1", f"BUILD={tmp_path}", env=flags)
    compile = next(line for line in done.stdout.splitlines() if " -c -o " in line)
    link = next(line for line in done.stdout.splitlines() if " -shared " in line)
    for ours, added in (("-std=gnu11", "-DBY_CFLAGS"), ("-Werror", "-DBY_CFLAGS"),
                        ("-fvisibility=hidden", "-DBY_CFLAGS"), ("-I.", "-DBY_CPPFLAGS")):
        assert -1 < compile.find(ours) < compile.find(added)
    assert -1 < link.find("-Wl,-z,defs") < link.find("-Wl,-O1")


def test_only_changed_flags_compile_everything_again(make, tmp_path):
    first = make("lib", QUICK, f"BUILD={tmp_path}")
    assert compiled(first) and "-std=gnu11" not in first.stdout  # it is quiet
    assert compiled(make("lib", QUICK, f"BUILD={tmp_path}")) == []
    again = compiled(make("lib", QUICK, "CPPFLAGS=-DNEW", f"BUILD={tmp_path}"))
    assert sorted(again) == sorted(compiled(first))


def test_changed_header_compiles_its_users_again(make, tree):
    make("lib", QUICK, cwd=tree)
    header = tree / "libvchan.h"
    later = (tree / "build/libvchan-vsock.a").stat().st_mtime + 1
    os.utime(header, (later, later))
    assert compiled(make("lib", QUICK, cwd=tree))


def test_removed_source_leaves_both_libraries(make, run, tree):
    (tree / "vchan/extra.c").write_text(
        "int vchan_extra(void);\nint vchan_extra(void) { return 0; }\n")
    make("lib", QUICK, cwd=tree)
    both = [tree / "build" / name for name in ("libvchan-vsock.a", "libvchan-vsock.so")]
    assert all("vchan_extra" in run("nm", library).stdout for library in both)
    (tree / "vchan/extra.c").unlink()
    make("lib", QUICK, cwd=tree)
    assert not any("vchan_extra" in run("nm", library).stdout for library in both)


def test_undefined_symbol_fails_the_link(make, tree):
    (tree / "vchan/extra.c").write_text(
        "int vchan_nowhere(void);\nint vchan_extra(void);\n"
        "int vchan_extra(void) { return vchan_nowhere(); }\n")
    done = make("lib", QUICK, cwd=tree, check=False)
    assert done.returncode != 0
    assert "vchan_nowhere" in done.stderr


def test_clean_leaves_only_the_sources(make, tree):
    before = sorted(tree.rglob("*"))
    make("lib", QUICK, cwd=tree)
    make("lib", QUICK, "SANITIZE=thread", cwd=tree)
    make("clean", cwd=tree)
    assert sorted(tree.rglob("*")) == before


def test_help_names_every_target(make):
    text = make("help").stdout
    for target in ("install", "uninstall", "demo", "check", "unit", "clean"):
        assert f"make {target}" in text
