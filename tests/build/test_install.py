# SPDX-License-Identifier: LGPL-2.1-or-later
"""make install and uninstall, and programs that use what they installed."""
import os
import pathlib
import re
import shutil

import pytest

FLAVOURS = ("vchan-vsock", "vchan-vsock-simple")
NAMES = (*FLAVOURS, "vchan")
CLIENT = pathlib.Path(__file__).with_name("client.c")
FOREIGN = "Name: vchan\nDescription: another one\nVersion: 4\nLibs: -lvchan-other\n"


# Names by which a page is found that is not called so.
COMMANDS = ("listen", "connect", "addr", "list")


def files(top):
    return {str(path.relative_to(top)) for path in top.rglob("*")
            if path.is_symlink() or not path.is_dir()}


def manual(root):
    """All that man finds: our pages, and one for each call and command besides."""
    names = {path.name for path in (root / "man").iterdir()}
    calls = re.findall(r"\b(libvchan_\w+)\(", (root / "libvchan.h").read_text())
    names |= {f"{call}.3" for call in calls} | {f"vchan-vsock-{word}.1" for word in COMMANDS}
    return {f"man{name[-1]}/{name}" for name in names}


def expected(root, libdir="usr/local/lib", includedir="usr/local/include", prefix="usr/local",
             sysconfdir=None):
    version = (root / "VERSION").read_text().strip()
    top = f"{prefix}/" if prefix else ""
    return {f"{includedir}/vchan-vsock/libvchan.h",
            f"{top}bin/vchan-vsock",
            f"{top}share/bash-completion/completions/vchan-vsock",
            f"{top}lib/systemd/system/vchan-vsock-relay.service",
            f"{sysconfdir or top + 'etc'}/vchan-vsock/relay.policy",
            f"{libdir}/pkgconfig/vchan.pc",
            *(f"{top}share/man/{name}" for name in manual(root)),
            *(f"{libdir}/{name}" for flavour in FLAVOURS for name in (
                f"lib{flavour}.a", f"lib{flavour}.so", f"lib{flavour}.so.1",
                f"lib{flavour}.so.1.{version}", f"pkgconfig/{flavour}.pc"))}


@pytest.fixture
def pkg_config(run, stage):
    """pkg-config, as it sees the staged library and nothing else."""
    def pkg_config(*words, libdir="usr/local/lib", destdir=stage):
        done = run("pkg-config", *words, env={
            "PKG_CONFIG_LIBDIR": str(destdir / libdir / "pkgconfig"),
            "PKG_CONFIG_SYSROOT_DIR": str(destdir)})
        return done.stdout.strip()
    return pkg_config


@pytest.fixture
def prefix_of_its_own(install, tmp_path):
    """Installed for real, without DESTDIR, where nobody else looks."""
    prefix = tmp_path / "prefix"
    install("", f"PREFIX={prefix}")
    return prefix


# --- which files -------------------------------------------------------------

def test_installs_exactly_these_files(stage, root):
    assert files(stage) == expected(root)


def test_modes_do_not_depend_on_the_umask(run, built, root, tmp_path):
    run("sh", "-c", f'umask 077; exec make install CC=gcc BUILD="{built}" DESTDIR="{tmp_path}"')
    for name in expected(root):
        path = tmp_path / name
        assert path.stat().st_mode & 0o444 == 0o444, name
        assert path.parent.stat().st_mode & 0o555 == 0o555, name


def test_prefix_libdir_and_includedir_are_obeyed(install, pkg_config, root, tmp_path):
    install(tmp_path, "PREFIX=/usr", "LIBDIR=/usr/lib/some-arch", "INCLUDEDIR=/opt/inc")
    assert files(tmp_path) == expected(root, "usr/lib/some-arch", "opt/inc", "usr", "etc")
    ask = {"libdir": "usr/lib/some-arch", "destdir": tmp_path}
    assert pkg_config("--cflags", "vchan-vsock", **ask) == \
        f"-I{tmp_path}/opt/inc/vchan-vsock"
    assert pkg_config("--libs", "vchan-vsock", **ask) == \
        f"-L{tmp_path}/usr/lib/some-arch -lvchan-vsock"


def test_mandir_is_obeyed(install, make, built, root, tmp_path):
    install(tmp_path, "MANDIR=/opt/it's man")
    assert {name for name in files(tmp_path) if name.startswith("opt/")} == \
        {f"opt/it's man/{name}" for name in manual(root)}
    make("uninstall", f"BUILD={built}", f"DESTDIR={tmp_path}", "MANDIR=/opt/it's man")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["man3/libvchan_write.3", "man1/vchan-vsock-list.1"])
