# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvchan.h can be included first, alone, twice, by every kind of program."""
import pytest

WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wundef")
ALONE = "#include <libvchan.h>\n#include <libvchan.h>\nlibvchan_t *handle;\nEVTCHN fd;\n"


@pytest.fixture
def compiles(run, root, tmp_path):
    def compiles(compiler, suffix, *flags):
        source = tmp_path / f"alone{suffix}"
        source.write_text(ALONE)
        run(compiler, *flags, *WARNINGS, f"-I{root}", "-c", source,
            "-o", tmp_path / "alone.o")
    return compiles


@pytest.mark.parametrize("standard", ["c99", "c11", "gnu11"])
def test_header_compiles_alone_in_c(cc, standard, compiles):
    compiles(cc, ".c", f"-std={standard}", "-pedantic", "-Wstrict-prototypes")


@pytest.mark.parametrize("standard", ["c++98", "c++17"])
def test_header_compiles_alone_in_cxx(cxx, standard, compiles):
    compiles(cxx, ".cc", f"-std={standard}", "-pedantic")


def test_cxx_programs_link_against_the_c_names(cxx, run, root, built, tmp_path):
    program = tmp_path / "client"
    run(cxx, "-x", "c++", *WARNINGS, f"-I{root}", root / "tests/build/client.c",
        "-x", "none", f"-L{built}", "-lvchan-vsock", "-o", program)
    assert run(program, env={"LD_LIBRARY_PATH": str(built)}).stdout == "right\n"
