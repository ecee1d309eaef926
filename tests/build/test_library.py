# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the shared library shows to the dynamic linker."""
import re

import pytest

API = {"libvchan_" + name for name in (
    "server_init", "client_init", "client_init_async", "client_init_async_finish",
    "write", "send", "read", "recv", "wait", "close", "fd_for_select", "is_open",
    "data_ready", "buffer_space", "set_blocking")}


@pytest.fixture(params=["vchan-vsock", "vchan-vsock-simple"])
def name(request):
    """Each flavour's name."""
    return request.param


@pytest.fixture
def shared(built, name):
    return built / f"lib{name}.so"


@pytest.fixture
def dynamic(run, shared):
    return run("readelf", "--wide", "--dynamic", shared).stdout


def defined_symbols(run, *arguments):
    """{name: section kind} of the global symbols that a library defines."""
    listing = run("nm", "--extern-only", "--defined-only", *arguments).stdout
    return {line.split()[2]: line.split()[1] for line in listing.splitlines()
            if len(line.split()) == 3}


def test_exactly_the_15_functions_are_exported(run, shared):
    symbols = defined_symbols(run, "--dynamic", shared)
    functions = {name.split("@")[0] for name, kind in symbols.items() if kind == "T"}
    # Beside them only the version's own name may stand, as an absolute symbol.
    others = {kind for kind in symbols.values() if kind != "T"}
    assert len(API) == 15
    assert functions == API
    assert others <= {"A"}


def test_exported_functions_have_a_symbol_version(run, shared):
    symbols = defined_symbols(run, "--dynamic", "--with-symbol-versions", shared)
    bare = [name for name, kind in symbols.items() if kind == "T" and "@@" not in name]
    assert not bare


def test_header_declares_what_is_exported(root):
    text = re.sub(r"/\*.*?\*/", "", (root / "libvchan.h").read_text(), flags=re.S)
    assert set(re.findall(r"\b(libvchan_\w+)\(", text)) == API


def test_soname_is_the_name_and_1(dynamic, name):
    assert re.search(rf"\(SONAME\).*\[lib{name}\.so\.1\]", dynamic)


def test_only_the_flavour_with_a_thread_can_create_one(run, built):
    for name, makes in (("vchan-vsock", True), ("vchan-vsock-simple", False)):
        wanted = run("nm", "--dynamic", "--undefined-only", built / f"lib{name}.so").stdout
        assert ("pthread_create" in wanted) == makes, name
        assert not re.search(r"\b(clone|fork|vfork)\b", wanted), name


def test_the_flavours_differ_in_their_driver_alone(run, built):
    """No second copy of anything: the same objects, but for one."""
    def functions(path):
        symbols = run("nm", "--defined-only", built / path).stdout.splitlines()
        return {line.split()[-1] for line in symbols if line.split()[1:2] in (["t"], ["T"])}
    with_thread, without = functions("libvchan-vsock.a"), functions("libvchan-vsock-simple.a")
    assert {"conn_step", "setup_step_waiting", "framed_drain"} <= with_thread & without
    assert with_thread - without <= functions("vchan/driver_thread.o")
    assert without - with_thread <= functions("vchan/driver_caller.o")
    files = sorted(path.name for path in (built / "vchan").glob("driver_*.o"))
    assert files == ["driver_caller.o", "driver_thread.o"]


def test_nothing_but_libc_is_needed(dynamic):
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    strange = {name for name in needed
               if not re.match(r"(libc|libpthread|ld-linux[\w-]*)\.so\.", name)}
    assert not strange


def test_relocations_are_read_only_and_bound_at_once(run, shared, dynamic):
    assert "TEXTREL" not in dynamic
    assert "NOW" in dynamic
    assert "GNU_RELRO" in run("readelf", "--wide", "--segments", shared).stdout


def test_stack_is_not_executable(run, shared):
    segments = run("readelf", "--wide", "--segments", shared).stdout
    stack = re.search(r"GNU_STACK.*", segments).group()
    assert " RW " in stack and "E" not in stack.split()[-2]


def test_dlclose_leaves_the_code_in_place(dynamic):
    """The library's thread may still be running in it."""
    assert "NODELETE" in dynamic


def test_symlinks_lead_to_the_one_shared_file(built, root):
    version = (root / "VERSION").read_text().strip()
    real = built / f"libvchan-vsock.so.1.{version}"
    assert real.is_file() and not real.is_symlink()
    for link in ("libvchan-vsock.so", "libvchan-vsock.so.1"):
        assert (built / link).resolve() == real


def test_static_library_has_the_15_names_and_no_others(run, built):
    """Its globals end up in the programs' name space."""
    assert set(defined_symbols(run, built / "libvchan-vsock.a")) == API