def test_page_of_another_name_leads_to_the_whole_one(name, stage, run):
    top = stage / "usr/local/share/man"
    target = re.fullmatch(r"\.so (\S+)\n", (top / name).read_text()).group(1)
    assert pathlib.Path(name).stem.rpartition("-")[2] in (top / target).read_text()
    if shutil.which("mandoc"):
        assert run("mandoc", name, cwd=top).stdout == run("mandoc", target, cwd=top).stdout


def test_relative_destdir_is_taken_from_the_tree(install, root, tmp_path):
    install(os.path.relpath(tmp_path, root))
    assert files(tmp_path) == expected(root)


def test_odd_characters_in_destdir_work(install, make, built, root, tmp_path):
    destdir = tmp_path / "it's a (big) stage; & more"
    install(destdir)
    assert files(destdir) == expected(root)
    make("uninstall", f"BUILD={built}", f"DESTDIR={destdir}")
    assert files(destdir) == set()


def test_odd_characters_in_prefix_work(install, make, built, run, root, tmp_path):
    prefix = tmp_path / "a b&c|d+e,f~g's"
    install("", f"PREFIX={prefix}")
    assert files(prefix) == expected(root, "lib", "include", "")

    program = tmp_path / "client"
    run("sh", "-c", 'eval "cc $(pkg-config --cflags vchan) -o $0 $1 $(pkg-config --libs vchan)"',
        program, CLIENT, env={"PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"})
    assert run(program, env={"LD_LIBRARY_PATH": f"{prefix}/lib"}).stdout == "right\n"

    make("uninstall", f"BUILD={built}", "DESTDIR=", f"PREFIX={prefix}")
    assert files(prefix) == set()


def test_installing_twice_changes_nothing(install, stage):
    before = {name: os.lstat(stage / name).st_size for name in files(stage)}
    assert install(stage).stderr == ""
    assert {name: os.lstat(stage / name).st_size for name in files(stage)} == before


def test_uninstall_leaves_nothing(install, make, built, tmp_path):
    install(tmp_path)
    make("uninstall", f"BUILD={built}", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == set()
    assert not (tmp_path / "usr/local/include/vchan-vsock").exists()


def test_uninstall_of_nothing_succeeds(make, tmp_path):
    make("uninstall", f"DESTDIR={tmp_path}")


def test_uninstall_leaves_the_files_of_others(install, make, built, tmp_path):
    install(tmp_path)
    others = {"usr/local/lib/libvchan-xen.so", "usr/local/include/vchan.h",
              "usr/local/lib/pkgconfig/other.pc"}
    for name in others:
        (tmp_path / name).write_text("")
    make("uninstall", f"BUILD={built}", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == others


# --- vchan.pc, which several libraries provide -------------------------------

def default_pc(destdir):
    path = destdir / "usr/local/lib/pkgconfig/vchan.pc"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_vchan_pc_is_left_out_when_asked(install, root, tmp_path):
    install(tmp_path, "VCHAN_DEFAULT=no")
    assert files(tmp_path) == expected(root) - {"usr/local/lib/pkgconfig/vchan.pc"}


def test_our_own_vchan_pc_is_replaced(install, stage, tmp_path):
    ours = default_pc(stage).read_text()
    default_pc(tmp_path).write_text(ours.replace("Version: ", "Version: 0"))
    install(tmp_path)
    assert default_pc(tmp_path).read_text() == ours


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling symlink"])
def test_vchan_pc_of_another_library_survives(kind, install, make, built, tmp_path):
    path = default_pc(tmp_path)
    if kind == "file":
        path.write_text(FOREIGN)
    else:
        path.symlink_to("vchan-other.pc")
        if kind == "symlink":
            path.with_name("vchan-other.pc").write_text(FOREIGN)

    def state():
        return path.is_symlink(), path.read_text() if path.exists() else None

    before = state()
    assert "vchan.pc" in install(tmp_path).stderr, "it says that it left it alone"
    assert state() == before
    make("uninstall", f"BUILD={built}", f"DESTDIR={tmp_path}")
    assert state() == before


# --- what pkg-config says ----------------------------------------------------

def library_of(name):
    """The default is the one with a thread."""
    return name if name in FLAVOURS else FLAVOURS[0]


@pytest.mark.parametrize("name", NAMES)
def test_cflags_end_in_the_backends_name(name, pkg_config, stage):
    """Clients cut the backend's name out of this with sed."""
    cflags = pkg_config("--cflags", name)
    assert cflags == f"-I{stage}/usr/local/include/vchan-vsock"
    assert cflags.rpartition("/vchan-")[2] == "vsock"


@pytest.mark.parametrize("name", NAMES)
def test_libs_name_the_directory_and_the_library(name, pkg_config, stage):
    assert pkg_config("--libs", name) == f"-L{stage}/usr/local/lib -l{library_of(name)}"


@pytest.mark.parametrize("name", NAMES)
def test_backend_variable_is_vsock(name, pkg_config):
    assert pkg_config("--variable=backend_vmm", name) == "vsock"


@pytest.mark.parametrize("name", NAMES)
def test_private_libs_show_only_for_static_linking(name, pkg_config):
    assert "-pthread" not in pkg_config("--libs", name)
    assert "-pthread" in pkg_config("--static", "--libs", name)


@pytest.mark.parametrize("name", NAMES)
def test_version_is_that_of_the_tree(name, pkg_config, root):
    assert pkg_config("--modversion", name) == (root / "VERSION").read_text().strip()


def test_pc_files_keep_no_trace_of_the_build(stage, root):
    for name in NAMES:
        text = (stage / f"usr/local/lib/pkgconfig/{name}.pc").read_text()
        assert str(stage) not in text and str(root) not in text
        assert "@" not in text


# --- programs ----------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_program_compiles_against_the_installed_copy_and_runs(name, cc, pkg_config, run,
                                                              stage, tmp_path):
    program = tmp_path / "client"
    run(cc, "-std=c99", "-Wall", "-Wextra", "-Werror", *pkg_config("--cflags", name).split(),
        "-o", program, CLIENT, *pkg_config("--libs", name).split())
    libdir = stage / "usr/local/lib"
    needed = run("readelf", "--dynamic", program).stdout
    assert f"[lib{library_of(name)}.so.1]" in needed
    assert run(program, env={"LD_LIBRARY_PATH": str(libdir)}).stdout == "right\n"


@pytest.mark.parametrize("name", NAMES)
def test_program_links_statically(name, cc, pkg_config, run, tmp_path):
    program = tmp_path / "client"
    run(cc, "-static", *pkg_config("--static", "--cflags", name).split(), "-o", program,
        CLIENT, *pkg_config("--static", "--libs", name).split())
    assert "NEEDED" not in run("readelf", "--dynamic", program).stdout
    assert run(program).stdout == "right\n"


def test_rpath_into_a_prefix_is_all_that_a_program_needs(prefix_of_its_own, run, tmp_path):
    program = tmp_path / "client"
    run("cc", f"-I{prefix_of_its_own}/include/vchan-vsock", "-o", program, CLIENT,
        f"-L{prefix_of_its_own}/lib", "-lvchan-vsock", f"-Wl,-rpath,{prefix_of_its_own}/lib")
    assert run(program).stdout == "right\n"


@pytest.mark.parametrize("name", ["libvchan-vsock.so", "libvchan-vsock.so.1"])
def test_installed_copy_can_be_opened_used_and_closed_at_run_time(name, stage, run, tmp_path):
    source = tmp_path / "open.c"
    source.write_text("""
        #include <dlfcn.h>
        #include <errno.h>
        #include <stdio.h>
        int main(int argc, char **argv)
        {
            (void)argc;
            for (int i = 0; i < 3; i++) {
                void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
                if (!library)
                    return puts(dlerror()), 1;
                int (*wait)(void *) = (int (*)(void *))dlsym(library, "libvchan_wait");
                if (!wait || wait(NULL) != -1 || errno != EINVAL)
                    return puts("libvchan_wait"), 1;
                dlclose(library);
            }
            return puts("right"), 0;
        }""")
    program = tmp_path / "open"
    run("cc", "-o", program, source, "-ldl")
    assert run(program, stage / "usr/local/lib" / name).stdout == "right\n"


def test_example_of_the_readme_compiles(cc, pkg_config, run, root, tmp_path):
    source = tmp_path / "hello.c"
    example = (root / "README.md").read_text().partition("```c\n")[2].partition("```")[0]
    source.write_text(example)
    run(cc, "-Wall", "-Wextra", "-Werror", *pkg_config("--cflags", "vchan-vsock").split(),
        "-o", tmp_path / "hello", source, *pkg_config("--libs", "vchan-vsock").split())
